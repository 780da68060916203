"""What a document is used for does not depend on how the work was divided, and every document is accounted for."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from costar.core.design import SourceDesign
from costar.core.errors import CostarError
from costar.corpus.build import build_documents
from costar.corpus.executors import Backend
from costar.corpus.settle import held_out, kept_shares
from costar.corpus.statistics import step_table
from costar.manifests.tables import DROPPED
from hypothesis import given
from hypothesis import strategies as st

from .corpora import PLAIN, documents, write_lines, write_suite

TEXTS = list(dict.fromkeys(p.strip() for text in topics.values() for p in text.split("\n\n") if len(p.strip()) > 80))


def test_hold_out_is_a_fixed_share_and_a_function_of_seed_and_id() -> None:
    kept = [held_out(1, f"doc-{i}", 0.2) for i in range(4000)]
    assert 0.17 < sum(kept) / len(kept) < 0.23
    assert kept == [held_out(1, f"doc-{i}", 0.2) for i in range(4000)]
    more = [held_out(1, f"doc-{i}", 0.3) for i in range(4000)]
    assert all(b for a, b in zip(kept, more) if a)  # a larger share only adds


@pytest.mark.parametrize("keys", ["", 'deduplicate = "minhash"\nvalidation = 0.1\nquality = ["gopher-repetition"]\n'])
def test_documents_are_the_same_for_any_number_of_tasks_and_workers(tmp_path: Path, keys: str) -> None:
    for number in range(5):
        again = TEXTS[: 10 * number]  # later files repeat earlier ones
        write_lines(tmp_path / f"{number}.jsonl", [*TEXTS[number * 60 : number * 60 + 60], *again])
    found = []
    for tasks, workers in ((1, 1), (3, 2), (16, 2)):
        suite = write_suite(tmp_path, keys=f"{keys}tasks = {tasks}\n")
        table = documents(suite, tmp_path, f"corpus-{tasks}", workers)
        found.append((tmp_path / f"corpus-{tasks}" / "documents.parquet").read_bytes())
    assert found[0] == found[1] == found[2]
    assert table.column("doc_id").to_pylist()[:2] == ["0.jsonl:1", "0.jsonl:2"]


def test_a_repeated_document_is_dropped_and_the_first_stays(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [*TEXTS[:30], f"  {TEXTS[3]}\n", " "])
    rows = documents(write_suite(tmp_path), tmp_path).to_pylist()
    assert [row["reason"] for row in rows[-2:]] == ["duplicate", "empty"]
    assert all(row["use"] in ("base", "held_out") for row in rows[:-2])
    assert [row["text"] for row in rows[:30]] == TEXTS[:30]


def test_a_near_copy_is_dropped_only_when_the_suite_asks(tmp_path: Path) -> None:
    long = "\n".join(TEXTS[:12])
    write_lines(tmp_path / "a.jsonl", [long, *TEXTS[20:40], long.replace("the", "a", 3)])
    assert documents(write_suite(tmp_path), tmp_path, "exact").to_pylist()[-1]["reason"] == ""
    rows = documents(write_suite(tmp_path, keys='deduplicate = "minhash"\n'), tmp_path, "near").to_pylist()
    assert [row["doc_id"] for row in rows if row["reason"] == "near-duplicate"] == [rows[-1]["doc_id"]]


def test_validation_and_held_out_documents_are_apart_and_do_not_move_each_other(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", TEXTS)
    plain = documents(write_suite(tmp_path), tmp_path, "plain").to_pylist()
    split = documents(write_suite(tmp_path, keys="validation = 0.2\n"), tmp_path, "split").to_pylist()
    counts = Counter(row["use"] for row in split)
    assert 0.1 < counts["validation"] / len(split) < 0.3
    moved = {(a["use"], b["use"]) for a, b in zip(plain, split, strict=True) if a["use"] != b["use"]}
    assert moved == {("base", "validation")}


@pytest.mark.parametrize("deduplicate", ["exact", "minhash"])
def test_a_mixture_has_its_shares_and_takes_nothing_twice(tmp_path: Path, deduplicate: str) -> None:
    copies = [text.replace("the", "this", 1) for text in TEXTS[:500]] if deduplicate == "minhash" else []
    write_lines(tmp_path / "a.jsonl", [*TEXTS[:500], *copies])
    write_lines(tmp_path / "b.jsonl", TEXTS[500:])
    corpus = f"""[corpus]
