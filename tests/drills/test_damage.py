"""Facts that were damaged: a message or a mend, never a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.small import costar

pytestmark = pytest.mark.slow
RUN = "runs/perturbed.nano.d0"


@pytest.mark.parametrize(
    "name",
    [
        "corpus/corpus.json",
        "corpus/source.json",
        "corpus/stage-tokens.json",
        "insertion/stage-insert.json",
        f"{RUN}/config.json",
        f"{RUN}/identity.json",
        f"{RUN}/checkpoints/step-000096/state.json",
        f"{RUN}/checkpoints/step-000096/stage.json",
        "eval/scores/run=perturbed.nano.d0/stage-96.json",
    ],
)
@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"[1]"])
def test_damaged_facts_give_a_message_or_are_made_again(built_copy: Path, name: str, content: bytes) -> None:
    (built_copy / name).write_bytes(content)
    for verb in ("manifest", "train"):
        done = costar(built_copy.parent.parent, verb, "./small.toml", check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 1, 2)
        assert done.returncode == 0 or "mend" in done.stderr


def test_stray_names_are_passed_over(built_copy: Path) -> None:
    (built_copy / RUN / "checkpoints" / "step-abc").mkdir()
    (built_copy / "eval" / "scores" / "run=perturbed.nano.d0" / "step-x.parquet").write_text("no")
    for verb in ("manifest", "status", "report"):
        costar(built_copy.parent.parent, verb, "./small.toml")


@pytest.mark.parametrize(
    "line",
    [
        'build = "/dev/null/x"',
        'build = "a\\u0000b"',
        f'build = "{"a" * 3000}"',
        f"workers = {'9' * 5000}",
        'build = "base.jsonl"',
    ],
)
def test_a_machine_file_that_cannot_be_used_gives_a_message(built_copy: Path, line: str) -> None:
    folder = built_copy.parent.parent
    (folder / "machine.toml").write_text(line)
    done = costar(folder, "corpus", "./small.toml", check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "mend" in done.stderr


def test_a_folder_where_a_file_should_be_gives_a_message(built_copy: Path) -> None:
    path = built_copy / "corpus" / "corpus.json"
    path.unlink()
    path.mkdir()
    done = costar(built_copy.parent.parent, "manifest", "./small.toml", check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    shutil.rmtree(path)
