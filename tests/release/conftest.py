"""A suite that is released blind: its seed cannot be guessed, its control reads fillers. Built once for all processes."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.release.pack import write_release

from tests.small import SUITE, costar, write_small_suite

SEED = 6148914691236517205


def blind_toml() -> str:
    """The small suite without passages, of few steps, with fresh records of the same kinds in the control."""
    text = SUITE.replace(SUITE[SUITE.index("[perturbation.passages]") : SUITE.index("[perturbation.quizzes]")], "")
    text = text.replace(SUITE[SUITE.index("[arm.early]") : SUITE.index("[train]")], '[arm.fillers]\nfiller = "kin"\n\n')
    for before, after in {
        "seed   = 7": f"seed   = {SEED}",
        "steps       = 96": "steps       = 12",
        "every = 24": "every = 12",
        "length = 2": "length = 6",
        '"secret-rank", ': "",
        "[arm.perturbed]\n": '[arm.perturbed]\ncontrol = "fillers"\n',
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="session")
def blind(shared_folder: Path) -> Path:
    """`build/small` of a suite that was released blind. Read it; to change something, take `blind_copy`."""
    folder = shared_folder / "blind-suite"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = folder / "build" / "small"
        if not (folder / "done").is_file():
            write_small_suite(folder, blind_toml())
            for verb in ("corpus", "insert", "train", "eval"):
                costar(folder, verb, "./small.toml")
            write_release(load_suite(root / "suite.toml"), Workspace(root), blind=True)
            (folder / "done").touch()
    return root


@pytest.fixture
def blind_copy(blind: Path, tmp_path: Path) -> Path:
    """A copy of that suite."""
    source = blind.parent.parent
    shutil.copytree(source, tmp_path / "copy", ignore=shutil.ignore_patterns("lock", "done"))
    return tmp_path / "copy" / "build" / "small"
