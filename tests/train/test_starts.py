"""Runs that start from the last weights of a parent arm's runs, or from a checkpoint of Hugging Face."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from costar.core.errors import CostarError
from costar.core.machine import Layout, Machine
from costar.core.models import ModelShape
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.train.checkpoint import Stored
from costar.train.config import RunConfig, Start, make_configs, read_config, write_config
from costar.train.export import hf_config
from costar.train.imports import StartWeights
from costar.train.launch import TrainQueue, plan_runs
from costar.train.loop import train_run
from costar.train.preflight import Verdict, open_tasks, probed_runs
from costar.train.stale import descendants, stale_runs
from costar.train.starts import start_is_ready, start_weights

from tests.small import costar

ARMS = """
[arm.tuned-standard]
parent        = "standard"
control       = "none"
perturbations = []
steps         = 24

[arm.tuned]
parent        = "perturbed"
control       = "tuned-standard"
perturbations = []
steps         = 24

[arm.imported]
init          = "llama"
control       = "none"
perturbations = []
steps         = 24
"""


def save_llama(folder: Path, *, layers: int = 2) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ModelShape(layers=layers, hidden=64, heads=2, kv_heads=2, ffn=128, vocab_size=640, tied=True)
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**hf_config(shape, 128, 0))).save_pretrained(folder)


@pytest.fixture(scope="module")
def source(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built suite with arms that start from weights, inserted and not yet trained."""
    folder = tmp_path_factory.mktemp("starts") / "suite"
    shutil.copytree(built.parent.parent, folder, ignore=shutil.ignore_patterns("lock", "done"))
    path = folder / "small.toml"
    path.write_text(path.read_text().replace("\n[train]", ARMS + "\n[train]", 1))
    save_llama(folder / "llama")
    costar(folder, "insert", "./small.toml")
    return folder


