"""The recorder writes invariant 5, keeps what was finished, continues where it is told, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from costar.train.digest import DigestRecorder
from costar.train.digest_file import read_digests
from hypothesis import given
from hypothesis import strategies as st


def some_rows(count: int = 24, length: int = 6) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 70_000, (count, length))


def expected_digests(rows: np.ndarray, batch: int) -> list[bytes]:
    digest, found = EMPTY_DIGEST, []
    for first in range(0, len(rows), batch):
        digest = step_digest(digest, row_hashes(rows[first : first + batch]))
        found.append(digest)
    return found


def record(path: Path, rows: np.ndarray, *, batch: int = 4, start: int = 0) -> DigestRecorder:
    recorder = DigestRecorder(path, arm="late", draw=1, batch=batch, start=start)
    recorder.update(rows)
    return recorder


@given(cuts=st.lists(st.integers(1, 23), max_size=6), batch=st.sampled_from([1, 3, 4, 8]))
def test_digests_do_not_depend_on_how_rows_come_in(
    cuts: list[int], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, path = some_rows(), tmp_path_factory.mktemp("digests") / "d.jsonl"
    recorder = DigestRecorder(path, arm="a", batch=batch)
    for part in np.split(rows, sorted(cuts)):
        recorder.update(torch.from_numpy(part))
    recorder.close()
    assert [each.digest for each in read_digests(path).steps] == expected_digests(rows, batch)


def test_the_file_names_what_was_to_be_read(tmp_path: Path) -> None:
    record(tmp_path / "d.jsonl", some_rows())
    lines = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert lines[0] == {"arm": "late", "draw": 1, "batch": 4, "sequence_length": 5}
    assert lines[1]["digest"] == expected_digests(some_rows(), 4)[0].hex()
    assert [line["step"] for line in lines[1:]] == list(range(6))


def test_inputs_with_labels_are_whole_rows(tmp_path: Path) -> None:
    rows = torch.from_numpy(some_rows())
    recorder = DigestRecorder(tmp_path / "d.jsonl", arm="a", batch=4)
    recorder.update(rows[:, :-1], rows[:, 1:])
    assert [each.digest for each in read_digests(tmp_path / "d.jsonl").steps] == expected_digests(some_rows(), 4)
    with pytest.raises(CostarError, match="moved on by one"):
        recorder.update(rows[:, :-1], rows[:, :-1])


def test_every_finished_step_is_in_the_file_at_once(tmp_path: Path) -> None:
    recorder = record(tmp_path / "d.jsonl", some_rows(11))
    assert len(read_digests(tmp_path / "d.jsonl").steps) == 2
    with pytest.raises(CostarError, match="3 rows at the end"):
        recorder.close()


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_a_resumed_recording_equals_an_uninterrupted_one(start: int, tmp_path: Path) -> None:
    path, rows = tmp_path / "d.jsonl", some_rows()
    record(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 6, "dig')  # as a killed process leaves it
    record(path, rows[4 * start :], start=start)
    assert path.read_bytes() == whole


def test_a_recording_cannot_begin_in_the_middle_or_in_the_file_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with pytest.raises(CostarError, match="digests of 0 steps"):
        record(path, some_rows(), start=2)
    record(path, some_rows(8))
    with pytest.raises(CostarError, match="steps 0 to 2"):
        record(path, some_rows(), start=3)
    with pytest.raises(CostarError, match="digests of arm late"):
        DigestRecorder(path, arm="early", draw=1, batch=4)
    assert len(read_digests(path).steps) == 2


def test_rows_of_another_length_are_refused_also_after_a_restart(tmp_path: Path) -> None:
    recorder = record(tmp_path / "d.jsonl", some_rows())
    for each in (recorder, DigestRecorder(tmp_path / "d.jsonl", arm="late", draw=1, batch=4, start=3)):
        with pytest.raises(CostarError, match="rows of 7 ids"):
            each.update(some_rows(length=7))
    with pytest.raises(CostarError, match="without a row"):
        recorder.end_step()
    with pytest.raises(CostarError, match="whole numbers"):
        recorder.update(torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("line", "text", "place"),
    [
        (0, "", "line 1"),
        (0, '{"arm": "late", "draw": 0, "batch": 0, "sequence_length": 5}', "line 1"),
        (0, '{"arm": "late", "draw": 0, "batch": true, "sequence_length": 5}', "line 1"),
        (2, '{"step": 2, "digest": "00"}', "line 3"),
        (2, '{"step": 1, "digest": "00"}', "line 3"),
        (2, '{"step": 1, "digest": "zz"}', "line 3"),
        (2, "[]", "line 3"),
        (2, "", "line 3"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(line: int, text: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    record(path, some_rows())
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CostarError) as caught:
        read_digests(path)
    assert place in caught.value.place
    with pytest.raises(CostarError, match="no text"):
        read_digests(tmp_path / "nothing.jsonl")


def test_a_file_by_hand_needs_no_last_newline_and_no_first_rows(tmp_path: Path) -> None:
    path, digests = tmp_path / "d.jsonl", expected_digests(some_rows(), 4)
    lines = [json.dumps({"arm": "a", "draw": 0, "batch": 4, "sequence_length": 5, "by": "hand"})]
    lines += [json.dumps({"step": step, "digest": digest.hex()}) for step, digest in enumerate(digests)]
    path.write_text("\n".join(lines))
    assert [each.digest for each in read_digests(path).steps] == digests


RANK = """
import sys, numpy as np, torch.distributed as dist
from pathlib import Path
from costar.train.digest import DigestRecorder
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
rows = np.load(folder / "rows.npy")
for start in (0, 2):  # the second time as a resumed run
    recorder = DigestRecorder(folder / "d.jsonl", arm="a", batch=8, start=start)
    for micro in range(2 * start, len(rows) // 4):
        recorder.update(rows[4 * micro : 4 * micro + 4][2 * rank : 2 * rank + 2])
    assert recorder.step == 3
uneven = DigestRecorder(folder / "uneven.jsonl", arm="a", batch=8)
for step in range(3):
    own = rows[8 * step : 8 * step + 8]
    uneven.add(own[:5] if rank == 0 else own[5:])
    uneven.end_step()
dist.destroy_process_group()
"""


def test_two_processes_write_the_digests_of_one(tmp_path: Path) -> None:
    """Whole micro-batches of two rows are dealt round robin: first to rank 0, then to rank 1."""
    np.save(tmp_path / "rows.npy", some_rows())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for name in ("d.jsonl", "uneven.jsonl"):
        assert [each.digest for each in read_digests(tmp_path / name).steps] == expected_digests(some_rows(), 8)
