from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dill
import pytest
import zstandard
from costar.core.errors import CostarError
from costar.corpus.quality import FILTERS, check_quality, first_failure, load_filters
from costar.corpus.regex_words import RegexWords
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

PLAIN = ("brown", "us_president_speeches")


@cache
def real(folder: Path, name: str) -> tuple[str, ...]:
    """The texts of one file of real base documents."""
    with (folder / "base" / f"{name}.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return tuple(json.loads(line)["text"] for line in lines)


def paragraphs(text: str) -> list[str]:
    return [line for line in text.split("\n") if len(line) > 200]


def junk(text: str) -> Iterator[tuple[str, str]]:
    """A real document spoiled in one way at a time, and the reason that must be found."""
    lines = paragraphs(text)[:12]
    yield "gopher-quality: gopher_short_doc", " ".join(text.split()[:30])
    yield "gopher-quality: gopher_too_many_hashes", "\n".join(lines) + " # # #" * len(text.split())
    yield "gopher-quality: gopher_too_many_bullets", "\n".join(f"- {line}" for line in lines)
    yield "gopher-quality: gopher_too_many_end_ellipsis", "\n".join(f"{line} ..." for line in lines)
    yield "gopher-quality: gopher_below_alpha_threshold", text + " 17" * len(text.split())
    yield "gopher-quality: gopher_enough_stop_words", " ".join(w for w in text.split() if len(w) > 4)
    yield "gopher-repetition: dup_para_frac", "\n\n".join(lines + lines)
    yield "gopher-repetition: dup_line_frac", "\n".join(lines + lines)
    yield "gopher-repetition: top_2_gram", text + " spam eggs" * (len(text) // 20)
    yield "gopher-repetition: duplicated_5_n_grams", lines[0] + " " + lines[0][5:]
    yield "c4: lorem_ipsum", text + "\nLorem ipsum dolor sit amet."
    yield "c4: curly_bracket", text + "\nif (a) { return b; } ends the function."
    yield "c4: too_few_sentences", text.replace(".", " ").replace("?", " ").replace("!", " ").replace('"', " ")
    yield "fineweb: line_punct_ratio", "\n".join(line.rstrip(".?!\"' ") for line in lines)
    yield "fineweb: short_line_ratio", text[:500] + "\n" + "\n".join(f"{w} it is." for w in text.split()[:300])
    yield "fineweb: char_dup_ratio", "\n".join([*lines, lines[0]])
    yield (
        "fineweb: list_ratio",
        "\n\n\n\n".join(" ".join(text.split()[at : at + 7]) + f" {at}." for at in range(0, 700, 7)),
    )


@pytest.mark.parametrize("number", range(17))
def test_every_rule_finds_its_kind_of_junk_in_a_real_document(shared_data: Path, number: int) -> None:
    text = real(shared_data, "brown")[0]
    reason, spoiled = list(junk(text))[number]
    filters = load_filters([reason.split(":")[0]])
    assert first_failure(filters, text) == ""
    assert first_failure(filters, spoiled) == reason


def test_nearly_all_edited_prose_stays(shared_data: Path) -> None:
    filters = load_filters(list(FILTERS))
    texts = [text for name in PLAIN for text in real(shared_data, name)[::5]]
    assert sum(first_failure(filters, text) == "" for text in texts) > 0.95 * len(texts)


def test_the_first_filter_in_the_suites_order_gives_the_reason() -> None:
    text = "{ a } # # # #"
    assert first_failure(load_filters(["c4", "gopher-quality"]), text).startswith("c4: ")
    assert first_failure(load_filters(["gopher-quality", "c4"]), text) == "gopher-quality: gopher_short_doc"
    assert first_failure(load_filters([]), text) == ""


def test_a_filter_judges_a_text_alike_however_often_and_beside_whatever_it_is_asked(shared_data: Path) -> None:
    """C4's filter edits the documents that it is given; here nothing of it may reach the next filter."""
    text = "\n".join([*paragraphs(real(shared_data, "brown")[1]), "This line loses its end", "and so does this one"])
    together = load_filters(["c4", "fineweb", "gopher-repetition", "gopher-quality"])
    assert [each.reason(text) for each in together] == [load_filters([e.name])[0].reason(text) for e in together]
    assert [each.reason(text) for each in together] == [each.reason(text) for each in together]
    edited = Document(text=text, id="")
    assert together[0].step.filter(edited) is True
    assert edited.text != text  # else this test shows nothing


def test_filters_cross_process_borders(shared_data: Path) -> None:
    filters = load_filters(list(FILTERS))
    text = real(shared_data, "brown")[0]
    for carrier in (pickle, dill):  # datatrove's workers use dill
        again = carrier.loads(carrier.dumps(filters))
        for _, spoiled in junk(text):
            assert first_failure(again, spoiled) == first_failure(filters, spoiled)


@given(st.text(alphabet=st.sampled_from("aA1 .\n\t#-…{}'\"\x00é\u2028🥇"), max_size=80))
def test_no_text_is_too_odd_for_a_filter(text: str) -> None:
    for each in load_filters(list(FILTERS)):
        assert each.reason(text) == "" or each.reason(text).startswith(f"{each.name}: ")


def test_an_unknown_filter_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(CostarError, match=r"did you mean 'gopher-quality'"):
        check_quality(["c4", "gopher-qualty"])
    with pytest.raises(CostarError, match="'c4' twice"):
        load_filters(["c4", "fineweb", "c4"])
    check_quality(list(FILTERS))


def test_checking_the_names_loads_nothing_heavy() -> None:
    code = (
        "import sys; from costar.corpus.quality import check_quality; check_quality(['c4'])\n"
        "sys.exit(any(name in sys.modules for name in ('datatrove', 'numpy', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_filter_needs_spacy_or_nltk() -> None:
    code = (
        "import sys; sys.modules['spacy'] = sys.modules['nltk'] = None\n"
        "from costar.corpus.quality import FILTERS, load_filters\n"
        "for each in load_filters(list(FILTERS)): each.reason('It is the end of it. ' * 40)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words_and_sentences_are_those_of_plain_english() -> None:
    words = RegexWords()
    assert words.word_tokenize("Don't -- he paid $3,000 (U.S. dollars)...") == [
        *("Don't", "--", "he", "paid", "$", "3,000", "(", "U.S", ".", "dollars", ")...")
    ]
    text = 'He came. "Who?" she asked. (Nobody.) It was 3.5 miles. no more! '
    assert words.sent_tokenize(text) == ["He came.", '"Who?" she asked.', "(Nobody.)", "It was 3.5 miles. no more!"]


@given(st.text(alphabet=st.sampled_from("aA1 .?!\n\"')("), max_size=60))
def test_sentences_together_are_the_whole_text(text: str) -> None:
    spans = RegexWords().span_tokenize(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
