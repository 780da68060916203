"""Tasks of lm-evaluation-harness: whole and labelled, and (slow) with the harness itself the numbers that costar has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from costar.core.design import Suite
from costar.core.workspace import Workspace
from costar.corpus.reading import corpus_eos, open_tokenizer
from costar.eval.assigned import read_assigned
from costar.insertion.origins import TWIN
from costar.insertion.records import read_records
from costar.release.export import write_export
from costar.release.harness_tasks import other_candidates

from tests.release.linked import linked_workspace

ARM, CONTROL, STEP = "perturbed", "standard", 96
GROUP = "costar_small_perturbed_d0"
HARNESS = Path(os.environ.get("LM_EVAL_PYTHON", Path(sys.prefix) / "lmeval" / "bin" / "python"))
TOLERANCE = 1e-3  # nats

Exported = tuple[Suite, Workspace, Path]


@pytest.fixture(scope="module")
def exported(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    suite, workspace = linked_workspace(built, tmp_path_factory.mktemp("harness"))
    return suite, workspace, write_export(suite, workspace, "lm-eval", arm=ARM)[0]


def settings_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))}


def rows_of(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def tasks_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: rows_of(folder, name) for name, found in settings_of(folder).items() if "dataset_path" in found}


def test_groups_hold_every_task_and_every_task_its_documents(exported: Exported) -> None:
    suite, _, folder = exported
    settings = settings_of(folder)
    tasks = {name for name, found in settings.items() if "dataset_path" in found}
    assert settings[GROUP]["group"] == f"{GROUP}_all"
    assert settings[GROUP]["task"] == [f"{GROUP}_{name}" for name in suite.perturbations]
    assert {task for name in settings[GROUP]["task"] for task in settings[name]["task"]} == tasks
    assert set(json.loads((folder / "measured.json").read_text())) == tasks
    for name in tasks:
        assert settings[name]["task"] == name
        assert settings[name]["dataset_kwargs"]["data_files"]["test"] == f"data/{name}.jsonl"
        assert settings[name]["metadata"]["version"]
        rows = rows_of(folder, name)
        assert rows
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            assert not settings[name].get(key) or settings[name][key] in rows[0], "a column, never a template"


def test_documents_say_the_level_of_their_record_and_test_items_carry_the_canary(exported: Exported) -> None:
    _, workspace, folder = exported
    assigned = read_assigned(workspace)
    levels, members = assigned.levels[(ARM, 0)], assigned.members[(ARM, 0)]
    canaries = set()
    for rows in tasks_of(folder).values():
        for row in rows:
            assert row["level"] == levels[row["record_id"].removesuffix(TWIN)]
            assert (row["split"] == "member") == (row["record_id"] in members)
            assert (row["role"] == "twin") == row["record_id"].endswith(TWIN)
            assert ("canary" in row) == (row["risk"] == "testset")
            canaries.add(row.get("canary", ""))
    assert len(canaries) == 2


def test_a_prompt_is_eos_and_the_first_ids_and_the_continuation_the_next(exported: Exported) -> None:
    suite, workspace, folder = exported
    tokenizer, eos = open_tokenizer(suite.corpus, workspace.corpus), corpus_eos(suite.corpus, workspace.corpus)
    prefix, suffix = suite.eval.prefixes[0], suite.eval.suffix
    _, renderings = read_records(workspace.insertion)
    ids = {(row["record_id"], row["rendering"]): row["token_ids"] for row in renderings.to_pylist()}
    for name in suite.perturbations:
        rows = rows_of(folder, f"{GROUP}_{name}_continuation_{prefix}")
        for row in rows:
            own = ids[(row["record_id"], row["rendering"])]
            assert row["prompt"].startswith(eos)
            head = row["prompt"].removeprefix(eos)
            assert tokenizer.encode(head) == own[:prefix]
            assert head + row["continuation"] == tokenizer.decode(own[: prefix + suffix])
        left_out = json.loads((folder / "measured.json").read_text())[f"{GROUP}_{name}_continuation_{prefix}"][
            "left_out"
        ]
        mains = {key for key in ids if key[0].startswith(f"{name}/") and (name != "quizzes" or key[1] == "cloze")}
        assert len(rows) + left_out == len(mains)


def test_a_secret_is_once_among_its_candidates_and_no_other_inserted_one_is(exported: Exported) -> None:
    _, workspace, folder = exported
    secrets = {
        row["record_id"]: json.loads(row["fields"])["secret"]
        for row in read_records(workspace.insertion)[0].to_pylist()
        if row["kind"] == "password"
    }
    inserted = {
        secret for record_id, secret in secrets.items() if record_id in read_assigned(workspace).members[(ARM, 0)]
    }
    rows = rows_of(folder, f"{GROUP}_passwords_secret")
    assert {row["record_id"] for row in rows} == set(secrets)
    assert len({row["gold"] for row in rows}) > 5, "the right one has no place of its own"
    for row in rows:
        own = secrets[row["record_id"]]
        assert row["choices"][row["gold"]] == own
        assert len(set(row["choices"])) == len(row["choices"])
        assert not set(row["choices"]) & (inserted - {own})


def test_other_candidates_are_all_of_a_small_space_and_a_sample_of_a_large_one() -> None:
    assert set(other_candidates("12", "0123456789", ["34"], "r")) == {f"{n:02d}" for n in range(100)} - {"12", "34"}
    sample = other_candidates("123456", "0123456789", ["000000"], "r")
    assert len(set(sample)) == 99
    assert (
        sample
        == other_candidates("123456", "0123456789", ["000000"], "r")
        != other_candidates("123456", "0123456789", [], "s")
    )


# ------------------------------------------------------------------------------------------------ the harness itself


Samples = dict[str, dict[tuple[str, str], dict[str, Any]]]


def run_harness(folder: Path, arguments: list[str], output: Path) -> Samples:
    """Task → (record, rendering) → sample, of what the harness writes to `output/results`; a skip where there is none."""
    if not HARNESS.is_file():
        pytest.skip(f"no lm-evaluation-harness in {HARNESS.parent.parent} (tests/install-clients)")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "hf"), "TQDM_DISABLE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    command = [str(HARNESS), "-m", "lm_eval", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: Samples = {}
    for path in (output / "results").rglob("samples_*.jsonl"):
        task = re.sub(r"_\d{4}-\d\d-\d\dT.*", "", path.stem.removeprefix("samples_"))
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[task] = {(sample["doc"]["record_id"], sample["doc"]["rendering"]): sample for sample in samples}
    return found


def run_page(folder: Path, models: Path, run: str, place: Path) -> Samples:
    """What the page's own command gives for a run, in a release that holds this export and the models."""
    (place / "models").symlink_to(models)
    copy = place / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    block = re.search(r"```bash\n(.*?)```", (copy / "README.md").read_text(), re.S)
    assert block is not None
    (line,) = [line for line in block[1].splitlines() if f"/{run}," in line]
    program, *arguments = shlex.split(line)
    assert program == "lm_eval"
    return run_harness(copy, arguments, copy)


