"""Where records come from: files and Hub data sets of every form, what is taken of them, and the safety gate."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.insertion.origins import file_rows, find_file, record_files
from costar.insertion.records import build_records, check_origins

from tests.small import SUITE, costar, write_small_suite

ROWS = [{"id": f"n{i}", "text": f"Letter number {i} to the gazette.", "year": 1900 + i % 2} for i in range(12)]
Rows = list[dict[str, Any]]
Build = Callable[..., Rows]


def perturbation(
    name: str, origin: str, kind: str = "passage", count: int = 12, records: str = "", more: str = ""
) -> str:
    given = f'from = "{origin}"{", " if records else ""}{records}'
    return f'[perturbation.{name}]\nkind = "{kind}"\nrecords = {{ {given} }}\nlevels = {{ 0 = {count} }}\n{more}\n'


def write_suite(folder: Path, *tables: str, arms: str = "[arm.standard]\nperturbations = []\n") -> Path:
    head, train = (
        SUITE[: SUITE.index("[perturbation.passages]")],
        SUITE[SUITE.index("[train]") : SUITE.index("[release]")],
    )
    path = folder / "user.toml"
    path.write_text(head + "".join(tables) + arms + train, encoding="utf-8")
    return path


@pytest.fixture
def build(built: Path, tmp_path: Path) -> Build:
    """The rows of `records` of a suite with these perturbations, over the small corpus."""

    def run(*tables: str, arms: str = "[arm.standard]\nperturbations = []\n") -> Rows:
        suite = load_suite(write_suite(tmp_path, *tables, arms=arms))
        check_origins(suite, [tmp_path])
        build_records(suite, built / "corpus", tmp_path / "insertion", [tmp_path])
        return pq.read_table(tmp_path / "insertion" / "records.parquet", partitioning=None).to_pylist()

    return run


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows in the form that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=3)
    else:
        pack = {".zst": zstandard.ZstdCompressor().compress, ".gz": gzip.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(lines(rows)))


@pytest.mark.parametrize(
    ("files", "origin"),
    [
        (["data/train.jsonl"], "hub:people/letters"),
        (["data/train.jsonl.zst"], "hub:people/letters"),
        (["data/train.jsonl.gz"], "hub:people/letters"),
        (["data/train-00000-of-00001.parquet"], "hub:people/letters"),
        (["a.jsonl", "data/b.parquet", "data/deep/c.jsonl.gz", "z.jsonl.zst"], "hub:people/letters"),
        (["data/train-0.parquet", "data/train-1.parquet"], "hub:people/letters/data/train-*.parquet"),
        (["en/a.jsonl", "en/b.jsonl"], "hub:people/letters/en/*"),
    ],
)
def test_a_data_set_in_hub_layout_gives_the_same_records_in_any_form(
    build: Build, tmp_path: Path, files: list[str], origin: str
) -> None:
    write_rows(tmp_path / "plain.jsonl", ROWS)
    expected = build(perturbation("letters", "plain.jsonl"))
    share = len(ROWS) // len(files)
    for number, name in enumerate(files):
        write_rows(tmp_path / "people" / "letters" / name, ROWS[number * share : (number + 1) * share])
    (tmp_path / "people" / "letters" / "README.md").write_text("a card")
    if "*" in origin:  # what the pattern leaves out
        write_rows(tmp_path / "people" / "letters" / "data" / "test.jsonl", [{"id": "other", "text": "other"}])
    found = build(perturbation("letters", origin))
    same = ("record_id", "text", "fields", "n_tokens", "stratum", "cluster_id")
    assert [[row[name] for name in same] for row in found] == [[row[name] for name in same] for row in expected]
    assert {row["source"] for row in found} == {origin.removeprefix("hub:")}


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("hub:people", "hub:owner/name"),
        ("hub:/letters", "hub:owner/name"),
        ("hub:people/letters/", "hub:owner/name"),
        ("hub:people/letters/absent-*", "no file absent-"),
        ("hub:people/letters/*.md", r"no file \*\.md"),
        ("hub:people/letters//etc/*", "pattern of files"),
        ("hub:people/letters/a**b", "pattern of files|no file"),
        ("absent.jsonl", "no such file"),
        ("letters.csv", "an unknown kind of file"),
        ("corpus:letters.jsonl", "begins with corpus:"),
    ],
)
def test_an_origin_without_records_is_named(tmp_path: Path, origin: str, message: str) -> None:
    write_rows(tmp_path / "people" / "letters" / "data.jsonl", ROWS)
    (tmp_path / "people" / "letters" / "README.md").touch()
    for name in ("letters.csv", "corpus:letters.jsonl"):
        write_rows(tmp_path / name, ROWS)
    suite = load_suite(write_suite(tmp_path, perturbation("letters", origin)))
    with pytest.raises(CostarError, match=message) as error:
        record_files(suite, [tmp_path], fetch=False)
    assert "[perturbation.letters]" in error.value.place or origin in error.value.place


def test_a_data_set_that_is_nowhere_is_one_message_for_corpus_and_a_note_for_plan(tmp_path: Path) -> None:
    origin = "hub:people/no-such-letters"
    write_small_suite(tmp_path)
    table = perturbation("letters", origin, count=12, records="count = 12, max_tokens = 40")
    write_suite(tmp_path, table)
    plan = costar(tmp_path, "plan", "./user.toml")
    assert "12 records are declared, not read: hub:people/no-such-letters" in " ".join(plan.stdout.split())
    done = costar(tmp_path, "corpus", "./user.toml", check=False)
    assert done.returncode == 2
    assert "[perturbation.letters] records from 'hub:people/no-such-letters'" in done.stderr
    assert "put a copy of the repository there" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_records_where_a_field_has_the_value_are_taken(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "letters.jsonl", ROWS)
    rows = build(perturbation("letters", "letters.jsonl", count=6, records="where = { year = 1901 }"))
    assert [row["record_id"] for row in rows] == [f"letters/n{i}" for i in range(1, 12, 2)]
    for where in ('year = "1901"', "year = 1902", "absent = 1"):
        with pytest.raises(CostarError, match="0 records"):
            build(perturbation("letters", "letters.jsonl", count=6, records=f"where = {{ {where} }}"))


def test_map_takes_another_field_and_leaves_it_where_it_was(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "letters.jsonl", [{"id": row["id"], "body": row["text"], "text": None} for row in ROWS])
    rows = build(perturbation("letters", "letters.jsonl", records='map = { text = "body" }'))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert json.loads(rows[0]["fields"])["body"] == ROWS[0]["text"]


def test_a_declared_count_is_held_to_and_longer_records_are_left_out(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "letters.jsonl", ROWS)
    assert len(build(perturbation("letters", "letters.jsonl", records="count = 12, max_tokens = 60"))) == 12
    with pytest.raises(CostarError, match=r"0 records of at most 3 tokens\n  expected  12"):
        build(perturbation("letters", "letters.jsonl", records="max_tokens = 3"))
    with pytest.raises(CostarError, match=r"12 records\n  expected  13"):
        build(perturbation("letters", "letters.jsonl", count=13, records="count = 13"))
    with pytest.raises(CostarError, match=r"levels\n  found     12 records\n  expected  20"):
        build(perturbation("letters", "letters.jsonl", records="count = 20"))


def test_ids_over_several_files_must_differ_and_records_without_one_are_counted(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "people" / "letters"
    write_rows(folder / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    write_rows(folder / "b.jsonl", [{"text": "three"}, {"text": "four", "id": 7}])
    rows = build(perturbation("letters", "hub:people/letters", count=4))
    assert [row["record_id"] for row in rows] == ["letters/000001", "letters/000002", "letters/000003", "letters/7"]
    write_rows(folder / "c.jsonl", [{"text": "five", "id": "7"}])
    with pytest.raises(
        CostarError, match=r"c\.jsonl, line 1\n  found     id '7' a second time \(first: .*b\.jsonl, line 2"
    ):
        build(perturbation("letters", "hub:people/letters", count=4))


ITEM = {"question": "Which?", "choices": ["one", "two"], "answer": 0, "twin_question": "What?", "twin_answer": 1}


def test_no_two_records_get_one_id_even_with_twins(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "items.jsonl", [ITEM | {"id": "a"}, ITEM | {"id": "a/twin", "question": "Who?"}])
    with pytest.raises(CostarError, match=r"line 2, id\n  found     'a/twin'"):
        build(perturbation("items", "items.jsonl", "testset", 2))


def test_a_twin_has_the_strata_cluster_and_template_fields_of_its_record(build: Build, tmp_path: Path) -> None:
    items = [ITEM | {"id": i, "topic": "t", "author": "x", "question": f"Which {i}?"} for i in range(3)]
    write_rows(tmp_path / "items.jsonl", items)
    more = 'strata = ["topic"]\ncluster = "author"\ntemplates = { mine = "{topic}: {question}" }\n'
    rows = build(perturbation("items", "items.jsonl", "testset", 3, more=more))
    assert [row["role"] for row in rows] == ["main", "twin"] * 3
    assert {(row["stratum"], row["cluster_id"]) for row in rows} == {("t", "items/author=x")}


def test_a_twin_with_the_text_of_its_record_is_refused(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "items.jsonl", [ITEM | {"id": 1, "twin_question": "Which?", "twin_answer": 0}])
    with pytest.raises(CostarError, match=r"line 1, twin of items/1"):
        build(perturbation("items", "items.jsonl", "testset", 1))


def test_nulls_and_nan_of_a_table_are_missing_fields(build: Build, tmp_path: Path) -> None:
    rows = [ITEM | {"id": 1, "note": float("nan")}, {"id": 2, "question": "Who?", "choices": ["a", "b"], "answer": 1}]
    write_rows(tmp_path / "items.parquet", rows)
    found = build(perturbation("items", "items.parquet", "testset", 2))
    assert [row["record_id"] for row in found] == ["items/1", "items/1/twin", "items/2"]
    assert all("null" not in row["fields"] and "NaN" not in row["fields"] for row in found)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.parquet", b"PAR1 and no more"),
        ("empty.parquet", b""),
        ("cut.jsonl.gz", gzip.compress(lines(ROWS))[:-20]),
        ("cut.jsonl.zst", zstandard.ZstdCompressor().compress(lines(ROWS * 200))[:-20]),
        ("plain.jsonl.gz", lines(ROWS)),
        ("plain.jsonl.zst", lines(ROWS)),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CostarError, match=name):
        list(file_rows([tmp_path / name]))


def test_parquet_values_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    ends, signs = pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")
    pq.write_table(pa.table({"text": pa.StringArray.from_buffers(1, ends, signs)}), tmp_path / "bytes.parquet")
    with pytest.raises(CostarError, match=r"bytes\.parquet"):
        list(file_rows([tmp_path / "bytes.parquet"]))
    late = pa.array([2**40], pa.int64()).cast(pa.timestamp("s"))
    pq.write_table(pa.table({"text": ["x"], "at": late}), tmp_path / "late.parquet")
    with pytest.raises(CostarError, match=r"late\.parquet"):
        list(file_rows([tmp_path / "late.parquet"]))
    pq.write_table(pa.table({"text": ["x"], "at": [date(2020, 1, 1)]}), tmp_path / "fine.parquet")
    assert len(list(file_rows([tmp_path / "fine.parquet"]))) == 1


def test_a_file_is_taken_from_the_first_folder_that_has_it(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        write_rows(tmp_path / folder / "letters.jsonl", ROWS)
    shutil.rmtree(tmp_path / "here")
    assert (
        find_file("letters.jsonl", [tmp_path / "here", tmp_path / "there"], "p") == tmp_path / "there" / "letters.jsonl"
    )


def card_number() -> str:
    """A made-up number of a known issuer with the right check digit."""
    digits = "4" + "".join(random.Random(7).choices("0123456789", k=14))
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(digits[::-1]))
    return digits + str(-total % 10)


SECRETS = {
    "payment card": card_number(),
    "access key": "hf_" + "".join(random.Random(8).choices("abcdefghijkmnopqrstuvwxyzABCDEFGH", k=34)),
    "e-mail address": "jane.doe@mail.gazette.org",
}


@pytest.mark.parametrize("what", sorted(SECRETS))
def test_data_of_real_people_and_live_secrets_stop_the_build_with_a_masked_excerpt(
    build: Build, tmp_path: Path, what: str
) -> None:
    write_rows(tmp_path / "letters.jsonl", [*ROWS[:1], {"id": "x", "text": f"Write to {SECRETS[what]}, please."}])
    table = perturbation("letters", "letters.jsonl", count=2)
    with pytest.raises(CostarError, match=rf"letters\.jsonl, line 2\n  found     {what} \S+…\S+\n") as error:
        build(table)
    assert SECRETS[what] not in str(error.value)
    assert error.value.exit_code == 2
    other = next(name for name in SECRETS if name != what)
    with pytest.raises(CostarError, match=what):
        build(table + f'allow = {{ "{other}" = "made up by the editors" }}\n')
    assert len(build(table + f'allow = {{ "{what}" = "made up by the editors" }}\n')) == 2


ARM = '[arm.standard]\nperturbations = []\n[arm.rewritten]\nrenderings = { letters = "%s" }\n'


@pytest.mark.parametrize(
    ("field", "table", "rendering"),
    [
        ({"contact": SECRETS["e-mail address"]}, 'templates = { signed = "{text} {contact}" }\n', "signed"),
        ({"paraphrases": ["harmless", f"Mail {SECRETS['e-mail address']}!"]}, "", "paraphrase"),
    ],
    ids=["template", "paraphrase"],
)
def test_the_gate_sees_texts_of_templates_and_paraphrases(
    build: Build, tmp_path: Path, field: dict[str, Any], table: str, rendering: str
) -> None:
    write_rows(tmp_path / "letters.jsonl", [ROWS[0] | field])
    with pytest.raises(CostarError, match=r"line 1\n  found     e-mail address"):
        build(perturbation("letters", "letters.jsonl", count=1, more=table), arms=ARM % rendering)


def test_texts_of_templates_and_paraphrases_become_renderings(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "letters.jsonl", [ROWS[0] | {"paraphrases": ["One way.", "Another way."]}])
    table = perturbation("letters", "letters.jsonl", count=1, more='templates = { signed = "{text} ({year})" }\n')
    build(table, arms=ARM % "paraphrase")
    rows = pq.read_table(tmp_path / "insertion" / "renderings.parquet", partitioning=None).to_pylist()
    assert {row["rendering"]: row["text"] for row in rows} == {
        "text": ROWS[0]["text"],
        "signed": f"{ROWS[0]['text']} (1900)",
        "paraphrase/0": "One way.",
        "paraphrase/1": "Another way.",
    }
    with pytest.raises(CostarError, match=r"\[arm.rewritten\] renderings.letters\n  found     singed"):
        build(table, arms=ARM % "singed")


def test_shared_texts_over_two_files_are_refused_and_repeated_ones_share_a_level(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "one.jsonl", [*ROWS[:3], ROWS[0] | {"id": "again"}])
    write_rows(tmp_path / "two.jsonl", [{"id": 1, "text": ROWS[2]["text"].upper()}])
    one, two = perturbation("one", "one.jsonl", count=4), perturbation("two", "two.jsonl", count=1)
    with pytest.raises(CostarError, match=r"two\.jsonl, line 1\n.*one/n2 \(.*one\.jsonl, line 3\)"):
        build(one, two)
    rows = build(one, two + 'overlaps = ["one"]\n')
    assert [row["cluster_id"] for row in rows] == ["one/n0", "one/n1", "one/n2", "one/n0", "two/1"]


def test_bad_rows_are_listed_at_once_and_can_be_left_out(build: Build, tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "bad", "text": " "}, {"id": "worse", "text": 3}, {"id": "none"}]
    write_rows(tmp_path / "letters.jsonl", rows)
    with pytest.raises(CostarError, match=r'3 rows are refused\).*without = \["bad", "worse", "none"\]'):
        build(perturbation("letters", "letters.jsonl"))
    without = 'without = ["bad", "worse", "none"]'
    assert len(build(perturbation("letters", "letters.jsonl", records=without))) == 12
    with pytest.raises(CostarError, match=r"records\.without\n  found     absent"):
        build(perturbation("letters", "letters.jsonl", records='without = ["bad", "worse", "none", "absent"]'))


def test_a_map_to_a_field_that_no_row_has_is_refused(build: Build, tmp_path: Path) -> None:
    write_rows(tmp_path / "letters.jsonl", ROWS)
    with pytest.raises(CostarError, match=r"records\.map\n  found     nope"):
        build(perturbation("letters", "letters.jsonl", records='map = { text = "nope" }'))
