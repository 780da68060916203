from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.release.grading import grade

from tests.release.submitting import RUN, losses_of, records_of, write_csv, write_scores, write_words


@pytest.fixture
def release(built: Path) -> Path:
    return built / "release"


def test_scores_have_each_record_once_and_a_number_for_it(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "membership")
    good = sorted(losses_of(release, RUN).items())
    for rows, message in (
        (good[1:], f"1 records without a row: {good[0][0]}"),
        ([*good, good[0]], f"1 records that have several rows: {good[0][0]}"),
        ([*good, ("nobody", 0.0)], "1 records that the submission is not about: nobody"),
        ([(good[0][0], "nan"), *good[1:]], f"no finite numbers: {good[0][0]}"),
        ([(good[0][0], "high"), *good[1:]], "no finite numbers"),
        ([], "no rows"),
    ):
        write_csv(folder / "scores.csv", [("record_id", "score"), *rows])
        with pytest.raises(CostarError, match=message):
            grade(folder, release)
    assert not (folder / "grades.json").exists()


@pytest.mark.parametrize("wrong", [7, 1.5, None, ["passages/0000"], {"id": "passages/0000"}, True])
def test_record_ids_are_texts(release: Path, tmp_path: Path, wrong: object) -> None:
    for task, stem in (("membership", "scores"), ("extraction", "generations")):
        folder = write_words(tmp_path / task, release, task)
        row = json.dumps({"record_id": wrong, "score": 1.0} if stem == "scores" else {"record_id": wrong, "text": "x"})
        (folder / f"{stem}.jsonl").write_text(f"{row}\n{row}\n")
        with pytest.raises(CostarError, match="2 record_ids that are no texts"):
            grade(folder, release)


def test_files_of_other_forms_or_tasks_are_named(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "extraction")
    with pytest.raises(CostarError, match="no generations file"):
        grade(folder, release)
    write_csv(folder / "scores.csv", [("record_id", "score")])
    with pytest.raises(CostarError, match="but scores"):
        grade(folder, release)
    (folder / "generations.parquet").write_bytes(b"PAR1")
    with pytest.raises(CostarError, match=r"generations\.parquet"):
        grade(folder, release)
    write_csv(folder / "generations.csv", [("record_id", "text")])
    with pytest.raises(CostarError, match=r"generations\.parquet, generations\.csv"):
        grade(folder, release)


def test_the_three_forms_of_a_table_give_the_same_grades(release: Path, tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "ours", release)
    from_csv = grade(folder, release)
    (folder / "scores.csv").unlink()
    rows = [{"record_id": name, "score": value} for name, value in losses_of(release, RUN).items()]
    (folder / "scores.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert grade(folder, release) == from_csv
    (folder / "scores.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows[::-1]), folder / "scores.parquet")
    assert grade(folder, release) == from_csv


def test_generations_without_texts_or_with_the_prompt_are_refused(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "extraction", perturbations=["passages"])
    passages = [row for row in records_of(release) if row["perturbation"] == "passages"]
    for texts, message in (
        ({row["record_id"]: "" for row in passages}, "generations without text"),
        ({row["record_id"]: row["text"] for row in passages}, "leave the prompt out"),
    ):
        write_csv(folder / "generations.csv", [("record_id", "text"), *texts.items()])
        with pytest.raises(CostarError, match=message):
            grade(folder, release)
    write_csv(
        folder / "generations.csv", [("record_id", "text", "queries"), *((r["record_id"], "x", 0) for r in passages)]
    )
    with pytest.raises(CostarError, match="queries that are no counts"):
        grade(folder, release)
    write_words(folder, release, "extraction", prefix=9)
    with pytest.raises(CostarError, match="one of 8"):
        grade(folder, release)


def test_models_with_pickle_code_another_tokenizer_or_shape_are_refused(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "unlearning")
    model = folder / "model"
    with pytest.raises(CostarError, match="no such folder"):
        grade(folder, release)

    def fresh() -> None:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(release / "models" / RUN, model)

    fresh()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CostarError, match="pickle"):
        grade(folder, release)
    for name in ("training_args.bin", "modeling_ours.py"):
        fresh()
        (model / name).write_bytes(b"")
        with pytest.raises(CostarError, match=name):
            grade(folder, release)
    fresh()
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CostarError, match="another tokenizer"):
        grade(folder, release)
    fresh()
    config = json.loads((model / "config.json").read_text()) | {"hidden_size": 32}
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CostarError, match="hidden_size 64"):
        grade(folder, release)
    for name in ("config.json", "tokenizer.json"):
        fresh()
        (model / name).unlink()
        (model / name).write_text("[]")
        with pytest.raises(CostarError, match=name):
            grade(folder, release)


def test_forget_sets_of_unknown_or_held_out_records_are_refused(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "unlearning")
    shutil.copytree(release / "models" / RUN, folder / "model")
    held_out = next(row["record_id"] for row in records_of(release) if row["level"] == 0)
    for ids, message in (
        ("", "no ids"),
        ("nobody\n", "1 unknown records: nobody"),
        (f"{held_out}\n{held_out}\n", "records twice"),
        (f"{held_out}\n", "no record was inserted"),
    ):
        (folder / "forget.txt").write_text(ids)
        with pytest.raises(CostarError, match=message):
            grade(folder, release)
    (folder / "forget.txt").write_bytes(b"passages/0000\n\xff\xfe\n")
    with pytest.raises(CostarError, match="UTF-8"):
        grade(folder, release)
