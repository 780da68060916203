from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.hashing import sha256_file
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step, read_marker
from costar.eval.analyses import STEP
from costar.release.export import write_export
from costar.release.pack import require_packed, write_release
from costar.release.sealed import (
    LEAST_SEED,
    SEALED,
    WITHHELD,
    check_seal,
    check_seed,
    commit,
    is_sealed,
    published_commitment,
    reveal,
    verify_seal,
)

from tests.release.conftest import SEED


def facts_of(built: Path) -> dict[str, object]:
    return dict(json.loads((built / "release" / "release.json").read_text()))


def rows_of(path: Path) -> list[dict[str, object]]:
    return list(pq.read_table(path).to_pylist())


def test_the_tables_that_tell_labels_are_sealed_and_not_released(blind: Path) -> None:
    data, sealed = blind / "release" / "data", blind / "sealed"
    for name in WITHHELD:
        assert name == "membership" or not (data / f"{name}.parquet").exists()
        assert (sealed / f"{name}.parquet").is_file() == (name in SEALED)
    columns = pq.read_schema(data / "membership.parquet").names
    assert not {"level", "split", "phase_start", "phase_end"} & set(columns)
    levels = {row["level"] for row in rows_of(sealed / "membership.parquet")}
    assert levels == {0, 2, 4}
    assert is_sealed(Workspace(blind))


def test_neither_fillers_nor_the_order_of_rows_tell_labels(blind: Path) -> None:
    data = blind / "release" / "data"
    assert any("kin-" in row["record_id"] for row in rows_of(blind / "insertion" / "fillers.parquet"))
    for name in ("records", "renderings", "membership"):
        ids = [row["record_id"] for row in rows_of(data / f"{name}.parquet")]
        assert ids == sorted(ids)
        assert not any("kin-" in str(record) for record in ids)


def test_which_records_have_scores_and_ledger_does_not_depend_on_labels(blind: Path) -> None:
    """A score that only held-out records lack, or options drawn among records of one fate, would tell."""
    data = blind / "release" / "data"
    lengths: dict[str, dict[object, object]] = {}
    for row in rows_of(data / "records.parquet"):
        lengths.setdefault(f"{row['perturbation']}/{row['role']}", {})[row["record_id"]] = row["n_tokens"]
    found: dict[tuple[object, ...], set[object]] = {}
    for row in rows_of(data / "scores.parquet"):
        key = tuple(row[name] for name in ("run", "rendering", "probe", "variant", "metric"))
        found.setdefault(key, set()).add(row["record_id"])
    for path in (data / "ledger").glob("*.parquet"):
        for row in rows_of(path):
            found.setdefault((row["run"], row["rendering"], row["context"]), set()).add(row["record_id"])
    assert len(found) > 20
    for key, records in found.items():
        for group, own in lengths.items():
            some = records & set(own)
            least = min((own[record] for record in some), default=0)
            assert not some or some == {record for record, length in own.items() if length >= least}, (key, group)


def test_no_text_of_a_blind_release_has_the_seed(blind: Path) -> None:
    for path in (blind / "release").rglob("*"):
        if path.is_file():
            assert str(SEED).encode() not in path.read_bytes(), path
    assert not list((blind / "release").rglob("*.toml"))


