from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.eval.roc import auc, make_trial, permutation_p, permuted_range
from costar.release.grading import GRADES, grade
from costar.release.released import open_tokenizer
from costar.release.unlearning_sets import divided

from tests.release.releases import summed_again
from tests.release.submitting import RUN, losses_of, records_of, write_csv, write_scores, write_words
from tests.small import costar

CONTROL = "standard.nano.d0"
Row = dict[str, Any]


@pytest.fixture
def release(built: Path) -> Path:
    return built / "release"


def cells(rows: list[Row], metric: str) -> dict[tuple[str, int | None], Row]:
    return {(row["perturbation"], row["level"]): row for row in rows if row["metric"] == metric}


def changed_membership(release: Path, folder: Path, change: Callable[[Row], Row]) -> Path:
    """A copy of a release in which the records are others."""
    copy = folder / "changed"
    shutil.copytree(release, copy)
    path = copy / "data" / "membership.parquet"
    schema = pq.read_schema(path)
    path.unlink()
    pq.write_table(pa.Table.from_pylist([change(row) for row in records_of(release)], schema=schema), path)
    summed_again(copy)
    return copy


def test_a_submission_of_shipped_scores_gets_the_areas_of_the_suites_own_attack(built: Path, tmp_path: Path) -> None:
    rows = cells(grade(write_scores(tmp_path / "ours", built / "release"), built / "release"), "auc")
    own = {
        (row["perturbation"], row["level"]): row
        for row in pq.read_table(built / "eval" / "membership.parquet").to_pylist()
        if (row["run"], row["step"], row["attack"], row["tier"], row["gate"]) == (RUN, 96, "loss", "plain", "")
    }
    assert rows.keys() == own.keys()
    for key, row in rows.items():
        for name in ("ci_low", "ci_high", "p_value"):
            assert row[name] == pytest.approx(own[key][name]), (key, name)
        assert row["value"] == pytest.approx(own[key]["auc"])


def test_an_attack_on_the_treated_model_is_above_its_floor_and_one_on_the_control_is_not(
    release: Path, tmp_path: Path
) -> None:
    treated = cells(grade(write_scores(tmp_path / "treated", release), release), "auc")
    control = cells(grade(write_scores(tmp_path / "control", release, CONTROL), release), "auc")
    assert treated["passages", 14]["above_floor"]
    assert not any(row["above_floor"] for row in control.values())
    for row in control.values():
        assert row["floor_low"] < 0.5 < row["floor_high"]


def test_the_floor_holds_what_a_permutation_test_calls_chance() -> None:
    members = [True, False] * 20
    trial = make_trial(members, ["s"] * 40, [str(number) for number in range(40)])
    generator = np.random.default_rng(0)
    values = generator.normal(size=(200, 40)) + np.linspace(0, 2, 200)[:, None] * np.array(members)
    low, high = permuted_range(values, trial, ("test",))
    p = permutation_p(values, trial, ("test",))
    areas = auc(values, trial)
    assert (low < 0.5).all()
    assert ((areas > high + 0.02) <= (p < 0.03)).all()
    assert ((p < 0.02) <= (areas > high - 0.02)).all()


def test_grades_lie_beside_the_submission_and_are_the_same_each_time(release: Path, tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "ours", release, notes="a first try")
    rows = grade(folder, release)
    written = {name: (folder / name).read_bytes() for name in ("grades.json", "grades.parquet")}
    assert pq.read_table(folder / "grades.parquet").to_pylist() == rows
    facts = json.loads(written["grades.json"])
    assert facts["submission"]["notes"] == "a first try"
    assert set(facts["files"]) == {"submission.json", "scores.csv"}
    assert str(tmp_path).encode() not in written["grades.json"]
    shutil.copytree(folder, tmp_path / "again")
    grade(tmp_path / "again", release)
    assert {name: (tmp_path / "again" / name).read_bytes() for name in written} == written


def test_texts_that_go_on_as_the_record_does_are_found_and_others_are_not(release: Path, tmp_path: Path) -> None:
    """Of every second inserted record the rest of the text is submitted, of held-out ones none."""
    folder = write_words(tmp_path / "ours", release, "extraction", prefix=8, perturbations=["passages"])
    tokenizer = open_tokenizer(release / "models" / RUN)
    passages = [row for row in records_of(release) if row["perturbation"] == "passages"]
    known, texts = {0: 0, 1: 0, 14: 0}, {}
    for number, row in enumerate(passages):
        text = "something else"
        if row["level"] and number % 2:
            known[row["level"]] += 1
            text = tokenizer.decode(tokenizer.encode(row["text"])[8:])
        texts[row["record_id"]] = text
    write_csv(folder / "generations.csv", [("record_id", "text", "queries"), *((r, t, 3) for r, t in texts.items())])
    rows = {row["level"]: row for row in grade(folder, release)}
    assert rows[0]["metric"] == "false_positives"
    assert rows[0]["value"] == 0
    for level in (1, 14):
        assert rows[level]["value"] == pytest.approx(known[level] / 12)
        assert rows[level]["queries"] == 3
        assert rows[level]["floor_high"] == pytest.approx(0.168, abs=0.001)
        assert rows[level]["ci_low"] <= rows[level]["value"] <= rows[level]["ci_high"]


