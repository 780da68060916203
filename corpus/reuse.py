"""`from = "build/…"`: the corpus of another built suite, linked into this one and never copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.workspace import check_files, corpus_facts_in, finish_step, is_current, read_facts, start_step, write_json
from .links import share_file

MEND = "run `costar corpus` for that suite"


def other_corpus(path: str, folders: Sequence[Path]) -> Path:
    """The corpus folder of the built suite that a suite file names.

    Raises:
        CostarError: no such suite, or its corpus was never finished.
    """
    places = [place / path / "corpus" for place in (Path(), *folders)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise CostarError(
            f"[corpus] from {path!r}",
            found="no built suite",
            expected=f"the folder of a built suite here or below {' or '.join(map(str, folders))}",
            mend=f"correct the path, or {MEND}",
        )
    for step in ("documents", "tokenizer", "tokens"):
        check_files(found, step, mend=MEND)
    return found.resolve()


def take_documents(
    other: Path, folder: Path, protected: Sequence[str], refuse: Callable[[Path, Path, str, Sequence[str]], None]
) -> bool:
    """Link the documents of another corpus; False when that was current. `refuse` stops what would touch trained runs."""
    inputs = sha256_json([check_files(other, step, mend=MEND)["files"] for step in ("documents", "tokens")])
    if is_current(folder, inputs, "documents"):
        return False
    refuse(other / "documents.parquet", folder / "documents.parquet", "documents", protected)
    start_step(folder, "documents")
    facts = read_facts(other / "source.json", ["differs"], mend=MEND) | {"eos": corpus_facts_in(other)["eos"]}
    paths = [share_file(other / "documents.parquet", folder), folder / "source.json"]
    write_json(paths[1], facts)
    finish_step(folder, inputs, paths, "documents")
    return True


def token_files(other: Path) -> dict[str, dict[str, Any]]:
    """The files of another corpus' tokens, with their sizes and hashes; its facts stay its own."""
    files: dict[str, dict[str, Any]] = check_files(other, "tokens", mend=MEND)["files"]
    return {name: entry for name, entry in files.items() if name != "corpus.json"}
