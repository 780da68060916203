"""Records: from held-out documents, a generator or a user's file, to `records.parquet` and `renderings.parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.design import PerturbationDesign, Suite, plain
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import canonical_json, keyed_hash, sha256_file, sha256_json
from ..core.parquet import read_table, write_rows
from ..core.workspace import check_files, finish_step, is_current, read_marker, start_step
from ..corpus.build import MEND, base_documents, open_tokenizer
from ..corpus.sources.files import numbered_lines, parsed_line
from ..corpus.tokenizer import Tokenizer
from ..manifests.tables import RECORDS, RENDERINGS
from .kinds import Kind, load_kind, passage, text_of

MARGIN = 3  # a sequence of L tokens holds a record of at most L − 3: EOS before and after, and the shared last token


@dataclass(frozen=True, kw_only=True)
class Record:
    record_id: str
    role: str
    cluster: str
    fields: Mapping[str, Any]
    source: str
    place: str


def find_file(origin: str, folders: Sequence[Path], place: str) -> Path:
    path = next((folder / origin for folder in folders if (folder / origin).is_file()), None)
    if path is None:
        raise CostarError(
            f"{place} records from {origin!r}",
            found="no such file",
            expected=f'"corpus", "generator" or a file below {" or ".join(map(str, folders))}',
            mend="correct the path, or set `data` in machine.toml",
        )
    if not path.name.endswith((".jsonl", ".jsonl.zst")):
        raise CostarError(
            str(path), found="an unknown kind of file", expected=".jsonl or .jsonl.zst", mend="convert the file"
        )
    return path


def build_records(
    suite: Suite,
    corpus: Path,
    folder: Path,
    folders: Sequence[Path],
    protected: Mapping[str, Sequence[str]] | None = None,
) -> bool:
    """Make the two record tables; False when they were current.

    `protected` maps trained runs to the perturbations that they read: when the texts of one of those would change,
    nothing is replaced and the runs are named.
    """
    tokenizer = open_tokenizer(suite.corpus, corpus)
    files = record_files(suite, folders)
    inputs = records_inputs(suite, corpus, files)
    if is_current(folder, inputs, "records"):
        return False
    records: list[dict[str, Any]] = []
    renderings: list[dict[str, Any]] = []
    used: set[int] = set()
    for design in suite.perturbations.values():
        kind = load_kind(design.kind, place=f"[perturbation.{design.name}] kind")
        for record in _records_of(design, kind, suite, corpus, tokenizer, files.get(design.name), used):
            rows = [_rendering_row(record, kind, name, tokenizer) for name in kind.RENDERINGS]
            check_length(rows[0]["n_tokens"], suite.corpus.sequence_length, record.place)
            records.append(_record_row(record, design, kind, rows[0]))
            renderings += rows
    _refuse_change(folder, renderings, protected or {})
    start_step(folder, "records")
    paths = [
        write_rows(folder / "records.parquet", RECORDS, records),
        write_rows(folder / "renderings.parquet", RENDERINGS, renderings),
    ]
    finish_step(folder, inputs, paths, "records")
    return True


def _refuse_change(
    folder: Path, renderings: Sequence[Mapping[str, Any]], protected: Mapping[str, Sequence[str]]
) -> None:
    if not protected or read_marker(folder, "records") is None:
        return
    try:
        before = read_table(folder / "renderings.parquet", mend=MEND).to_pylist()
    except CostarError:
        return  # damaged: what training would read is compared when the exposures are made
    old, new = (
        {(row["record_id"], row["rendering"]): row["token_ids"] for row in rows} for rows in (before, renderings)
    )
    changed = {key[0].split("/")[0] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    stale = [run for run, read in protected.items() if changed & set(read)]
    if stale:
        raise StaleRuns("records", found=f"other texts of {', '.join(sorted(changed))} than before", runs=stale)


def check_origins(suite: Suite, folders: Sequence[Path]) -> None:
    """Kinds, files and renderings that the suite names exist."""
    for design in suite.perturbations.values():
        load_kind(design.kind, place=f"[perturbation.{design.name}] kind")
    for name, path in record_files(suite, folders).items():
        count, asked = sum(1 for _ in numbered_lines(path)), suite.perturbations[name].records
        if count < asked:
            raise _too_few(path, count, asked, name)
    _check_renderings(suite)


def record_files(suite: Suite, folders: Sequence[Path]) -> dict[str, Path]:
    """The file of every perturbation that has one."""
    return {
        p.name: find_file(p.origin, folders, f"[perturbation.{p.name}]")
        for p in suite.perturbations.values()
        if p.origin not in ("corpus", "generator")
    }


def records_inputs(suite: Suite, corpus: Path, files: Mapping[str, Path]) -> str:
    """The hash of everything that the records depend on."""
    documents = check_files(corpus, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    designs = [plain({k: v for k, v in vars(p).items() if k != "home"}) for p in suite.perturbations.values()]
    return sha256_json(
        [
            suite.seed,
            suite.corpus.sequence_length,
            designs,
            documents if any(p.origin == "corpus" for p in suite.perturbations.values()) else "",
            sha256_file(corpus / "tokenizer.json"),
            {name: sha256_file(path) for name, path in files.items()},
        ]
    )


def records_are_current(suite: Suite, corpus: Path, folder: Path, folders: Sequence[Path]) -> bool:
    """Whether the records were made from this state of the suite and its files."""
    return is_current(folder, records_inputs(suite, corpus, record_files(suite, folders)), "records")


def _check_renderings(suite: Suite) -> None:
    for arm in suite.arms.values():
        for name, rendering in arm.renderings.items():
            kind = load_kind(suite.perturbations[name].kind, place=f"[perturbation.{name}] kind")
            if rendering and rendering not in kind.RENDERINGS:
                raise CostarError(
                    f"[arm.{arm.name}] renderings.{name}",
                    found=rendering,
                    expected=f"one of {', '.join(kind.RENDERINGS)}",
                    mend="correct it",
                )


def _records_of(
    design: PerturbationDesign,
    kind: Kind,
    suite: Suite,
    corpus: Path,
    tokenizer: Tokenizer,
    file: Path | None,
    used: set[int],
) -> Iterator[Record]:
    place = f"[perturbation.{design.name}]"
    if file is not None:
        sources = _from_file(design, kind, suite.seed, file)
    elif design.origin == "corpus":
        sources = _from_corpus(design, suite, corpus, tokenizer, used)
    else:
        sources = _from_generator(design, kind, suite.seed)
    for record in sources:
        yield record
        twin = kind.twin(record.fields)
        if twin is not None:
            yield Record(
                record_id=f"{record.record_id}/twin",
                role="twin",
                cluster=record.cluster,
                fields=kind.check(twin, f"{place} twin of {record.record_id}"),
                source=record.source,
                place=record.place,
            )


def _from_corpus(
    design: PerturbationDesign, suite: Suite, corpus: Path, tokenizer: Tokenizer, used: set[int]
) -> Iterator[Record]:
    place = f"[perturbation.{design.name}]"
    if design.kind != "passage" or design.tokens is None:
        raise CostarError(
            f"{place} records", found=f"a {design.kind} from the corpus", expected='kind = "passage"', mend="correct it"
        )
    held_out = base_documents(corpus, "held_out")
    base = base_documents(corpus, "base").column("text")
    pairs = list(zip(held_out.column("doc_id").to_pylist(), held_out.column("text").to_pylist(), strict=True))
    texts = (text.as_py() for text in base)
    chosen = passage.from_corpus(
        pairs,
        texts,
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


def _from_generator(design: PerturbationDesign, kind: Kind, seed: int) -> Iterator[Record]:
    place = f"[perturbation.{design.name}]"
    for number in range(design.records):
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


def _from_file(design: PerturbationDesign, kind: Kind, seed: int, path: Path) -> Iterator[Record]:
    """A keyed sample of the file's records, in the order of the file."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, line in numbered_lines(path):
        place = f"{path}, line {number}"
        row: dict[str, Any] = parsed_line(line, place)
        for field, theirs in design.rename.items():
            if theirs in row:
                row[field] = row[theirs]
        missing = [field for field in kind.FIELDS if field not in row]
        if missing:
            raise CostarError(
                place,
                found=f"fields {', '.join(row)}",
                expected=f"{', '.join(missing)} too, for kind {design.kind!r}",
                mend=f"add it, or name the file's own field: map = {{ {missing[0]} = … }}",
            )
        own_id = str(row.get("id", f"{number:06d}"))
        if own_id in rows:
            raise CostarError(
                place,
                found=f"id {own_id!r} a second time (first: {rows[own_id][0]})",
                expected="ids that differ",
                mend="rename one",
            )
        for field in kind.FIELDS:
            if isinstance(row[field], str) and not row[field].strip():
                raise CostarError(
                    f"{place}, {field}", found="empty text", expected="text", mend="fill or remove the record"
                )
        rows[own_id] = (place, kind.check({k: v for k, v in row.items() if k != "id"}, place))
    if len(rows) < design.records:
        raise _too_few(path, len(rows), design.records, design.name)
    ranked = sorted(rows, key=lambda own_id: keyed_hash(seed, "sample", design.name, own_id))
    chosen = set(ranked[: design.records])
    for own_id, (place, fields) in rows.items():
        if own_id in chosen:
            record_id = f"{design.name}/{own_id}"
            yield Record(
                record_id=record_id, role="main", cluster=record_id, fields=fields, source=design.origin, place=place
            )