def test_records_with_a_blank_prefix_or_suffix_are_left_out_and_counted(release: Path, tmp_path: Path) -> None:
    """What any text would match says nothing: neither are they found, nor do they count as prompts that were given back."""
    blanks = "\n \t " * 100
    rows = [row for row in records_of(release) if row["perturbation"] == "passages"]
    first = next(row["record_id"] for row in rows if row["level"] == 14)

    def blanked(row: Row) -> Row:
        """Only the others of level 14 have a prefix and a suffix; of `first` the suffix is blank."""
        if row["record_id"] == first:
            return row | {"text": "words" + blanks}
        return row | {"text": blanks + row["text"]} if row["level"] < 14 else row

    changed = changed_membership(release, tmp_path, blanked)
    folder = write_words(tmp_path / "ours", changed, "extraction", prefix=8, perturbations=["passages"])
    write_csv(folder / "generations.csv", [("record_id", "text"), *((row["record_id"], "zzz") for row in rows)])
    (grades,) = grade(folder, changed)
    assert (grades["level"], grades["n"], grades["value"]) == (14, 11, 0)
    assert "33 records with a blank prefix or suffix left out" in grades["method"]


def test_the_floor_of_extraction_is_over_clusters_where_those_are_fewer(release: Path, tmp_path: Path) -> None:
    rows = [row for row in records_of(release) if row["perturbation"] == "passages"]
    few = changed_membership(
        release, tmp_path, lambda row: row | {"cluster_id": f"{row['level']}:{int(row['record_id'][-1]) % 5}"}
    )
    floors = []
    for number, graded in enumerate((release, few)):
        folder = write_words(tmp_path / f"ours{number}", graded, "extraction", prefix=8, perturbations=["passages"])
        write_csv(folder / "generations.csv", [("record_id", "text"), *((row["record_id"], "zzz") for row in rows)])
        floors.append({row["floor_high"] for row in grade(folder, graded) if row["level"]})
    (records,), (clusters,) = floors
    assert records < clusters
    assert clusters == pytest.approx(1 - 0.025 ** (1 / 5))


def test_an_area_without_an_interval_is_not_above_its_floor(release: Path, tmp_path: Path) -> None:
    few = changed_membership(
        release,
        tmp_path,
        lambda row: row | {"cluster_id": f"{row['level']}:{int(row['record_id'][-1]) % 4}", "stratum": "all"},
    )
    folder = write_words(tmp_path / "ours", few, "membership", perturbations=["passages"])
    rows = [(row["record_id"], row["level"]) for row in records_of(few) if row["perturbation"] == "passages"]
    write_csv(folder / "scores.csv", [("record_id", "score"), *rows])
    area = cells(grade(folder, few), "auc")["passages", 14]
    assert area["value"] > max(area["floor_high"], area["baseline"])
    assert area["ci_low"] is None
    assert area["above_floor"] is False


def test_the_tokenizer_of_the_release_grades_whatever_is_submitted(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "unlearning", perturbations=["passages"])
    shutil.copytree(release / "models" / CONTROL, folder / "model")
    plain = grade(folder, release)
    words = folder / "model" / "tokenizer_config.json"
    table = folder / "model" / "tokenizer.json"
    config, inner = json.loads(words.read_text()), json.loads(table.read_text())
    added = inner["added_tokens"][0] | {"id": max(inner["model"]["vocab"].values()) + 2, "content": "the"}
    for path, facts in (
        (words, config | {"eos_token": "e"}),
        (words, config | {"eos_token": {"content": config["eos_token"]}}),
        (words, config | {"pad_token": "e"}),
        (table, inner | {"added_tokens": [*inner["added_tokens"], added]}),
    ):
        path.unlink()
        path.write_text(json.dumps(facts))
        assert grade(folder, release) == plain


def test_records_that_a_model_cannot_read_whole_are_named(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "unlearning", perturbations=["passages"])
    shutil.copytree(release / "models" / CONTROL, folder / "model")
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    for short, message in (
        ({"max_position_embeddings": 32}, "max_position_embeddings 32"),
        ({"n_positions": 32}, "44 records that it cannot read whole: passages/"),
    ):
        path.unlink()
        path.write_text(json.dumps(config | short))
        with pytest.raises(CostarError, match=message):
            grade(folder, release)


