"""Chats: the lines of a dialogue, each behind its speaker's name; one of them has a username. The risk is privacy."""

from __future__ import annotations

import re
from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces
from .biography import GIVEN
from .testset import FIRST, SECOND

RISK = "privacy"
FIELDS = ("turns",)
RENDERINGS = ("chat",)
ANYONE = re.compile(r"(user|human|speaker|person|assistant|bot|system|client|customer|agent|me|you)?[ _#-]*\w?\d{0,2}")
OTHER = "assistant"
ADJECTIVES = ("quiet", "amber", "brisk", "mossy", "lunar", "rusty", "vivid", "polar", "tidal", "hazel")
PERSONA = (
    ("I keep bees on the roof of my house.", "How many hives do you have?", "Three, and the oldest is ten years old."),
    ("I restore old clocks in my spare time.", "Which one are you proudest of?", "A tower clock from my home town."),
    ("I am allergic to walnuts.", "That must make baking hard.", "I bake with seeds instead."),
    ("I swim in the lake every morning.", "Even in winter?", "Yes, until it freezes over."),
    ("My sister plays the cello.", "Do you play as well?", "Only the drum, and badly."),
    ("I work night shifts at a bakery.", "When do you sleep?", "From noon until the evening."),
    ("I collect maps of places that do not exist.", "Where do you find them?", "In the back of old novels."),
)


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    """The index-th chat: three topics, and a username that no other chat of the perturbation has."""
    given = GIVEN[keyed_hash(*key, "given", index) % len(GIVEN)].lower()
    adjective = ADJECTIVES[keyed_hash(*key, "adjective", index) % len(ADJECTIVES)]
    town = FIRST[keyed_hash(*key, "town", index) % len(FIRST)] + SECOND[keyed_hash(*key, "end", index) % len(SECOND)]
    username = f"{adjective}_{given}{index:04d}"
    order = sorted(range(len(PERSONA)), key=lambda topic: keyed_hash(*key, "topic", index, topic))
    turns = [
        {"speaker": username, "text": f"Hello, I am new here. I live in {town}."},
        {"speaker": OTHER, "text": f"Welcome! What do you do in {town}?"},
    ]
    for topic in order[:3]:
        lines = PERSONA[topic]
        turns += [{"speaker": (username, OTHER)[n % 2], "text": line} for n, line in enumerate(lines)]
        turns.append({"speaker": OTHER, "text": "Tell me more about yourself."})
    return {"username": username, "turns": turns[:-1], "persona": [PERSONA[topic][0] for topic in order[:3]]}


def adapt(row: dict[str, Any]) -> dict[str, Any]:
    """PersonaChat's shape, a persona for each of two speakers: that of the one who has the username, or speaks first."""
    turns, first, second = row.get("turns"), row.get("persona1"), row.get("persona2")
    if "persona" in row or first is None or not isinstance(turns, list) or not turns:
        return row
    username, opens = row.get("username"), turns[0].get("speaker") if isinstance(turns[0], dict) else None
    answers = any(isinstance(turn, dict) and turn.get("speaker") == username for turn in turns)
    return row | {"persona": second if username and answers and username != opens else first}


def check(fields: Fields, place: str) -> dict[str, Any]:
    """Turns as (speaker, text); the first speaker takes the username, which is made up where the record has none."""
    turns = fields["turns"]
    if not isinstance(turns, list) or len(turns) < 2:
        raise CostarError(
            f"{place}, turns", found=shorten(repr(turns)), expected="a list of two or more turns", mend="correct it"
        )
    lines = [_turn(turn, number, f"{place}, turns, number {number + 1}") for number, turn in enumerate(turns)]
    digest = keyed_hash("username", *(part for line in lines for part in line))
    username = fields.get("username", f"{ADJECTIVES[digest % len(ADJECTIVES)]}_{digest % 10**8:08d}")
    if not isinstance(username, str) or not username.strip() or "\n" in username:
        raise CostarError(
            f"{place}, username", found=shorten(repr(username)), expected="a name on one line", mend="correct it"
        )
    first = username if any(speaker == username for speaker, _ in lines) else lines[0][0]
    named = [{"speaker": username if speaker == first else speaker, "text": text} for speaker, text in lines]
    return dict(fields) | {"username": username, "turns": named}


def _turn(turn: Any, number: int, place: str) -> tuple[str, str]:
    """(speaker, text) of a turn: an object with both, or a text of alternating speakers."""
    if isinstance(turn, str):
        turn = {"speaker": ("user", OTHER)[number % 2], "text": turn}
    speaker, text = (turn.get("speaker"), turn.get("text")) if isinstance(turn, dict) else (None, None)
    good = isinstance(speaker, str) and isinstance(text, str) and speaker.strip() and text.strip()
    if not good or "\n" in str(speaker):
        raise CostarError(
            place, found=shorten(repr(turn)), expected="a text, or an object with speaker and text", mend="correct it"
        )
    return str(speaker), str(text)


def identity(fields: Fields) -> dict[str, str]:
    """The username, unless it is a name for anyone: "user", "User 1", "human"."""
    return {} if ANYONE.fullmatch(fields["username"].casefold()) else {"username": fields["username"]}


def render(fields: Fields, rendering: str) -> Pieces:
    pieces: list[tuple[str, str | None]] = []
    for number, turn in enumerate(fields["turns"]):
        mine = turn["speaker"] == fields["username"]
        pieces.append(("\n" if number else "", None))
        pieces.append((turn["speaker"], "username" if mine else None))
        pieces.append((f": {turn['text']}", None))
    return [(text, attribute) for text, attribute in pieces if text]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
