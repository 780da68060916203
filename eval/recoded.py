"""A suite's records in another tokenizer: ids and spans anew, by the kinds and templates that wrote the texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.design import Suite
from ..core.errors import CostarError
from ..corpus.reading import texts_of
from ..corpus.tokenizer import Tokenizer
from ..insertion.kinds import Pieces, load_kind, text_of
from ..insertion.records import token_spans
from ..insertion.rewordings import pieces_of
from .probes import Context, Gap, Rendered, Subject
from .spans import first_spans

COUNTED = 20_000_000  # tokens of the base that `counts` encodes at most
AT_ONCE = 256  # documents


def recoded(suite: Suite, corpus: Path, context: Context, tokenizer: Tokenizer) -> tuple[Context, list[Gap]]:
    """The context with every text in another tokenizer's ids, and a gap for each text that it cannot write.

    A record whose canonical rendering is such a text is left out.
    """
    subjects: list[Subject] = []
    gaps: list[Gap] = []
    for subject in context.subjects:
        renderings: dict[str, Rendered] = {}
        for name, rendered in subject.renderings.items():
            written = _written(_pieces(suite, subject, name), rendered, tokenizer, subject.record_id)
            if isinstance(written, str):
                gaps.append(Gap(subject.record_id, name, "", written))
            else:
                renderings[name] = written
        if subject.canonical in renderings:
            subjects.append(replace(subject, renderings=renderings))
    return (
        replace(context, subjects=tuple(subjects), tokenizer=tokenizer, counts=lambda: _counts(corpus, tokenizer)),
        gaps,
    )


def _pieces(suite: Suite, subject: Subject, rendering: str) -> Pieces:
    """The pieces of a rendering; a numbered one, and one that its kind writes in another way by now, is one piece."""
    text = subject.renderings[rendering].text
    if "/" not in rendering:
        design = suite.perturbations[subject.perturbation]
        kind = load_kind(design.kind, place=f"[perturbation.{design.name}] kind")
        pieces = pieces_of(subject.fields, rendering, design, kind, subject.record_id)
        if text_of(pieces) == text:
            return pieces
    return [(text, None)]


def _written(pieces: Pieces, rendered: Rendered, tokenizer: Tokenizer, place: str) -> Rendered | str:
    """A text in another tokenizer, or why it has none of it: it comes back changed, or a secret's symbols share tokens."""
    try:
        ids = tokenizer.encode_record(rendered.text, place)
        spans = first_spans(token_spans(pieces, tokenizer, place))
    except CostarError as error:
        return error.found
    return replace(rendered, ids=tuple(ids), spans=spans)


def _counts(corpus: Path, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """How often each id occurs in the beginning of the base."""
    found = np.zeros(tokenizer.vocab_size, np.int64)
    part: list[str] = []
    for text in texts_of(corpus, "base"):
        part.append(text)
        if len(part) == AT_ONCE:
            found += _counted(part, tokenizer)
            part = []
            if found.sum() >= COUNTED:
                return found
    return found + _counted(part, tokenizer)


def _counted(texts: list[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    ids, _ = tokenizer.encode_documents(texts)
    return np.bincount(ids, minlength=tokenizer.vocab_size)[: tokenizer.vocab_size]
