"""Blind releases: which records were inserted is withheld behind a published commitment, and revealed later.

The commitment is the sha256 of a text: a nonce of 32 random bytes in hexadecimal on a line of its own, then the lines that
`sha256sum` prints for the sealed tables, by name. The nonce keeps guesses from being tried; once it is out anybody can
recompute the commitment. `withhold` says what of a table may be published: nothing from which a label follows.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..core.design import Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.parquet import read_table, write_table
from ..core.workspace import Workspace, output_lock, read_facts, replacing, write_json
from .facts import FACTS

SEAL = "seal.json"
SEALED = ("assignments", "exposures", "membership")  # tables that the commitment is to
WITHHELD = (
    *SEALED,
    "effects",
)  # effects follow from labels and from what is measured, later too: no commitment to them
LABELS = ("level", "split", "phase_start", "phase_end")  # columns of `membership`
OPEN_PROBES = ("likelihood", "extraction", "membership")  # of the others, scores or options follow who was inserted
CLOSED_ATTACK = "attack=recall"  # has no scores of the held-out records that stand in its prefix
WHOLE_TEXT = "eos"  # the context of the ledger that every record has
ROLES = ("main", "twin")  # fillers have another
ORDER = ("run", "step", "arm", "draw", "record_id", "rendering", "probe", "variant", "metric", "context", "position")
LEAST_SEED = 2**62
REVEALED = "revealed.json"
TEXTS = (".json", ".md", ".cff", ".yaml", ".toml", ".txt")
KEYS = ("format", "nonce", "sha256", "commitment")


def check_seed(suite: Suite) -> None:
    """Refuse a seed that can be guessed: assignments are a function of it and of names that are public.

    Raises:
        CostarError: the seed is below 2⁶².
    """
    if suite.seed < LEAST_SEED:
        raise CostarError(
            f"{suite.path}, [suite] seed",
            found=f"{suite.seed}: whoever guesses it knows every assignment",
            expected="a random seed from 2^62 to 2^63 for a blind release",
            mend="draw one before you build, as with python -c 'import secrets, sys; "
            "sys.stdout.write(str(2**62 + secrets.randbelow(2**62)))'",
        )


def sealed_folder(workspace: Workspace) -> Path:
    return workspace.root / "sealed"


def withhold(
    suite: Suite, workspace: Workspace, tables: Mapping[str, pa.Table]
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """What may be published of the tables, and `withheld` of release.json. The others are sealed; a seal that was made
    before is kept.

    Raises:
        CostarError: the seed can be guessed, or the tables are not those that were sealed before.
    """
    check_seed(suite)
    sealed = {name: tables[name] for name in SEALED if name in tables}
    assert {"assignments", "exposures"} <= set(sealed), sorted(tables)
    folder = sealed_folder(workspace)
    with output_lock(folder, "release"):
        commitment = _kept(folder, sealed) or _seal(folder, sealed)
    roles = pc.is_in(tables["records"].column("role"), value_set=pa.array(ROLES))
    records = tables["records"].filter(roles).column("record_id").combine_chunks()
    renderings = pc.unique(tables["renderings"].column("rendering"))
    parts = {name: open_part(name, table, records, renderings) for name, table in tables.items()}
    published = {name: part for name, part in parts.items() if part is not None}
    facts = {
        "tables": sorted(set(WITHHELD) & set(tables)),
        "commitment": commitment,
        "revealed": False,
        "cut": {
            "membership": f"the columns {', '.join(LABELS)}",
            "records and renderings": "fillers",
            "scores and ledger": f"all but whole texts, and the probes {', '.join(OPEN_PROBES)} without {CLOSED_ATTACK}",
        },
    }
    return published, facts


def open_part(name: str, table: pa.Table, records: pa.Array, renderings: pa.Array) -> pa.Table | None:
    """What may be published of a table while the labels are withheld: None for nothing of it.

    `records` are the ids of main records and twins, `renderings` the names of renderings. The ledger, which is written in
    parts, goes through here part by part: what it scored beside renderings are options, chosen among records of one fate.
    Fillers tell how often each record was read, by their number and lengths. Scores tell it where options or prefixes are
    chosen among records of one fate, and where only inserted records have any. Rows are put into the order of their ids.
    """
    columns = table.column_names
    if name == "membership":
        table = table.drop_columns([column for column in LABELS if column in columns])
    elif name in WITHHELD:
        return None
    elif name == "scores":
        told = pc.match_substring(table.column("variant"), CLOSED_ATTACK)
        open_probes = pc.is_in(table.column("probe"), value_set=pa.array(OPEN_PROBES))
        table = table.filter(pc.and_(open_probes, pc.invert(told)))
    elif name == "ledger":
        written = pc.is_in(table.column("rendering"), value_set=renderings)
        table = table.filter(pc.and_(written, pc.equal(table.column("context"), WHOLE_TEXT)))
    if "record_id" not in columns:
        return table
    table = table.filter(pc.is_in(table.column("record_id"), value_set=records))
    return table.sort_by([(column, "ascending") for column in ORDER if column in columns])


def _kept(folder: Path, sealed: Mapping[str, pa.Table]) -> str | None:
    """The commitment of a seal that was made before of the same tables; None where there is none."""
    if not (folder / SEAL).is_file():
        return None
    seal = check_seal(folder)
    changed = sorted(set(seal["sha256"]) ^ set(sealed))
    for name in set(seal["sha256"]) & set(sealed):
        if not read_table(folder / f"{name}.parquet", mend=_mend(folder)).equals(sealed[name]):
            changed.append(name)
    if changed:
        raise CostarError(
            str(folder),
            found=f"other tables than those that were sealed: {', '.join(sorted(changed))}",
            expected="the tables of the commitment, which may be published already",
            mend=f"build the suite as it was, or, if the commitment is not out yet, remove {folder}",
        )
    return str(seal["commitment"])


def _seal(folder: Path, sealed: Mapping[str, pa.Table]) -> str:
    """Write the tables and their seal, the seal last."""
    hashes = {name: sha256_file(write_table(folder / f"{name}.parquet", table)) for name, table in sealed.items()}
    nonce = secrets.token_hex(32)
    commitment = commit(nonce, hashes)
    write_json(folder / SEAL, {"format": 1, "nonce": nonce, "sha256": hashes, "commitment": commitment})
    return commitment


def commit(nonce: str, hashes: Mapping[str, str]) -> str:
    """The commitment to tables by their hashes: `(echo NONCE; sha256sum *.parquet) | sha256sum` over the sealed ones."""
    lines = [f"{nonce}\n", *(f"{hashes[name]}  {name}.parquet\n" for name in sorted(hashes))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_seal(folder: Path) -> dict[str, Any]:
    """The seal of a folder whose tables are those that were sealed.

    Raises:
        CostarError: the seal is missing or damaged, or a table is missing or has other bytes.
    """
    mend = _mend(folder)
    seal = read_facts(folder / SEAL, KEYS, mend=mend)
    for name, expected in seal["sha256"].items():
        path = folder / f"{name}.parquet"
        found = f"sha256 {sha256_file(path)}" if path.is_file() else "no such file"
        if found != f"sha256 {expected}":
            raise CostarError(str(path), found=found, expected=f"sha256 {expected}", mend=mend, exit_code=1)
    found = commit(seal["nonce"], seal["sha256"])
    if found != seal["commitment"]:
        raise CostarError(
            str(folder / SEAL),
            found=f"a nonce and hashes that make the commitment {found}",
            expected=seal["commitment"],
            mend=mend,
            exit_code=1,
        )
    return seal


def _mend(folder: Path) -> str:
    return f"put {folder} back as the blind release wrote it, from a backup"


def is_sealed(workspace: Workspace) -> bool:
    """Whether the suite was released blind and is not revealed: nothing that tells labels may be published."""
    folder = sealed_folder(workspace)
    if (folder / REVEALED).is_file():
        return False
    return (folder / SEAL).is_file() or published_commitment(workspace) is not None


def published_commitment(workspace: Workspace) -> str | None:
    """The commitment of the blind release that lies in the workspace; None where there is none that is not revealed."""
    try:
        facts = read_facts(workspace.release / FACTS, ["blind", "withheld"], mend="")
    except CostarError:
        return None  # no release, or one that has to be packed again
    return str((facts["withheld"] or {}).get("commitment")) if facts["blind"] is True else None


def refuse_revealed(workspace: Workspace) -> None:
    """Refuse to call a suite blind again whose labels are out.

    Raises:
        CostarError: it was revealed.
    """
    if (sealed_folder(workspace) / REVEALED).is_file():
        raise CostarError(
            "costar release --blind",
            found="a suite whose labels were published",
            expected="one that was not revealed",
            mend="pack it without --blind",
        )


def require_seal(workspace: Workspace) -> None:
    """Refuse a blind release whose seal is gone or another: its labels could never be shown to be those of the commitment.

    Raises:
        CostarError: the sealed tables are missing, damaged, or not those of the commitment that is published.
    """
    folder, published = sealed_folder(workspace), published_commitment(workspace)
    if published is None:
        return
    if not (folder / SEAL).is_file():
        raise CostarError(
            str(folder),
            found=f"no seal for the commitment {published}, which can never be opened without it",
            expected="the folder that was written with the blind release",
            mend=f"put {folder} back from a backup, or remove {workspace.release} to make a new blind release",
            exit_code=1,
        )
    commitment = check_seal(folder)["commitment"]
    if commitment != published:
        raise CostarError(
            str(workspace.release / FACTS),
            found=f"the commitment {published}",
            expected=f"that of the sealed tables, {commitment}",
            mend=_mend(folder),
            exit_code=1,
        )


def refuse_sealed(workspace: Workspace, what: str) -> None:
    """Refuse what would tell the labels of a suite that is sealed.

    Raises:
        CostarError: the suite was released blind and is not revealed.
    """
    if is_sealed(workspace):
        raise CostarError(
            what,
            found="a suite that was released blind",
            expected="one whose labels may be published",
            mend="keep it blind (--blind), or publish the labels with --reveal",
        )


def reveal(suite: Suite, workspace: Workspace) -> int:
    """Pack the release again with what was withheld and its seal; the number of pairs.

    Raises:
        CostarError: the suite was never released blind, or the sealed files do not match the commitment published.
    """
    from .pack import write_release

    folder, path = sealed_folder(workspace), workspace.release / FACTS
    if (folder / REVEALED).is_file():  # or a reveal that was killed
        return write_release(suite, workspace)
    require_seal(workspace)
    if not (folder / SEAL).is_file():
        raise CostarError(
            str(folder),
            found="no sealed tables",
            expected="those of a blind release of this suite",
            mend="release it with --blind first, or put the folder back",
        )
    again = "run `costar release --blind` again"
    facts = read_facts(path, ["blind", "withheld", "release_id"], mend=again)
    if facts["blind"] is not True:
        raise CostarError(str(path), found="a release that is not blind", expected="the blind one", mend=again)
    return write_release(suite, workspace, revealing=facts["release_id"])


def disclose(workspace: Workspace, tables: Mapping[str, pa.Table], revealing: str | None = None) -> dict[str, Any]:
    """`withheld` of release.json for a release with labels: empty where the suite was never sealed. After a reveal the
    tables are those that were sealed, and `release_id` is that of the blind release, `revealing` while it is revealed.

    Raises:
        CostarError: the suite is sealed, or the tables are not those that were.
    """
    if revealing is None:
        refuse_sealed(workspace, "costar release")
    folder = sealed_folder(workspace)
    if not (folder / SEAL).is_file():
        return {}
    commitment = _kept(folder, {name: tables[name] for name in SEALED if name in tables})
    before = revealing or read_facts(folder / REVEALED, ["release_id"], mend=_mend(folder))["release_id"]
    return {
        "tables": sorted(set(WITHHELD) & set(tables)),
        "commitment": commitment,
        "revealed": True,
        "release_id": before,
    }


def open_seal(workspace: Workspace, release_id: str) -> None:
    """Note that the suite is revealed, for good, and of which blind release."""
    folder = sealed_folder(workspace)
    with output_lock(folder, "release"):
        write_json(folder / REVEALED, {"release_id": release_id})


def show_seal(workspace: Workspace, data: Path) -> None:
    """Put the sealed tables, byte for byte, and their seal among the data of a release that is revealed."""
    folder = sealed_folder(workspace)
    if (folder / REVEALED).is_file():
        for name in (*(f"{name}.parquet" for name in check_seal(folder)["sha256"]), SEAL):
            with replacing(data / name) as temporary:
                shutil.copyfile(folder / name, temporary)


def check_untold(suite: Suite, release: Path) -> None:
    """Refuse a blind release whose texts have the suite's seed in them, from which every label follows.

    Raises:
        CostarError: a file has it.
    """
    for path in sorted(release.rglob("*")):
        if path.suffix in TEXTS and path.is_file() and str(suite.seed) in path.read_text(encoding="utf-8"):
            raise CostarError(
                str(path),
                found="the suite's seed",
                expected="a blind release without it",
                mend="take it out of the suite's texts: a blind release never ships it",
            )


def verify_seal(release: Path) -> list[str]:
    """What is wrong with the seal of a release folder: nothing where it is not blind, or still withheld."""
    facts = read_facts(release / FACTS, ["withheld"], mend="download the release again")
    withheld = facts["withheld"] or {}
    if not withheld.get("revealed"):
        return []
    try:
        seal = check_seal(release / "data")
    except CostarError as error:
        return [f"{error.place}: {error.found}, expected {error.expected}"]
    if seal["commitment"] != withheld.get("commitment"):
        return [f"data/{SEAL}: the tables make another commitment than the one that release.json has"]
    return []
