"""The bench of one GPU, shrunk so that it runs on a CPU: it trains through the whole loop and reports what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCH = Path(__file__).resolve().parents[2] / "bench" / "gpu.py"


@pytest.mark.parametrize("case", ["1b eager", "1b repeatable", "1b muon"])
def test_a_case_of_the_gpu_bench_runs_shrunk_and_reports_rate_memory_and_reading(case: str) -> None:
    command = [sys.executable, str(BENCH), "--smoke", "--case", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens_per_second"] > 0
    assert 0 < found["reading_and_hashing_share"] < 1
    assert found["loss"][1] < found["loss"][0]
    assert ("state" in found) == (case == "1b repeatable")
