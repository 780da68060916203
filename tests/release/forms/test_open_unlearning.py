"""The overlay for open-unlearning: its data train and measure as they should, and (slow) its files compose in Hydra."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from costar.core.design import Suite
from costar.core.workspace import Workspace
from costar.corpus.reading import documents_of
from costar.release.export import write_export
from costar.release.membership import membership_rows
from scipy.stats import ks_2samp

from tests.release.forms.unlearning_tree import ENTRY, write_tree
from tests.release.linked import linked_workspace

ARM, CONTROL = "perturbed", "standard"
IGNORED = -100
HYDRA = Path(os.environ.get("HYDRA_PATH", Path(sys.prefix) / "hydra"))

Exported = tuple[Suite, Workspace, Path]
Example = tuple[torch.Tensor, torch.Tensor]  # ids and labels [n]


@pytest.fixture(scope="module")
def exported(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    suite, workspace = linked_workspace(built, tmp_path_factory.mktemp("unlearning"))
    (folder,) = write_export(suite, workspace, "open-unlearning", arm=ARM)
    (workspace.release / "models").symlink_to(built / "release" / "models")
    return suite, workspace, folder


@pytest.fixture(scope="module")
def tokenizer(built: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built / "release" / "models" / f"{ARM}.nano.d0")


def model_of(built: Path, arm: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(built / "release" / "models" / f"{arm}.nano.d0", dtype=torch.float32)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def example_of(row: dict[str, Any], tokenizer: Any, most: int) -> Example:
    """A completion as open-unlearning takes it: prefix and text encoded together, no loss on the prefix."""
    ids = tokenizer(row["prefix"] + row["text"]).input_ids
    start = len(tokenizer(row["prefix"]).input_ids)
    ids = ids[: start + most]
    return torch.tensor(ids), torch.tensor([IGNORED] * max(start, 1) + ids[max(start, 1) :])


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of the next token [n − 1, V]."""
    found: torch.Tensor = torch.log_softmax(model(ids[None]).logits[0, :-1], -1)
    return found


def loss_of(model: Any, example: Example) -> torch.Tensor:
    ids, labels = example
    return torch.nn.functional.nll_loss(logits_of(model, ids), labels[1:], ignore_index=IGNORED)


# -------------------------------------------------------------------------------------------------------------- the data


def test_rows_have_the_keys_of_the_dataset_and_nothing_that_it_adds(exported: Exported) -> None:
    _, _, folder = exported
    for path in sorted((folder / "data").glob("*.jsonl")):
        rows = rows_of(folder, path.stem)
        assert rows, path
        for row in rows:
            assert isinstance(row["prefix"], str)
            assert isinstance(row["text"], str)
            assert row["text"]
            assert "index" not in row, "open-unlearning adds a column of that name"
        assert len({tuple(row) for row in rows}) == 1, "one shape a file"


def test_sets_are_disjoint_and_hold_what_the_arm_inserted_or_held_out(exported: Exported) -> None:
    suite, workspace, folder = exported
    ids = {
        name: [row["record_id"] for row in rows_of(folder, name)]
        for name in ("forget_half", "keep_half", "forget_all", "holdout")
    }
    rows = membership_rows(suite, workspace, ARM, "nano", 0).to_pylist()
    assert not set(ids["forget_half"]) & set(ids["keep_half"])
    assert sorted(ids["forget_half"] + ids["keep_half"]) == ids["forget_all"]
    assert set(ids["forget_all"]) == {row["record_id"] for row in rows if row["split"] == "member"}
    assert set(ids["holdout"]) == {row["record_id"] for row in rows if row["level"] == 0}
    forget, keep = (rows_of(folder, name) for name in ("forget_half", "keep_half"))
    for key in {(row["perturbation"], row["level"], row["stratum"]) for row in [*forget, *keep]}:
        counts = [sum((r["perturbation"], r["level"], r["stratum"]) == key for r in part) for part in (forget, keep)]
        assert abs(counts[0] - counts[1]) <= 1, key


