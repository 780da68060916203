"""Where records come from: held-out documents, a generator, a user's file, or a data set of the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.design import PerturbationDesign, Suite
from ..core.errors import CostarError, shorten
from ..core.hashing import keyed_hash
from ..corpus.hub import SUFFIXES, hub_files
from ..corpus.lines import numbered_lines, parsed_line
from ..corpus.reading import document_ids, documents_of, texts_of
from ..corpus.tokenizer import Tokenizer
from .kinds import Kind, adapted, passage, text_of
from .rewordings import pieces_of, renderings_of

HUB = "hub:"
TWIN = "/twin"  # ends the ids of twins
SHOWN = 12  # ids of refused rows that a message lists
DOCUMENTS_TRIED = 50  # held-out documents that are looked at for each passage that is needed
DEPTH = 32  # lists and objects inside each other that a field may have


@dataclass(frozen=True, kw_only=True)
class Record:
    """One unit that can be inserted; `cluster` is empty until the suite names a field for it."""

    record_id: str
    role: str
    cluster: str
    fields: Mapping[str, Any]
    source: str
    place: str


def record_files(suite: Suite, folders: Sequence[Path], *, fetch: bool) -> dict[str, list[Path]]:
    """The files of every perturbation that has some. A Hub data set is looked for below the folders first, then among what
    was downloaded before, and downloaded only with `fetch`; without it, one that is not here has no files."""
    found = {}
    for p in suite.perturbations.values():
        if p.origin.startswith(HUB):
            place = f"[perturbation.{p.name}] records from {p.origin!r}"
            named = hub_files(p.origin.removeprefix(HUB), place, folders, fetch=fetch, prefix=HUB)
            found[p.name] = [path for _, path in named]
        elif p.origin not in ("corpus", "generator"):
            found[p.name] = [find_file(p.origin, folders, f"[perturbation.{p.name}]")]
    return found


def find_file(origin: str, folders: Sequence[Path], place: str) -> Path:
    """A user's file, by its path below one of the folders."""
    path = next((folder / origin for folder in folders if (folder / origin).is_file()), None)
    if path is None or origin.startswith("corpus:"):  # a source that says this is taken for held-out text
        raise CostarError(
            f"{place} records from {origin!r}",
            found="no such file" if path is None else "a path that begins with corpus:",
            expected=f'"corpus", "generator", "hub:owner/name", or a file below {" or ".join(map(str, folders))}',
            mend="correct the path, or set `data` in machine.toml",
        )
    if not path.name.endswith(SUFFIXES):
        raise CostarError(
            str(path), found="an unknown kind of file", expected=" ".join(SUFFIXES), mend="convert the file"
        )
    return path


def records_of(
    design: PerturbationDesign,
    kind: Kind,
    suite: Suite,
    corpus: Path,
    tokenizer: Tokenizer,
    files: Sequence[Path] | None,
    used: set[int],
) -> Iterator[Record]:
    """The records of a perturbation, each main followed by its twin if it has one."""
    if files is not None:
        sources = _from_files(design, kind, suite.seed, files, tokenizer)
    elif design.origin == "corpus":
        sources = _from_corpus(design, suite, corpus, tokenizer, used)
    else:
        sources = _from_generator(design, kind, suite.seed, range(design.records))
    for record in sources:
        yield record
        twin = kind.twin(record.fields)
        if twin is not None:
            yield _twin_record(kind, record, twin)


def _twin_record(kind: Kind, record: Record, twin: Mapping[str, Any]) -> Record:
    """The partner of a record, with all further fields of it: strata, clusters and templates may name them."""
    place = f"{record.place}, twin of {record.record_id}"
    shared = {name: value for name, value in record.fields.items() if not name.startswith("twin_")}
    fields = kind.check(shared | dict(twin), place)
    if text_of(kind.render(fields, kind.RENDERINGS[0])) == text_of(kind.render(record.fields, kind.RENDERINGS[0])):
        raise CostarError(
            place,
            found="the text of the record itself, which may be inserted",
            expected="another text, never inserted",
            mend="correct the twin or remove it",
        )
    return Record(
        record_id=f"{record.record_id}{TWIN}",
        role="twin",
        cluster=record.cluster,
        fields=fields,
        source=record.source,
        place=record.place,
    )


def unused_records(
    suite: Suite, design: PerturbationDesign, kind: Kind, folders: Sequence[Path], tokenizer: Tokenizer
) -> Iterator[Record]:
    """Further records of a perturbation, none of which is one of its own: the rest of a file, or newly generated ones."""
    if design.origin == "generator":
        yield from _from_generator(design, kind, suite.seed, range(design.records, 2**31))
        return
    files = record_files(suite, folders, fetch=True)[design.name]
    rows = checked_rows(design, kind, files, tokenizer)
    for own_id in _ranked(design, suite.seed, rows)[design.records :]:
        place, fields = rows[own_id]
        yield _file_record(design, own_id, place, fields)


