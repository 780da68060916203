from __future__ import annotations

from pathlib import Path

from costar.core.suite import load_suite
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.eval.recoded import recoded
from costar.eval.spans import first_spans

from tests.eval.subjects import context_of, generated
from tests.small import write_small_suite

CHATS = '[perturbation.chat]\nkind = "chat"\nrecords = { from = "generator" }\nlevels = { 0 = 4, 1 = 4 }\n'


def test_of_an_attribute_that_is_said_again_the_first_place_counts() -> None:
    spans = [
        {"attribute": "name", "start": 1, "end": 3},
        {"attribute": "town", "start": 4, "end": 5},
        {"attribute": "name", "start": 7, "end": 9},
    ]
    assert first_spans(spans) == {"name": (1, 3), "town": (4, 5)}


def test_attributes_stand_at_their_first_places_in_any_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A chat says its username before every line."""
    write_small_suite(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(path.read_text().replace("[arm.standard]", f"{CHATS}\n[arm.standard]"))
    suite, context = load_suite(path), context_of(generated("chat", 3, tokenizer), tokenizer)
    same, gaps = recoded(suite, tmp_path, context, tokenizer)
    assert not gaps
    assert same.subjects == context.subjects
    texts = [each.renderings[each.canonical].text for each in context.subjects]
    train_bpe([*texts, "".join(map(chr, range(32, 127)))], 300, "<|endoftext|>", tmp_path / "other.json")
    other = Tokenizer(tmp_path / "other.json", "<|endoftext|>")
    foreign, _ = recoded(suite, tmp_path, context, other)
    for subject in foreign.subjects:
        written, username = subject.renderings[subject.canonical], subject.fields["username"]
        start, end = written.spans["username"]
        assert start == 0
        assert other.decode(list(written.ids[:end])).startswith(username)
        assert written.text.count(username) > 1
