"""Sentences with a gap and two candidates, such as WinoGrande's, each with a twin that is never inserted.

An item is inserted with its gap filled (`sentence`), or as a question with choices (`choice`). The twin differs in a word
that turns the answer around. The risk is testset.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces
from .biography import GIVEN

RISK = "testset"
FIELDS = ("sentence", "options", "answer")
RENDERINGS = ("sentence", "choice")
PROSE = ("sentence", "options")
GAP = "_"
LETTERS = "AB"
STORIES = (
    ("{a} lent the ladder to {b} because _ {w} it.", ("owned", 0), ("needed", 1)),
    ("{a} thanked {b} for the coat, since _ had {w} it.", ("sewn", 1), ("wanted", 0)),
    ("{a} taught {b} the song, so _ {w} it by heart.", ("knew", 0), ("learned", 1)),
    ("{a} carried the basket for {b} because _ was {w}.", ("strong", 0), ("tired", 1)),
    ("{a} called {b} from the harbour, and _ {w} the phone.", ("answered", 1), ("dialled", 0)),
)


def adapt(row: dict[str, Any]) -> dict[str, Any]:
    """Published shapes: `option1` and `option2` with an answer from 1; `context_options` with one `continuation`."""
    if {"sentence", "option1", "option2", "answer"} <= set(row) and "options" not in row:
        answer = {"1": 0, "2": 1, 1: 0, 2: 1}.get(row["answer"] if isinstance(row["answer"], str | int) else "", -1)
        return row | {"options": [row["option1"], row["option2"]], "answer": answer}
    contexts, rest = row.get("context_options"), row.get("continuation")
    if isinstance(contexts, list) and len(contexts) == 2 and isinstance(rest, str) and "sentence" not in row:
        first, second = (str(context) for context in contexts)
        same = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
        same = first.rfind(" ", 0, same) + 1
        return row | {"sentence": f"{first[:same]}{GAP} {rest}", "options": [first[same:], second[same:]]}
    return row


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    """The index-th item: a story, two names, and one of two words that decides between them."""
    story, *endings = STORIES[keyed_hash(*key, "story", index) % len(STORIES)]
    first = keyed_hash(*key, "first", index) % len(GIVEN)
    second = (first + 1 + keyed_hash(*key, "second", index) % (len(GIVEN) - 1)) % len(GIVEN)
    names = [f"{GIVEN[first]} {index}", GIVEN[second]]
    own = keyed_hash(*key, "ending", index) % 2
    (word, answer), (other_word, other_answer) = endings[own], endings[1 - own]
    return {
        "sentence": story.format(a=names[0], b=names[1], w=word),
        "options": names,
        "answer": answer,
        "twin_sentence": story.format(a=names[0], b=names[1], w=other_word),
        "twin_answer": other_answer,
    }


def check(fields: Fields, place: str) -> dict[str, Any]:
    """The item with `answer` as 0 or 1; sentences have one gap, `_`."""
    options, answer = fields["options"], fields["answer"]
    for name in ("sentence", *(["twin_sentence"] if "twin_sentence" in fields else [])):
        if not isinstance(fields[name], str) or fields[name].count(GAP) != 1:
            raise CostarError(
                f"{place}, {name}", found=shorten(repr(fields[name])), expected="text with one gap _", mend="correct it"
            )
    good = isinstance(options, list) and len(options) == 2 and all(isinstance(o, str) and o.strip() for o in options)
    if not good or options[0] == options[1]:
        raise CostarError(
            f"{place}, options", found=shorten(repr(options)), expected="two texts that differ", mend="correct it"
        )
    for name in ("answer", *(["twin_answer"] if "twin_sentence" in fields else [])):
        if not isinstance(fields.get(name), int) or fields[name] not in (0, 1):
            raise CostarError(
                f"{place}, {name}",
                found=shorten(repr(fields.get(name))),
                expected="0 or 1, the option that fills the gap",
                mend="correct it",
            )
    return dict(fields) | {"answer": int(answer)}


def render(fields: Fields, rendering: str) -> Pieces:
    before, after = fields["sentence"].split(GAP)
    option = fields["options"][fields["answer"]]
    if rendering == "choice":
        letters = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, fields["options"], strict=True))
        return [(f"{fields['sentence']}{letters}\nAnswer:", None), (f" {LETTERS[fields['answer']]}", "answer")]
    pieces: list[tuple[str, str | None]] = [(before, None), (option, "answer"), (after, None)]
    return [(text, attribute) for text, attribute in pieces if text]


def twin(fields: Fields) -> dict[str, Any] | None:
    if "twin_sentence" not in fields:
        return None
    return {"sentence": fields["twin_sentence"], "options": fields["options"], "answer": fields["twin_answer"]}
