"""A foreign trainer that reads the plan is proven; one that leaves it is caught at the step, with what it read instead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import costar
import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.train.digest import DigestRecorder
from costar.train.digest_proof import DigestProof, verify_digests

STEPS, BATCH = 60, 8


def feed(path: Path, rows: np.ndarray, *, arm: str = "late", batch: int = BATCH) -> Path:
    DigestRecorder(path, arm=arm, batch=batch).update(rows)
    return path


def read(built: Path, slots: Iterable[int], arm: str = "late") -> np.ndarray:
    return costar.open(str(built)).sequences(arm, np.fromiter(slots, np.int64))


def without_first_rows(path: Path) -> Path:
    """The file as a trainer writes it that records digests only."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "first_row"}) + "\n" for line in lines))
    return path


def verify(built: Path, path: Path) -> DigestProof:
    return costar.verify_digests(str(built), path)


def test_a_trainer_that_reads_the_plan_is_proven(built: Path, tmp_path: Path) -> None:
    proof = verify(built, feed(tmp_path / "d.jsonl", read(built, range(96 * BATCH))))
    assert (proof.agreed, proof.steps, proof.planned, proof.problems) == (96, 96, 96, [])
    proof = verify(built, feed(tmp_path / "part.jsonl", read(built, range(STEPS * BATCH))))
    assert (proof.agreed, proof.steps, proof.planned, proof.problems) == (STEPS, STEPS, 96, [])


def shuffled(slots: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).permutation(slots)


def skipping(slots: np.ndarray) -> np.ndarray:
    return np.delete(slots, np.arange(5 * BATCH, 6 * BATCH))


def repeating(slots: np.ndarray) -> np.ndarray:
    return np.concatenate([slots[: 6 * BATCH], slots[5 * BATCH :]])


def missing_a_row(slots: np.ndarray) -> np.ndarray:
    return np.delete(slots, 43)


def dealt_out(slots: np.ndarray) -> np.ndarray:
    """Rows of a step as two processes would read them that take every other row."""
    return slots.reshape(-1, BATCH // 2, 2).swapaxes(1, 2).ravel()


@pytest.mark.parametrize(
    ("change", "step", "diagnosis"),
    [
        (shuffled, 0, "shuffled order"),
        (skipping, 5, "8 rows ahead: the loader skipped some"),
        (repeating, 6, "8 rows behind: the loader gave some again"),
        (missing_a_row, 5, "a later one is not; afterwards it read 1 row ahead"),
        (dealt_out, 0, "right rows in another order: 0, 2, 4, 6, 1, 3, 5, 7"),
    ],
)
def test_rows_in_another_order_are_caught_and_named(
    change: object, step: int, diagnosis: str, built: Path, tmp_path: Path
) -> None:
    assert callable(change)
    rows = read(built, change(np.arange(STEPS * BATCH)))
    proof = verify(built, feed(tmp_path / "d.jsonl", rows))
    assert proof.disagreement is not None
    assert (proof.agreed, proof.disagreement.step, proof.disagreement.first) == (step, step, step * BATCH)
    assert diagnosis in proof.disagreement.diagnosis
    bare = verify(built, without_first_rows(tmp_path / "d.jsonl"))
    assert bare.disagreement is not None
    assert bare.disagreement.step == step
    assert bare.disagreement.diagnosis


def test_skipped_rows_are_counted_however_far_the_loader_jumped(built: Path, tmp_path: Path) -> None:
    slots = np.concatenate([np.arange(80), np.arange(293, 701)])
    proof = verify(built, feed(tmp_path / "d.jsonl", read(built, slots)))
    assert "step 10 did not read slots 80 to 87" in proof.problems[0]
    assert "213 rows ahead" in proof.problems[0]


def test_another_arm_is_named(built: Path, tmp_path: Path) -> None:
    proof = verify(built, feed(tmp_path / "d.jsonl", read(built, range(STEPS * BATCH), "perturbed")))
    assert proof.disagreement is not None
    first = read(built, range(8 * proof.agreed, 8 * proof.agreed + 8), "perturbed")
    assert not np.array_equal(first, read(built, range(8 * proof.agreed, 8 * proof.agreed + 8)))
    more = STEPS - proof.agreed - 1
    assert f"this step and the {more} after it read arm perturbed instead" in proof.disagreement.diagnosis


def test_the_base_without_copies_is_named(built: Path, tmp_path: Path) -> None:
    """By the arm that inserts nothing, and in a suite without such an arm as the base."""
    opened = costar.open(str(built))
    overlay = opened.overlay("perturbed")
    step = int(overlay.edits.slots[0]) // BATCH
    slots = np.arange(8 * step + 8)
    rows = overlay.sequences(slots)
    rows[8 * step :] = overlay.base(overlay.order.sequences(slots[8 * step :]))
    path = feed(tmp_path / "d.jsonl", rows, arm="perturbed")
    alone = replace(opened.suite, arms={"perturbed": opened.suite.arms["perturbed"]})
    for suite, diagnosis in ((opened.suite, "read arm standard"), (alone, "without their copies")):
        wrong = verify_digests(suite, opened.workspace, path, lambda share, remark: None).disagreement
        assert wrong is not None
        assert wrong.step == step
        assert diagnosis in wrong.diagnosis


def test_a_dropped_last_token_is_named(built: Path, tmp_path: Path) -> None:
    proof = verify(built, feed(tmp_path / "d.jsonl", read(built, range(80))[:, :-1]))
    assert (proof.agreed, len(proof.problems)) == (0, 2)
    assert "rows of 128 ids where the suite has 129: the last token of every row was dropped" in proof.problems[0]
    assert "the right rows without their last token" in proof.problems[1]


def test_a_changed_id_is_caught(built: Path, tmp_path: Path) -> None:
    rows = read(built, range(80))
    rows[40, 7] += 1
    proof = verify(built, feed(tmp_path / "d.jsonl", rows))
    assert "step 5 " in proof.problems[0]
    assert "ids were changed" in proof.problems[0]


def test_steps_of_another_size_or_beyond_the_budget_are_named(built: Path, tmp_path: Path) -> None:
    proof = verify(built, feed(tmp_path / "d.jsonl", read(built, range(80)), batch=4))
    assert (proof.agreed, proof.problems) == (20, [f"{tmp_path / 'd.jsonl'}: 4 rows a step where the arm has 8"])
    proof = verify(built, feed(tmp_path / "more.jsonl", read(built, range(97 * BATCH))))
    assert proof.problems == [f"{tmp_path / 'more.jsonl'}: 97 steps where the arm has 96"]
    recorder = DigestRecorder(tmp_path / "short.jsonl", arm="late", batch=BATCH)
    for rows in np.split(read(built, range(30)), [8, 16, 24]):
        recorder.add(rows)
        recorder.end_step()
    proof = verify(built, tmp_path / "short.jsonl")
    assert proof.agreed == 3
    assert "it read 6 rows instead of 8" in proof.problems[0]


def test_an_arm_or_draw_that_the_suite_lacks_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="one of standard, perturbed, early, late"):
        verify(built, feed(tmp_path / "d.jsonl", read(built, range(8)), arm="latte"))
    DigestRecorder(tmp_path / "e.jsonl", arm="late", draw=1, batch=8).update(read(built, range(8)))
    with pytest.raises(CostarError, match="below 1"):
        verify(built, tmp_path / "e.jsonl")
