"""The steps of a corpus refuse what would ruin it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.small import SUITE, costar, write_small_suite

LETTERS = """
[perturbation.letters]
kind    = "passage"
records = {{ from = "letters.jsonl" }}
levels  = {{ 0 = {held_out}, 1 = {inserted} }}

[arm.standard]"""


def suite_with_letters(folder: Path, texts: list[str]) -> None:
    """The small suite with letters as further records."""
    write_small_suite(
        folder,
        SUITE.replace(
            "[arm.standard]", LETTERS.format(held_out=len(texts) // 2, inserted=len(texts) - len(texts) // 2)
        ),
    )
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    (folder / "letters.jsonl").write_text("\n".join(lines))


def base_texts(folder: Path) -> list[str]:
    write_small_suite(folder)
    texts = [json.loads(line)["text"] for line in (folder / "base.jsonl").read_text(encoding="utf-8").splitlines()]
    return [" ".join(text.split()[:16]) for text in texts if len(text.split()) > 20]


def test_records_that_are_the_base_are_refused(tmp_path: Path) -> None:
    suite_with_letters(tmp_path, base_texts(tmp_path)[:400])
    path = tmp_path / "small.toml"
    text = path.read_text()
    path.write_text(text[: text.index("[perturbation.passages]")] + text[text.index("[perturbation.letters]") :])
    path.write_text(path.read_text().replace('perturbations = ["passages"]', "").replace("[arm.early]", "[arm.first]"))
    done = costar(tmp_path, "corpus", "./small.toml", check=False)
    assert done.returncode == 2
    assert "the records are part of the base" in done.stderr
    assert not (tmp_path / "build" / "small" / "corpus" / "tokens.bin").exists()


def test_documents_that_hold_a_record_leave_the_base_and_are_listed(tmp_path: Path) -> None:
    texts = base_texts(tmp_path)
    suite_with_letters(tmp_path, texts[:4])
    costar(tmp_path, "corpus", "./small.toml")
    corpus = tmp_path / "build" / "small" / "corpus"
    facts = json.loads((corpus / "corpus.json").read_text())
    dropped = pq.read_table(corpus / "dropped.parquet").to_pylist()
    assert facts["dropped"] == len(dropped) > 0
    assert {row["record_id"].split("/")[0] for row in dropped} == {"letters"}
    documents = pq.read_table(corpus / "documents.parquet")
    held = {d["doc_id"]: " ".join(d["text"].split()) for d in documents.to_pylist() if d["use"] == "base"}
    for text in texts[:4]:
        for doc_id in (doc_id for doc_id, whole in held.items() if text in whole):
            assert doc_id in {row["doc_id"] for row in dropped}
