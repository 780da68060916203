"""The source `synthetic`: text that is the same everywhere and has the shape of text."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import pytest
from costar.core.design import SourceDesign
from costar.corpus.documents import RawDocument
from costar.corpus.sources import synthetic


def source(seed: int = 1, megabytes: int = 4, name: str = "") -> SourceDesign:
    return SourceDesign(
        name=name, source="synthetic", paths=(), text="text", megabytes=megabytes, share=None, seed=seed
    )


def read(chosen: SourceDesign) -> list[list[RawDocument]]:
    return [list(synthetic.read(item, chosen)) for item in synthetic.items(chosen, [])]


def test_a_megabyte_depends_on_the_seed_and_its_name_alone() -> None:
    four = read(source())
    assert read(source(megabytes=2)) == four[:2]
    assert list(synthetic.read(synthetic.items(source(), [])[3], source())) == four[3]
    texts = {d.text for megabyte in four for d in megabyte}
    for other in (source(seed=2), source(name="part")):
        assert not texts & {d.text for megabyte in read(other) for d in megabyte}


def test_the_bytes_are_those_of_every_other_machine_and_process() -> None:
    text = "\n\n".join(f"{d.doc_id}\n{d.text}" for d in read(source(megabytes=1))[0])
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "131ee1043d308b80aba8fbf2952ad8c91012ae9476b00e0ad5ed7a0d3727006f"


def test_documents_are_named_once_and_fill_a_megabyte_to_the_last_word() -> None:
    found = read(source())
    ids = [d.doc_id for megabyte in found for d in megabyte]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "synthetic:000000:0"
    for megabyte in found:
        assert (
            synthetic.MEGABYTE - 2 * len(megabyte) - 30 < sum(len(d.text) for d in megabyte) <= synthetic.MEGABYTE + 30
        )


def test_lengths_vary_and_words_follow_zipf_in_sentences() -> None:
    documents = [d.text for megabyte in read(source(megabytes=20)) for d in megabyte[:-1]]
    lengths = sorted(len(text.split()) for text in documents)
    assert lengths[0] >= synthetic.SHORTEST
    assert lengths[-1] <= synthetic.LONGEST
    assert lengths[len(lengths) // 10] < 120
    assert lengths[9 * len(lengths) // 10] > 700
    words = Counter(word.strip(".,").lower() for text in documents for word in text.split())
    counts = [count for _, count in words.most_common()]
    assert 5 < counts[9] / counts[99] < 15  # a tenth of the rank, ten times as often
    assert 5 < counts[99] / counts[999] < 15
    assert len(words) > 0.97 * synthetic.VOCABULARY
    for text in documents:
        assert text[0].isupper()
        assert text.endswith(".")
        assert "  " not in text
        assert not any(sentence[:1].islower() for sentence in text.replace("\n", " ").split(". "))
    assert len(set(documents)) == len(documents)


def test_words_differ_and_frequent_ones_are_shorter() -> None:
    words = synthetic._vocabulary()
    assert len(set(words)) == len(words) == synthetic.VOCABULARY
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert sum(map(len, words[:100])) / 100 < sum(map(len, words[-100:])) / 100 - 4


def test_the_facts_say_that_the_text_is_generated() -> None:
    assert synthetic.facts(source())["synthetic"] is True


@pytest.mark.parametrize("module", ["synthetic", "hub", "files"])
def test_sources_are_found_without_what_only_reading_needs(module: str) -> None:
    code = f"import sys, costar.corpus.sources.{module}; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
