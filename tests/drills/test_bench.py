"""Benches, shrunk: they run through all that they measure and report what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize("case", ["1b eager", "1b repeatable", "1b muon"])
def test_a_case_of_the_gpu_bench_runs_shrunk_and_reports_rate_memory_and_reading(case: str) -> None:
    command = [sys.executable, str(BENCH / "gpu.py"), "--smoke", "--case", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens_per_second"] > 0
    assert 0 < found["reading_and_hashing_share"] < 1
    assert found["loss"][1] < found["loss"][0]
    assert ("state" in found) == (case == "1b repeatable")


def test_the_bench_of_scoring_runs_shrunk_and_both_sides_find_the_same(tmp_path: Path) -> None:
    sizes = ["--models", "tiny", "--records", "6", "--vocabulary", "1024", "--rounds", "1"]
    command = [sys.executable, str(BENCH / "scoring.py"), *sizes, "--data", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["tiny"]
    assert set(found) == {"likelihood", "hubble", "quizzes"}
    for figures in found.values():
        assert figures["records/s"]["costar"]["wall"] > 0
        if "lm_eval" in figures["records/s"]:  # where the extra `bench` is installed
            assert figures["largest difference in nats"] < 5e-3