def _too_few(path: Path, found: int, asked: int, perturbation: str) -> CostarError:
    return CostarError(
        str(path),
        found=f"{found:,} records",
        expected=f"{asked:,}, as the levels of [perturbation.{perturbation}] ask",
        mend="lower the levels' counts or add records",
    )


def _rendering_row(record: Record, kind: Kind, rendering: str, tokenizer: Tokenizer) -> dict[str, Any]:
    pieces = kind.render(record.fields, rendering)
    text = text_of(pieces)
    ids = tokenizer.encode_record(text, f"{record.place}, rendering {rendering}")
    return {
        "record_id": record.record_id,
        "rendering": rendering,
        "text": text,
        "n_tokens": len(ids),
        "n_bytes": len(text.encode()),
        "spans": token_spans(pieces, tokenizer, record.place),
        "token_ids": ids,
    }


def token_spans(pieces: Sequence[tuple[str, str | None]], tokenizer: Tokenizer, place: str) -> list[dict[str, Any]]:
    """The tokens [start, end) that cover each attribute; a secret must be one token a symbol."""
    _, offsets = tokenizer.encode_with_offsets(text_of(pieces))
    spans = []
    at = 0
    for text, attribute in pieces:
        begin, at = at, at + len(text)
        if attribute is None:
            continue
        covering = [i for i, (a, b) in enumerate(offsets) if a < at and b > begin]
        span = {"attribute": attribute, "start": covering[0], "end": covering[-1] + 1}
        exact = offsets[covering[0]][0] == begin and offsets[covering[-1]][1] == at
        if attribute == "secret" and not (exact and len(covering) == len(text)):
            raise CostarError(
                place,
                found=f"secret {text!r} in {len(covering)} tokens that {'do' if exact else 'do not'} end with it",
                expected=f"{len(text)} tokens, one a symbol",
                mend="use a tokenizer that splits digits, or another alphabet",
            )
        spans.append(span)
    return spans


