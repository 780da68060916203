"""The snippets of docs/any-trainer.md run as they are printed, on the small suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import costar
import pytest

PAGE = Path(costar.__file__).resolve().parent / "docs" / "any-trainer.md"


def snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run_snippet(code: str, built: Path, folder: Path) -> str:
    """What a snippet prints in a folder where `build/demo` is the small suite, whose ids its models hold too."""
    (folder / "build").mkdir()
    (folder / "build" / "demo").symlink_to(built)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trainer_of_transformers_reads_what_the_plan_says(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate, which costar does not pin")
    (code,) = [each for each in snippets() if "Trainer(" in each]
    assert "10 of 96 planned steps read what the plan says" in run_snippet(code, built, tmp_path)
    assert len((tmp_path / "late.jsonl").read_text().splitlines()) == 11


def test_a_loop_of_ones_own_reads_what_the_plan_says(built: Path, tmp_path: Path) -> None:
    (code,) = [each for each in snippets() if "DigestRecorder(" in each]
    run_snippet(code, built, tmp_path)
    assert len((tmp_path / "mine.jsonl").read_text().splitlines()) == 11


def test_every_snippet_is_run() -> None:
    assert len(snippets()) == 2
