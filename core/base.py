"""The `[corpus]` table as values: where the base comes from, and what may be said together."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from . import schema
from .arms import Fail
from .design import CorpusDesign, SourceDesign

TEXT_KEYS = ("source", "path", "text", "megabytes", "mixture", "index", "quality", "deduplicate")
MADE_ELSEWHERE = frozenset((*TEXT_KEYS, "tokenizer", "held_out", "validation", "tasks"))


def read_corpus(table: schema.CorpusTable, seed: int, fail: Fail) -> CorpusDesign:
    """The base of a suite.

    Raises:
        CostarError: keys that exclude each other, or one that is missing.
    """
    if sum((table.source is not None, bool(table.mixture), table.reuse is not None)) != 1:
        said = [
            key for key, given in (("source", table.source), ("mixture", table.mixture), ("from", table.reuse)) if given
        ]
        raise fail(
            "[corpus]",
            found=" and ".join(said) or "no source",
            expected='one of source = "…", tables [corpus.mixture.x], and from = "build/…"',
            mend="keep one of them",
        )
    if table.reuse is not None:
        extra = sorted(table.model_fields_set & MADE_ELSEWHERE)
        if extra:
            raise fail(
                "[corpus] from",
                found=f"{', '.join(extra)} beside it",
                expected="only sequence_length beside it: the rest was settled when that corpus was built",
                mend="remove them",
            )
    elif table.tokenizer is None:
        raise fail("[corpus]", found="nothing", expected="the key 'tokenizer'", mend="add it")
    if table.held_out + (table.validation or 0) >= 1:
        raise fail(
            "[corpus]",
            found=f"held_out {table.held_out} and validation {table.validation}",
            expected="shares that leave some documents for the base",
            mend="lower one of them",
        )
    sources = _sources(table, seed, fail)
    _check_stored(table, sources, fail)
    tokenizer = table.tokenizer or schema.TokenizerTable(file="tokenizer.json")
    return CorpusDesign(
        sources=sources,
        reuse=table.reuse,
        index=table.index,
        quality=tuple(table.quality),
        deduplicate=table.deduplicate,
        held_out=table.held_out,
        validation=table.validation or Decimal(0),
        tasks=table.tasks,
        sequence_length=table.sequence_length,
        tokenizer_file=None if table.reuse else tokenizer.file,
        vocabulary=tokenizer.vocabulary,
        eos=tokenizer.eos,
    )


def _sources(table: schema.CorpusTable, seed: int, fail: Fail) -> tuple[SourceDesign, ...]:
    parts: Mapping[str, Any] = table.mixture or ({"": table} if table.source else {})
    shared = [name for name, part in parts.items() if getattr(part, "share", None) is not None]
    if shared and len(shared) < len(parts):
        raise fail(
            f"[corpus.mixture.{next(name for name in parts if name not in shared)}] share",
            found="nothing",
            expected="a share for every part, or for none",
            mend="add it",
        )
    found = []
    for name, part in parts.items():
        paths = (part.path,) if isinstance(part.path, str) else tuple(part.path)
        key = f"[corpus.mixture.{name}]" if name else "[corpus]"
        if part.source == "files" and not paths:
            raise fail(f"{key} path", found="nothing", expected="files or globs", mend="add the key")
        if (part.megabytes is not None) != (part.source == "synthetic"):
            given = part.megabytes is not None
            raise fail(
                f"{key} megabytes",
                found=f"megabytes for {part.source}" if given else "nothing",
                expected="how much text to generate" if not given else 'megabytes only for source = "synthetic"',
                mend="remove it" if given else "add the key",
            )
        found.append(
            SourceDesign(
                name=name,
                source=part.source,
                paths=paths,
                text=part.text,
                megabytes=part.megabytes,
                share=getattr(part, "share", None),
                seed=seed,
            )
        )
    return tuple(found)


def _check_stored(table: schema.CorpusTable, sources: tuple[SourceDesign, ...], fail: Fail) -> None:
    stored = [each for each in sources if each.is_stored]
    if stored and len(sources) > 1:
        raise fail(
            f"[corpus.mixture.{stored[0].name}] source",
            found=stored[0].source,
            expected="sources of text: a store of tokens is taken whole",
            mend="use it alone, or give its text",
        )
    worked = sorted(table.model_fields_set & {"quality", "deduplicate", "validation"})
    if stored and worked:
        raise fail(
            f"[corpus] {worked[0]}",
            found=f"{worked[0]} for a store that another tool built",
            expected="a source of text",
            mend="remove it: the store is taken as it is",
        )
    if table.index is not None and [each.source for each in sources] != ["megatron"]:
        raise fail(
            "[corpus] index",
            found="order tables of another source",
            expected='them with source = "megatron"',
            mend="remove the key",
        )
