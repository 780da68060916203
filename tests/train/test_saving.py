"""Checkpoints: written by any number of processes and read by any other, by rows; nothing half-written counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.machine import Layout
from costar.core.workspace import Workspace
from costar.train.checkpoint import (
    Stored,
    damaged_files,
    finished_steps,
    load_checkpoint,
    model_state,
    read_saved,
    row_marks,
    state_sha256,
    stored_sha256,
)
from costar.train.engine import Engine
from costar.train.init import init_weights
from costar.train.saving import Saver
from costar.train.world import World, join_world
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor

from tests.gloo import in_world
from tests.train.test_engine import design, shape

RUN = "standard.nano.d0"


def engine_of(world: World, sharding: str) -> Engine:
    torch.set_num_threads(1)
    engine = Engine(shape(), design(), Layout(sharding=sharding), world)
    init_weights(engine.model, 1, 0)
    return engine


def updated(engine: Engine) -> Engine:
    ids = np.random.default_rng(0).integers(0, 300, (8, 33))
    first, last = engine.world.rows(8)
    engine.update(ids[first:last], 1e-2)
    return engine


def whole_state(engine: Engine) -> str:
    tensors = {**model_state(engine.model), **engine.optimizers.state()}
    return state_sha256({name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()})


def saver_of(folder: Path, engine: Engine, *, kept: tuple[int, ...] = (1,), background: bool = False) -> Saver:
    return Saver(Workspace(folder), RUN, engine, kept=kept, background=background)


def save_whole(saver: Saver, step: int) -> None:
    saver.save(step, bytes(16), "config")
    saver.wait()


def act(world: World, folder: Path, deed: str, sharding: str) -> dict[str, Any]:
    """What one of several processes does: save a state after an update, or load what others saved."""
    engine = engine_of(world, sharding)
    if deed == "save":
        save_whole(saver_of(folder, updated(engine), background=True), 1)
    else:
        load_checkpoint(Workspace(folder).checkpoint(RUN, 1), engine.model, engine.optimizers)
        assert not damaged_files(Workspace(folder).checkpoint(RUN, 1), world)
    return {"state": whole_state(engine)}


def in_processes(processes: int, *arguments: str) -> str:
    found = in_world("tests.train.test_saving", processes, arguments)
    assert len({each["state"] for each in found}) == 1
    return str(found[0]["state"])


def test_what_two_processes_write_in_the_background_one_reads(tmp_path: Path) -> None:
    state = in_processes(2, str(tmp_path), "save", "full")
    folder = Workspace(tmp_path).checkpoint(RUN, 1)
    saved = read_saved(folder)
    assert saved is not None
    assert (saved.state_sha256, stored_sha256(folder)) == (state, state)
    assert {path.name for path in folder.glob("rank-*")} == {"rank-00000.safetensors", "rank-00001.safetensors"}
    alone = engine_of(World(), "none")
    load_checkpoint(folder, alone.model, alone.optimizers)
    assert whole_state(alone) == state


@pytest.mark.slow
def test_what_two_processes_write_three_read_and_two_that_hold_all(tmp_path: Path) -> None:
    state = in_processes(2, str(tmp_path), "save", "full")
    assert in_processes(3, str(tmp_path), "load", "full") == state
    assert in_processes(2, str(tmp_path), "load", "none") == state


def test_what_one_process_writes_two_read_and_training_goes_on_alike(tmp_path: Path) -> None:
    engine = updated(engine_of(World(), "none"))
    saver_of(tmp_path, engine).save(1, bytes(16), "config")
    assert in_processes(2, str(tmp_path), "load", "full") == whole_state(engine)


@given(st.integers(0, 6), st.integers(0, 6))
def test_the_hash_of_a_state_does_not_depend_on_where_rows_are_cut(a: int, b: int) -> None:
    first, last = sorted((a, b))
    for tensor in (torch.randn(6, 5), torch.randn(6)):
        parts = [row_marks(tensor[:first]), row_marks(tensor[first:last]), row_marks(tensor[last:])]
        assert b"".join(parts) == row_marks(tensor)


def test_checkpoints_for_restarts_go_when_the_next_one_is_whole(tmp_path: Path) -> None:
    saver = saver_of(tmp_path, updated(engine_of(World(), "none")), kept=(2, 5), background=True)
    left = []
    for step in (1, 2, 3, 4, 5):
        save_whole(saver, step)
        left.append(finished_steps(Workspace(tmp_path), RUN))
    assert left == [[1], [2], [2, 3], [2, 4], [2, 5]]


def test_an_error_of_writing_is_told_and_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real full disk is a drill; here the system refuses one file, in the background and in front."""
    engine = updated(engine_of(World(), "none"))
    for background in (False, True):
        saver = saver_of(tmp_path, engine, background=background)
        save_whole(saver, 1)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                save_whole(saver, 2)
        assert finished_steps(Workspace(tmp_path), RUN) == [1]
        save_whole(saver, 2)
        assert finished_steps(Workspace(tmp_path), RUN) == [1, 2]
        shutil.rmtree(Workspace(tmp_path).checkpoint(RUN, 2))


def test_no_error_of_the_background_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = saver_of(tmp_path, updated(engine_of(World(), "none")), background=True)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("connection closed by a process")

    monkeypatch.setattr("costar.train.saving.finish_step", broken)
    saver.save(1, bytes(16), "config")
    saver.join()
    assert saver.failed
    with pytest.raises(RuntimeError, match="connection closed"):
        saver.wait()


def test_a_missing_file_and_a_flipped_bit_are_found_and_another_shape_is_refused(tmp_path: Path) -> None:
    engine = updated(engine_of(World(), "none"))
    saver_of(tmp_path, engine).save(1, bytes(16), "config")
    folder = Workspace(tmp_path).checkpoint(RUN, 1)
    path = folder / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert damaged_files(folder, World()) == [path.name]
    path.unlink()
    assert damaged_files(folder, World()) == [path.name]
    index = json.loads((folder / "index.json").read_text())
    index["tensors"]["lm_head.weight"]["shape"] = [299, 48]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(CostarError, match=r"lm_head.weight of shape \[299, 48\]"):
        load_checkpoint(folder, engine.model, None)
    (folder / "index.json").unlink()
    with pytest.raises(CostarError, match="goes on from the checkpoint before"):
        Stored(folder)


if __name__ == "__main__":
    place, deed, sharding = sys.argv[1:]
    sys.stdout.write(json.dumps(act(join_world(torch.device("cpu")), Path(place), deed, sharding)) + "\n")
