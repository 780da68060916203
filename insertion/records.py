"""The step that makes records: their texts and token ids, to `records.parquet` and `renderings.parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.design import PerturbationDesign, Suite, plain
from ..core.errors import CostarError, StaleRuns, shorten
from ..core.hashing import canonical_json, sha256_file, sha256_json
from ..core.parquet import read_table, write_rows
from ..core.workspace import check_files, finish_step, is_current, read_marker, start_step
from ..corpus.reading import MEND, open_tokenizer
from ..corpus.searched import texts_in
from ..corpus.tokenizer import Tokenizer
from ..manifests.tables import RECORDS, RENDERINGS
from .kinds import Kind, Pieces, identities_of, kind_source, load_kind, prose_of, text_of
from .origins import HUB, TWIN, Record, checked_rows, record_files, records_of, too_few
from .rewordings import (
    PARAPHRASE,
    edited_copies,
    edited_share,
    is_reworded,
    paraphrases,
    pieces_of,
    renderings_of,
    template_names,
)
from .safety import findings
from .similar import Text, compare_texts, join_similar_records, refuse_shared_texts

MARGIN = 3  # a sequence of L tokens holds a record of at most L − 3: EOS before and after, and the shared last token


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
    files = record_files(suite, folders, fetch=True)
    inputs = records_inputs(suite, corpus, files)
    if is_current(folder, inputs, "records"):
        return False
    made = _made_records(suite, corpus, tokenizer, files)
    records: list[dict[str, Any]] = []
    renderings: list[dict[str, Any]] = []
    for each in made:
        rows = [rendering_row(each.record, name, pieces, tokenizer) for name, pieces in each.writings()]
        refuse_unsafe(each.record, each.design, [row["text"] for row in rows])
        check_length(rows[0]["n_tokens"], suite.corpus.sequence_length, each.record.place)
        stratum = _stratum(each.record, each.design, rows[0]["n_tokens"])
        records.append(record_row(each.record, each.design, each.kind.RISK, stratum, rows[0]))
        renderings += rows
    _refuse_change(folder, renderings, protected or {})
    start_step(folder, "records")
    paths = [
        write_rows(folder / "records.parquet", RECORDS, records),
        write_rows(folder / "renderings.parquet", RENDERINGS, renderings),
    ]
    finish_step(folder, inputs, paths, "records")
    return True


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A record with what it takes to write it."""

    record: Record
    design: PerturbationDesign
    kind: Kind
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        return text_of(pieces_of(self.record.fields, renderings_of(self.design, self.kind)[0], self.design, self.kind))

    def writings(self) -> Iterator[tuple[str, Pieces]]:
        """(rendering, pieces): the canonical one first, then the others of kind and suite, for main records numbered ones."""
        fields, place = self.record.fields, self.record.place
        for name in renderings_of(self.design, self.kind):
            yield name, pieces_of(fields, name, self.design, self.kind, place)
        if self.record.role != "main":
            return
        for name in self.names:
            share = edited_share(name)
            if share:
                count = max(self.design.levels)
                texts = list(edited_copies(self.text, share, count, (name, self.record.record_id)))
            else:
                texts = paraphrases(fields, place)
            for number, text in enumerate(texts):
                yield f"{name}/{number}", [(text, None)]


def _made_records(suite: Suite, corpus: Path, tokenizer: Tokenizer, files: Mapping[str, Sequence[Path]]) -> list[_Made]:
    """Every record of the suite, its cluster settled and its text checked against the others."""
    made: list[_Made] = []
    used: set[int] = set()
    for design in suite.perturbations.values():
        kind = load_kind(design.kind, place=f"[perturbation.{design.name}] kind")
        names = tuple(sorted({n for n in _asked(suite, design.name) if is_reworded(n)}))
        found = list(records_of(design, kind, suite, corpus, tokenizer, files.get(design.name), used))
        made += [_Made(record=_clustered(record, design), design=design, kind=kind, names=names) for record in found]
    mains = [each for each in made if each.record.role == "main"]
    texts_of = [
        Text(
            record_id=m.record.record_id,
            perturbation=m.design.name,
            cluster=m.record.cluster,
            place=m.record.place,
            text=m.text,
            generated=m.record.source == "generator",
            prose=prose_of(m.kind, m.record.fields),
            identities=identities_of(m.kind, m.record.fields),
            template=getattr(m.kind, "TEMPLATE", False),
        )
        for m in mains
    ]
    compared = compare_texts(texts_of)
    overlaps = {frozenset({p.name, other}) for p in suite.perturbations.values() for other in p.overlaps}
    refuse_shared_texts(texts_of, compared, overlaps)
    joined = join_similar_records(texts_of, compared)
    clusters = dict(zip((m.record.record_id for m in mains), joined, strict=True))
    for number, each in enumerate(made):
        own = clusters.get(each.record.record_id.removesuffix(TWIN), each.record.cluster)
        if own != each.record.cluster:
            made[number] = replace(each, record=replace(each.record, cluster=own))
    return made


