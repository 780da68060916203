"""A record is searched by all that it is written in, and so is a text that many records share."""

from __future__ import annotations

from pydoc_data.topics import topics

from costar.corpus.decontaminate import RecordSearch, Searched
from costar.corpus.searched import shared_texts

PASSAGE = " ".join(" ".join(topics["assert"].split()).split(" ")[:120])


def test_a_passage_that_many_questions_are_about_is_found_in_part() -> None:
    questions = [f"What does the statement number {n} of this page say about it?" for n in range(30)]
    records = [Searched(record_id=f"q/{n}", texts=(f"{PASSAGE} {text}", PASSAGE)) for n, text in enumerate(questions)]
    document = "Before it. " + " ".join(PASSAGE.split()[20:80]) + " And behind it."
    assert not RecordSearch(records).find([document])  # among the others its words are phrases of a template
    (hit,) = RecordSearch(shared_texts(records)).find([document])
    assert (hit.record_id, hit.reason) == ("q/0", "words")
    assert shared_texts(records[:5]) == []
