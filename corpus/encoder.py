"""A faster encoder for byte-level BPE: the rules of a `tokenizer.json` given to tiktoken, ids as numpy arrays.

What is not fully understood gives no encoder but a reason. An encoder is used only after `encoder_proof` compared it with
`tokenizers`, which stays the truth.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tiktoken import Encoding
from tokenizers import normalizers

Ids = NDArray[np.int32]

# The same splits as GPT-2's pattern, which `tokenizers` uses, in the order and form that are fastest to match.
LETTERS = r" ?\p{L}++|'(?:[sdmt]|ll|ve|re)"
OTHERS = r" ?[^\s\p{L}\p{N}]++"
PLAIN = rf"{LETTERS}| ?\p{{N}}++|{OTHERS}|\s++\z|\s+(?!\S)|\s"
# A number is a piece of its own, so whitespace ends before it as it ends before the end of the text.
BEFORE_NUMBER = r"\s++(?![^\s\p{N}])|\s+(?!\S)|\s"
DIGIT = rf"{LETTERS}|\p{{N}}|{OTHERS}|{BEFORE_NUMBER}"
NUMBER = rf"{LETTERS}|\p{{N}}++|{OTHERS}|{BEFORE_NUMBER}"

# Without a special token, tiktoken looks for the empty one at every byte. This one is in no text that is encoded as it.
NEVER = "\U0010fffe\U0010ffff\U0010fffe"

NORMALIZERS = {"NFC": normalizers.NFC, "NFD": normalizers.NFD, "NFKC": normalizers.NFKC, "NFKD": normalizers.NFKD}
NOT_PLAIN_NFC = "[^\x00-\u02ff\u2010-\u2027\u2030-\u203a]"

# Planes and blocks above U+FFFF that are old, and common enough to matter: emoji, letters of mathematics, Chinese.
OLD_BLOCKS = ((0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x2A6E0))

# The parts of a regular expression that mean the same to `tokenizers` (Oniguruma) and tiktoken (fancy-regex).
ESCAPE = r"\\(?:[pP]\{[A-Z][a-z]?\}|[sSrnt]|[-/.*+?|()\[\]{}^$\\])"
CLASS = rf"\[\^?(?:{ESCAPE}|-(?!-)|[^-\[\]\\&~^])+\]"
GROUP = r"\((?:\?(?:i?:|[=!])|(?!\?))|\)|\|"
COUNT = r"[?*+]|\{\d+(?:,\d*)?\}(?![?*+])"
KNOWN_PATTERN = rf"(?:{ESCAPE}|{CLASS}|{GROUP}|{COUNT}|[^\[\]{{}}()\\.^$?*+|#])*"


class Unsupported(Exception):
    """Why a tokenizer has no fast encoder."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """Tokens found in the text before anything else. Special ones stay text, but hide others that they overlap."""

    pattern: re.Pattern[str]
    ids: Mapping[str, int]  # without the special tokens
    shortest: tuple[str, ...]  # a text with none of these holds no token

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The parts of a text in order, and the id of those that are tokens."""
        begin = 0
        if any(token in text for token in self.shortest):
            for match in self.pattern.finditer(text):
                token = self.ids.get(match.group())
                if token is not None:
                    if begin < match.start():
                        yield text[begin : match.start()], None
                    yield match.group(), token
                    begin = match.end()
        if begin < len(text):
            yield text[begin:], None


@dataclass(frozen=True, kw_only=True)
class FastEncoder:
    """Texts to ids by tiktoken. `table` gives the id of a rank; `added` are looked for before and after `normalizer`."""

    encoding: Encoding
    table: Ids
    added: tuple[Added | None, Added | None]
    normalizer: Any
    inert: re.Pattern[str] | None  # finds nothing in texts that the normalizer leaves alone; None: only ASCII is sure
    uncertain: re.Pattern[str]

    def encode(self, text: str) -> Ids | None:
        """Ids of a text, int32; None for texts to be left to `tokenizers`.

        These are texts with new or rare characters, and what tiktoken gives up on, such as 100,000 spaces.
        """
        if not text.isascii() and self.uncertain.search(text):
            return None
        try:
            if self.normalizer is None and self.added == (None, None):
                return self._ids(text)
            parts = list(self._parts(text))
        except Exception:  # tiktoken's own kinds of error are not part of its interface
            return None
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _ids(self, text: str) -> Ids:
        return self.table[self.encoding.encode_to_numpy(text, disallowed_special=())]

    def _parts(self, text: str) -> Iterator[Ids]:
        for part, token in _split(text, self.added[0]):
            if token is not None:
                yield np.array([token], np.int32)
                continue
            for inner, added in _split(self._normalized(part), self.added[1]):
                yield self._ids(inner) if added is None else np.array([added], np.int32)

    def _normalized(self, text: str) -> str:
        if self.normalizer is None or text.isascii() or (self.inert and not self.inert.search(text)):
            return text
        # Python's own tables are of another Unicode version.
        return str(self.normalizer.normalize_str(text))


def derive_encoder(description: str | bytes) -> FastEncoder | str:
    """The fast encoder of a tokenizer.json (its text), or why there is none. It is not proved yet."""
    try:
        return _derive(orjson.loads(description))
    except Unsupported as reason:
        return str(reason)