def test_a_second_blind_release_keeps_its_seal(blind_copy: Path) -> None:
    before = (blind_copy / "sealed" / "seal.json").read_bytes()
    for path in (blind_copy / "release", blind_copy / "stage-release.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_release(load_suite(blind_copy / "suite.toml"), Workspace(blind_copy), blind=True)
    assert (blind_copy / "sealed" / "seal.json").read_bytes() == before


def reseal(built: Path) -> None:
    """Seal other assignments, and publish the commitment to those."""
    folder = built / "sealed"
    path, seal = folder / "assignments.parquet", json.loads((folder / "seal.json").read_text())
    pq.write_table(pq.read_table(path).slice(1), path)
    seal["sha256"]["assignments"] = sha256_file(path)
    seal["commitment"] = commit(seal["nonce"], seal["sha256"])
    (folder / "seal.json").write_text(json.dumps(seal))
    facts = facts_of(built)
    facts["withheld"] = dict(facts["withheld"]) | {"commitment": seal["commitment"]}  # type: ignore[call-overload]
    (built / "release" / "release.json").write_text(json.dumps(facts))


def test_neither_a_seal_nor_a_reveal_is_made_over_other_tables_and_the_suite_stays_sealed(blind_copy: Path) -> None:
    reseal(blind_copy)
    suite, workspace = load_suite(blind_copy / "suite.toml"), Workspace(blind_copy)
    before = (blind_copy / "release" / "release.json").read_bytes()
    for again in (lambda: write_release(suite, workspace, blind=True), lambda: reveal(suite, workspace)):
        with pytest.raises(CostarError, match="other tables than those that were sealed: assignments"):
            again()
        assert is_sealed(workspace)
        assert (blind_copy / "release" / "release.json").read_bytes() == before


def test_a_suite_whose_texts_must_not_be_published_stays_sealed(blind_copy: Path) -> None:
    suite, workspace = load_suite(blind_copy / "suite.toml"), Workspace(blind_copy)
    named = {name: replace(design, licence="proprietary") for name, design in suite.perturbations.items()}
    with pytest.raises(CostarError, match="licence"):
        reveal(replace(suite, perturbations=named), workspace)
    assert is_sealed(workspace)
    with pytest.raises(CostarError, match="--reveal"):
        write_release(suite, workspace)


def test_more_can_be_measured_before_the_reveal_and_after(blind_copy: Path) -> None:
    suite, workspace = load_suite(blind_copy / "suite.toml"), Workspace(blind_copy)
    effects, seal = workspace.eval / "effects.parquet", (blind_copy / "sealed" / "seal.json").read_bytes()

    def measured_otherwise() -> None:
        pq.write_table(pq.read_table(effects)[::2], effects)
        marker = read_marker(workspace.eval, STEP)
        assert marker is not None
        finish_step(workspace.eval, marker["input"], [workspace.eval / name for name in marker["files"]], STEP)

    def published() -> int:
        return len(rows_of(workspace.release / "data" / "effects.parquet"))

    measured_otherwise()
    write_release(suite, workspace, blind=True)
    measured_otherwise()
    reveal(suite, workspace)
    rows = published()
    measured_otherwise()
    write_release(suite, workspace)
    assert 0 < published() < rows
    assert (workspace.release / "data" / "seal.json").read_bytes() == seal
    assert verify_seal(workspace.release) == []


def test_a_blind_release_without_its_seal_is_refused_and_tells_nothing(blind_copy: Path) -> None:
    suite, workspace = load_suite(blind_copy / "suite.toml"), Workspace(blind_copy)
    shutil.rmtree(blind_copy / "sealed")
    assert is_sealed(workspace)
    for again in (lambda: write_release(suite, workspace, blind=True), lambda: reveal(suite, workspace)):
        with pytest.raises(CostarError, match="never be opened") as refused:
            again()
        assert "remove" in refused.value.mend
        assert not (blind_copy / "sealed" / "seal.json").exists()
    for again in (lambda: require_packed(suite, workspace), lambda: write_release(suite, workspace)):
        with pytest.raises(CostarError):
            again()
    with pytest.raises(CostarError, match="released blind"):
        write_export(suite, workspace, "membership")
    shutil.rmtree(workspace.release)
    write_release(suite, workspace, blind=True)
    assert check_seal(blind_copy / "sealed")["commitment"] == published_commitment(workspace)


def test_a_reveal_that_is_killed_ends_the_same_when_it_is_repeated(blind_copy: Path, tmp_path: Path) -> None:
    suite = load_suite(blind_copy / "suite.toml")
    whole = Workspace(tmp_path / "whole" / "small")
    shutil.copytree(blind_copy, whole.root)
    reveal(suite, whole)
    command = [sys.executable, "-m", "costar", "release", "./small.toml", "--reveal"]
    root = blind_copy.parent.parent
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (blind_copy / "sealed" / "revealed.json").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (blind_copy / "stage-release.json").exists() or facts_of(blind_copy)["blind"] is True
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    for name in ("SHA256SUMS", "release.json"):
        assert (blind_copy / "release" / name).read_bytes() == (whole.release / name).read_bytes()


def test_a_seed_that_can_be_guessed_is_refused_with_how_to_draw_one(blind: Path) -> None:
    suite = load_suite(blind / "suite.toml")
    check_seed(replace(suite, seed=LEAST_SEED))
    with pytest.raises(CostarError, match=r"secrets\.randbelow"):
        check_seed(replace(suite, seed=LEAST_SEED - 1))


def test_labels_are_published_only_by_reveal(blind_copy: Path) -> None:
    with pytest.raises(CostarError, match="--reveal"):
        write_release(load_suite(blind_copy / "suite.toml"), Workspace(blind_copy))


def test_no_export_is_written_that_tells_what_is_sealed(blind: Path) -> None:
    with pytest.raises(CostarError, match="released blind"):
        write_export(load_suite(blind / "suite.toml"), Workspace(blind), "membership")


def test_after_a_reveal_anybody_can_recompute_the_commitment(blind_copy: Path) -> None:
    suite, workspace = load_suite(blind_copy / "suite.toml"), Workspace(blind_copy)
    before = facts_of(blind_copy)
    commitment = dict(before["withheld"])["commitment"]  # type: ignore[call-overload]
    assert verify_seal(workspace.release) == []
    reveal(suite, workspace)
    data, after = workspace.release / "data", facts_of(blind_copy)
    withheld = dict(after["withheld"])  # type: ignore[call-overload]
    assert withheld["revealed"] is True
    assert withheld["commitment"] == commitment
    assert withheld["release_id"] == before["release_id"] != after["release_id"]
    seal = json.loads((data / "seal.json").read_text())
    command = f"(echo {seal['nonce']}; sha256sum {' '.join(f'{name}.parquet' for name in sorted(seal['sha256']))}) | sha256sum"
    told = subprocess.run(["bash", "-c", command], cwd=data, capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == commitment
    assert verify_seal(workspace.release) == []
    sums = (workspace.release / "SHA256SUMS").read_text()
    assert "data/seal.json" in sums
    assert "data/exposures.parquet" in sums
    assert any("kin-" in str(row["record_id"]) for row in rows_of(data / "records.parquet"))
    reveal(suite, workspace)
    assert facts_of(blind_copy) == after
    with pytest.raises(CostarError, match="whose labels were published"):
        write_release(suite, workspace, blind=True)
    levels = data / "membership.parquet"
    pq.write_table(pq.read_table(levels).slice(1), levels)
    (told,) = verify_seal(workspace.release)
    assert "membership.parquet" in told


def test_a_reveal_refuses_files_that_are_not_those_that_were_sealed(blind_copy: Path) -> None:
    path = blind_copy / "sealed" / "assignments.parquet"
    flipped = bytearray(path.read_bytes())
    flipped[100] ^= 1
    path.write_bytes(flipped)
    before = (blind_copy / "release" / "release.json").read_bytes()
    with pytest.raises(CostarError, match=r"assignments\.parquet") as refused:
        reveal(load_suite(blind_copy / "suite.toml"), Workspace(blind_copy))
    assert refused.value.exit_code == 1
    assert (blind_copy / "release" / "release.json").read_bytes() == before


def test_a_reveal_refuses_another_commitment_than_the_one_published(blind_copy: Path) -> None:
    path = blind_copy / "release" / "release.json"
    facts = facts_of(blind_copy)
    facts["withheld"] = dict(facts["withheld"]) | {"commitment": "0" * 64}  # type: ignore[call-overload]
    path.write_text(json.dumps(facts))
    with pytest.raises(CostarError, match="commitment"):
        reveal(load_suite(blind_copy / "suite.toml"), Workspace(blind_copy))
    assert is_sealed(Workspace(blind_copy))


def test_only_a_suite_that_was_sealed_can_be_revealed(built: Path) -> None:
    with pytest.raises(CostarError, match="no sealed tables"):
        reveal(load_suite(built / "suite.toml"), Workspace(built))
