"""Published data sets, as they lie beside the project, become records of their kinds; what does not fit is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.insertion.records import build_records

LONG = 2048  # tokens of a sequence: records need the tokenizer only, so the small corpus serves
Rows = list[dict[str, Any]]
Build = Callable[..., Rows]


@pytest.fixture
def build(built: Path, shared_data: Path, tmp_path: Path) -> Build:
    """Records of one real file with the keys of a perturbation."""

    def run(kind: str, file: str, count: int = 40, sequence_length: int = LONG, **keys: Any) -> Rows:
        suite = load_suite(built / "suite.toml")
        design = replace(
            suite.perturbations["quizzes"],
            name="real",
            ordinal=0,
            kind=kind,
            origin=f"{file}.jsonl.zst",
            levels={0: count},
            **keys,
        )
        corpus = replace(suite.corpus, sequence_length=sequence_length)
        one = replace(suite, corpus=corpus, perturbations={"real": design}, arms={})
        build_records(one, built / "corpus", tmp_path / "insertion", [tmp_path, shared_data])
        return pq.read_table(tmp_path / "insertion" / "records.parquet", partitioning=None).to_pylist()

    return run


def lines(path: Path) -> Rows:
    with path.open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        return [json.loads(line) for line in text]


@pytest.mark.parametrize(
    ("kind", "file", "keys"),
    [
        ("passage", "perturb/passages_popular", {}),
        ("passage", "perturb/passages_unpopular", {"cluster": "author"}),
        ("paraphrase", "perturb/paraphrase_mrpc", {"where": {"label": 1}}),
        ("paraphrase", "perturb/paraphrase_pan", {"where": {"label": 1}}),
        ("biography", "perturb/bios_us_legislators", {"templates": {"short": "{name}, {gender}: {birthdate}"}}),
        ("qa", "perturb/tofu", {"cluster": "author_group"}),
        ("qa", "perturb/tofu", {"where": {"split": "forget"}}),
        ("infill", "testsets/winogrande", {}),
        ("testset", "testsets/hellaswag", {"strata": ("activity_label",)}),
        ("testset", "testsets/piqa", {}),
        ("testset", "testsets/arc_easy", {}),
        ("testset", "testsets/arc_challenge", {}),
        ("testset", "testsets/openbookqa", {}),
        ("testset", "testsets/boolq", {}),
        ("testset", "testsets/mmlu", {"where": {"subject": "anatomy"}}),
        ("qa", "testsets/popqa", {"strata": ("prop",)}),
        ("qa", "testsets/wikidata_qa", {}),
        ("qa", "testsets/lambada", {}),
        ("qa", "testsets/triviaqa_sample", {"rename": {"question": "context"}}),
        ("qa", "testsets/truthfulqa", {"rename": {"answer": "best_answer"}}),
        ("qa", "testsets/gsm8k", {}),
    ],
)
def test_a_published_set_becomes_records_with_its_ids_and_fields(
    build: Build, shared_data: Path, kind: str, file: str, keys: dict[str, Any]
) -> None:
    rows = build(kind, file, **keys)
    given = {f"real/{row['id']}": row for row in lines(shared_data / f"{file}.jsonl.zst")}
    assert len({row["record_id"] for row in rows}) == 40
    for row in rows:
        original, fields = given[row["record_id"]], json.loads(row["fields"])
        assert all(fields[name] == value for name, value in original.items() if name not in ("id", "answer"))
        assert row["n_bytes"] == len(row["text"].encode())
        assert 0 < row["n_tokens"] <= LONG - 3
        assert all(original[field] == value for field, value in keys.get("where", {}).items())


def test_the_right_choice_is_the_one_that_is_inserted(build: Build, shared_data: Path) -> None:
    given = {f"real/{row['id']}": row for row in lines(shared_data / "testsets" / "piqa.jsonl.zst")}
    for row in build("testset", "testsets/piqa"):
        original = given[row["record_id"]]
        assert row["text"] == f"Question: {original['question']}\nAnswer: {original['choices'][original['answer']]}"


def test_a_winogrande_context_is_filled_with_its_right_option(build: Build, shared_data: Path) -> None:
    given = {f"real/{row['id']}": row for row in lines(shared_data / "testsets" / "winogrande.jsonl.zst")}
    for row in build("infill", "testsets/winogrande", count=800):
        original = given[row["record_id"]]
        assert row["text"] == f"{original['context_options'][original['answer']]} {original['continuation']}"


def test_dialogues_become_chats_with_a_username(build: Build, shared_data: Path, tmp_path: Path) -> None:
    given = [row for row in lines(shared_data / "perturb" / "personachat.jsonl.zst") if len(row["turns"]) > 1]
    data = "\n".join(json.dumps(row) for row in given[:200]).encode()
    (tmp_path / "chats.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(data))
    for row in build("chat", "chats", count=200):
        fields = json.loads(row["fields"])
        assert row["text"].startswith(f"{fields['username']}: ")
        assert fields["username"] not in ("User 1", "User 2")
        assert "\nUser 2: " in row["text"]
        assert "\nUser 1: " not in row["text"]


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("passage", "perturb/passages_popular", r"at most 125, the sequence length less 3"),
        ("paraphrase", "perturb/paraphrase_mrpc", r"label\n  found     0\n.*\n.*where = \{ label = 1 \}"),
        ("chat", "perturb/personachat", r"line 268, turns\n  found     \[\]"),
        (
            "biography",
            "perturb/bios_yago_facts",
            r"line 1\n  found     fields name, facts\n  expected  one of nationality",
        ),
        (
            "qa",
            "testsets/triviaqa_sample",
            r"line 1\n.*context.*\n  expected  question too.*\n.*map = \{ question = … \}",
        ),
        ("qa", "testsets/truthfulqa", r"line 1\n.*best_answer.*\n  expected  answer too.*\n.*map = \{ answer = … \}"),
        ("testset", "testsets/mmlu", r"choices\n.*\n  expected  the right choice once"),
        ("testset", "testsets/gsm8k", r"expected  choices too, for kind 'testset'"),
        ("infill", "testsets/piqa", r"expected  sentence, options too, for kind 'infill'"),
    ],
)
def test_a_set_that_does_not_fit_is_named_with_line_and_mend(build: Build, kind: str, file: str, message: str) -> None:
    with pytest.raises(CostarError, match=message) as error:
        build(kind, file, sequence_length=128)
    assert f"{file}.jsonl.zst, line " in error.value.place