def _clustered(record: Record, design: PerturbationDesign) -> Record:
    """The record in the cluster of the field that the suite names."""
    if design.cluster is None:
        return record
    value = record.fields.get(design.cluster)
    if not isinstance(value, str | int) or not str(value).strip():
        raise CostarError(
            f"{record.place}, {design.cluster}",
            found=shorten(repr(value)),
            expected=f"a text, as [perturbation.{design.name}] cluster names this field",
            mend="fill it, or name another field",
        )
    return replace(record, cluster=f"{design.name}/{design.cluster}={value}")


def refuse_unsafe(record: Record, design: PerturbationDesign, texts: Sequence[str]) -> None:
    """Stop at what must not be published, in the texts and fields of a record from a file or the Hub.

    Raises:
        CostarError: what was found, masked, unless the suite allows it with a statement.
    """
    if record.source == "generator" or record.source.startswith("corpus:"):
        return
    for finding in findings("\n".join([*texts, *texts_in(record.fields)])):
        if finding.what not in design.allow:
            raise CostarError(
                record.place,
                found=f"{finding.what} {finding.excerpt}",
                expected="records without data of real people or live secrets",
                mend=f"replace it, or state its origin and that it may be used: [perturbation.{design.name}] "
                f'allow = {{ "{finding.what}" = "…" }}',
            )


def _asked(suite: Suite, name: str) -> set[str]:
    """The renderings of a perturbation that arms name."""
    arms = [arm for arm in suite.arms.values() if name in arm.inserted]
    return {each.rendering for arm in arms for each in arm.factors[name]} - {""}


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
    changed = {key[0].split("/")[0] for key in old if old[key] != new.get(key)}
    stale = [run for run, read in protected.items() if changed & set(read)]
    if stale:
        raise StaleRuns("records", found=f"other texts of {', '.join(sorted(changed))} than before", runs=stale)


def check_origins(suite: Suite, folders: Sequence[Path]) -> list[str]:
    """Kinds, files and renderings that the suite names exist, and the rows of the files that are here are records; notes on
    what only `corpus` can check."""
    for design in suite.perturbations.values():
        place = f"[perturbation.{design.name}]"
        kind = load_kind(design.kind, place=f"{place} kind")
        template_names(design.templates, kind.RENDERINGS, place)
        known = renderings_of(design, kind)
        if design.rendering and design.rendering not in known:
            raise CostarError(
                f"{place} rendering", found=design.rendering, expected=f"one of {', '.join(known)}", mend="correct it"
            )
    declared: list[PerturbationDesign] = []
    for name, paths in record_files(suite, folders, fetch=False).items():
        design = suite.perturbations[name]
        if not paths:
            declared.append(design)
            continue
        kind = load_kind(design.kind, place=f"[perturbation.{name}] kind")
        count = len(checked_rows(design, kind, paths, None))
        if count < design.records:
            raise too_few(paths[0], count, design)
    _check_renderings(suite)
    if not declared:
        return []
    total, names = sum(design.records for design in declared), [design.origin for design in declared]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [
        f"{total:,} records are declared, not read: {', '.join(names[:2])}{more}; `costar corpus` fetches and checks them"
    ]