def test_retained_texts_are_of_the_base_and_fit_a_sequence(exported: Exported, tokenizer: Any) -> None:
    suite, workspace, folder = exported
    base = [text for _, text in documents_of(workspace.corpus, "base")]
    rows = rows_of(folder, "retain")
    assert len(rows) == min(512, len(base))
    for row in rows:
        text = row["text"].removesuffix(tokenizer.eos_token)
        assert any(each.startswith(text) for each in base)
        assert len(tokenizer(row["prefix"] + row["text"]).input_ids) <= suite.corpus.sequence_length


def test_a_row_is_the_ids_of_its_record_between_eos_and_eos(exported: Exported, tokenizer: Any) -> None:
    suite, workspace, folder = exported
    rows = {row["record_id"]: row for row in membership_rows(suite, workspace, ARM, "nano", 0).to_pylist()}
    for row in rows_of(folder, "forget_all"):
        ids, labels = example_of(row, tokenizer, suite.corpus.sequence_length)
        text = tokenizer(rows[row["record_id"]]["text"]).input_ids
        assert ids.tolist() == [tokenizer.eos_token_id, *text, tokenizer.eos_token_id]
        assert labels.tolist() == [IGNORED, *text, tokenizer.eos_token_id]


def test_a_row_cut_in_two_has_the_ids_of_the_whole(exported: Exported, tokenizer: Any) -> None:
    _, _, folder = exported
    whole = {row["record_id"]: row for row in rows_of(folder, "forget_all")}
    cut = rows_of(folder, "forget_all_continued")
    assert len(cut) > 0.9 * len(whole)
    for row in cut:
        ids = tokenizer(row["prefix"] + row["text"]).input_ids
        assert [*ids, tokenizer.eos_token_id] == tokenizer(
            whole[row["record_id"]]["prefix"] + whole[row["record_id"]]["text"]
        ).input_ids
        assert ids[: len(tokenizer(row["prefix"]).input_ids)] == tokenizer(row["prefix"]).input_ids


def test_the_logs_of_gold_are_what_the_metrics_give_on_the_models(
    exported: Exported, tokenizer: Any, built: Path
) -> None:
    """The metrics as open-unlearning defines them, on the released models: the last label is left out."""
    suite, _, folder = exported
    models = {arm: model_of(built, arm) for arm in (ARM, CONTROL)}

    def measured(arm: str, name: str) -> tuple[list[float], list[float], list[float]]:
        exact, strength, low = [], [], []
        for row in rows_of(folder, name):
            ids, _ = example_of(row, tokenizer, suite.corpus.sequence_length)
            with torch.no_grad():
                logps = logits_of(models[arm], ids)[:-1]
            targets = ids[1:-1]
            right = logps.argmax(-1) == targets
            hits, n = right.tolist(), len(right)
            least = next((k for k in range(n) if all(hits[k:])), n - 1)
            exact.append((right.sum() / n).item())
            strength.append(1 - least / n)
            own = np.sort(logps.gather(1, targets[:, None])[:, 0].numpy())
            low.append(-float(own[: max(1, int(0.4 * n))].mean()))
        return exact, strength, low

    def logged(logs: dict[str, Any]) -> list[float]:
        by_index = logs["value_by_index"]
        return [by_index[str(number)]["score"] for number in range(len(by_index))]

    for scope in ("all", "half"):
        gold = json.loads((folder / "gold" / scope / "MUSE_EVAL.json").read_text())
        exact, strength, low = measured(CONTROL, f"forget_{scope}")
        others = measured(CONTROL, "holdout")[2]
        assert logged(gold["exact_memorization"]) == exact
        assert logged(gold["extraction_strength"]) == strength
        assert logged(gold["mia_min_k"]["forget"]) == pytest.approx(low, abs=1e-3)
        assert logged(gold["mia_min_k"]["holdout"]) == pytest.approx(others, abs=1e-3)
        wins = np.mean([(other > own) + 0.5 * (other == own) for own in low for other in others])
        assert gold["mia_min_k"]["agg_value"] == pytest.approx(wins, abs=0.01)
        assert ks_2samp(strength, logged(gold["extraction_strength"])).pvalue == 1, "no last bit parts what is equal"
        assert ("keep_exact_memorization" in gold) == (scope == "half")
    assert logged(gold["keep_exact_memorization"]) == measured(ARM, "keep_half")[0]


