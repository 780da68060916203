"""Shared fixtures: a small suite over real English, built once for all test processes."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.small import build_small, write_small_suite

settings.register_profile("costar", deadline=None)  # machines are noisy: no time enters a test
settings.load_profile("costar")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes of a session share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def built(shared_folder: Path) -> Path:
    """`build/small` of a finished small suite. Read it; to change something, take `built_copy`."""
    folder = shared_folder / "small-suite"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").is_file():
            write_small_suite(folder)
            build_small(folder)
            (folder / "done").touch()
    return folder / "build" / "small"


@pytest.fixture
def built_copy(built: Path, tmp_path: Path) -> Path:
    """A copy of the finished small suite, with its suite file beside `build/`, to damage or to build on."""
    source = built.parent.parent
    shutil.copytree(source, tmp_path / "copy", ignore=shutil.ignore_patterns("lock", "done"))
    return tmp_path / "copy" / "build" / "small"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data for tests, where it lies beside the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside the project")
    return folder