def records_inputs(suite: Suite, corpus: Path, files: Mapping[str, Sequence[Path]]) -> str:
    """The hash of everything that the records depend on."""
    documents = check_files(corpus, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    designs = [plain({k: v for k, v in vars(p).items() if k != "home"}) for p in suite.perturbations.values()]
    kinds = sorted({design.kind for design in suite.perturbations.values()})
    return sha256_json(
        [
            suite.seed,
            suite.corpus.sequence_length,
            designs,
            [sha256_file(kind_source(name)) for name in kinds],
            [sorted(name for name in _asked(suite, p) if is_reworded(name)) for p in suite.perturbations],
            documents if any(p.origin == "corpus" for p in suite.perturbations.values()) else "",
            sha256_file(corpus / "tokenizer.json"),
            {name: [sha256_file(path) for path in paths] for name, paths in files.items()},
        ]
    )


def records_are_current(suite: Suite, corpus: Path, folder: Path, folders: Sequence[Path]) -> bool:
    """Whether the records were made from this state of the suite and its files."""
    files = record_files(suite, folders, fetch=False)
    return is_current(folder, records_inputs(suite, corpus, files), "records")


def _check_renderings(suite: Suite) -> None:
    for arm in suite.arms.values():
        for name in arm.inserted:
            design = suite.perturbations[name]
            kind = load_kind(design.kind, place=f"[perturbation.{name}] kind")
            known = [*kind.RENDERINGS, *design.templates, PARAPHRASE, "edited-0.1 (or another share)"]
            for rendering in (each.rendering for each in arm.factors[name]):
                if arm.filler == "kin" and is_reworded(rendering):
                    raise CostarError(
                        f"[arm.{arm.name}] filler",
                        found=f"kin in the rendering {rendering} of {name}",
                        expected="a rendering that every fresh record has",
                        mend='choose one of the kind or a template, or filler = "base"',
                    )
                if rendering and rendering not in known and not is_reworded(rendering):
                    raise CostarError(
                        f"[arm.{arm.name}] renderings.{name}",
                        found=rendering,
                        expected=f"one of {', '.join(known)}",
                        mend="correct it",
                    )


def rendering_row(record: Record, rendering: str, pieces: Pieces, tokenizer: Tokenizer) -> dict[str, Any]:
    """A row of `renderings`: the text of a record written in one way, its ids and the spans of its attributes."""
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


def token_spans(pieces: Pieces, tokenizer: Tokenizer, place: str) -> list[dict[str, Any]]:
    """The tokens [start, end) that cover each attribute; a secret must be one token a symbol."""
    if all(attribute is None for _, attribute in pieces):
        return []
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
            mend="shorten it, leave longer ones out (records = { …, max_tokens = N }), or lengthen [corpus] sequence_length",
        )


def record_row(
    record: Record, design: PerturbationDesign, risk: str, stratum: str, written: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of `records`: a record with its text, as `written` in a row of `renderings`."""
    return {
        "record_id": record.record_id,
        "perturbation": design.name,
        "kind": design.kind,
        "risk": risk,
        "role": record.role,
        "cluster_id": record.cluster,
        "stratum": stratum,
        "text": written["text"],
        "fields": canonical_json(record.fields),
        "n_tokens": written["n_tokens"],
        "n_bytes": written["n_bytes"],
        "licence": design.licence,
        "source": record.source.removeprefix(HUB),
    }


def _stratum(record: Record, design: PerturbationDesign, n_tokens: int) -> str:
    """The values of the fields that the suite names, `length` in doublings."""
    parts = []
    for name in design.strata:
        if name == "length":
            parts.append(length_stratum(n_tokens))
            continue
        value = record.fields.get(name)
        if not isinstance(value, str | int) or not str(value).strip():
            raise CostarError(
                f"{record.place}, {name}",
                found=shorten(repr(value)),
                expected=f"a text, as [perturbation.{design.name}] strata names this field",
                mend="fill it, or name another field",
            )
        parts.append(str(value))
    return " · ".join(parts)


def length_stratum(n_tokens: int) -> str:
    """A stratum by length in doublings, a function of the record alone: other records never move it."""
    low = 1 << (max(n_tokens, 1).bit_length() - 1)
    return f"{low}-{2 * low - 1} tokens"


def read_records(folder: Path) -> tuple[pa.Table, pa.Table]:
    """The finished records and renderings."""
    check_files(folder, "records", mend=MEND)
    return read_table(folder / "records.parquet", mend=MEND), read_table(folder / "renderings.parquet", mend=MEND)
