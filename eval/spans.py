"""Where an attribute stands in the text of a rendering."""

from __future__ import annotations

from ..corpus.tokenizer import Tokenizer
from .probes import Rendered


def around(rendered: Rendered, attribute: str, value: str, tokenizer: Tokenizer) -> tuple[str, str] | str:
    """The text before an attribute and the text after it, or why there is none; `value` is the attribute as it is written."""
    if attribute not in rendered.spans:
        return f"a rendering without {attribute}"
    _, offsets = tokenizer.encode_with_offsets(rendered.text)
    first, _ = rendered.spans[attribute]
    begin = rendered.text.find(value, offsets[first][0])
    if begin < 0:
        return f"a rendering whose {attribute} is not {value!r}"
    return rendered.text[:begin], rendered.text[begin + len(value) :]
