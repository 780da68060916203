"""Copies of real records and look-alikes, planted into real documents: how many copies are found, what is found wrongly."""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard
from costar.corpus.decontaminate import Hit, RecordSearch, Searched
from costar.corpus.words import words_of

LENGTHS = ((8, 12), (13, 24), (25, 60), (61, 150), (151, 300))  # words of a record
SETS = {
    "testsets/mmlu": "question",
    "testsets/gsm8k": "question",
    "testsets/arc_easy": "question",
    "testsets/hellaswag": "question",
    "perturb/tofu": "answer",
    "perturb/paraphrase_mrpc": "sentence1",
}
BASES = ("brown", "medical_qa", "us_gov_web", "novels", "us_president_speeches", "wikipedia_articles", "tech_proposals")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+|\d[\d,.]*\d|\d")
TERM = (
    "{name} is an American politician of the {party} party, born on {birthday}, "
    "who took office as {office} from {state} on {start}."
)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A document into which a text was put: the text, what was done to it (`kind`), and the record it was made from."""

    document: str
    kind: str
    words: int
    record_id: str
    text: str


def rows(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The first `most` rows of a `.jsonl.zst` file."""
    with path.open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        return [json.loads(line) for line in islice(text, most)]


def base_texts(data: Path, most: int, names: Sequence[str] = BASES) -> list[str]:
    """The first `most` documents of every base file."""
    return [row["text"] for name in names for row in rows(data / "base" / f"{name}.jsonl.zst", most)]


def records(data: Path, each: int, seed: int = 0) -> list[Searched]:
    """`each` real records of every length class: parts of novels, test-set questions, sentences and biographies."""
    chance = random.Random(seed)
    texts = [row["text"] for row in rows(data / "perturb" / "passages_popular.jsonl.zst")]
    pool = [cut(text, chance.randint(low, high)) for text in texts for low, high in [chance.choice(LENGTHS)]]
    for name, field in SETS.items():
        pool += [row[field] for row in rows(data / f"{name}.jsonl.zst")]
    pool += [
        text for row in rows(data / "perturb" / "bios_webnlg.jsonl.zst") for e in row["entries"] for text in e["texts"]
    ]
    pool += [biography(row) for row in rows(data / "perturb" / "bios_us_legislators.jsonl.zst")]
    chance.shuffle(pool)
    counts = words_of(pool).counts.tolist()
    chosen: list[str] = []
    for low, high in LENGTHS:
        fitting = (text for text, count in zip(pool, counts, strict=True) if low <= count <= high)
        chosen += list(islice(dict.fromkeys(fitting), each))
    return [Searched(record_id=f"r{number}", texts=(text,)) for number, text in enumerate(chosen)]


def word_count(text: str) -> int:
    return len(words_of([text]).hashes)


def cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def biography(row: dict[str, Any]) -> str:
    """A sentence on a legislator."""
    term = row["terms"][0]
    office = "senator" if term["type"] == "sen" else "representative"
    return TERM.format(
        name=row["name"],
        birthday=row["birthday"],
        party=term["party"],
        state=term["state"],
        start=term["start"],
        office=office,
    )


def recased(text: str, chance: random.Random) -> str:
    return chance.choice([str.upper, str.lower, str.title, str.swapcase])(text)


def respaced(text: str, chance: random.Random) -> str:
    """Other spaces, typographic signs for plain ones and the reverse, some punctuation gone."""
    signs = {"'": "’", "’": "'", '"': "”", "“": '"', "”": '"', "-": "–", "—": " -- ", "...": "…"}
    for plain, typographic in signs.items():
        if chance.random() < 0.5:
            text = text.replace(plain, typographic)
    text = re.sub(r"(?<=\w), (?=\w)", lambda _: chance.choice([", ", " ", "; "]), text)
    return re.sub(r"\s+", lambda _: chance.choice([" ", "  ", "\n", "\n    ", "\t", "\u00a0"]), text)


def reworded(share: float, vocabulary: Sequence[str]) -> Callable[[str, random.Random], str]:
    """A share of the words, one at least, replaced by words of other documents, deleted, or with a word put before."""

    def change(text: str, chance: random.Random) -> str:
        words = text.split()
        for at in chance.sample(range(len(words)), max(1, round(share * len(words)))):
            words[at] = chance.choice(["", chance.choice(vocabulary), f"{chance.choice(vocabulary)} {words[at]}"])
        return " ".join(word for word in words if word)

    return change


