"""The files of a submission: scores, generations, models and forget sets, each read whole or refused with what is wrong."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from ..core.errors import CostarError, shorten
from ..core.parquet import read_table
from .released import Released, tokenizer_sha256
from .submissions import Submission

ENDINGS = (".parquet", ".csv", ".jsonl")
SHOWN = 5
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def find_file(submission: Submission, stem: str) -> Path:
    """The one file of a name: Parquet, CSV or JSON lines.

    Raises:
        CostarError: there is none, or several.
    """
    found = [path for ending in ENDINGS if (path := submission.folder / f"{stem}{ending}").is_file()]
    if len(found) != 1:
        other = [name for name in ("scores", "generations") if any(submission.folder.glob(f"{name}.*"))]
        told = ", ".join(path.name for path in found) or f"no {stem} file" + (f", but {other[0]}" if other else "")
        raise CostarError(
            str(submission.folder),
            found=told,
            expected=f"one of {', '.join(stem + ending for ending in ENDINGS)} for the task {submission.task}",
            mend="write it, or correct the task in submission.json",
        )
    return found[0]


def read_rows(path: Path, required: Sequence[str], allowed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a submitted table.

    Raises:
        CostarError: it cannot be read, has no rows, or lacks a column or has one too many.
    """
    try:
        if path.suffix == ".csv":
            texts = pa.csv.ConvertOptions(column_types={"record_id": pa.string(), "text": pa.string()})
            newlines = pa.csv.ParseOptions(newlines_in_values=True)
            table = pa.csv.read_csv(path, parse_options=newlines, convert_options=texts)
        elif path.suffix == ".jsonl":
            table = pa.json.read_json(
                path, read_options=pa.json.ReadOptions(block_size=max(1 << 20, path.stat().st_size))
            )
        else:
            table = read_table(path, mend="write it again")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CostarError(
            str(path), found=shorten(error), expected=f"a table of {', '.join(required)}", mend="write it again"
        ) from None
    names = table.column_names
    missing = [name for name in required if name not in names]
    unknown = [name for name in names if name not in (*required, *allowed)]
    if missing or unknown or not len(table):
        found = f"no column {missing[0]}" if missing else f"a column {unknown[0]}" if unknown else "no rows"
        columns = ", ".join(required) + (f", and, as wished, {', '.join(allowed)}" if allowed else "")
        raise CostarError(str(path), found=found, expected=f"rows of {columns}", mend="write it again")
    return list(table.to_pylist())


