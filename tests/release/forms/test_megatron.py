from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.core.design import Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, corpus_facts
from costar.corpus.neox import NeoxIndex
from costar.corpus.store import TokenStore
from costar.insertion.order import FeistelOrder
from costar.insertion.overlay import Overlay, open_suite_overlay, read_exposures
from costar.release.exported import verify_exports
from costar.release.forms.megatron import export_megatron, join_parts, write_parts
from costar.release.pack import write_release

ARM = "perturbed"


@pytest.fixture(scope="module")
def exported(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace, Path]:
    """An export with parts of 1 MiB, in a workspace of its own that links the built suite's data."""
    root = tmp_path_factory.mktemp("export") / "small"
    root.mkdir()
    for name in ("corpus", "insertion"):
        (root / name).symlink_to(built / name)
    suite, workspace = load_suite(built / "suite.toml"), Workspace(root)
    return suite, workspace, export_megatron(suite, workspace, ARM, 0, parts_mb=1)


@pytest.fixture
def own(exported: tuple[Suite, Workspace, Path], tmp_path: Path) -> tuple[Suite, Workspace, Path]:
    """The export as a copy, to damage."""
    suite, workspace, folder = exported
    shutil.copytree(workspace.root, tmp_path / "small", symlinks=True)
    return suite, Workspace(tmp_path / "small"), tmp_path / "small" / folder.relative_to(workspace.root)


def overlay_of(suite: Suite, workspace: Workspace) -> Overlay:
    return open_suite_overlay(workspace, ARM, 0, seed=suite.seed)


def test_the_bytes_are_the_overlay_and_neox_reads_every_slot(exported: tuple[Suite, Workspace, Path]) -> None:
    suite, workspace, folder = exported
    overlay, store = overlay_of(suite, workspace), TokenStore.open(folder)
    index = NeoxIndex.open(folder, store.starts)
    slots = np.arange(overlay.order.size)
    rows = overlay.sequences(slots)
    assert np.array_equal(np.stack([index.window(store.tokens, slot) for slot in slots]), rows)
    stream = np.array(overlay.store.tokens)
    for row, sequence in zip(rows, overlay.order.sequences(slots), strict=True):
        stream[sequence * overlay.length : (sequence + 1) * overlay.length + 1] = row
    assert (folder / "tokens.bin").read_bytes() == stream.tobytes()
    assert not np.array_equal(stream, overlay.store.tokens)


def test_documents_end_at_every_eos_of_the_stream(exported: tuple[Suite, Workspace, Path]) -> None:
    _, workspace, folder = exported
    store = TokenStore.open(folder)
    ends = np.flatnonzero(store.tokens == corpus_facts(workspace)["eos_id"]) + 1
    assert np.array_equal(np.cumsum(store.sizes), ends)
    assert len(ends) > corpus_facts(workspace)["documents"]


def test_names_and_settings_are_those_of_neox(exported: tuple[Suite, Workspace, Path]) -> None:
    suite, _, folder = exported
    facts = json.loads((folder / "export.json").read_text())
    neox = facts["neox"]
    slots = neox["train_iters"] * neox["train_batch_size"]
    assert slots == suite.arms[ARM].train.slots == facts["slots"]
    stem = f"{neox['data_path']}_train_indexmap_{slots}ns_{neox['seq_length']}sl_{neox['seed']}s_packedpi_ac"
    for table, kind in (("doc", np.int32), ("sample", np.int32), ("shuffle", np.uint32)):
        assert np.load(folder / f"{stem}_{table}_idx.npy").dtype == kind
    assert facts["tokens_bin_sha256"] == hashlib.sha256((folder / "tokens.bin").read_bytes()).hexdigest()
    assert str(folder.parent) not in (folder / "export.json").read_text()


