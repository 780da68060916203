"""The run tree as jobs of a cluster: planned for any tree, written as scripts, on no cluster at all."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.machine import Layout, Machine, Slurm
from costar.core.models import ModelShape
from costar.core.slurm import ClusterJob, last_lines, queue_name, queue_text, script_text
from costar.core.workspace import Workspace
from costar.train.config import RunConfig
from costar.train.jobs import cut_runs, eval_job, missing_after, train_job, with_ancestors
from hypothesis import given
from hypothesis import strategies as st

from tests.designs import run_config, train_design

TRAIN = train_design(steps=20, batch=2, every=5)
SHAPE = ModelShape(layers=1, hidden=8, heads=1, kv_heads=1, ffn=8, vocab_size=16, tied=False)
BASE = run_config("", model="nano", shape=SHAPE, train=TRAIN, sequence_length=8, checkpoints=(20,), vocabulary=16)


def tree(branches: list[tuple[str | None, int]]) -> list[RunConfig]:
    """Runs r0, r1, …, each with its parent and the step at which it begins."""
    return [replace(BASE, run=f"r{i}", parent_run=p, branch_step=s) for i, (p, s) in enumerate(branches)]


@st.composite
def trees(draw: st.DrawFn) -> list[RunConfig]:
    """Any tree that the planner makes: a child begins later than its parent, at the latest at the end; in any order."""
    branches: list[tuple[str | None, int]] = []
    for number in range(draw(st.integers(1, 9))):
        parent = draw(st.one_of(st.none(), st.integers(0, number - 1))) if number else None
        first = 0 if parent is None else branches[parent][1] + 1
        open_ = parent is not None and first <= TRAIN.steps
        branches.append((f"r{parent}", draw(st.integers(first, TRAIN.steps))) if open_ else (None, 0))
    return draw(st.permutations(tree(branches)))


@given(trees())
def test_every_job_begins_where_a_job_before_it_ends_and_all_steps_are_trained_once(configs: list[RunConfig]) -> None:
    stretches = cut_runs(configs)
    ended: dict[str, tuple[str, int]] = {}
    trained: dict[str, list[int]] = {config.run: [] for config in configs}
    for stretch in stretches:
        assert stretch.after is None or stretch.after in ended  # edges go back only: there is no cycle
        if stretch.after is not None:
            assert ended[stretch.after][1] == stretch.first
        else:
            assert stretch.first == 0
        ended[stretch.name] = (stretch.run, stretch.last)
        trained[stretch.run] += range(stretch.first, stretch.last)
    assert len(ended) == len(stretches)
    for config in configs:
        assert trained[config.run] == list(range(config.branch_step, config.train.steps))
        if config.parent_run:
            (begin,) = [s for s in stretches if s.run == config.run and s.first == config.branch_step][:1]
            assert begin.after is not None
            assert ended[begin.after] == (config.parent_run, config.branch_step)


def test_a_run_is_cut_where_its_children_begin() -> None:
    configs = tree([(None, 0), ("r0", 5), ("r0", 12), ("r1", 20)])
    found = [(s.name, s.first, s.after) for s in cut_runs(configs)]
    assert found == [
        ("r0@5", 0, None),
        ("r0@12", 5, "r0@5"),
        ("r0@20", 12, "r0@12"),
        ("r1@20", 5, "r0@5"),
        ("r2@20", 12, "r0@12"),
        ("r3@20", 20, "r1@20"),
    ]


def test_a_run_that_starts_from_the_last_weights_of_another_follows_its_end() -> None:
    configs = tree([(None, 0), ("r0", 5), (None, 0), ("r2", 3)])
    edges = {s.name: s.after for s in cut_runs(configs[::-1], {"r2": "r1"})}
    assert edges == {"r0@5": None, "r0@20": "r0@5", "r1@20": "r0@5", "r2@3": "r1@20", "r2@20": "r2@3", "r3@20": "r2@3"}
    begun = {config.run: config for config in configs}
    assert {config.run for config in with_ancestors(configs[3:], begun, {"r2": "r1"})} == set(begun)


def test_a_finished_stretch_is_waited_for_no_more() -> None:
    stretches = cut_runs(tree([(None, 0), ("r0", 5)]))
    child = next(each for each in stretches if each.run == "r1")
    assert missing_after(child, {"r0@5": False}) == "r0@5"
    assert missing_after(child, {"r0@5": True}) is None


def test_ancestors_of_the_runs_asked_for_are_looked_up() -> None:
    configs = tree([(None, 0), ("r0", 5), ("r1", 7)])
    found = with_ancestors(configs[2:], {config.run: config for config in configs})
    assert {config.run for config in found} == {"r0", "r1", "r2"}


def written(folder: Path, settings: Slurm, devices: int = 1) -> tuple[str, ClusterJob]:
    place = Workspace(folder / "a suite")
    stretch = cut_runs(tree([(None, 0), ("r0", 5)]))[0]
    job = train_job(
        place, stretch, after=None, steps=20, layout=Layout(micro_batch=2), settings=settings, devices=devices
    )
    return script_text(job, settings, place.root), job


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        (Slurm(partition="main", qos="long", account="lab"), 1),
        (Slurm(partition="main", cpus_per_task=2), 2),
        (Slurm(partition="main", nodes=4, gpus_per_node=8, cpus_per_task=6), 1),
    ],
)
def test_a_script_is_one_that_bash_reads_and_asks_for_what_the_run_takes(
    tmp_path: Path, settings: Slurm, devices: int
) -> None:
    text, job = written(tmp_path, settings, devices)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    lines = text.splitlines()
    processes = settings.gpus_per_node or devices
    assert f"#SBATCH --cpus-per-task={settings.cpus_per_task * processes}" in lines
    assert f"#SBATCH --nodes={settings.nodes}" in lines
    assert ("#SBATCH --gpus-per-node=8" in lines) == (settings.gpus_per_node == 8)
    assert ("#SBATCH --qos=long" in lines) == (settings.qos == "long")
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=USR2@120"} <= set(lines)
    assert f"#SBATCH --output={shlex.quote(str(job.log))}" in lines
    assert ("costar.train.torchrun" in text) == (processes * settings.nodes > 1)
    assert ('--nodes 4 --endpoint "$head:' in text) == (settings.nodes == 4)
    assert "costar.train.worker" in text
    assert '"stop": 5' in text
    assert '"micro_batch": 2' in text
    assert job.script.parent == tmp_path / "a suite" / "runs" / "r0" / "jobs"


def test_the_last_stretch_of_a_run_has_no_stop(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    stretch = cut_runs(tree([(None, 0)]))[0]
    job = train_job(place, stretch, after=None, steps=20, layout=Layout(), settings=Slurm(partition="main"), devices=1)
    assert '"stop": null' in job.command


def test_a_checkpoint_is_measured_by_one_process(tmp_path: Path) -> None:
    settings = Slurm(partition="main", nodes=4, gpus_per_node=8)
    job = eval_job(Workspace(tmp_path), "r0", 5, gpus=settings.gpus_per_node)
    text = script_text(job, settings, tmp_path)
    assert "#SBATCH --gpus-per-node=1" in text
    assert "#SBATCH --nodes=1" in text
    assert "costar.eval.worker" in text


def test_the_names_of_two_suites_and_of_two_runs_are_never_the_same(tmp_path: Path) -> None:
    names = {queue_name(tmp_path / suite, run) for suite in ("a", "b") for run in ("x.y.d0@1", "x-y.d0@1")}
    assert len(names) == 4


def test_the_state_of_the_queue_is_told_in_a_line(tmp_path: Path) -> None:
    assert queue_text(["RUNNING|None", "PENDING|Dependency"]) == "1 pending, 1 running"
    assert queue_text(["PENDING|Resources", "PENDING|Dependency"]) == "2 pending (Dependency, Resources)"
    assert last_lines(tmp_path / "none") == "no log"


def test_more_processes_than_gpus_are_refused_and_fewer_go_side_by_side() -> None:
    assert Machine(devices=2).runs_at_once(8) == 4
    assert Machine(devices=2, workers=3).runs_at_once(8) == 3
    assert Machine(devices=4, workers=3).runs_at_once(8) == 2
    with pytest.raises(CostarError, match="at most the 2 GPUs"):
        Machine(devices=4).runs_at_once(2)