def scores_of(workspace: Workspace, run: str, probe: str) -> dict[tuple[str, str, str, str], float]:
    path = workspace.scores(run) / f"step-{STEP:06d}.{probe}.parquet"
    rows = pq.read_table(path, partitioning=None).to_pylist()
    return {(row["record_id"], row["rendering"], row["variant"], row["metric"]): row["value"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("arm", [ARM, CONTROL])
def test_the_harness_gives_the_numbers_of_costar_record_by_record(
    arm: str, exported: Exported, built: Path, tmp_path: Path
) -> None:
    suite, workspace, folder = exported
    run = f"{arm}.nano.d0"
    found = run_page(folder, built / "release" / "models", run, tmp_path)
    assert set(found) == set(tasks_of(folder))
    likelihood, extraction, choice, secret = (
        scores_of(workspace, run, probe) for probe in ("likelihood", "extraction", "choice", "secret-rank")
    )
    compared = 0
    for name in suite.perturbations:
        for (record_id, rendering), sample in found[f"{GROUP}_{name}_likelihood"].items():
            total, n_bytes = sample["byte_perplexity"]
            own = likelihood[(record_id, rendering, "", "nll_token")]
            assert -total / sample["doc"]["n_tokens"] == pytest.approx(own, abs=TOLERANCE)
            assert total / n_bytes == pytest.approx(likelihood[(record_id, rendering, "", "ll_byte")], abs=TOLERANCE)
            compared += 1
        for (record_id, rendering), sample in found[f"{GROUP}_{name}_continuation_8"].items():
            assert sample["exact_match"] == extraction[(record_id, rendering, "prefix=8", "extracted")]
            compared += 1
    metrics = {"acc": "accuracy", "acc_norm": "accuracy_norm", "acc_mutual_info": "accuracy_mi"}
    for style in ("cloze", "letters"):
        for (record_id, rendering), sample in found[f"{GROUP}_quizzes_choice_format_{style}"].items():
            place = (record_id, rendering, f"format={style}")
            totals = np.array([float(each[0][0]) for each in sample["resps"]])[: len(sample["doc"]["choices"])]
            gold = sample["doc"]["gold"]
            margin = totals[gold] - np.delete(totals, gold).max()
            assert margin == pytest.approx(choice[(*place, "margin")], abs=TOLERANCE)
            for theirs, ours in metrics.items():
                if theirs in sample:
                    assert sample[theirs] == choice[(*place, ours)], (place, theirs)
                    compared += 1
    for (record_id, rendering), sample in found[f"{GROUP}_passwords_secret"].items():
        totals = np.array([float(each[0][0]) for each in sample["resps"]])
        rank = 1 + int((totals > totals[sample["doc"]["gold"]]).sum())
        assert rank == secret[(record_id, rendering, "", "rank")]
        assert sample["acc"] == float(rank == 1)
        compared += 1
    assert compared > 300
    if arm == ARM:
        assert_the_page_tells_levels_apart(folder, tmp_path / "lm-eval" / folder.name, likelihood)


def assert_the_page_tells_levels_apart(
    folder: Path, place: Path, scores: dict[tuple[str, str, str, str], float]
) -> None:
    """The snippet of the page, over what the harness wrote."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    done = subprocess.run([sys.executable, "-c", code[0]], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    means = {(line[1], line[2], line[3], line[4]): float(line[5]) for line in lines}
    rows = rows_of(folder, f"{GROUP}_passages_likelihood")
    for level in ("0", "1", "14"):
        own = [scores[(r["record_id"], r["rendering"], "", "ll_byte")] for r in rows if str(r["level"]) == level]
        key = (f"{GROUP}_passages_likelihood", "byte_perplexity", "main", level)
        assert means[key] == pytest.approx(np.mean(own), abs=TOLERANCE)
