"""Killed at any moment, the same command ends with the same content (invariant 8); a full disk and a second writer."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small import costar, write_small_suite

pytestmark = pytest.mark.slow
UNSTABLE = {"manifest.duckdb", "log.jsonl", "verified.txt", "index.html"}


def content(build: Path) -> dict[str, object]:
    """Every lasting file: bytes, or the state's hash for checkpoints; speed and the catalogue are left out."""
    found: dict[str, object] = {}
    for path in sorted(p for p in build.rglob("*") if p.is_file()):
        name = str(path.relative_to(build))
        if (
            path.name in UNSTABLE
            or path.name.endswith(".lock")
            or "speed" in path.parts
            or "report" in path.parts
            or "release" in path.parts
        ):
            continue
        if "checkpoints" in path.parts:
            if path.name == "state.json":
                found[name] = json.loads(path.read_text())
        elif path.suffix == ".json" and path.name.startswith("stage"):
            found[name] = sorted(json.loads(path.read_text())["files"].items())
        else:
            found[name] = path.read_bytes()
    return found


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names only: a failure that prints two builds cannot be read."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "costar", *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.parametrize(
    ("verb", "keep", "kills"),
    [
        ("corpus", (), 4),
        ("insert", ("corpus", "records"), 4),
        ("train", ("corpus", "insertion"), 4),
        ("eval", ("corpus", "insertion", "runs"), 4),
    ],
)
def test_killed_at_random_moments_a_stage_ends_with_the_same_content(
    built_copy: Path, verb: str, keep: tuple[str, ...], kills: int
) -> None:
    folder = built_copy.parent.parent
    before = content(built_copy)
    for path in list(built_copy.iterdir()):
        if path.is_dir() and path.name not in keep and not (verb == "insert" and path.name == "insertion"):
            shutil.rmtree(path)
    if verb == "insert":
        (built_copy / "insertion" / "stage-insert.json").unlink()
        shutil.rmtree(built_copy / "insertion" / "exposures")
    started = time.monotonic()
    reference = start(folder, verb, "./small.toml")
    reference.wait()
    duration = time.monotonic() - started
    assert reference.returncode == 0
    after = content(built_copy)
    assert not differing({name: value for name, value in before.items() if name in after}, after)
    generator = random.Random(verb)
    removed = {"corpus": ["corpus", "insertion"], "insert": [], "train": ["runs"], "eval": ["eval"]}[verb]
    for _ in range(kills):
        for name in removed:
            shutil.rmtree(built_copy / name)
        if verb == "insert":
            (built_copy / "insertion" / "stage-insert.json").unlink()
        process = start(folder, verb, "./small.toml")
        time.sleep(generator.uniform(0.3, 1.0) * duration)
        process.send_signal(signal.SIGKILL)  # the command alone: its workers have to end with it
        process.wait()
        costar(folder, verb, "./small.toml")
        assert not differing(content(built_copy), after)


SHARDED = """
[suite]
seed   = 5
models = ["tiny"]

[corpus]
source          = "synthetic"
megabytes       = 16
deduplicate     = "minhash"
quality         = ["c4"]
validation      = 0.02
tasks           = 8
sequence_length = 128
tokenizer       = { train = "bpe", vocabulary = 1024 }

[perturbation.passages]
kind    = "passage"
records = { from = "corpus", tokens = 48 }
levels  = { 0 = 20, 1 = 12 }

[perturbation.quizzes]
kind    = "testset"
records = { from = "generator" }
levels  = { 0 = 12, 2 = 10 }

[arm.standard]
perturbations = []

[arm.perturbed]

[train]
steps = 40
batch = 8
lr    = 1e-3
"""


def test_a_build_in_shards_killed_at_twenty_random_moments_ends_with_the_same_content(tmp_path: Path) -> None:
    found = []
    generator = random.Random("shards")
    for name, kills in (("whole", 0), ("killed", 20)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "made.toml").write_text(SHARDED)
        ended = 0
        for _ in range(kills):
            process = start(folder, "corpus", "./made.toml")
            time.sleep(generator.uniform(1.0, 5.0))
            process.send_signal(signal.SIGKILL)  # the command alone: its workers have to end with it
            ended += process.wait() == 0
        assert ended < 10
        costar(folder, "corpus", "./made.toml")
        build = folder / "build" / "made"
        assert not list(build.rglob(".work-*"))
        found.append(content(build))
    assert not differing(found[0], found[1])
    assert "corpus/validation.bin" in found[0]


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """A real small file system: the corpus does not fit, then it grows."""
    mount = tmp_path / "small-disk"
    mount.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("no right to mount a file system")
    try:
        write_small_suite(tmp_path)
        (tmp_path / "machine.toml").write_text(f'build = "{mount}"\n')
        done = costar(tmp_path, "corpus", "./small.toml", check=False)
        assert done.returncode == 1
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(mount)], check=True)
        costar(tmp_path, "corpus", "./small.toml")
        costar(tmp_path, "insert", "./small.toml")
        subprocess.run(["mount", "-o", f"remount,size={_used(mount) + 300}k", str(mount)], check=True)
        done = costar(tmp_path, "train", "./small.toml", check=False)
        assert done.returncode == 1
        assert "the disk is full" in done.stderr or "disk" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", str(mount)], check=True)
        costar(tmp_path, "train", "./small.toml")
        costar(tmp_path, "verify", "./small.toml")
    finally:
        subprocess.run(["umount", str(mount)], check=False)


def _used(mount: Path) -> int:
    return (shutil.disk_usage(mount).used + 1023) // 1024


def test_a_second_trainer_of_the_same_run_is_refused_by_name(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    shutil.rmtree(built_copy / "runs")
    first = start(folder, "train", "./small.toml")
    while not list((built_copy / "runs").glob("*/log/log.jsonl")):
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGSTOP)  # it trains for seconds only: held still, it is there when the second comes
    done = costar(folder, "train", "./small.toml", check=False)
    os.killpg(first.pid, signal.SIGCONT)
    assert done.returncode == 2
    assert "being written by costar train" in done.stderr
    assert first.wait() == 0
    costar(folder, "verify", "./small.toml")