def check_length(n_tokens: int, sequence_length: int, place: str) -> None:
    """A record must fit its sequence whole; other renderings than the canonical one are checked when an arm inserts them."""
    limit = sequence_length - MARGIN
    if n_tokens > limit:
        raise CostarError(
            place,
            found=f"{n_tokens} tokens",
            expected=f"at most {limit}, the sequence length less {MARGIN}",
            mend="shorten the record or lengthen [corpus] sequence_length",
        )


def _record_row(record: Record, design: PerturbationDesign, kind: Kind, canonical: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "record_id": record.record_id,
        "perturbation": design.name,
        "kind": design.kind,
        "risk": kind.RISK,
        "role": record.role,
        "cluster_id": record.cluster,
        "stratum": length_stratum(canonical["n_tokens"]),
        "text": canonical["text"],
        "fields": canonical_json(record.fields),
        "n_tokens": canonical["n_tokens"],
        "n_bytes": canonical["n_bytes"],
        "licence": design.licence,
        "source": record.source,
    }


def length_stratum(n_tokens: int) -> str:
    """A stratum by length in doublings, a function of the record alone: other records never move it."""
    low = 1 << (max(n_tokens, 1).bit_length() - 1)
    return f"{low}-{2 * low - 1} tokens"


def read_records(folder: Path) -> tuple[pa.Table, pa.Table]:
    """The finished records and renderings."""
    check_files(folder, "records", mend=MEND)
    from ..core.parquet import read_table

    return read_table(folder / "records.parquet", mend=MEND), read_table(folder / "renderings.parquet", mend=MEND)
