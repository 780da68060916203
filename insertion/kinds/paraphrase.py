"""Paraphrase pairs: one sentence of a pair may be inserted, the other is its foil, never inserted. The risk is copyright.

Which of the two is inserted is drawn by a hash of the pair, or given as `random_bit` (1: the second), as Hubble stores it.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces

RISK = "copyright"
FIELDS = ("sentence1", "sentence2")
RENDERINGS = ("sentence", "foil")
PROSE = ("sentence1", "sentence2")


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    return None


def check(fields: Fields, place: str) -> dict[str, Any]:
    """The pair with `random_bit` settled; a `label` must say that the two are paraphrases."""
    pair = [fields[name] for name in FIELDS]
    if not all(isinstance(sentence, str) for sentence in pair) or pair[0].split() == pair[1].split():
        raise CostarError(place, found=shorten(pair), expected="two sentences that differ", mend="correct the record")
    if str(fields.get("label", 1)) not in ("1", "True"):
        raise CostarError(
            f"{place}, label",
            found=shorten(repr(fields["label"])),
            expected="1, a pair of paraphrases",
            mend="take paraphrases only: records = { …, where = { label = 1 } }",
        )
    bit = fields.get("random_bit", keyed_hash("paraphrase", *pair) & 1)
    if bit not in (0, 1):
        raise CostarError(f"{place}, random_bit", found=shorten(repr(bit)), expected="0 or 1", mend="correct it")
    return dict(fields) | {"random_bit": int(bit)}


def render(fields: Fields, rendering: str) -> Pieces:
    chosen = fields["random_bit"] if rendering == "sentence" else 1 - fields["random_bit"]
    return [(fields[FIELDS[chosen]], None)]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
