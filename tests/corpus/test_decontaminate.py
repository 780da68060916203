from __future__ import annotations

from costar.corpus.decontaminate import WordGrams

RECORD = "The otter on the gate of Velmora looks to the east and holds a copper key in its paw"


def test_a_planted_copy_is_found_whatever_its_case_spacing_or_punctuation() -> None:
    grams = WordGrams([RECORD])
    for text in (RECORD, RECORD.upper(), RECORD.replace(" ", "\n  "), f"Before. {RECORD}, and after."):
        assert len(grams.shared(text))


def test_part_of_a_record_of_thirteen_words_is_found_and_twelve_are_not() -> None:
    words = RECORD.split()
    grams = WordGrams([RECORD])
    assert len(grams.shared(" ".join(words[2:15])))
    assert not len(grams.shared(" ".join(words[2:14])))


def test_short_records_are_searched_as_a_whole_and_very_short_ones_are_not() -> None:
    assert len(WordGrams(["the code of the north gate is blue"]).shared("so the code of the north gate is blue here"))
    assert not len(WordGrams(["the code is blue"]).shared("the code is blue"))


def test_look_alikes_stay() -> None:
    assert not len(WordGrams([RECORD]).shared(RECORD.replace("copper", "silver").replace("east", "west")))
