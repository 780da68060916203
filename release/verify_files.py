"""The files of a release against its sums, and its tables against the card that names them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..core.console import Update
from ..core.workspace import read_marker
from .facts import FACTS, PARTS, SUMS, Release
from .sums import compare, files_below, read_sums, release_id

CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".py", ".pyc", ".so")


def damaged_files(release: Release, update: Update, *, exports: bool = True) -> list[str]:
    """What is flipped, missing, extra or swapped in a release, in words; with `exports` in those as well.

    Raises:
        CostarError: a SHA256SUMS that cannot be read.
    """
    folder = release.folder
    sums = read_sums(folder / SUMS)
    present = files_below(folder)
    own = [name for name in present if "/" not in name or name.split("/")[0] in PARTS]
    problems = compare(folder, sums, own, update)
    if FACTS not in sums:
        problems.append(f"{folder / SUMS}: has no sum of {FACTS}")
    if release_id(sums) != release.release_id:
        problems.append(f"{folder / FACTS}: release_id is not that of the sums of models, revisions and data")
    for export in sorted({"/".join(name.split("/")[:2]) for name in present if name not in own}) if exports else []:
        problems += _damaged_export(folder / export, update)
    return problems


def _damaged_export(folder: Path, update: Update) -> list[str]:
    """An export has sums, or the marker of the step that wrote it, or both; together they name every file."""
    if not folder.is_dir():
        return [f"{folder}: not in {SUMS}"]
    marker = read_marker(folder)
    has_sums = (folder / SUMS).is_file()
    if marker is None and not has_sums:
        return [f"{folder}: an export that was not finished"]
    sums = read_sums(folder / SUMS) if has_sums else {}
    marked = {name: facts["sha256"] for name, facts in marker["files"].items()} if marker else {}
    present = [name for name in files_below(folder) if name != "stage.json"]
    return compare(folder, marked | sums, present, update)


def code_files(release: Release) -> list[str]:
    """Files beside weights that a loader would run: pickles and code. Nothing is loaded where there are any."""
    found = [name for name in files_below(release.folder) if name.split("/")[0] in ("models", "revisions")]
    return [
        f"{release.folder / name}: a pickle or code; a release has weights as safetensors only"
        for name in found
        if Path(name).suffix.lower() in CODE
    ]


def configured(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of each configuration that the card of a data set names.

    Raises:
        ValueError: the card has no such metadata.
    """
    from huggingface_hub import metadata_load

    card: Any = metadata_load(folder / "README.md")
    configs = card.get("configs") if isinstance(card, dict) else None
    if not isinstance(configs, list) or not configs:
        raise ValueError("no `configs`")
    return {str(each["config_name"]): _files_of(folder, each["data_files"]) for each in configs}


def _files_of(folder: Path, patterns: Any) -> list[Path]:
    """`data_files` of a card: a pattern, a list of them, or of splits with theirs."""
    if isinstance(patterns, list):
        return [path for each in patterns for path in _files_of(folder, each)]
    if isinstance(patterns, dict):
        return _files_of(folder, patterns["path"])
    return sorted(folder.glob(patterns))


def wrong_tables(release: Release) -> tuple[int, list[str]]:
    """How many configurations the data card names, and what is wrong with them: files, columns, numbers of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = release.folder / "data"
    card = folder / "README.md"
    try:
        configs = configured(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return 0, [f"{card}: its metadata names no tables ({type(error).__name__}: {error})"]
    told = dict(re.findall(r"^\| `?([\w-]+)`? \| ([\d,]+) \|", card.read_text(encoding="utf-8"), re.M))
    problems = []
    for name, paths in configs.items():
        if not paths:
            problems.append(f"{card}: configuration {name} has no file")
            continue
        rows, columns = 0, set()
        for path in paths:
            try:
                file = pq.ParquetFile(path)
                rows += file.metadata.num_rows
                columns.add(tuple((field.name, str(field.type)) for field in file.schema_arrow))
            except (pa.ArrowInvalid, OSError) as error:
                problems.append(f"{path}: not a whole Parquet file ({error})")
        if len(columns) > 1:
            problems.append(f"{folder / name}: files of one configuration with different columns")
        if name in told and int(told[name].replace(",", "")) != rows:
            problems.append(f"{card}: says {told[name]} rows of {name}, its files have {rows:,}")
    named = {path for paths in configs.values() for path in paths}
    problems += [
        f"{path}: in no configuration of {card.name}" for path in sorted(folder.rglob("*.parquet")) if path not in named
    ]
    return len(configs), problems
