"""Where attributes stand in a rendering, in its tokens and in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..corpus.tokenizer import Tokenizer
from .probes import Rendered, Span


def first_spans(spans: Sequence[Mapping[str, Any]]) -> dict[str, Span]:
    """The first place of each attribute, in tokens: a text may say one again."""
    return {span["attribute"]: (span["start"], span["end"]) for span in reversed(spans)}


def split_at_attribute(rendered: Rendered, attribute: str, value: str, tokenizer: Tokenizer) -> tuple[str, str] | str:
    """The text before an attribute and the text after it, or why there is none; `value` is the attribute as it is written."""
    if attribute not in rendered.spans:
        return f"a rendering without {attribute}"
    _, offsets = tokenizer.encode_with_offsets(rendered.text)
    first, _ = rendered.spans[attribute]
    begin = rendered.text.find(value, offsets[first][0])
    if begin < 0:
        return f"a rendering whose {attribute} is not {value!r}"
    return rendered.text[:begin], rendered.text[begin + len(value) :]