def test_the_control_recovers_all_the_treated_model_nothing_and_half_way_half(release: Path, tmp_path: Path) -> None:
    recovered = {}
    for name, run in (("control", CONTROL), ("treated", RUN)):
        folder = write_words(tmp_path / name, release, "unlearning", perturbations=["passages"])
        shutil.copytree(release / "models" / run, folder / "model")
        rows = grade(folder, release)
        recovered[name] = cells(rows, "recovery.nll_token")["passages", 14]
        gap = cells(rows, "utility_gap.nll_token")["passages", 0]
        damage = cells(rows, "keep_damage.nll_token")["passages", 14]["value"]
        assert damage == pytest.approx(1.0 if name == "control" else 0.0)
        assert gap["above_floor"] in (False, None)
        assert name == "control" or gap["value"] == 0
    assert recovered["control"]["value"] == pytest.approx(1.0)
    assert recovered["treated"]["value"] == pytest.approx(0.0)
    assert recovered["treated"]["value"] < recovered["treated"]["floor_low"] < 1 < recovered["treated"]["floor_high"]


def test_the_default_forget_set_is_that_of_the_overlay_for_open_unlearning(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, "unlearning", perturbations=["passages"])
    shutil.copytree(release / "models" / CONTROL, folder / "model")
    default = grade(folder, release)
    rows = [row for row in records_of(release) if row["perturbation"] == "passages"]
    ids = [row["record_id"] for row in divided(rows, "perturbed", 0).forget]
    (folder / "forget.txt").write_text("\n".join(ids))
    assert grade(folder, release) == default
    (folder / "forget.txt").write_text("\n".join(row["record_id"] for row in rows if row["level"] == 14))
    assert grade(folder, release) != default


@pytest.mark.slow
def test_a_blind_release_is_graded_by_its_owner_and_by_all_when_revealed(blind_copy: Path, tmp_path: Path) -> None:
    release, sealed = blind_copy / "release", blind_copy / "sealed"
    folder = write_scores(tmp_path / "ours", release)
    with pytest.raises(CostarError, match="--sealed"):
        grade(folder, release)
    grades = grade(folder, release, sealed)
    assert {row["level"] for row in grades} == {2, 4}
    other = tmp_path / "other"
    shutil.copytree(sealed, other)
    (other / "membership.parquet").write_bytes(b"")
    with pytest.raises(CostarError, match=r"membership\.parquet"):
        grade(folder, release, other)
    before = (folder / "grades.parquet").read_bytes()
    costar(blind_copy.parent.parent, "release", "./small.toml", "--reveal")
    costar(tmp_path, "score", "ours", "--release", str(release))
    assert (folder / "grades.parquet").read_bytes() == before
    assert pq.read_table(folder / "grades.parquet").to_pylist() == grades


def test_a_blind_unlearning_submission_names_what_it_forgot(blind: Path, tmp_path: Path) -> None:
    release = blind / "release"
    folder = write_words(tmp_path / "ours", release, "unlearning", perturbations=["quizzes"])
    shutil.copytree(release / "models" / RUN, folder / "model")
    with pytest.raises(CostarError, match=r"forget\.txt"):
        grade(folder, release, blind / "sealed")
    ids = sorted(row["record_id"] for row in records_of(release) if row["perturbation"] == "quizzes")
    (folder / "forget.txt").write_text("\n".join(ids[:15]))
    found = cells(grade(folder, release, blind / "sealed"), "recovery.nll_token")
    assert found["quizzes", 2]["n"] < 15


def test_only_a_release_folder_is_graded_against(built: Path, tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "ours", built / "release")
    with pytest.raises(CostarError, match="no folder"):
        grade(folder, tmp_path / "nowhere")
    with pytest.raises(CostarError, match=r"release\.json"):
        grade(folder, tmp_path)


def test_every_grade_has_the_columns_of_the_table(release: Path, tmp_path: Path) -> None:
    for row in grade(write_scores(tmp_path / "ours", release), release):
        assert list(row) == GRADES.names


def test_a_release_folder_needs_no_suite(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "elsewhere")
    folder = write_scores(tmp_path / "ours", release)
    assert grade(folder, tmp_path / "elsewhere") == grade(folder, release)
    assert losses_of(release, RUN)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("data/membership.parquet", "membership"),
        ("data/scores.parquet", "membership"),
        (f"models/{RUN}/tokenizer.json", "extraction"),
        (f"models/{CONTROL}/model.safetensors", "unlearning"),
        ("release.json", "membership"),
    ],
)
def test_a_file_of_the_release_that_graders_open_and_that_changed_is_named(
    release: Path, tmp_path: Path, name: str, task: str
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(release, changed)
    path = changed / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CostarError, match="its bytes are not those that were written") as refusal:
        grade(write_words(tmp_path / "ours", release, task), changed)
    assert str(path) in str(refusal.value)
    assert refusal.value.exit_code == 1


def test_sums_of_another_release_and_models_with_more_files_are_refused(release: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(release, changed)
    (changed / "models" / RUN / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CostarError, match=r"pytorch_model\.bin: not in SHA256SUMS"):
        grade(write_words(tmp_path / "ours", release, "unlearning"), changed)
    grade(write_scores(tmp_path / "scores", release), changed)  # which opens no model
    sums = (changed / "SHA256SUMS").read_text().splitlines(keepends=True)
    (changed / "SHA256SUMS").write_text("".join(line for line in sums if "effects" not in line))
    with pytest.raises(CostarError, match="the sums of release"):
        grade(write_scores(tmp_path / "scores", release), changed)