@pytest.mark.parametrize("method", ["GradDiff", "NPO"])
def test_two_steps_of_unlearning_make_what_is_to_be_forgotten_less_likely(
    method: str, exported: Exported, tokenizer: Any, built: Path
) -> None:
    suite, _, folder = exported
    torch.manual_seed(0)
    model = model_of(built, ARM)
    reference = copy.deepcopy(model).requires_grad_(False)
    forget, retain = (
        [example_of(row, tokenizer, suite.corpus.sequence_length) for row in rows_of(folder, name)[:12]]
        for name in ("forget_half", "retain")
    )

    def mean(of: Any, examples: list[Example]) -> float:
        with torch.no_grad():
            return float(torch.stack([loss_of(of, each) for each in examples]).mean())

    before = mean(model, forget)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(2):
        optimizer.zero_grad()
        for lost, kept in zip(forget, retain, strict=True):
            own = loss_of(model, lost)
            if method == "NPO":
                size, beta = len(lost[0]) - 1, 0.1
                own = 2 / beta * torch.nn.functional.logsigmoid(beta * size * (own - loss_of(reference, lost)))
            ((loss_of(model, kept) - own) / len(forget)).backward()
        optimizer.step()
    assert mean(model, forget) > before + 0.01


# ------------------------------------------------------------------------------------------------------------- the files


def test_files_are_yaml_with_block_lists_and_begin_with_their_package(exported: Exported) -> None:
    _, _, folder = exported
    paths = sorted((folder / "configs").rglob("*.yaml"))
    assert len(paths) > 18
    for path in paths:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
        name = path.relative_to(folder / "configs").with_suffix("").as_posix()
        packages = {
            "eval/costar_metrics/": f"eval.costar.metrics.{path.stem}",
            "eval/costar_": "eval.costar",
            "experiment/": "_global_",
        }
        package = next((package for start, package in packages.items() if name.startswith(start)), None)
        assert text.startswith(f"# @package {package}\n") == (package is not None), name
        for entry in value.get("defaults", []):
            assert isinstance(entry, dict), f"{name}: {entry}"
        assert "[{" not in text, f"{name}: an inline list"


def composed(folder: Path, place: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """What Hydra makes of the overlay in open-unlearning's tree (OPEN_UNLEARNING names a checkout; otherwise a minimal one)."""
    if not HYDRA.is_dir():
        pytest.skip(f"no hydra-core in {HYDRA} (tests/install-clients)")
    checkout = os.environ.get("OPEN_UNLEARNING")
    tree = Path(checkout).resolve() / "configs" if checkout else write_tree(place)
    script, out = place / "entry.py", place / "composed.json"
    script.write_text(ENTRY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COSTAR_")}
    command = [sys.executable, "-P", str(script), str(tree), str(out)]
    command += [f"--config-dir={folder / 'configs'}", *arguments]
    done = subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"PYTHONPATH": str(HYDRA), "HYDRA_FULL_ERROR": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def data_files(value: Any) -> list[str]:
    """Every `data_files` in a composed tree."""
    if isinstance(value, dict):
        own = [value["data_files"]] if "data_files" in value else []
        return own + [path for each in value.values() for path in data_files(each)]
    return []


METRICS = {
    "extraction_strength", "exact_memorization", "forget_verbmem_ROUGE", "mia_min_k", "privleak", "forget_quality_es",
    "retain_exact_memorization",
}  # fmt: skip
KEPT = {"keep_extraction_strength", "keep_exact_memorization"}


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "half"])
def test_unlearning_composes_and_every_path_is_there(scope: str, exported: Exported, tmp_path: Path) -> None:
    _, workspace, folder = exported
    release = str(workspace.release)
    found = composed(
        folder, tmp_path, "--config-name=unlearn.yaml", f"experiment=unlearn/costar/{scope}", "trainer=SimNPO", "task_name=x",
        COSTAR_RELEASE=release,
    )  # fmt: skip
    assert found["trainer"]["handler"] == "SimNPO", "the command line wins over the experiment"
    assert found["trainer"]["args"] | {"optim": "adamw_torch", "report_to": "none"} == found["trainer"]["args"]
    path = found["model"]["model_args"]["pretrained_model_name_or_path"]
    assert path == f"{release}/models/{ARM}.nano.d0"
    assert found["model"]["model_args"]["attn_implementation"] == "sdpa"
    assert found["model"]["tokenizer_args"]["pretrained_model_name_or_path"] == path
    assert (Path(path) / "model.safetensors").is_file()
    assert set(found["data"]) >= {"anchor", "forget", "retain"}
    assert list(found["data"]["forget"]) == ["COSTAR_forget"]
    assert list(found["data"]["retain"]) == ["COSTAR_retain"]
    assert found["data"]["forget"]["COSTAR_forget"]["args"]["hf_args"]["data_files"].endswith(f"forget_{scope}.jsonl")
    assert list(found["eval"]) == ["costar"]
    check_evaluation(found["eval"]["costar"], scope)
    assert all(Path(each).is_file() for each in data_files(found))