def _derive(raw: dict[str, Any]) -> FastEncoder:
    model = raw["model"]
    _check_model(model)
    ranks = merge_ranks(model)
    vocabulary: dict[str, int] = model["vocab"]
    try:
        characters = {byte: character for character, byte in byte_characters().items()}
        table = [vocabulary["".join(characters[b] for b in token)] for token in list(ranks)[:256]]
    except KeyError as error:
        raise Unsupported(f"its vocabulary lacks the byte {error}") from None
    table += [vocabulary[token] for token in dict.fromkeys(_merged(model))]
    if model.get("ignore_merges") and len(ranks) < len(vocabulary):
        raise Unsupported("it ignores merges and has tokens without merges")
    kind = (raw.get("normalizer") or {}).get("type")
    if kind is not None and kind not in NORMALIZERS:
        raise Unsupported(f"the normalizer {kind}")
    normalizer = NORMALIZERS[kind]() if kind else None
    tokens = raw.get("added_tokens") or []
    pattern = _pattern(raw.get("pre_tokenizer") or {})
    try:
        encoding = Encoding("costar", pat_str=pattern, mergeable_ranks=ranks, special_tokens={NEVER: len(ranks)})
    except ValueError as error:
        raise Unsupported(f"tiktoken refuses its rules: {' '.join(str(error).split())}") from None
    return FastEncoder(
        encoding=encoding,
        table=np.array(table, np.int32),
        added=(
            _added([t for t in tokens if not t["normalized"]], None),
            _added([t for t in tokens if t["normalized"]], normalizer),
        ),
        normalizer=normalizer,
        inert=re.compile(NOT_PLAIN_NFC) if kind == "NFC" else None,
        uncertain=uncertain_characters(),
    )


def uncertain_characters() -> re.Pattern[str]:
    """Finds characters of which two libraries may think differently: their Unicode tables are of different years.

    These are the characters below U+10000 that Python's table lacks, and most of those above.
    """
    unknown = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Cn"]
    borders = [0x10000, *(border for block in OLD_BLOCKS for border in block), sys.maxunicode + 1]
    above = [f"{chr(a)}-{chr(b - 1)}" for a, b in zip(borders[::2], borders[1::2])]
    return re.compile("[" + "".join(map(re.escape, map(chr, unknown))) + "".join(above) + "]")


def byte_characters() -> dict[str, int]:
    """The 256 characters that stand for bytes in a byte-level vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def merge_pairs(model: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """The merges of a BPE model in order, written as two strings or as one with a space."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(a, b) for a, b in pairs]


def _merged(model: dict[str, Any]) -> list[str]:
    return ["".join(pair) for pair in merge_pairs(model)]


def merge_ranks(model: dict[str, Any]) -> dict[bytes, int]:
    """Bytes of every token that merging can make, in the order of merging: first the 256 single bytes."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    characters = byte_characters()
    table = dict.fromkeys(range(256), "\uffff") | {ord(c): chr(byte) for c, byte in characters.items()}
    last = ""
    for token in _merged(model):
        if token == last:
            continue
        last = token
        try:
            content = token.translate(table).encode("latin-1")
        except UnicodeEncodeError:
            raise Unsupported(f"the token {token!r} is not in byte-level characters") from None
        if content in ranks:
            raise Unsupported(f"its merges make {token!r} at two places")
        ranks[content] = len(ranks)
    return ranks


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise Unsupported(f"the model {model.get('type')}, not BPE")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise Unsupported(f"the model's {option} {model[option]!r}")


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """A regular expression whose matches are the pieces that merging stays in."""
    sequence = pre_tokenizer.get("type") == "Sequence"
    steps: list[dict[str, Any]] = pre_tokenizer["pretokenizers"] if sequence else [pre_tokenizer]
    names = [str(step.get("type")) for step in steps]
    if not names or names[-1] != "ByteLevel" or names[:-1] not in ([], ["Digits"], ["Split"]):
        raise Unsupported(f"the pre-tokenizer {' + '.join(names) or 'without steps'}")
    level = steps[-1]
    if level["add_prefix_space"]:
        raise Unsupported("ByteLevel with add_prefix_space")
    if level.get("use_regex", True) == (names[0] == "Split"):
        raise Unsupported(f"{' + '.join(names)} with use_regex = {level.get('use_regex', True)}")
    if names[0] == "ByteLevel":
        return PLAIN
    if names[0] == "Digits":
        return DIGIT if steps[0]["individual_digits"] else NUMBER
    return _split_pattern(steps[0])


def _split_pattern(split: dict[str, Any]) -> str:
    pattern = split["pattern"].get("Regex")
    if pattern is None or not re.fullmatch(KNOWN_PATTERN, pattern):
        raise Unsupported(f"a split at {split['pattern']}")
    way = (split["behavior"], bool(split["invert"]))
    if way == ("Removed", True):
        return str(pattern)
    if way == ("Isolated", False):
        return f"(?:{pattern})|(?:(?!{pattern})(?s:.))+"
    raise Unsupported(f"a split of behavior {split['behavior']}, invert = {split['invert']}")


def _added(tokens: Sequence[dict[str, Any]], normalizer: Any) -> Added | None:
    """What to look for, leftmost and longest first; None where no token would be found."""
    ids: dict[str, int] = {}
    contents: set[str] = set()
    for token in tokens:
        content = token["content"] if normalizer is None else normalizer.normalize_str(token["content"])
        contents.add(content)
        if token["special"]:
            continue
        if token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise Unsupported(f"the added token {token['content']!r} takes in, or depends on, what is around it")
        ids[content] = token["id"]
    if not ids:
        return None
    if len(contents) != len(tokens):
        raise Unsupported("two added tokens have the same text")
    ordered = sorted(contents, key=lambda content: (-len(content), content))
    shortest = tuple(a for a in ids if not any(b in a for b in ids if b != a))
    return Added(pattern=re.compile("|".join(map(re.escape, ordered))), ids=ids, shortest=shortest)


def _split(text: str, added: Added | None) -> Iterator[tuple[str, int | None]]:
    if added is not None:
        yield from added.split(text)
    elif text:
        yield text, None