def test_parts_join_to_the_stream(exported: tuple[Suite, Workspace, Path], tmp_path: Path) -> None:
    _, _, folder = exported
    join_parts(folder, tmp_path / "tokens.bin")
    assert (tmp_path / "tokens.bin").read_bytes() == (folder / "tokens.bin").read_bytes()
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("size", "count"), [(1, 7), (3, 3), (7, 1), (100, 1)])
def test_parts_are_cut_by_size_and_sort_by_name(tmp_path: Path, size: int, count: int) -> None:
    data = bytes(range(7))
    (tmp_path / "tokens.bin").write_bytes(data)
    *parts, sums = write_parts(tmp_path / "tokens.bin", size, hashlib.sha256(data).hexdigest())
    assert parts == sorted(tmp_path.glob("*.zst"))
    assert (len(parts), sums.name) == (count, "SHA256SUMS")
    join_parts(tmp_path, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == data


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd on this machine")
def test_the_command_of_the_documentation_joins_the_parts(
    exported: tuple[Suite, Workspace, Path], tmp_path: Path
) -> None:
    _, _, folder = exported
    for path in (*folder.glob("*.zst"), folder / "SHA256SUMS"):
        shutil.copy(path, tmp_path)
    command = "zstd -dc tokens.bin.*.zst > tokens.bin && sha256sum -c SHA256SUMS"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "tokens.bin").read_bytes() == (folder / "tokens.bin").read_bytes()


