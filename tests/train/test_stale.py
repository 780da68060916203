"""A suite edit never costs a trained run (invariant 10)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.small import costar


def tree_hash(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock")):
        state.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return state.hexdigest()


def edit(built: Path, old: str, new: str) -> Path:
    path = built.parent.parent / "small.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path.parent


@pytest.mark.parametrize("verb", ["insert", "all"])
def test_a_verb_stops_with_the_changed_keys_and_the_runs_they_touch(built_copy: Path, verb: str) -> None:
    before = tree_hash(built_copy)
    folder = edit(built_copy, "14 = 12 }", "14 = 11, 15 = 1 }")
    done = costar(folder, verb, "./small.toml", check=False)
    assert done.returncode == 2
    assert "perturbation.passages.levels" in done.stderr
    for run in ("perturbed.nano.d0", "early.nano.d0", "late.nano.d0"):
        assert run in done.stderr
    assert "standard.nano.d0" not in done.stderr
    assert "--archive" in done.stderr
    assert "rename" in done.stderr
    assert tree_hash(built_copy) == before


def test_archive_puts_the_touched_runs_aside_and_keeps_the_others(built_copy: Path) -> None:
    folder = edit(built_copy, "14 = 12 }", "14 = 11, 15 = 1 }")
    standard = tree_hash(built_copy / "runs" / "standard.nano.d0")
    costar(folder, "corpus", "./small.toml", "--archive")
    costar(folder, "insert", "./small.toml")
    assert len(list((built_copy / "archive").iterdir())) == 3
    assert [p.name for p in sorted((built_copy / "runs").glob("*.d0"))] == ["standard.nano.d0"]
    assert tree_hash(built_copy / "runs" / "standard.nano.d0") == standard


def test_an_edit_that_touches_no_run_goes_through(built_copy: Path) -> None:
    folder = edit(built_copy, "prefixes = [8]", "prefixes = [8, 16]")
    before = tree_hash(built_copy / "runs")
    costar(folder, "train", "./small.toml")
    assert tree_hash(built_copy / "runs") == before
    done = costar(folder, "eval", "./small.toml")
    assert "14 checkpoints measured" in done.stdout


def test_a_perturbation_that_would_move_copies_of_a_trained_run_stops_insert(built_copy: Path) -> None:
    """Arm `early` does not insert the new perturbation, so its keys are the same; only its slots would move."""
    text = '\n[perturbation.strong]\nkind = "testset"\nphase = [0.0, 0.4]\n'
    text += 'records = { from = "generator" }\nlevels = { 0 = 2, 14 = 8 }\n'
    folder = edit(built_copy, "\n[arm.standard]", text + "\n[arm.standard]")
    path = folder / "small.toml"
    path.write_text(
        path.read_text().replace(
            "[arm.perturbed]", '[arm.perturbed]\nperturbations = ["passages", "quizzes", "passwords"]'
        )
    )
    exposures = tree_hash(built_copy / "insertion" / "exposures")
    costar(folder, "corpus", "./small.toml")
    done = costar(folder, "insert", "./small.toml", check=False)
    assert done.returncode == 2
    assert "other exposures than before; runs touched: early.nano.d0" in done.stderr
    assert tree_hash(built_copy / "insertion" / "exposures") == exposures


def test_status_names_stale_runs(built_copy: Path) -> None:
    folder = edit(built_copy, "lr          = 1e-2", "lr          = 2e-2")
    done = costar(folder, "status", "./small.toml")
    assert done.stdout.count("stale") == 4
    assert "train.lr" in done.stdout


def test_archive_also_mends_a_refusal_that_only_the_data_show(built_copy: Path) -> None:
    """Copies of `early` would be displaced: its keys are the same, so only `insert` can notice, and --archive must help."""
    text = '\n[perturbation.strong]\nkind = "testset"\nphase = [0.0, 0.4]\n'
    text += 'records = { from = "generator" }\nlevels = { 0 = 2, 14 = 8 }\n'
    folder = edit(built_copy, "\n[arm.standard]", text + "\n[arm.standard]")
    path = folder / "small.toml"
    old = "[arm.perturbed]"
    path.write_text(path.read_text().replace(old, f'{old}\nperturbations = ["passages", "quizzes", "passwords"]'))
    costar(folder, "corpus", "./small.toml")
    done = costar(folder, "insert", "./small.toml", "--archive")
    assert "put aside" in done.stdout
    assert (built_copy / "runs" / "standard.nano.d0").is_dir()
    assert not (built_copy / "runs" / "early.nano.d0").exists()
    costar(folder, "insert", "./small.toml")


def test_archiving_a_parent_takes_its_branches_along(built_copy: Path) -> None:
    folder = edit(built_copy, "[arm.standard]\nperturbations = []", '[arm.standard]\nperturbations = ["quizzes"]')
    done = costar(folder, "insert", "./small.toml", check=False)
    assert "standard.nano.d0, late.nano.d0" in done.stderr
    costar(folder, "insert", "./small.toml", "--archive")
    left = sorted(path.name for path in (built_copy / "runs").glob("*.d0"))
    assert left == ["early.nano.d0", "perturbed.nano.d0"]
    costar(folder, "manifest", "./small.toml")


def test_another_text_of_the_source_stops_before_anything_is_replaced(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    before = tree_hash(built_copy / "corpus"), tree_hash(built_copy / "insertion")
    lines = (folder / "base.jsonl").read_text().splitlines()
    (folder / "base.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    done = costar(folder, "all", "./small.toml", check=False)
    assert done.returncode == 2
    assert "other documents than before" in done.stderr
    assert "--archive" in done.stderr
    assert (tree_hash(built_copy / "corpus"), tree_hash(built_copy / "insertion")) == before


@pytest.mark.parametrize("verb", ["report", "release", "eval", "manifest"])
def test_verbs_that_describe_runs_refuse_a_suite_file_that_is_no_longer_theirs(built_copy: Path, verb: str) -> None:
    folder = edit(built_copy, "lr          = 1e-2", "lr          = 2e-2")
    done = costar(folder, verb, "./small.toml", check=False)
    assert done.returncode == 2
    assert "train.lr" in done.stderr


def test_a_run_whose_branch_checkpoint_is_gone_is_trained_from_an_earlier_one(built_copy: Path) -> None:
    """Nobody writes the parent's step again, so the branch moves; the result is the same bits."""
    import json
    import shutil

    folder = built_copy.parent.parent
    state = built_copy / "runs" / "late.nano.d0" / "checkpoints" / "step-000096" / "state.json"
    before = json.loads(state.read_text())["state_sha256"]
    shutil.rmtree(built_copy / "runs" / "late.nano.d0" / "checkpoints")
    shutil.rmtree(built_copy / "runs" / "standard.nano.d0" / "checkpoints" / "step-000048")
    costar(folder, "train", "./small.toml")
    assert json.loads(state.read_text())["state_sha256"] == before


def test_the_exposures_of_a_trained_arm_outlive_its_removal_from_the_suite(built_copy: Path) -> None:
    """Nothing that was trained loses what it read: the run is left over, and still proven."""
    folder = built_copy.parent.parent
    path = folder / "small.toml"
    text = path.read_text()
    late = text[text.index("[arm.late]") : text.index("[train]")]
    path.write_text(text.replace(late, ""))
    before = (built_copy / "insertion" / "exposures" / "arm=late" / "draw=0" / "exposures.parquet").read_bytes()
    costar(folder, "insert", "./small.toml")
    assert (built_copy / "insertion" / "exposures" / "arm=late" / "draw=0" / "exposures.parquet").read_bytes() == before
    costar(folder, "verify", "./small.toml")
    assert "left over" in costar(folder, "status", "./small.toml").stdout


def test_verify_names_runs_that_were_trained_with_another_suite_file(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    path = folder / "small.toml"
    path.write_text(path.read_text().replace("lr          = 1e-2", "lr          = 2e-2"))
    done = costar(folder, "verify", "./small.toml", check=False)
    assert done.returncode == 1
    assert "trained with other train.lr" in done.stderr
