"""Ten thousand malformed or odd lines: each alone is a record that holds, or one message that names file and line."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from costar.core.errors import CostarError
from costar.core.hashing import canonical_json
from costar.core.suite import load_suite
from costar.corpus.reading import open_tokenizer
from costar.corpus.tokenizer import Tokenizer
from costar.insertion.kinds import Kind, load_kind
from costar.insertion.origins import Record, records_of
from costar.insertion.records import build_records, rendering_row
from costar.insertion.rewordings import paraphrases
from costar.insertion.safety import findings

LINES_A_KIND = 1112  # nine kinds

GOOD: dict[str, dict[str, Any]] = {
    "passage": {"id": "a", "text": "A letter to the editor of the gazette.", "year": 1900},
    "paraphrase": {"id": 7, "sentence1": "The cat sat down.", "sentence2": "Down sat the cat.", "label": 1},
    "testset": {"id": "t", "question": "Which?", "choices": ["one", "two", "three"], "answer": 2},
    "qa": {"id": "q", "question": "Who?", "answers": ["she", "her"]},
    "infill": {"id": "i", "sentence": "Ann told Bea that _ was late.", "options": ["Ann", "Bea"], "answer": 1},
    "chat": {"id": "c", "turns": [{"speaker": "x", "text": "Hello."}, {"speaker": "y", "text": "Hi."}]},
    "court": {"id": "e", "text": "The applicant, Ada Vale, lives in Rome.", "attributes": {"name": "Ada Vale"}},
    "biography": {"id": "b", "name": "Ada Vale", "nationality": "Norwegian", "birthdate": "1 May 1950"},
    "password": {"id": "p", "secret": "4711", "alphabet": "0123456789", "carrier": "The code is {secret}."},
}
OPTIONAL = {
    "paraphrase": ["random_bit", "label"],
    "testset": ["twin_question", "twin_answer", "ctx", "endings", "label", "goal", "sol1", "sol2"],
    "qa": ["answer", "possible_answers", "context", "continuation"],
    "infill": ["twin_sentence", "twin_answer", "option1", "option2", "context_options", "continuation"],
    "chat": ["username"],
    "biography": ["email", "identifier", "alumni_of", "uuid", "full_name"],
}
TEXTS = [
    "",
    " ",
    "\t\n",
    "plain",
    "\x00",
    "\x1b[31mred\x7f",
    "a\u2028b\u2029c",
    "\ufeffmark",
    "e\u0301 \u00e9 \ufb01 \u1e9e \u0130",
    "\u202eright to left",
    "\U0001f469\u200d\U0001f680 \U0010ffff",
    "<|endoftext|>",
    "{secret}",
    "{secret}{secret}",
    "{0.__class__}",
    "_",
    "a _ b",
    "__",
    "²",
    "٣",
    "A",
    "b",
    "0",
    "1",
    "-1",
    "1.5",
    "9" * 5000,
    "one",
    "two",
    "Ada Vale",
    "x" * 3000,
    "a\rb",
    "]]>--><script>alert(1)</script>",
    "'; DROP TABLE records; --",
    "../../etc/passwd",
    "nan",
    "null",
    "a/twin",
    "twin",
    "/",
]
NUMBERS = [0, 1, 2, 3, -1, 10**6, 2**63, 2**64, 10**40, -(10**30), 0.0, -0.0, 1.0, 0.5, 1e308, 5e-324]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", '"\\ud800"', '"\\udfff x"', "1" * 5000, "undefined"]


def nested(depth: int, kind: str) -> str:
    """Arrays or objects inside each other."""
    return "[" * depth + "]" * depth if kind == "array" else '{"a":' * depth + "1" + "}" * depth


class Odd:
    """Makes odd JSON values and lines from one stream of random numbers."""

    def __init__(self, seed: str):
        self.random = random.Random(seed)

    def value(self, depth: int = 0) -> str:
        """JSON text, as a rule of one value."""
        r = self.random
        choice = r.randrange(12 if depth < 3 else 8)
        if choice < 3:
            return json.dumps(r.choice(TEXTS), ensure_ascii=r.random() < 0.5)
        if choice < 5:
            return repr(r.choice(NUMBERS))
        if choice == 5:
            return r.choice(["true", "false", "null", "[]", "{}"])
        if choice == 6:
            return r.choice(RAW) if r.random() < 0.5 else json.dumps(r.choice(TEXTS))
        if choice == 7:
            return nested(r.choice([3, 70, 300, 900, 1020, 1100, 5000]), r.choice(["array", "object"]))
        if choice < 10:
            return "[" + ",".join(self.value(depth + 1) for _ in range(r.randrange(5))) + "]"
        keys = r.sample(["speaker", "text", "name", "", "a", "role", "²"], r.randrange(4))
        return "{" + ",".join(f"{json.dumps(key)}:{self.value(depth + 1)}" for key in keys) + "}"

    def row(self, kind: str) -> str:
        """A good row with one or more fields replaced, removed, or added."""
        r = self.random
        fields = {key: json.dumps(value, ensure_ascii=r.random() < 0.5) for key, value in GOOD[kind].items()}
        for _ in range(r.choice([1, 1, 1, 2, 3])):
            name = r.choice([*fields, *OPTIONAL.get(kind, []), "id", "paraphrases", "extra", "é\n"])
            if r.random() < 0.15:
                fields.pop(name, None)
            elif name in fields and r.random() < 0.2:  # a list or a number as text, a text in a list
                fields[name] = r.choice([json.dumps(fields[name]), f"[{fields[name]}]", f'{{"value":{fields[name]}}}'])
            else:
                fields[name] = self.value()
        text = ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items())
        return "{" + text + (f",{json.dumps(name)}:{self.value()}" if r.random() < 0.05 else "") + "}"

    def line(self, kind: str) -> bytes:
        """A line of a file, as bytes."""
        r = self.random
        row = self.row(kind)
        choice = r.randrange(20)
        if choice == 0:
            return row.encode()[: r.randrange(len(row))]
        if choice == 1:
            return row.encode(r.choice(["utf-16", "utf-16-le", "latin-1", "cp1252"]), "replace")
        if choice == 2:
            data = bytearray(row.encode())
            data[r.randrange(len(data))] = r.randrange(256)
            return bytes(data).replace(b"\n", b" ")
        if choice == 3:
            return self.value().encode()
        if choice == 4:
            return r.choice(
                [b"\xef\xbb\xbf" + row.encode(), row.encode() + b"\r", b"\x00" + row.encode(), row.encode() * 2]
            )
        return row.encode()


def assert_holds(kind: Kind, record: Record, tokenizer: Tokenizer) -> None:
    """What `build_records` does with a record that was accepted."""
    for rendering in kind.RENDERINGS:
        row = rendering_row(record, rendering, kind.render(record.fields, rendering), tokenizer)
        assert tokenizer.decode(row["token_ids"]) == row["text"]
        assert all(0 <= span["start"] < span["end"] <= row["n_tokens"] for span in row["spans"])
        findings(row["text"])
    for text in paraphrases(record.fields, record.place):
        tokenizer.encode_record(text, f"{record.place}, paraphrases")
    json.loads(canonical_json(record.fields), parse_constant=pytest.fail)  # NaN and Infinity are no JSON


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_ten_thousand_odd_lines_are_each_a_record_that_holds_or_one_message(
    kind: str, built: Path, tmp_path: Path
) -> None:
    suite = load_suite(built / "suite.toml")
    tokenizer = open_tokenizer(suite.corpus, built / "corpus")
    design = replace(suite.perturbations["quizzes"], kind=kind, origin="odd.jsonl", levels={0: 1})
    module = load_kind(kind, place="")
    path = tmp_path / "odd.jsonl"
    odd = Odd(kind)
    outcomes: Counter[str] = Counter()
    for number in range(LINES_A_KIND):
        line = odd.line(kind) if number else json.dumps(GOOD[kind] | {"extra": "long " * 200_000}).encode()
        if not line.strip():
            continue
        first, times = odd.random.randrange(1, 4), odd.random.choice([1, 1, 1, 2])
        path.write_bytes(b"\n" * (first - 1) + b"\n".join([line] * times))
        error = None
        try:
            for record in records_of(design, module, suite, built / "corpus", tokenizer, [path], set()):
                assert_holds(module, record, tokenizer)
        except CostarError as caught:
            error = caught
        except Exception as other:
            raise AssertionError(f"{type(other).__name__} for {line[:300]!r}") from other
        outcomes["refused" if error else "accepted"] += 1
        if error:
            places = [f"{path}, line {first + k}" for k in range(times)]
            assert error.exit_code == 2
            assert any(error.place == place or error.place.startswith(place + ",") for place in places), error
            assert len(str(error)) < 1500, error
            assert error.mend
    assert outcomes["accepted"] > 50, outcomes
    assert outcomes["refused"] > 300, outcomes


def test_odd_records_that_are_accepted_are_built_and_their_fields_are_json(built: Path, tmp_path: Path) -> None:
    """All odd records of a kind that hold, as one file, through the whole step, to tables that DuckDB reads."""
    suite = load_suite(built / "suite.toml")
    tokenizer = open_tokenizer(suite.corpus, built / "corpus")
    kind = load_kind("testset", place="")
    odd, kept = Odd("built"), []
    path = tmp_path / "odd.jsonl"
    for _ in range(300):
        line = odd.line("testset")
        path.write_bytes(line)
        design = replace(suite.perturbations["quizzes"], origin="odd.jsonl", levels={0: 1})
        try:
            records = list(records_of(design, kind, suite, built / "corpus", tokenizer, [path], set()))
            rows = [rendering_row(each, "cloze", kind.render(each.fields, "cloze"), tokenizer) for each in records]
            if all(row["n_tokens"] <= 125 for row in rows):
                kept.append(json.dumps(dict(records[0].fields) | {"id": len(kept)}).encode())
        except CostarError:
            continue
    path.write_bytes(b"\n".join(kept))
    design = replace(suite.perturbations["quizzes"], origin="odd.jsonl", levels={0: len(kept)}, strata=())
    build_records(
        replace(suite, perturbations={"odd": replace(design, name="odd")}, arms={}),
        built / "corpus",
        tmp_path,
        [tmp_path],
    )
    query = f"select count(fields::json), count(*) filter (role = 'main') from '{tmp_path}/records.parquet'"
    assert len(kept) > 30
    assert duckdb.sql(query).fetchall()[0][1] == len(kept)
