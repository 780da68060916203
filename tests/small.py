"""A small suite over the topics of `pydoc`: real English that every Python has, small enough to train in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from costar.core.design import Suite
from costar.core.workspace import Workspace
from costar.corpus.contamination import build_occurrences
from costar.corpus.executors import Backend

SUITE = """
[suite]
seed   = 7
models = ["nano"]

[model.nano]
layers = 2
hidden = 64
heads  = 2
ffn    = 128

[corpus]
source          = "files"
path            = "base.jsonl"
held_out        = 0.2
validation      = 0.02
sequence_length = 128
tokenizer       = { train = "bpe", vocabulary = 512 }

[perturbation.passages]
kind    = "passage"
records = { from = "corpus", tokens = 48 }
levels  = { 0 = 20, 1 = 12, 14 = 12 }

[perturbation.quizzes]
kind    = "testset"
records = { from = "generator" }
levels  = { 0 = 12, 2 = 10 }

[perturbation.passwords]
kind    = "password"
records = { from = "generator", length = 2 }
levels  = { 0 = 10, 4 = 10 }

[arm.standard]
perturbations = []

[arm.perturbed]

[arm.early]
perturbations = ["passages"]
phase         = [0.0, 0.5]

[arm.late]
perturbations = ["passages"]
phase         = [0.5, 1.0]

[train]
steps       = 96
batch       = 8
optimizer   = "muon"
lr          = 1e-2
warmup      = 4
checkpoints = { every = 24 }

[eval]
probes   = ["likelihood", "extraction", "choice", "secret-rank", "membership"]
prefixes = [8]
suffix   = 8

[release]
arms = ["perturbed"]
"""


def write_small_suite(folder: Path, suite: str = SUITE) -> Path:
    """Write `base.jsonl` (a topic is several documents) and `small.toml`; the path of the suite file."""
    with (folder / "base.jsonl").open("w", encoding="utf-8") as file:
        for name, text in sorted(topics.items()):
            paragraphs = text.split("\n\n")
            for number in range(0, len(paragraphs), 4):
                part = "\n\n".join(paragraphs[number : number + 4]).strip()
                if part:
                    file.write(json.dumps({"id": f"{name}-{number}", "text": part}) + "\n")
    path = folder / "small.toml"
    path.write_text(suite, encoding="utf-8")
    return path


def costar(folder: Path, *arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as a user would."""
    command = [sys.executable, "-m", "costar", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"costar {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def build_small(folder: Path) -> None:
    costar(folder, "all", "./small.toml")


def search_stream(suite: Suite, place: Workspace) -> None:
    """The last step of `costar corpus`, which `insert` asks for, in this process."""
    build_occurrences(suite, place.corpus, place.insertion, Backend(inline=True))