deduplicate = "{deduplicate}"
[corpus.mixture.first]
source = "files"
path   = "a.jsonl"
share  = 3
[corpus.mixture.second]
source = "files"
path   = "b.jsonl"
share  = 1
"""
    rows = documents(write_suite(tmp_path, corpus), tmp_path).to_pylist()
    sizes = Counter[str]()
    for row in rows:
        if row["use"] != "dropped":
            sizes[row["source"]] += row["n_bytes"]
    assert 2.2 < sizes["first"] / sizes["second"] < 4.0
    assert {row["reason"] for row in rows if row["use"] == "dropped"} <= {"not sampled", "duplicate", "near-duplicate"}
    assert len({row["doc_id"] for row in rows}) == len(rows)
    assert {row["doc_id"].split(":")[0] for row in rows} == {"first", "second"}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 10**12)), min_size=1, max_size=6))
def test_the_scarcest_part_of_a_mixture_is_taken_whole(parts: list[tuple[int, int]]) -> None:
    sources = [
        SourceDesign(name=f"p{i}", source="files", paths=(), text="text", megabytes=None, share=share, seed=0)  # type: ignore[arg-type]
        for i, (share, _) in enumerate(parts)
    ]
    sizes = {f"p{i}": size for i, (_, size) in enumerate(parts)}
    kept = kept_shares(sources, sizes)
    assert max(kept.values()) == pytest.approx(1.0)
    taken = [kept[f"p{i}"] * size / Fraction(share) for i, (share, size) in enumerate(parts)]
    assert max(taken) == pytest.approx(min(taken))


@pytest.mark.parametrize("quality", [[], ["gopher-repetition"]])
def test_the_table_of_steps_accounts_for_every_document(tmp_path: Path, quality: list[str]) -> None:
    write_lines(tmp_path / "a.jsonl", [*TEXTS[:200], *TEXTS[:40], "", "word " * 400])
    suite = write_suite(tmp_path, keys=f"validation = 0.1\nquality = {quality}\n".replace("'", '"'))
    documents(suite, tmp_path)
    rows = step_table(tmp_path / "corpus" / "documents.parquet", DROPPED.empty_table()).to_pylist()
    counts, sizes = Counter[str](), Counter[str]()
    for row in rows:
        counts[row["step"]] += row["documents"]
        sizes[row["step"]] += row["bytes"]
    assert counts["read"] == 242 == sum(counts.values()) - counts["read"]
    assert sizes["read"] == sum(sizes.values()) - sizes["read"]
    assert counts["empty"] == 1
    if quality:
        assert {row["reason"].split(":")[0] for row in rows if row["step"] == "quality"} == {"gopher-repetition"}
    else:
        assert counts["quality"] == 0
        assert counts["exact"] == 40


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from costar.corpus import documents as reading

    write_lines(tmp_path / "a.jsonl", TEXTS[:20])
    suite = write_suite(tmp_path)
    items = reading.list_items(suite.corpus.sources, [tmp_path])
    write_lines(tmp_path / "a.jsonl", TEXTS[:21])
    with pytest.raises(CostarError, match=r"a\.jsonl\n  found     another size or time"):
        list(reading.SourceReader(items).run(None))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", TEXTS[:1])
    with pytest.raises(CostarError, match="expected  at least 2"):
        documents(write_suite(tmp_path, PLAIN), tmp_path)


def test_another_number_of_tasks_builds_nothing_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", TEXTS[:50])
    documents(write_suite(tmp_path, keys="tasks = 3\n"), tmp_path)
    (tmp_path / "corpus" / ".work-documents-0123456789ab").mkdir()  # of a build that was killed behind its marker
    again = write_suite(tmp_path, keys="tasks = 5\n")
    assert not build_documents(again, tmp_path / "corpus", [tmp_path], Backend())
    assert not list(tmp_path.rglob(".work-*"))
    assert build_documents(write_suite(tmp_path, keys="validation = 0.1\n"), tmp_path / "corpus", [tmp_path], Backend())


@pytest.mark.parametrize("share", ["", "share  = 1\n"])
def test_a_part_of_a_mixture_that_repeats_another_is_named(tmp_path: Path, share: str) -> None:
    write_lines(tmp_path / "a.jsonl", TEXTS[:50])
    part = f'source = "files"\npath   = "a.jsonl"\n{share}'
    suite = write_suite(tmp_path, f"[corpus]\n[corpus.mixture.first]\n{part}[corpus.mixture.second]\n{part}")
    with pytest.raises(CostarError, match=r"\[corpus.mixture.second\]\n  found     no"):
        documents(suite, tmp_path)
    assert not list(tmp_path.rglob(".work-*"))
