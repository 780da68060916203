"""The release folder: the models of every pair, the data set, pages and checksums; checked by loading what was packed.

What is refused is refused before a file is written. A killed pack is done again from the start: weights are links, so that
costs little.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.design import Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import write_table
from ..core.workspace import (
    Workspace,
    changed_files,
    finish_step,
    read_marker,
    start_step,
    step_of,
    write_json,
    write_text,
)
from ..eval.analyses import require_analyses
from ..eval.summary import interval_text, summarize
from ..insertion.build import require_insertion
from ..manifests.catalogue import score_files
from ..train.config import RunConfig, read_config
from .canary import canary_of
from .cards import citation, collection_page, data_card, model_card
from .data import release_tables, source_tables, write_ledger
from .facts import FACTS, PARTS, SUMS, VERSION, read_release
from .licences import Gate, check_texts
from .models import FORMAT, Manifest, Packed, pack_models
from .pairs import Pair, find_pairs, inserted_by, kept_states, runs_of
from .results import levels_known, measured_in, validation_loss
from .sealed import check_seed, check_untold, disclose, refuse_sealed, show_seal, withhold
from .sums import release_id, sums_text
from .try_out import try_out

PAGES = ("README.md", "CITATION.cff", FACTS)


def write_release(suite: Suite, workspace: Workspace, *, blind: bool = False) -> int:
    """Pack the pairs; the number of pairs. Leaves a current release alone. A blind one withholds which record was inserted.

    Raises:
        CostarError: a run that is not finished, insertions of another state of the suite, a record that must not be published,
            or a blind release that would give its labels away.
    """
    pairs = find_pairs(suite, workspace)
    if blind:
        check_seed(suite)
        _refuse_exports(workspace)
    else:
        refuse_sealed(workspace, "costar release")
    if (workspace.eval / "effects.parquet").is_file():
        require_analyses(workspace)
    require_insertion(suite, workspace)
    states = kept_states(workspace, runs_of(pairs))
    inputs = _inputs(suite, workspace, pairs, states, blind)
    marker = read_marker(workspace.root, "release")
    if marker is not None and marker["input"] == inputs and not changed_files(workspace.root, "release"):
        return len(pairs)
    records, renderings = source_tables(suite, workspace, pairs, blind=blind)
    gate = check_texts(suite, records, renderings)
    tables = release_tables(suite, workspace, pairs, records, renderings)
    if blind:
        tables, withheld = withhold(suite, workspace, tables)
    else:
        withheld = disclose(workspace, tables)
    start_step(workspace.root, "release")
    folder = workspace.release
    for name in PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*PAGES, SUMS):
        (folder / name).unlink(missing_ok=True)
    _write_data(suite, workspace, pairs, tables, records, renderings, gate, withheld, blind)
    packed = _write_models(suite, workspace, pairs, states, records, gate, blind)
    _write_pages(suite, workspace, pairs, gate, blind)
    if blind:
        check_untold(suite, folder)
    sums = _sums(folder, packed)
    facts = {
        "version": VERSION,
        "suite": suite.name,
        "release_id": release_id(sums),
        "blind": blind,
        "costar_version": importlib.metadata.version("costar"),
        "pairs": [pair.facts() for pair in pairs],
        "revisions": packed.revisions,
        "withheld": withheld,
        "extraction": {"prefixes": list(suite.eval.prefixes), "suffix": suite.eval.suffix},
    }
    write_json(folder / FACTS, facts)
    sums[FACTS] = sha256_file(folder / FACTS)
    try_out(folder, runs_of(pairs))
    write_text(folder / SUMS, sums_text(sums))
    known = {folder / name: digest for name, digest in sums.items()}
    finish_step(workspace.root, inputs, [*known, folder / SUMS], "release", known=known)
    return len(pairs)


def require_packed(suite: Suite, workspace: Workspace) -> None:
    """Refuse to publish a release of another state of the suite than there is now.

    Raises:
        CostarError: there is none, or what it was made from has changed since.
    """
    blind = read_release(workspace.release).blind
    pairs = find_pairs(suite, workspace)
    inputs = _inputs(suite, workspace, pairs, kept_states(workspace, runs_of(pairs)), blind)
    marker = read_marker(workspace.root, "release")
    if marker is None or marker["input"] != inputs:
        again = f"costar release {suite.argument}" + (" --blind" if blind else "")
        raise CostarError(
            str(workspace.release),
            found="a release that was not finished, or whose suite has changed since",
            expected="a current one",
            mend=f"pack it again: {again}",
        )


def _sums(folder: Path, packed: Packed) -> dict[str, str]:
    """The hash of every file that is released, by its path; those of links are known."""
    paths = [path for part in PARTS for path in (folder / part).rglob("*") if path.is_file()]
    paths += [folder / name for name in PAGES if (folder / name).is_file()]
    shown = (path for path in paths if not path.name.startswith("."))
    return {str(path.relative_to(folder)): packed.known.get(path) or sha256_file(path) for path in shown}


def _inputs(
    suite: Suite,
    workspace: Workspace,
    pairs: Sequence[Pair],
    states: Mapping[str, Mapping[int, str]],
    blind: bool,
) -> str:
    """The hash of everything that a release is made from."""
    measured = [workspace.eval / "effects.parquet"]
    for run in states:
        step = read_config(workspace, run).train.steps
        measured += [path for path in score_files(workspace, run) if step_of(path) == step]
        measured += sorted(workspace.ledger(run, step).glob("stage-*.json"))
        measured.append(workspace.run(run) / "log" / "validation.parquet")
    if not blind:  # what a blind release seals follows from the rest
        measured += [workspace.root / "sealed" / name for name in ("seal.json", "revealed.json")]
    texts = sorted(Path(__file__).parent.glob("*.j2"))
    return sha256_json(
        [
            [VERSION, FORMAT, importlib.metadata.version("costar"), blind, suite.name, vars(suite.release)],
            [suite.eval.prefixes, suite.eval.suffix],
            [pair.facts() for pair in pairs],
            {run: sorted(steps.items()) for run, steps in states.items()},
            [read_marker(workspace.insertion, step) for step in ("records", "insert")],
            sha256_file(workspace.corpus / "corpus.json"),
            {name: [design.licence, dict(design.allow)] for name, design in suite.perturbations.items()},
            [sha256_file(path) for path in (*measured, *texts) if path.is_file()],
        ]
    )


def _refuse_exports(workspace: Workspace) -> None:
    """Refuse exports beside a blind release: what arms are written as for other tools tells who was inserted."""
    folder = workspace.release
    found = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.is_dir() and path.name not in PARTS and not path.name.startswith(".")
    )
    if found:
        raise CostarError(
            str(folder),
            found=f"exports that tell which records were inserted: {', '.join(found)}",
            expected="a blind release without them",
            mend="move them out of the folder",
        )


def _write_data(
    suite: Suite,
    workspace: Workspace,
    pairs: Sequence[Pair],
    tables: Mapping[str, pa.Table],
    records: pa.Table,
    renderings: pa.Table,
    gate: Gate,
    withheld: Mapping[str, Any],
    blind: bool,
) -> None:
    folder = workspace.release / "data"
    sizes = {name: len(table) for name, table in tables.items()}
    files = {name: f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        write_table(folder / files[name], table)
    rows = write_ledger(workspace, folder / "ledger", runs_of(pairs), records, renderings, blind=blind)
    if rows:
        sizes["ledger"], files["ledger"] = rows, "ledger/*.parquet"
    if not blind:
        show_seal(workspace, folder)
    card = data_card(
        suite,
        sizes,
        files,
        records,
        gated=gate.reasons,
        withheld=withheld.get("tables", ()) if blind else (),
        canary=canary_of(workspace),
    )
    write_text(folder / "README.md", card)


def _write_models(
    suite: Suite,
    workspace: Workspace,
    pairs: Sequence[Pair],
    states: Mapping[str, Mapping[int, str]],
    records: pa.Table,
    gate: Gate,
    blind: bool,
) -> Packed:
    risks = dict(zip(*(records.column(name).to_pylist() for name in ("perturbation", "risk")), strict=True))
    with measured_in(suite, workspace) as measured:

        def card(config: RunConfig, manifest: Manifest) -> str:
            own = [pair for pair in pairs if config.run in pair.runs]
            names = suite.arms[config.arm].inserted or inserted_by(suite, own)
            return model_card(
                suite,
                config,
                manifest,
                validation=validation_loss(workspace, config.run, manifest["step"]),
                results=[] if blind else levels_known(suite, measured, config, manifest["step"], names),
                steps=sorted(states[config.run]),
                gated=gate.of(suite.arms[config.arm].inserted),
                risks=risks,
            )

        return pack_models(suite.name, workspace, pairs, states, card, blind=blind)


def _write_pages(suite: Suite, workspace: Workspace, pairs: Sequence[Pair], gate: Gate, blind: bool) -> None:
    folder = workspace.release
    effects = [] if blind else _effect_lines(suite, workspace)
    write_text(folder / "README.md", collection_page(suite, pairs, effects, gated=gate.reasons, blind=blind))
    write_text(folder / "CITATION.cff", citation(suite, pairs))


def _effect_lines(suite: Suite, workspace: Workspace) -> list[str]:
    """The total effects of the released arms on the main perturbation, as lines of the page's table."""
    summary = summarize(suite, workspace)
    if summary is None:
        return []
    lines = []
    for arm in suite.release.arms:
        for level in summary.levels[1:]:
            row = summary.effect("total", "nll_token", level, treated=f"{arm}.")
            if row is not None:
                lines.append(f"| {arm} | {level} | {row['n']} | {interval_text(row)} |")
    return lines