def _from_corpus(
    design: PerturbationDesign, suite: Suite, corpus: Path, tokenizer: Tokenizer, used: set[int]
) -> Iterator[Record]:
    place = f"[perturbation.{design.name}]"
    if design.kind != "passage" or design.tokens is None:
        raise CostarError(
            f"{place} records", found=f"a {design.kind} from the corpus", expected='kind = "passage"', mend="correct it"
        )
    owned = (doc_id for doc_id in document_ids(corpus, "held_out") if _owner(suite, doc_id) == design.name)
    first = sorted(owned, key=lambda doc_id: keyed_hash(suite.seed, design.name, "passage", doc_id))
    wanted = frozenset(first[: DOCUMENTS_TRIED * design.records + DOCUMENTS_TRIED])
    chosen = passage.from_corpus(
        list(documents_of(corpus, "held_out", wanted)),
        chain(texts_of(corpus, "base"), texts_of(corpus, "validation")),
        tokenizer,
        tokens=design.tokens,
        count=design.records,
        key=(suite.seed, design.name),
        used=used,
        place=place,
    )
    for number, (doc_id, text) in enumerate(chosen):
        record_id = f"{design.name}/{number:04d}"
        fields = {"text": text, "document": doc_id}
        yield Record(
            record_id=record_id, role="main", cluster=doc_id, fields=fields, source=f"corpus:{doc_id}", place=place
        )


def _owner(suite: Suite, doc_id: str) -> str:
    """The perturbation that a held-out document belongs to, so that the size of one never changes the texts of another."""
    names = [p.name for p in suite.perturbations.values() if p.origin == "corpus"]
    return max(names, key=lambda name: keyed_hash(suite.seed, "owner", name, doc_id))


def _from_generator(design: PerturbationDesign, kind: Kind, seed: int, numbers: range) -> Iterator[Record]:
    place = f"[perturbation.{design.name}]"
    for number in numbers:
        fields = kind.generate((seed, design.name), number, design.length)
        if fields is None:
            raise CostarError(
                f"{place} records",
                found='from = "generator"',
                expected=f"a kind with a generator; {design.kind} has none",
                mend='give a file, or from = "corpus"',
            )
        record_id = f"{design.name}/{number:04d}"
        yield Record(
            record_id=record_id,
            role="main",
            cluster=record_id,
            fields=kind.check(fields, record_id),
            source="generator",
            place=record_id,
        )


def _from_files(
    design: PerturbationDesign, kind: Kind, seed: int, files: Sequence[Path], tokenizer: Tokenizer
) -> Iterator[Record]:
    """A keyed sample of the files' records, in the order of the files."""
    rows = checked_rows(design, kind, files, tokenizer)
    if len(rows) < design.records:
        raise too_few(files[0], len(rows), design)
    chosen = set(_ranked(design, seed, rows)[: design.records])
    for own_id, (place, fields) in rows.items():
        if own_id in chosen:
            yield _file_record(design, own_id, place, fields)


def _ranked(design: PerturbationDesign, seed: int, rows: Mapping[str, Any]) -> list[str]:
    return sorted(rows, key=lambda own_id: keyed_hash(seed, "sample", design.name, own_id))


def _file_record(design: PerturbationDesign, own_id: str, place: str, fields: Mapping[str, Any]) -> Record:
    record_id = f"{design.name}/{own_id}"
    return Record(record_id=record_id, role="main", cluster=record_id, fields=fields, source=design.origin, place=place)


