"""The pad token of an export: an id that no text has, so that batches can be padded without touching a token's meaning.

Trainers that mask what is padded would mask the end of every text too, were the pad token EOS. An export takes, in this
order, the tokenizer's own pad token; the first of the ids that a model has beyond the tokenizer's; or the id of a byte that
UTF-8 never uses. Weights stay as they are in any case: one more row would take part in every softmax.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.workspace import write_text

KNOWN = ("<|pad|>", "<|padding|>", "<pad>", "[PAD]")
UNUSED = (*range(0xFF, 0xF4, -1), 0xC1, 0xC0)  # bytes that stand in no valid text


@dataclass(frozen=True, kw_only=True)
class PadToken:
    """A token and its id; that of EOS where a vocabulary leaves nothing else."""

    token: str
    id: int


def write_tokenizer(source: Path, target: Path, *, eos: str, eos_id: int, vocabulary: int, rows: int) -> PadToken:
    """Copy a `tokenizer.json` of `vocabulary` ids for a model of `rows` ids, with a pad token; which one that is.

    Every text has the same ids as before, but for one that spells the pad token out.
    """
    text = source.read_text(encoding="utf-8")
    raw = json.loads(text)
    pad = _own(raw, eos_id, rows) or _free(raw, vocabulary, rows) or _byte(raw)
    if pad is None:
        write_text(target, text)
        return PadToken(token=eos, id=eos_id)
    if all(each["content"] != pad.token for each in raw["added_tokens"]):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        raw["added_tokens"] = sorted(
            [*raw["added_tokens"], {"id": pad.id, "content": pad.token, **flags, "special": True}],
            key=lambda each: int(each["id"]),
        )
    write_text(target, json.dumps(raw, ensure_ascii=False, indent=1) + "\n")
    return pad


def _own(raw: dict[str, Any], eos_id: int, rows: int) -> PadToken | None:
    """The pad token that a tokenizer brings."""
    for each in raw["added_tokens"]:
        if each["special"] and each["content"] in KNOWN and each["id"] != eos_id and each["id"] < rows:
            return PadToken(token=each["content"], id=each["id"])
    return None


def _free(raw: dict[str, Any], vocabulary: int, rows: int) -> PadToken | None:
    """The first id behind the tokenizer's own, under a name that no token has."""
    vocab = raw["model"]["vocab"]
    if not isinstance(vocab, dict):
        return None
    used = {*vocab.values(), *(each["id"] for each in raw["added_tokens"])}
    free = next((number for number in range(vocabulary, rows) if number not in used), None)
    name = _unused_name(raw)
    if free is None or name is None:
        return None
    vocab[name] = free  # there too, so that the id is this one whatever else is added
    return PadToken(token=name, id=free)


def _byte(raw: dict[str, Any]) -> PadToken | None:
    """The id of a byte that no text has, where each byte has an id of its own and no longer token holds it."""
    model = raw["model"]
    vocab = model["vocab"]
    if not isinstance(vocab, dict) or (name := _unused_name(raw)) is None or model.get("type") != "BPE":
        return None
    if model.get("byte_fallback"):
        signs = [f"<0x{byte:02X}>" for byte in UNUSED]
    elif (raw.get("decoder") or {}).get("type") == "ByteLevel":
        signs = [chr(byte) for byte in UNUSED]  # the sign that byte-level vocabularies give these bytes
    else:
        return None
    for sign in signs:
        if sign in vocab and not any(sign in token for token in vocab if token != sign):
            number = vocab[sign]
            raw["model"]["vocab"] = {name if token == sign else token: value for token, value in vocab.items()}
            return PadToken(token=name, id=number)
    return None


def _unused_name(raw: dict[str, Any]) -> str | None:
    taken = {*raw["model"]["vocab"], *(each["content"] for each in raw["added_tokens"])}
    return next((name for name in KNOWN if name not in taken), None)
