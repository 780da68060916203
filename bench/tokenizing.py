"""Tokenizing English: datatrove's DocumentTokenizer against costar's fast encoder, in MB per second of one core.

    python bench/tokenizing.py [--mb 100] [--vocabulary 50_304] [--rounds 3] [--folder texts]

The text is the `.jsonl.zst` files (field `text`) of a folder; without one, of `../shared/data/base` beside the project if
it exists, or else the docstrings of this installation. It is repeated or cut to the size. A byte-level BPE is trained on
it. Then both sides read the same JSONL by the same datatrove reader, in one process and thread, and write uint16 ids with
EOS; opening the tokenizer is included. Seconds are of the processor, so that other load matters little. The files and the
ends of all documents must be equal. The proof, which a build makes once, is reported by itself. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import costar
import numpy as np
import orjson
from costar.core.design import SourceDesign
from costar.corpus.lines import numbered_lines
from costar.corpus.sources import installed_docs
from costar.corpus.tokenizer import FAST, Tokenizer, train_bpe
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from loguru import logger

EOS = "<|endoftext|>"
BATCH = 256
SOURCE = SourceDesign(name="", source="installed-docs", paths=(), text="text", megabytes=None, share=None, seed=1)
PACKAGES = ("tiktoken", "tokenizers", "datatrove", "numpy")


class IdWriter(PipelineStep):
    """What a build does with its documents: encode and write, without the search for records."""

    name = "ids"
    type = "WRITER"

    def __init__(self, folder: Path, tokenizer: Path):
        super().__init__()
        self.folder, self.tokenizer = folder, tokenizer

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        tokenizer = Tokenizer(self.tokenizer, EOS, fast=True)
        parts = []
        with (self.folder / "ids.bin").open("wb") as out:
            while batch := list(itertools.islice(data, BATCH)):
                ids, sizes = tokenizer.encode_documents([document.text for document in batch])
                out.write(np.insert(ids, np.cumsum(sizes), tokenizer.eos_id).astype(np.uint16).tobytes())
                parts.append(sizes + 1)
        np.save(self.folder / "sizes.npy", np.concatenate(parts))


def source_texts(folder: Path | None) -> Iterator[str]:
    """Texts of a folder, or of this installation. Those with a literal EOS are left out: datatrove reads it as the id."""
    texts: Iterator[str]
    if folder is None:
        items = installed_docs.items(SOURCE, [])
        texts = (raw.text for item in items for raw in installed_docs.read(item, SOURCE))
    else:
        lines = (line for path in sorted(folder.glob("*.jsonl.zst")) for _, line in numbered_lines(path))
        texts = (str(orjson.loads(line)["text"]) for line in lines)
    return (text for text in texts if text.strip() and EOS not in text)


def write_text(path: Path, folder: Path | None, size: int) -> tuple[int, int]:
    """Write at least `size` bytes of text as JSONL. Returns its bytes of UTF-8 and its documents."""
    written = documents = 0
    with path.open("wb") as out:
        for text in itertools.cycle(source_texts(folder)):
            out.write(orjson.dumps({"text": text, "id": str(documents)}) + b"\n")
            written, documents = written + len(text.encode()), documents + 1
            if written >= size:
                return written, documents
    raise SystemExit(f"no text in {folder or 'this installation'}")


def texts_of(path: Path, every: int = 1) -> Iterator[str]:
    with path.open("rb") as file:
        for line in itertools.islice(file, 0, None, every):
            yield orjson.loads(line)["text"]


def processor_seconds(steps: Sequence[PipelineStep], folder: Path) -> float:
    """Processor seconds of a pipeline run by one worker in this process."""
    started = time.process_time()
    logger.disable("datatrove")
    LocalPipelineExecutor(list(steps), tasks=1, workers=1, logging_dir=str(folder / "log"), skip_completed=False).run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    beside = Path(costar.__file__).resolve().parents[1] / "shared" / "data" / "base"
    source = options.folder or (beside if beside.is_dir() else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        text, tokenizer = folder / "text" / "all.jsonl", folder / "tokenizer.json"
        size, documents = write_text(text, source, int(options.mb * 1e6))
        train_bpe(texts_of(text), options.vocabulary, EOS, tokenizer)
        started = time.process_time()
        verdict = Tokenizer(tokenizer, EOS).accelerate(list(texts_of(text, max(1, documents // 200))))
        proof = time.process_time() - started
        if verdict != FAST:
            raise SystemExit(verdict)
        reader = JsonlReader(str(folder / "text"))
        seconds: dict[str, list[float]] = {"datatrove": [], "costar": []}
        for number in range(options.rounds):
            stock = DocumentTokenizer(str(folder / "stock"), str(tokenizer), eos_token=EOS, shuffle_documents=False)
            sides = [("datatrove", stock), ("costar", IdWriter(folder, tokenizer))]
            for side, step in sides if number % 2 == 0 else sides[::-1]:
                seconds[side].append(processor_seconds([reader, step], folder))
        ours, theirs = (folder / "ids.bin").read_bytes(), (folder / "stock" / "00000_unshuffled.ds").read_bytes()
        ends = np.fromfile(folder / "stock" / "00000_unshuffled.ds.index", np.uint64)
        sizes = np.load(folder / "sizes.npy")
        equal = ours == theirs and len(sizes) == documents and np.array_equal(np.cumsum(sizes), ends)
    ratios = [a / b for a, b in zip(seconds["datatrove"], seconds["costar"], strict=True)]
    found = {
        "what": f"tokenizing {size / 1e6:.0f} MB, {documents:,} documents, MB per processor second",
        "text": "installed docs" if source is None else source.name,
        "vocabulary": options.vocabulary,
        "tokens": len(ours) // 2,
        **{side: [round(size / 1e6 / s, 2) for s in seconds[side]] for side in seconds},
        "ratio": round(statistics.median(ratios), 2),
        "equal ids": bool(equal),
        "proof seconds": round(proof, 1),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
    }
    print(json.dumps(found))
    if not equal:
        raise SystemExit("the ids differ")


if __name__ == "__main__":
    main()
