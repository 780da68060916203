from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.workspace import changed_files, finish_step, is_current, output_lock, replacing, start_step, write_text


def test_a_step_is_current_only_with_its_marker_inputs_and_sizes(tmp_path: Path) -> None:
    start_step(tmp_path, "a")
    file = tmp_path / "data.bin"
    file.write_bytes(b"12345")
    assert not is_current(tmp_path, "hash", "a")
    finish_step(tmp_path, "hash", [file], "a")
    assert is_current(tmp_path, "hash", "a")
    assert not is_current(tmp_path, "other", "a")
    file.write_bytes(b"1234")
    assert not is_current(tmp_path, "hash", "a")


def test_a_flipped_byte_of_the_same_size_is_found(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(b"12345")
    finish_step(tmp_path, "hash", [file])
    assert changed_files(tmp_path) == []
    file.write_bytes(b"12346")
    assert changed_files(tmp_path) == ["data.bin"]


def test_a_marker_cut_short_counts_as_absent(tmp_path: Path) -> None:
    finish_step(tmp_path, "hash", [])
    marker = tmp_path / "stage.json"
    marker.write_text(marker.read_text()[:10])
    assert not is_current(tmp_path, "hash")


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    """A killed DuckDB leaves its journal too, and a killed process that nobody waited for has a number still."""
    path = tmp_path / "manifest.duckdb"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        for name in (f"{dead.pid}.part", f"{dead.pid}.part.wal", f"{alive.pid}.part", "none.part"):
            (tmp_path / f".{path.name}.{name}").write_text("half")
        (tmp_path / f".{path.name}.{dead.pid}.part.tmp").mkdir()
        write_text(path, "whole")
        assert {each.name for each in tmp_path.iterdir()} == {path.name, f".{path.name}.{alive.pid}.part"}
        dead.wait()
        alive.communicate(b"\n")


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from costar.core.workspace import output_lock\n"
        "with output_lock(Path(sys.argv[1]), 'train a.b.d0'):\n    print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        with pytest.raises(CostarError, match=f"costar train a.b.d0, process {first.pid}"), output_lock(tmp_path, "x"):
            pass
        first.kill()
    with output_lock(tmp_path, "second"):
        pass  # a killed writer leaves no lock behind
