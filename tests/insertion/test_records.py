from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.corpus.reading import open_tokenizer
from costar.insertion.kinds import load_kind, text_of
from costar.insertion.origins import Record
from costar.insertion.records import build_records, length_stratum, rendering_row

from tests.small import SUITE

LETTERS = """
[perturbation.letters]
kind    = "{kind}"
records = {{ from = "letters.jsonl"{more} }}
levels  = {{ 0 = 2, 1 = 1 }}
"""


def build_with(
    built: Path, tmp_path: Path, lines: list[bytes], kind: str = "passage", more: str = ""
) -> list[dict[str, object]]:
    """Build the records of a user's file over the small suite's corpus; the rows of that perturbation."""
    (tmp_path / "letters.jsonl").write_bytes(b"\n".join(lines))
    path = tmp_path / "user.toml"
    head = SUITE[: SUITE.index("[perturbation.passages]")]
    path.write_text(
        head
        + LETTERS.format(kind=kind, more=more)
        + "[arm.standard]\nperturbations = []\n[arm.perturbed]\n"
        + SUITE[SUITE.index("[train]") : SUITE.index("[release]")]
    )
    suite = load_suite(path)
    build_records(suite, built / "corpus", tmp_path / "insertion", [tmp_path])
    return pq.read_table(tmp_path / "insertion" / "records.parquet", partitioning=None).to_pylist()


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


GOOD = [line(id=i, text=f"Letter number {i} to the editor of the gazette.", year=1900 + i) for i in range(3)]


def test_a_users_file_keeps_ids_and_other_fields(built: Path, tmp_path: Path) -> None:
    rows = build_with(built, tmp_path, GOOD)
    assert [row["record_id"] for row in rows] == ["letters/0", "letters/1", "letters/2"]
    assert json.loads(str(rows[0]["fields"]))["year"] == 1900
    assert {row["risk"] for row in rows} == {"copyright"}


def test_more_records_than_asked_for_are_sampled_by_key_whatever_their_order(built: Path, tmp_path: Path) -> None:
    many = [line(id=i, text=f"Letter number {i} to the editor.") for i in range(20)]
    first = {row["record_id"] for row in build_with(built, tmp_path, many)}
    second = {row["record_id"] for row in build_with(built, tmp_path, many[::-1])}
    assert first == second
    assert len(first) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD[:2], b'{"id": 2, "text": "cut'], "letters.jsonl, line 3"),
        ([*GOOD, GOOD[0]], r"line 4\n  found     id '0' a second time \(first: .*line 1\)"),
        ([*GOOD[:2], line(id=2, text="  ")], "line 3, text\n  found     empty text"),
        ([*GOOD[:2], b'{"id": 2, "text": "\xff"}'], "line 3\n  found     byte 0xff"),
        ([*GOOD[:2], line(id=2, body="x")], "expected  text too, for kind 'passage'"),
        ([*GOOD[:2], line(id=2, text=3)], "line 3\n  found     3"),
        (GOOD[:2], "2 records\n  expected  3"),
        ([*GOOD[:2], line(id=2, text="word " * 200)], "at most 125, the sequence length less 3"),
    ],
)
def test_bad_records_are_named_with_file_and_line(
    built: Path, tmp_path: Path, lines: list[bytes], message: str
) -> None:
    with pytest.raises(CostarError, match=message) as error:
        build_with(built, tmp_path, lines)
    assert error.value.exit_code == 2