@pytest.fixture
def extended(source: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(source, tmp_path / "copy")
    return tmp_path / "copy" / "build" / "small"


def configs_of(built: Path, *arms: str) -> dict[str, RunConfig]:
    suite = load_suite(built.parent.parent / "small.toml")
    names = [name for name in suite.runs() if not arms or name.arm in arms]
    return {config.arm: config for config in plan_runs(suite, Workspace(built), names)}


def test_a_run_starts_from_the_last_weights_of_its_parents(extended: Path) -> None:
    workspace, configs = Workspace(extended), configs_of(extended)
    tuned = configs["tuned"]
    assert (tuned.start.kind, tuned.start.source) == ("parent", "perturbed.nano.d0")
    assert tuned.start.sha256 == configs["perturbed"].config_sha256()
    assert (tuned.shape, tuned.parent_run) == (configs["perturbed"].shape, None)
    weights = start_weights(workspace, tuned)
    assert weights is not None
    stored = Stored(workspace.checkpoint("perturbed.nano.d0", 96))
    last = {name: stored.whole(name) for name in stored.names()}
    assert weights.names() == sorted(last)
    for name, tensor in last.items():
        assert torch.equal(weights.rows(name, 1, len(tensor)), tensor[1:]), name
    assert start_weights(workspace, configs["standard"]) is None


def test_the_first_step_is_taken_with_the_weights_of_the_parent_or_of_the_checkpoint(extended: Path) -> None:
    workspace, configs = Workspace(extended), configs_of(extended)
    torch.set_num_threads(1)
    for arm in ("tuned", "imported"):
        config = configs[arm]
        write_config(workspace, replace(config, checkpoints=(0, *config.checkpoints)))
        train_run(workspace, config.run, stop=1)
        stored = Stored(workspace.checkpoint(config.run, 0))
        weights = start_weights(workspace, config)
        assert weights is not None
        assert all(torch.equal(weights.rows(n, 0, len(stored.whole(n))), stored.whole(n)) for n in stored.names())
        facts = json.loads((workspace.run(config.run) / "identity.json").read_text())
        assert facts["start_sha256"] == weights.sha256()
    shutil.rmtree(Path(configs["imported"].start.folder))
    train_run(workspace, configs["imported"].run, stop=2)  # a run that has begun needs its first weights no more
    again = json.loads((workspace.run(configs["imported"].run) / "identity.json").read_text())
    assert again["start_sha256"] == facts["start_sha256"]


def test_what_a_run_starts_from_enters_its_configuration(extended: Path) -> None:
    configs = configs_of(extended)
    assert len({configs[arm].config_sha256() for arm in ("tuned", "tuned-standard", "imported")}) == 3
    assert configs["imported"].shape.vocab_size == 640
    assert configs["imported"].start.earlier_exposure == "unknown"
    assert configs["tuned"].start.earlier_exposure == "parent"
    for config in configs.values():
        assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    moved = replace(configs["imported"], start=replace(configs["imported"].start, folder="/elsewhere", source="other"))
    assert moved.config_sha256() == configs["imported"].config_sha256()


def test_runs_that_start_alike_share_steps_and_others_share_none(extended: Path) -> None:
    """Both tuned arms read the same rows: only what they start from differs."""
    assert {config.parent_run for arm, config in configs_of(extended).items() if arm.startswith("tuned")} == {None}


def test_configurations_of_earlier_versions_are_read_as_they_were(built: Path) -> None:
    config = read_config(Workspace(built), "late.nano.d0")
    raw = json.loads(json.dumps(config.to_json()))
    del raw["start"], raw["vocabulary"]
    old = RunConfig.from_json(raw)
    assert (old.start, old.vocabulary) == (Start(), 512)
    assert old.config_sha256() == config.config_sha256()


def test_older_configurations_without_a_decay_keep_their_hash(built: Path) -> None:
    config = read_config(Workspace(built), "late.nano.d0")
    raw = json.loads(json.dumps(config.to_json()))
    del raw["train"]["decay"]
    assert RunConfig.from_json(raw) == config
    some = replace(config, train=replace(config.train, schedule="wsd", decay=8))
    assert some.config_sha256() != replace(some, train=replace(some.train, decay=9)).config_sha256()


def test_a_checkpoint_below_data_is_planned_and_needs_no_copy_beside_the_suite(extended: Path) -> None:
    folder = extended.parent.parent
    (folder / "elsewhere").mkdir()
    (folder / "llama").rename(folder / "elsewhere" / "llama")
    (folder / "machine.toml").write_text('data = "elsewhere"\n')
    assert "imported.nano.d0" in costar(folder, "plan", "./small.toml").stdout
    suite = load_suite(folder / "small.toml")
    names = suite.runs(arm="imported")
    (task,) = open_tasks(suite, Workspace(extended), names, 512, [folder / "elsewhere"])
    assert task.steps == 24


@pytest.mark.slow
def test_runs_that_start_from_a_checkpoint_or_an_untrained_parent_are_probed(extended: Path) -> None:
    folder = extended.parent.parent
    (folder / "elsewhere").mkdir()
    (folder / "llama").rename(folder / "elsewhere" / "llama")
    shutil.rmtree(extended / "runs" / "perturbed.nano.d0")
    suite, machine = load_suite(folder / "small.toml"), Machine(data=str(folder / "elsewhere"))
    for arm in ("imported", "tuned"):
        tasks = open_tasks(suite, Workspace(extended), suite.runs(arm=arm), 512, machine.data_folders)
        verdict = Verdict(processes=1, seconds=600, model="nano", tasks=tuple(tasks))
        assert "(probe: " in probed_runs(verdict, suite, Workspace(extended), machine, force=False).line


def test_planning_fetches_nothing_and_reads_no_weights(extended: Path) -> None:
    path, workspace = extended.parent.parent / "small.toml", Workspace(extended)
    suite = load_suite(path)
    ((planned,), _) = make_configs(suite, workspace, suite.runs(arm="imported"), fetch=False)
    ((trained,), _) = make_configs(suite, workspace, suite.runs(arm="imported"))
    assert planned.start.sha256 == "llama"
    assert trained.start.sha256 == StartWeights(path.parent / "llama").sha256()
    path.write_text(path.read_text().replace('init          = "llama"', 'init = "hub:org/never-there"'))
    suite = load_suite(path)
    ((absent,), _) = make_configs(suite, workspace, suite.runs(arm="imported"), fetch=False)
    assert absent.start.sha256 == "hub:org/never-there"


def test_the_queue_holds_a_run_back_until_its_parent_is_trained(extended: Path) -> None:
    workspace = Workspace(extended)
    shutil.rmtree(workspace.run("perturbed.nano.d0") / "hf")
    shutil.rmtree(workspace.run("perturbed.nano.d0") / "checkpoints" / "step-000096")
    configs = configs_of(extended)
    assert not start_is_ready(workspace, configs["tuned"])
    assert start_is_ready(workspace, configs["tuned-standard"])
    queue = TrainQueue(workspace, list(configs.values()), Layout())
    names = set()
    while job := queue.next_job():
        names.add(job.name)
    assert names == {"perturbed.nano.d0", "tuned-standard.nano.d0", "imported.nano.d0"}


def test_a_parent_that_nobody_trains_is_named_before_any_training(extended: Path) -> None:
    workspace = Workspace(extended)
    shutil.rmtree(workspace.run("perturbed.nano.d0"))
    with pytest.raises(CostarError) as error:
        configs_of(extended, "tuned")
    assert "its parent perturbed.nano.d0 is not trained" in error.value.found
    assert "--arm perturbed" in error.value.mend
    assert "perturbed.nano.d0" in [config.run for config in configs_of(extended, "tuned", "perturbed").values()]


def test_weights_that_changed_since_planning_are_refused(extended: Path) -> None:
    workspace, configs = Workspace(extended), configs_of(extended)
    for path, arm in (
        (workspace.run("perturbed.nano.d0") / "hf" / "step-000096" / "model.safetensors", "tuned"),
        (extended.parent.parent / "llama" / "model.safetensors", "imported"),
    ):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
        with pytest.raises(CostarError, match=r"(damaged|other) weights"):
            start_weights(workspace, configs[arm])
        assert start_weights(workspace, configs[arm], check=False) is not None


def test_a_checkpoint_of_another_shape_stops_planning(extended: Path) -> None:
    folder = extended.parent.parent
    shutil.rmtree(folder / "llama")
    done = costar(folder, "plan", "./small.toml", check=False)
    assert done.returncode == 2
    assert "[arm.imported] init" in done.stderr
    save_llama(folder / "llama", layers=3)
    done = costar(folder, "plan", "./small.toml", check=False)
    assert done.returncode == 2
    assert "layers 3 against 2" in done.stderr


def test_a_run_outlives_the_checkpoint_it_began_from(extended: Path) -> None:
    workspace = Workspace(extended)
    TrainQueue(workspace, list(configs_of(extended).values()), Layout())
    before = read_config(workspace, "imported.nano.d0")
    shutil.rmtree(extended.parent.parent / "llama")
    assert configs_of(extended)["imported"] == before


def test_edits_of_a_parent_touch_the_runs_that_start_from_it(extended: Path) -> None:
    workspace = Workspace(extended)
    TrainQueue(workspace, list(configs_of(extended).values()), Layout())
    assert descendants(workspace, ["perturbed.nano.d0"]) == {"perturbed.nano.d0", "tuned.nano.d0"}
    path = extended.parent.parent / "small.toml"
    path.write_text(path.read_text().replace("[arm.perturbed]", '[arm.perturbed]\nperturbations = ["passages"]'))
    stale = {each.run: each.keys for each in stale_runs(load_suite(path), workspace)}
    assert "arm.perturbed.perturbations" in stale["perturbed.nano.d0"]
    assert stale["tuned.nano.d0"] == ("its parent run",)
    assert "tuned-standard.nano.d0" not in stale


def test_another_start_makes_a_begun_run_stale(extended: Path) -> None:
    workspace = Workspace(extended)
    TrainQueue(workspace, list(configs_of(extended).values()), Layout())
    path = extended.parent.parent / "small.toml"
    path.write_text(path.read_text().replace('init          = "llama"', 'init          = "other"'))
    assert [(each.run, each.keys) for each in stale_runs(load_suite(path), workspace)] == [
        ("imported.nano.d0", ("arm.imported.init",))
    ]


def test_the_manifest_says_where_weights_come_from_and_counts_what_parents_read(extended: Path) -> None:
    import costar as package

    suite = package.open(str(extended))
    starts = {
        row[0]: row[1:] for row in suite.sql("select arm, parent_arm, init, earlier_exposure from arms").fetchall()
    }
    assert starts["tuned"] == ("perturbed", None, "parent")
    assert starts["imported"] == (None, "llama", "unknown")
    assert starts["late"] == (None, None, "none")
    query = (
        "select read_by, min(slot), max(slot), min(step), max(step), count(*) from history where arm = '{}' group by 1"
    )
    (own,) = suite.sql(query.format("perturbed")).fetchall()
    (inherited,) = suite.sql(query.format("tuned")).fetchall()
    slots, steps = 96 * 8, 96
    assert inherited == ("perturbed", own[1] - slots, own[2] - slots, own[3] - steps, own[4] - steps, own[5])
    assert inherited[2] < 0
    assert inherited[4] < 0
    assert suite.sql(query.format("imported")).fetchall() == []