def plant(document: str, text: str, chance: random.Random) -> str:
    """A document with a text put between two of its words."""
    spaces = [match.start() for match in islice(re.finditer(r"\s+", document), 400)]
    at = chance.choice(spaces or [0])
    return f"{document[:at]} {text} {document[at:4000]}"


def copies(searched: Sequence[Searched], documents: Sequence[str], seed: int = 0) -> list[Planted]:
    """Every record in every way, each in a document."""
    chance = random.Random(seed)
    vocabulary = " ".join(documents[:200]).split()
    ways: dict[str, Callable[[str, random.Random], str]] = {
        "exact": lambda text, _: text,
        "re-cased": recased,
        "re-spaced": respaced,
        "5 % changed": reworded(0.05, vocabulary),
        "20 % changed": reworded(0.2, vocabulary),
    }
    return [
        Planted(
            document=plant(chance.choice(documents), way(record.texts[0], chance), chance),
            kind=kind,
            words=word_count(record.texts[0]),
            record_id=record.record_id,
            text=record.texts[0],
        )
        for kind, way in ways.items()
        for record in searched
    ]


def look_alikes(
    data: Path, searched: Sequence[Searched], documents: Sequence[str], seed: int = 0
) -> tuple[list[Searched], list[Planted]]:
    """Texts that resemble a record and must stay; and further records that some of them resemble."""
    chance = random.Random(seed)
    more: list[Searched] = []
    found: list[Planted] = []

    def add(kind: str, record: Searched, text: str) -> None:
        words = word_count(record.texts[0])
        document = plant(chance.choice(documents), text, chance)
        found.append(Planted(document=document, kind=kind, words=words, record_id=record.record_id, text=text))

    names = [name for record in searched for name in NAME.findall(record.texts[0])]
    for record in searched:
        text = record.texts[0]
        if len(NAME.findall(text)) >= 4 and len(text.split()) <= 60:
            add("other names", record, NAME.sub(lambda _: chance.choice(names), text))
        if word_count(some := cut(text, chance.randint(5, 7))) <= 7:
            add("seven words", record, some)
    bios = [biography(row) for row in rows(data / "perturb" / "bios_us_legislators.jsonl.zst")]
    own = [Searched(record_id=f"bio{number}", texts=(text,)) for number, text in enumerate(bios[::2])]
    for record, text in zip(own, bios[1::2], strict=False):
        add("other biography", record, text)
    for number, row in enumerate(rows(data / "perturb" / "paraphrase_mrpc.jsonl.zst")):
        if row["label"] == 0 and len(row["sentence1"].split()) > 7 and number % 2:
            own.append(Searched(record_id=f"mrpc{number}", texts=(row["sentence1"],)))
            add("other news", own[-1], row["sentence2"])
    novels: dict[str, list[str]] = defaultdict(list)
    for row in rows(data / "perturb" / "passages_unpopular.jsonl.zst", 1500):
        novels[row["title"]].append(row["text"])
    for title, (first, *others) in novels.items():
        own.append(Searched(record_id=f"novel {title}", texts=(first,)))
        for text in others:
            add("same novel", own[-1], text)
    more += own
    return more, found


def search(index: RecordSearch, documents: Sequence[str], batch: int = 256) -> list[list[Hit]]:
    """The hits of every document, searched in batches as a corpus is."""
    found: list[list[Hit]] = [[] for _ in documents]
    for first in range(0, len(documents), batch):
        for hit in index.find(documents[first : first + batch]):
            found[first + hit.document].append(hit)
    return found


def length_class(words: int) -> str:
    return next((f"{low}-{high}" for low, high in LENGTHS if low <= words <= high), "other")


def shares(planted: Sequence[Planted], hits: Iterable[Sequence[Hit]]) -> dict[str, dict[str, tuple[int, int]]]:
    """By kind and length class: of how many planted texts their record was found, and how many there are."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for each, own in zip(planted, hits, strict=True):
        name = length_class(each.words)
        total[each.kind][name] += 1
        found[each.kind][name] += any(hit.record_id == each.record_id for hit in own)
    return {
        kind: {name: (found[kind][name], count) for name, count in sorted(counts.items())}
        for kind, counts in total.items()
    }