def test_map_renames_the_fields_of_a_file(built: Path, tmp_path: Path) -> None:
    items = [line(ind=i, ctx=f"Question {i}?", endings=["one", "two", "three"], label=str(i % 3)) for i in range(3)]
    more = ', map = { question = "ctx", choices = "endings", answer = "label" }'
    rows = build_with(built, tmp_path, items, kind="testset", more=more)
    assert [json.loads(str(row["fields"]))["answer"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("answer", [5, "D", "four", True, -1])
def test_an_answer_that_is_no_choice_is_named(answer: object) -> None:
    kind = load_kind("testset", place="")
    with pytest.raises(CostarError, match="answer"):
        kind.check({"question": "?", "choices": ["one", "two", "three"], "answer": answer}, "here")


def test_real_test_sets_become_records(shared_data: Path, built: Path, tmp_path: Path) -> None:
    import zstandard

    with (shared_data / "testsets" / "openbookqa.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    rows = build_with(built, tmp_path, [row for row in lines if len(row) < 240][:40], kind="testset")
    assert len(rows) == 3
    assert str(rows[0]["text"]).startswith("Question: ")


@pytest.mark.parametrize("kind", ["biography", "testset", "password"])
def test_generated_records_differ_and_do_not_depend_on_how_many_there_are(kind: str) -> None:
    module = load_kind(kind, place="")
    fields = [module.generate((1, "p"), i, None) for i in range(300)]
    texts = [text_of(module.render(f, module.RENDERINGS[0])) for f in fields if f is not None]
    assert len(set(texts)) == 300
    assert fields[7] == module.generate((1, "p"), 7, None)
    assert fields[7] != module.generate((2, "p"), 7, None)
    for f in fields[:20]:
        assert f is not None
        assert module.check(f, "here") == f


def test_secrets_of_a_perturbation_differ_until_the_space_is_used_up() -> None:
    module = load_kind("password", place="")
    secrets = {(module.generate((3, "p"), i, 2) or {})["secret"] for i in range(100)}
    assert len(secrets) == 100


def test_people_are_synthetic_on_reserved_domains() -> None:
    module = load_kind("biography", place="")
    for i in range(200):
        fields = module.generate((1, "p"), i, None)
        assert fields is not None
        assert fields["email"].split("@")[1] in ("example.com", "example.org", "example.net")


def test_a_twin_asks_the_same_about_another_place_with_another_answer() -> None:
    module = load_kind("testset", place="")
    for i in range(100):
        fields = module.generate((1, "p"), i, None)
        assert fields is not None
        twin = module.twin(fields)
        assert twin is not None
        assert twin["question"] != fields["question"]
        assert twin["answer"] != fields["answer"]
        assert twin["choices"] == fields["choices"]


def test_spans_are_the_tokens_of_their_attributes(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    tokenizer = open_tokenizer(suite.corpus, built / "corpus")
    for kind in ("biography", "testset", "password"):
        module = load_kind(kind, place="")
        for i in range(10):
            fields = module.generate((1, "p"), i, None)
            assert fields is not None
            record = Record(record_id="r", role="main", cluster="r", fields=fields, source="", place="r")
            for rendering in module.RENDERINGS:
                row = rendering_row(record, rendering, module.render(fields, rendering), tokenizer)
                pieces = {a: t for t, a in module.render(fields, rendering) if a}
                for span in row["spans"]:
                    text = tokenizer.decode(row["token_ids"][span["start"] : span["end"]])
                    assert pieces[span["attribute"]].strip() in text


def test_a_secret_whose_symbols_are_not_single_tokens_is_refused(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    tokenizer = open_tokenizer(suite.corpus, built / "corpus")
    module = load_kind("password", place="")
    fields = {"secret": "thee", "alphabet": "the", "carrier": "it is {secret}."}
    record = Record(record_id="r", role="main", cluster="r", fields=fields, source="", place="file, line 3")
    with pytest.raises(CostarError, match="file, line 3"):
        rendering_row(record, "sentence", module.render(fields, "sentence"), tokenizer)


def test_passages_have_exactly_the_tokens_asked_for_and_are_not_in_the_base(built: Path) -> None:
    from costar.corpus.reading import texts_of

    table = pq.read_table(built / "insertion" / "records.parquet", partitioning=None)
    passages = [row for row in table.to_pylist() if row["perturbation"] == "passages"]
    assert {row["n_tokens"] for row in passages} == {48}
    base = "\n".join(texts_of(built / "corpus", "base"))
    held_out = "\n".join(texts_of(built / "corpus", "held_out"))
    for row in passages:
        assert row["text"] in held_out
        assert row["text"] not in base


def test_more_passages_leave_the_earlier_ones_and_the_base_as_they_were(built: Path, tmp_path: Path) -> None:
    suite = load_suite(built / "suite.toml")
    passages = suite.perturbations["passages"]
    fewer = replace(passages, levels={0: 10, 1: 12, 14: 12})
    build_records(replace(suite, perturbations={"passages": fewer}), built / "corpus", tmp_path, [tmp_path])
    small = pq.read_table(tmp_path / "records.parquet", partitioning=None).column("text").to_pylist()
    large = pq.read_table(built / "insertion" / "records.parquet", partitioning=None).column("text").to_pylist()
    assert small == large[: len(small)]


def test_length_strata_are_a_function_of_the_record() -> None:
    assert [length_stratum(n) for n in (1, 63, 64, 127, 128)] == [
        "1-1 tokens",
        "32-63 tokens",
        "64-127 tokens",
        "64-127 tokens",
        "128-255 tokens",
    ]


def test_two_perturbations_from_the_corpus_share_no_passage(built: Path, tmp_path: Path) -> None:
    suite = load_suite(built / "suite.toml")
    passages = replace(suite.perturbations["passages"], levels={0: 15})
    pair = {"popular": replace(passages, name="popular"), "unpopular": replace(passages, name="unpopular", ordinal=1)}
    build_records(replace(suite, perturbations=pair, arms={}), built / "corpus", tmp_path, [tmp_path])
    texts = pq.read_table(tmp_path / "records.parquet", partitioning=None).column("text").to_pylist()
    assert len(set(texts)) == 30


def test_no_twin_is_a_main_item() -> None:
    module = load_kind("testset", place="")
    items = [module.generate((20, "q"), i, None) for i in range(1200)]
    mains = {item["question"] for item in items if item}
    assert not mains & {item["twin_question"] for item in items if item}


def test_more_passwords_than_their_space_holds_are_refused() -> None:
    module = load_kind("password", place="")
    assert module.generate((1, "p"), 9, 1)
    with pytest.raises(CostarError, match="1 digits, 10 secrets"):
        module.generate((1, "p"), 10, 1)
