"""A whole corpus build: what a second worker gains, and how memory grows with the text.

    python bench/corpus.py [--mb 64]

The text is synthetic, so that any machine can make as much as it likes: exact and MinHash de-duplication, a quality filter,
records that are searched, tokens, and the last search. Each build is a `costar corpus` of its own in an empty folder. Memory
is the largest process of a build. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITE = """
[suite]
seed   = 1
models = ["tiny"]

[corpus]
source          = "synthetic"
megabytes       = {megabytes}
deduplicate     = "minhash"
quality         = ["fineweb"]
sequence_length = 512
tokenizer       = {{ train = "bpe", vocabulary = 8192 }}

[perturbation.biographies]
kind    = "biography"
records = {{ from = "generator" }}
levels  = {{ 0 = 2000, 1 = 2000 }}

[arm.standard]
perturbations = []

[arm.perturbed]

[train]
steps = 1000
batch = 8
lr    = 1e-3
"""
BUILD = (
    "import resource, subprocess, sys; done = subprocess.run([sys.executable, '-m', 'costar', 'corpus', './made.toml'], "
    "stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
)


def build(megabytes: int, workers: int) -> dict[str, float]:
    """Seconds, CPU seconds and the largest process (MB) of one build, and the hash of its tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "made.toml").write_text(SUITE.format(megabytes=megabytes))
        (folder / "machine.toml").write_text(f"workers = {workers}\n")
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run([sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, check=False)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stderr)
        facts = json.loads((folder / "build" / "made" / "corpus" / "corpus.json").read_text())
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {
            "megabytes": megabytes,
            "workers": workers,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "largest_process_mb": round(int(done.stdout) / 1024),
            "tokens": facts["tokens"],
            "tokens_sha256": facts["tokens_sha256"][:12],
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=64)
    size = parser.parse_args().mb
    builds = [build(size, 1), build(size, 2), build(4 * size, 2)]
    assert builds[0]["tokens_sha256"] == builds[1]["tokens_sha256"]
    found = {
        "bench": "corpus",
        "builds": builds,
        "second_worker": round(builds[0]["seconds"] / builds[1]["seconds"], 2),
        "memory_at_four_times_the_text": round(builds[2]["largest_process_mb"] / builds[1]["largest_process_mb"], 2),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