def by_record(path: Path, rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Record → its row: each wanted record has one, and no other has any.

    Raises:
        CostarError: ids are no texts, or records are unknown, there twice, or missing.
    """
    wrong = [str(row["record_id"]) for row in rows if not isinstance(row["record_id"], str)]
    if wrong:
        raise CostarError(
            str(path),
            found=f"{len(wrong):,} record_ids that are no texts: {_some(wrong)}",
            expected="the ids of the release's records, as texts",
            mend="write them as they are in the release",
        )
    counts = Counter(row["record_id"] for row in rows)
    unknown = [name for name in counts if name not in wanted]
    twice = [name for name, count in counts.items() if count > 1]
    missing = [name for name in wanted if name not in counts]
    for names, what, mend in (
        (unknown, "records that the submission is not about", "take them out, or name their perturbation"),
        (twice, "records that have several rows", "give each record one row"),
        (missing, "records without a row", "give every record of these perturbations one"),
    ):
        if names:
            perturbations = ", ".join(sorted(set(wanted.values())))
            raise CostarError(
                str(path),
                found=f"{len(names):,} {what}: {_some(names)}",
                expected=f"each of the {len(wanted):,} records of {perturbations} once",
                mend=mend,
            )
    return {row["record_id"]: row for row in rows}


def read_scores(submission: Submission, wanted: Mapping[str, str]) -> dict[str, float]:
    """Record → score of a membership submission.

    Raises:
        CostarError: the file is not there or is not one of scores, or a score is no finite number.
    """
    path = find_file(submission, "scores")
    found = by_record(path, read_rows(path, ("record_id", "score")), wanted)
    wrong = [name for name, row in found.items() if not _is_number(row["score"])]
    if wrong:
        raise CostarError(
            str(path),
            found=f"{len(wrong):,} scores that are no finite numbers: {_some(wrong)}",
            expected="a number for every record; higher: more likely a member",
            mend="give what could not be scored the lowest score",
        )
    return {name: float(row["score"]) for name, row in found.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_generations(submission: Submission, wanted: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Record → the text that was brought out of the model after the record's prefix, and how many queries it took.

    Raises:
        CostarError: the file is not there or is not one of generations, or there is no text in it.
    """
    path = find_file(submission, "generations")
    found = by_record(path, read_rows(path, ("record_id", "text"), ("queries",)), wanted)
    nothing = [name for name, row in found.items() if not isinstance(row["text"], str)]
    if nothing or not any(row["text"] for row in found.values()):
        raise CostarError(
            str(path),
            found=f"{len(nothing or found):,} generations without text: {_some(nothing or list(found))}",
            expected="what the model wrote after each prefix; an empty text where it ended at once",
            mend="write the texts",
        )
    wrong = [name for name, row in found.items() if not _is_count(row.get("queries", 1))]
    if wrong:
        raise CostarError(
            str(path),
            found=f"queries that are no counts: {_some(wrong)}",
            expected="how many queries each record took, 1 or more",
            mend="correct them, or leave the column away for one each",
        )
    return {name: (row["text"], int(row.get("queries", 1))) for name, row in found.items()}


def _is_count(value: object) -> bool:
    return _is_number(value) and float(str(value)).is_integer() and float(str(value)) >= 1


def check_model(submission: Submission, released: Released) -> Path:
    """The folder of an unlearned model: safetensors, the release's tokenizer, the shape of the treated model.

    Raises:
        CostarError: it is not there, has pickle or code, or another tokenizer or shape.
    """
    from ..eval.hf_reader import check_folder

    folder, treated = submission.folder / "model", released.model(released.treated)
    if not folder.is_dir():
        raise CostarError(
            str(folder), found="no such folder", expected="the unlearned model", mend="save it there: save_pretrained"
        )
    check_folder(folder)
    unsafe = sorted(path.name for path in folder.rglob("*") if path.suffix in (*PICKLES, ".py"))
    if unsafe:
        raise CostarError(
            str(folder),
            found=f"pickle or code: {_some(unsafe)}",
            expected="safetensors, JSON and a tokenizer: nothing of a submission is run",
            mend="take it out",
        )
    if tokenizer_sha256(folder) != tokenizer_sha256(treated) and not _same_tokens(folder, treated):
        raise CostarError(
            str(folder / "tokenizer.json"),
            found="another tokenizer",
            expected=f"that of {released.treated}",
            mend="copy tokenizer.json of the release",
        )
    own, shape = (_shape(each) for each in (folder, treated))
    changed = [f"{key} {own.get(key)}" for key in shape if own.get(key) != shape[key]]
    if changed:
        raise CostarError(
            str(folder / "config.json"),
            found=f"another model than {released.treated}: {_some(changed)}",
            expected=_some([f"{key} {value}" for key, value in shape.items() if own.get(key) != value]),
            mend="unlearn the treated model of the pair, and save it whole",
        )
    return folder


def _same_tokens(folder: Path, other: Path) -> bool:
    """Whether two tokenizers have the same vocabulary and merges; transformers writes the file anew when it saves.

    Nothing else of a submitted one is looked at, as none of it is used: graders read with the tokenizer of the release.
    """
    keys = ("model", "pre_tokenizer", "normalizer", "decoder")
    try:
        one, two = (json.loads((each / "tokenizer.json").read_text(encoding="utf-8")) for each in (folder, other))
    except ValueError:
        return False
    return isinstance(one, dict) and all(one.get(key) == two.get(key) for key in keys)


def _shape(folder: Path) -> dict[str, Any]:
    """What makes two models comparable, from config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise CostarError(
            str(folder / "config.json"), found=shorten(error), expected="JSON", mend="save the model again"
        ) from None
    names = (
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    )
    return {name: config.get(name) for name in names}


def read_forget(submission: Submission, wanted: Mapping[str, str]) -> list[str] | None:
    """The ids of `forget.txt`, None without the file.

    Raises:
        CostarError: it is no text or empty, or has ids twice or of other records.
    """
    path = submission.folder / "forget.txt"
    if not path.is_file():
        return None
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise CostarError(
            str(path), found=shorten(error), expected="text in UTF-8", mend="write the ids again, a line for each"
        ) from None
    unknown, twice = [name for name in ids if name not in wanted], [n for n, c in Counter(ids).items() if c > 1]
    if not ids or unknown or twice:
        found = f"{len(unknown)} unknown records: {_some(unknown)}" if unknown else f"records twice: {_some(twice)}"
        raise CostarError(
            str(path),
            found=found if ids else "no ids",
            expected="ids of records of the submission's perturbations, each once, a line for each",
            mend="correct it, or remove it for the default set",
        )
    return sorted(ids)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
