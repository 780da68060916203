"""Passages cut from held-out documents do not stand in the base, not even nearly."""

from __future__ import annotations

import random
import re

from costar.insertion.kinds.passage import from_corpus


class Pieces:
    """A tokenizer of words with the space before them."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = list(re.finditer(r"\s*\S+", text))
        return [self.known.setdefault(m.group(), len(self.known)) for m in found], [m.span() for m in found]

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def decode(self, ids: list[int]) -> str:
        return "".join(list(self.known)[number] for number in ids)


def test_a_passage_that_the_base_holds_with_some_words_changed_is_passed_over() -> None:
    chance = random.Random(1)
    names = [
        f"{a}{b}{c}" for a in ("ka", "lo", "mi", "su") for b in ("ren", "tol", "vak", "dis") for c in ("a", "os", "um")
    ]
    documents = [(f"d{n}", " ".join(chance.choice(names) for _ in range(30))) for n in range(6)]

    def chosen(base: list[str], count: int) -> set[str]:
        found = from_corpus(
            documents, base, Pieces(), tokens=30, count=count, key=(1, "p"), used=set(), place="[perturbation.p]"
        )
        return {doc_id for doc_id, _ in found}

    near = documents[2][1].split()
    near[5::9] = ["otter"] * len(near[5::9])
    assert chosen(["nothing of it"], 6) == {f"d{n}" for n in range(6)}
    assert "d2" not in chosen(["nothing of it", "He said: " + " ".join(near)], 5)