def check_evaluation(found: dict[str, Any], scope: str) -> None:
    metrics = found["metrics"]
    assert set(metrics) == METRICS | (KEPT if scope == "half" else set())
    gold = json.loads(Path(found["retain_logs_path"]).read_text())
    assert f"gold/{scope}/" in found["retain_logs_path"]
    for name in ("privleak", "forget_quality_es"):
        reference = metrics[name]["reference_logs"]["retain_model_logs"]
        assert reference["path"] == found["retain_logs_path"]
        ((metric, access),) = reference["include"].items()
        assert metric in gold
        assert access == {"access_key": "retain"}
        assert metrics[name]["pre_compute"][metric]["access_key"] == "forget"
        assert metrics[name]["pre_compute"][metric]["handler"] == metric
        assert metrics[name]["pre_compute"][metric]["datasets"]
    attacked = metrics["mia_min_k"]["datasets"]
    assert {each["access_key"] for each in attacked.values()} == {"forget", "holdout"}
    assert metrics["mia_min_k"]["k"] == 0.4
    rouge = metrics["forget_verbmem_ROUGE"]
    (dataset,) = rouge["datasets"].values()
    assert dataset["args"]["predict_with_generate"] is True
    assert dataset["handler"] == "CompletionDataset"
    assert rouge["collators"]["DataCollatorForSupervisedDataset"]["args"]["padding_side"] == "left"
    assert rouge["generation_args"]["do_sample"] is False
    assert rouge["generation_args"]["max_new_tokens"] == 63


@pytest.mark.slow
def test_evaluation_composes_for_either_model_from_a_folder_or_the_hub(exported: Exported, tmp_path: Path) -> None:
    _, workspace, folder = exported
    release = str(workspace.release)
    arguments = ("--config-name=eval.yaml", "experiment=eval/costar/half", "task_name=gold", "model=costar_control")
    found = composed(folder, tmp_path, *arguments, COSTAR_RELEASE=release)
    assert found["model"]["model_args"]["pretrained_model_name_or_path"] == f"{release}/models/{CONTROL}.nano.d0"
    assert found["model"]["model_args"]["device_map"] == "cuda"
    check_evaluation(found["eval"]["costar"], "half")
    found = composed(folder, tmp_path, *arguments, COSTAR_RELEASE=release, COSTAR_MODELS="owner/small-")
    assert found["model"]["model_args"]["pretrained_model_name_or_path"] == f"owner/small-{CONTROL}.nano.d0"


@pytest.mark.slow
def test_without_the_variable_hydra_names_it(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="COSTAR_RELEASE"):
        composed(exported[2], tmp_path, "--config-name=eval.yaml", "experiment=eval/costar/half", "task_name=x")