def checked_rows(
    design: PerturbationDesign, kind: Kind, files: Sequence[Path], tokenizer: Tokenizer | None
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Own id to (place, checked fields) of every row of the files that the suite does not leave out.

    Raises:
        CostarError: the first row that is no record, and the ids of the others.
    """
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    refused: list[tuple[str, CostarError]] = []
    left_out: set[str] = set()
    mapped: set[str] = set()
    for number, (place, given) in enumerate(file_rows(files), start=1):
        mapped |= {theirs for theirs in design.rename.values() if theirs in given}
        named = given.get(design.rename.get("id", "id"), f"{number:06d}")
        own = str(named) if isinstance(named, str | int) else f"{number:06d}"
        if own in design.without:
            left_out.add(own)
            continue
        if any(field not in given or given[field] != value for field, value in design.where.items()):
            continue
        try:
            own_id, fields = _checked_row(design, kind, given, number, place)
            if own_id in rows:
                raise CostarError(
                    place,
                    found=f"id {shorten(repr(own_id))} a second time (first: {rows[own_id][0]})",
                    expected="ids that differ",
                    mend="rename one",
                )
            if not _is_too_long(design, kind, fields, tokenizer):
                rows[own_id] = (place, fields)
        except CostarError as error:
            refused.append((own, error))
    if refused:
        raise _refusal(refused)
    for key, unknown in (
        ("without", set(design.without) - left_out),
        ("map", set(design.rename.values()) - mapped),
    ):
        if unknown:
            raise CostarError(
                f"[perturbation.{design.name}] records.{key}",
                found=shorten(", ".join(sorted(unknown))),
                expected="ids of rows in the file" if key == "without" else "fields that some row has",
                mend="correct or remove them",
            )
    return rows


def _refusal(refused: Sequence[tuple[str, CostarError]]) -> CostarError:
    """The first refused row, with the ids of all, so that they can be left out at once."""
    first = refused[0][1]
    named = [own for own, _ in refused if len(own) <= 60 and own.isprintable()]
    ids = ", ".join(f'"{own}"' for own in named[:SHOWN]) + (", …" if len(refused) > SHOWN or not named else "")
    more = f" ({len(refused):,} rows are refused)" if len(refused) > 1 else ""
    mend = f"{first.mend}; or leave rows out{more}: records = {{ …, without = [{ids}] }}"
    return CostarError(first.place, found=first.found, expected=first.expected, mend=mend)


def _checked_row(
    design: PerturbationDesign, kind: Kind, given: Mapping[str, Any], number: int, place: str
) -> tuple[str, dict[str, Any]]:
    """Own id and checked fields of a row."""
    row = _present(given, place)
    for field, theirs in design.rename.items():
        if theirs in row:
            row[field] = row[theirs]
    row = adapted(kind, row)
    missing = [field for field in kind.FIELDS if field not in row]
    if missing:
        raise CostarError(
            place,
            found=shorten(f"fields {', '.join(map(str, row))}"),
            expected=f"{', '.join(missing)} too, for kind {design.kind!r}",
            mend=f"add it, or name the file's own field: map = {{ {missing[0]} = … }}",
        )
    own_id = _own_id(row.get("id", f"{number:06d}"), place)
    for field in kind.FIELDS:
        if isinstance(row[field], str) and not row[field].strip():
            raise CostarError(
                f"{place}, {field}", found="empty text", expected="text", mend="fill or remove the record"
            )
    return own_id, kind.check({k: v for k, v in row.items() if k != "id"}, place)


def _is_too_long(
    design: PerturbationDesign, kind: Kind, fields: Mapping[str, Any], tokenizer: Tokenizer | None
) -> bool:
    """Whether a record is left out for its length; without a tokenizer none is yet."""
    if design.max_tokens is None or tokenizer is None:
        return False
    pieces = pieces_of(fields, renderings_of(design, kind)[0], design, kind)
    return len(tokenizer.encode(text_of(pieces))) > design.max_tokens


def _present(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The fields of a row that have a value: null and NaN are how tables say that one is missing."""
    fields = {
        name: value
        for name, value in row.items()
        if not (value is None or (isinstance(value, float) and math.isnan(value)))
    }
    for name, value in fields.items():
        if not _is_plain(value):
            raise CostarError(
                f"{place}, {shorten(name, 40)}",
                found=f"{value}" if isinstance(value, float) else "a number that is not finite, or deep nesting",
                expected=f"text, finite numbers, or lists and objects of them, at most {DEPTH} inside each other",
                mend="correct the field or remove it",
            )
    return fields


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth < DEPTH and all(_is_plain(each, depth + 1) for each in inner)
    return True


def _own_id(value: Any, place: str) -> str:
    """The id of a row: a short text or a number, on one line."""
    text = str(value)
    good = isinstance(value, str | int) and not isinstance(value, bool) and text.strip() and text.isprintable()
    if not good or len(text) > 200 or f"/{text}".endswith(TWIN):
        raise CostarError(
            f"{place}, id",
            found=shorten(repr(value)),
            expected=f"a number or a short text that does not end with {TWIN}",
            mend="correct the id",
        )
    return text


def file_rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every line of JSON files and every row of Parquet files."""
    for path in files:
        if not path.name.endswith(".parquet"):
            for number, line in numbered_lines(path):
                place = f"{path}, line {number}"
                yield place, parsed_line(line, place)
            continue
        try:
            with pq.ParquetFile(path) as file:
                number = 0
                for batch in file.iter_batches(1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}, row {number}", row
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            OverflowError,
        ) as error:  # bytes that are no text, dates too late
            raise CostarError(
                str(path),
                found=f"not a whole Parquet file, or values that cannot be read ({shorten(error)})",
                expected="Parquet",
                mend="copy the file again",
            ) from None


def too_few(path: Path, found: int, design: PerturbationDesign) -> CostarError:
    """The refusal of a file with fewer records than the levels ask."""
    shorter = f" of at most {design.max_tokens} tokens" if design.max_tokens else ""
    matching = (
        f" where {', '.join(f'{field} = {value!r}' for field, value in design.where.items())}" if design.where else ""
    )
    return CostarError(
        str(path),
        found=f"{found:,} records{matching}{shorter}",
        expected=f"{design.records:,}, as the levels of [perturbation.{design.name}] ask",
        mend="lower the levels' counts or add records",
    )