def test_a_damaged_part_is_named_and_nothing_is_left(own: tuple[Suite, Workspace, Path], tmp_path: Path) -> None:
    _, _, folder = own
    part = folder / "tokens.bin.000.zst"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(CostarError, match=r"tokens\.bin\.000\.zst\n  found     a damaged part"):
        join_parts(folder, tmp_path / "joined")
    part.unlink()
    with pytest.raises(CostarError, match="no such file"):
        join_parts(folder, tmp_path / "joined")
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CostarError, match="SHA256SUMS"):
        join_parts(folder, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_current_export_is_left_alone_and_a_damaged_or_half_written_one_is_made_again(
    own: tuple[Suite, Workspace, Path],
) -> None:
    suite, workspace, folder = own
    before, stamp = contents(folder), (folder / "tokens.bin").stat().st_mtime_ns
    export_megatron(suite, workspace, ARM, 0, parts_mb=1)
    assert (folder / "tokens.bin").stat().st_mtime_ns == stamp
    os.truncate(folder / "tokens.bin", 100)
    export_megatron(suite, workspace, ARM, 0, parts_mb=1)
    assert contents(folder) == before
    (folder / "stage.json").unlink()
    (folder / "tokens.idx").unlink()
    (folder / ".tokens.bin.999999999.part").touch()
    export_megatron(suite, workspace, ARM, 0, parts_mb=1)
    assert contents(folder) == before


def test_an_export_without_parts_keeps_none_of_the_old(own: tuple[Suite, Workspace, Path]) -> None:
    suite, workspace, folder = own
    export_megatron(suite, workspace, ARM, 0, neox_seed=7)
    names = {path.name for path in folder.iterdir()}
    assert not any(name.endswith(".zst") or "1234s" in name for name in names)
    assert sum("_7s_" in name for name in names) == 3


def altered(suite: Suite, **train: Any) -> Suite:
    arm = suite.arms[ARM]
    changed = dataclasses.replace(arm, train=dataclasses.replace(arm.train, **train))
    return dataclasses.replace(suite, arms={**suite.arms, ARM: changed})


def test_a_base_that_would_be_read_twice_is_refused_with_both_numbers(own: tuple[Suite, Workspace, Path]) -> None:
    suite, workspace, _ = own
    sequences = overlay_of(suite, workspace).order.size
    with pytest.raises(CostarError, match=rf"{sequences + 1:,} slots\n  expected  at most {sequences:,}"):
        export_megatron(altered(suite, steps=sequences + 1, batch=1), workspace, ARM, 0)
    folder = export_megatron(altered(suite, steps=sequences, batch=1), workspace, ARM, 0)
    shuffle = np.load(next(folder.glob("*_shuffle_idx.npy")))
    assert len(shuffle) - 1 == sequences  # what NeoX takes for the number of samples


@pytest.mark.parametrize(("arm", "draw", "parts"), [("nobody", 0, None), (ARM, 5, None), (ARM, -1, None), (ARM, 0, 0)])
def test_what_does_not_exist_is_refused(
    exported: tuple[Suite, Workspace, Path], arm: str, draw: int, parts: int | None
) -> None:
    suite, workspace, _ = exported
    with pytest.raises(CostarError):
        export_megatron(suite, workspace, arm, draw, parts_mb=parts)


def test_the_release_takes_no_export_for_its_own(built_copy: Path) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    folder = export_megatron(suite, workspace, "standard", 0)
    (built_copy / "stage-release.json").unlink()
    write_release(suite, workspace)
    assert "megatron" not in (workspace.release / "SHA256SUMS").read_text()
    assert (folder / "tokens.bin").read_bytes() == (built_copy / "corpus" / "tokens.bin").read_bytes()
    assert (folder / "tokens.idx").read_bytes() == (built_copy / "corpus" / "tokens.idx").read_bytes()


def damage(path: Path, change: Any) -> None:
    tokens = np.fromfile(path, np.uint16)
    change(tokens)
    tokens.tofile(path)


def copy_at(suite: Suite, workspace: Workspace, number: int) -> tuple[int, int, str]:
    """Where in the stream a copy's record begins, its tokens, and its name."""
    rows = read_exposures(workspace, ARM, 0).slice(number, 1).to_pylist()
    begin = rows[0]["sequence"] * suite.corpus.sequence_length + rows[0]["start"]
    return begin, rows[0]["length"], f"{rows[0]['record_id']} copy {rows[0]['copy']}"


def test_an_export_is_compared_with_its_arm_and_every_damage_named(own: tuple[Suite, Workspace, Path]) -> None:
    suite, workspace, folder = own
    path, whole = folder / "tokens.bin", (folder / "tokens.bin").read_bytes()
    base = np.fromfile(workspace.corpus / "tokens.bin", np.uint16)

    def problems(change: Any) -> list[str]:
        path.write_bytes(whole)
        damage(path, change)
        return verify_exports(suite, workspace, lambda share, remark: None)[1]

    assert problems(lambda tokens: None) == []
    first, size, name = copy_at(suite, workspace, 3)
    record = name.split(" copy ")[0]
    others = (copy_at(suite, workspace, number) for number in range(4, 99))
    other, other_size, other_name = next(each for each in others if each[2].split(" copy ")[0] != record)
    longest = min(size, other_size)

    def flip(tokens: np.ndarray) -> None:
        tokens[first + 2] ^= 1

    def shift(tokens: np.ndarray) -> None:
        tokens[first + 1 : first + size + 1] = tokens[first : first + size].copy()

    def swap(tokens: np.ndarray) -> None:
        a, b = tokens[first : first + longest].copy(), tokens[other : other + longest].copy()
        tokens[first : first + longest], tokens[other : other + longest] = b, a

    def remove(tokens: np.ndarray) -> None:
        tokens[first : first + size + 1] = base[first : first + size + 1]

    assert f"{name} is damaged" in problems(flip)[0]
    assert f"{name} is damaged" in problems(shift)[0]
    assert f"{name} is damaged" in problems(remove)[0]
    assert {name, other_name} <= {text.split(": ")[1].split(" is")[0] for text in problems(swap)}

    touched = set(read_exposures(workspace, ARM, 0).column("sequence").to_pylist())
    length = suite.corpus.sequence_length
    free = next(i for i in range(3, 400) if not {i - 1, i, i + 1} & touched)

    def add(tokens: np.ndarray) -> None:
        tokens[free * length + 5 : free * length + 5 + size] = tokens[first : first + size]

    assert (
        f"other tokens than the base (slot {int(order_of(suite, workspace).slots(np.array([free]), 0)[0])}"
        in problems(add)[0]
    )
    path.write_bytes(whole[:-2])
    assert "another size" in verify_exports(suite, workspace, lambda share, remark: None)[1][0]


def order_of(suite: Suite, workspace: Workspace) -> FeistelOrder:
    return overlay_of(suite, workspace).order
