from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from costar.core.design import RunName
from costar.core.errors import CostarError
from costar.core.machine import Machine
from costar.core.models import presets
from costar.core.needs import GIB, Device, Gpus, checkpoint_bytes, run_needs
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.train.makespan import makespan
from costar.train.preflight import Supply, Task, Verdict, available_memory, open_tasks, preflight, probed_runs, smaller

from tests.designs import train_design
from tests.small import SUITE, costar, write_small_suite

PLAIN = Machine()
CPU = Device(kind="cpu", product_bytes=4)
TRAIN = train_design()


def task(model: str = "tiny", *, arm: str = "a", steps: int = 100, checkpoints: int = 2) -> Task:
    return Task(
        name=RunName(arm=arm, model=model, draw=0),
        shape=presets()[model].shape(1024),
        train=replace(TRAIN, steps=steps),
        length=256,
        first=0,
        parent=None,
        branch=0,
        checkpoints=checkpoints,
    )


def supply(*, memory: int = 2**50, disk: int = 2**60, slots: int = 2, gpus: Gpus | None = None) -> Supply:
    device = Device(kind="cuda", product_bytes=2) if gpus else CPU
    return Supply(device=device, gpus=gpus, memory=memory, disk=disk, slots=slots)


def needed(one: Task, machine: Machine = PLAIN) -> int:
    return run_needs(one.shape, one.train, one.length, machine.layout, steps=1, checkpoints=1, device=CPU).memory


def refused(tasks: list[Task], there: Supply, machine: Machine = PLAIN, *, force: bool = False) -> str:
    with pytest.raises(CostarError) as error:
        preflight(tasks, there, machine, force=force)
    assert error.value.exit_code == 1
    return str(error.value)


def test_too_little_memory_names_need_supply_and_the_first_setting_that_fits() -> None:
    big = task("160m")
    halved = needed(big, Machine(micro_batch=4))
    text = refused([big], supply(memory=halved))
    assert f"{needed(big) / GIB:.1f} GB of memory" in text
    assert f"here {halved / GIB:.1f} GB" in text
    assert f"micro_batch = 4 in machine.toml needs {halved / GIB:.1f} GB" in text


def test_where_no_micro_batch_fits_activations_are_computed_again() -> None:
    big = replace(task("160m"), length=2048)
    least = needed(big, Machine(micro_batch=1))
    again = needed(big, Machine(micro_batch=1, recompute=True))
    assert again < least
    assert "micro_batch = 1, recompute = true in machine.toml" in refused([big], supply(memory=again))


def test_where_one_gpu_is_too_small_the_parameters_are_spread_over_several() -> None:
    gpus = Gpus(name="a GPU", count=8, free=40 * GIB, rate=5e14)
    one = replace(task("8b"), train=replace(TRAIN, batch=64), length=2048)
    text = refused([one], supply(memory=gpus.free, gpus=gpus))
    assert "devices = 8 in machine.toml needs" in text.replace('sharding = "full", ', "")


def test_where_no_layout_fits_the_next_smaller_model_is_named() -> None:
    assert "MODEL=160m" in refused([task("1b")], supply(memory=GIB))


def test_too_little_disk_is_refused_even_when_forced_and_counts_every_run() -> None:
    tasks = [task(arm="a"), task(arm="b")]
    each = 2 * checkpoint_bytes(tasks[0].shape, "adamw") + 4 * tasks[0].shape.parameters
    assert preflight(tasks, supply(disk=2 * each), Machine(save_minutes=0), force=False).processes == 2
    assert "disk" in refused(tasks, supply(disk=2 * each - 1), Machine(save_minutes=0), force=True)


def test_more_processes_than_the_smallest_batch_are_refused_before_any_starts() -> None:
    small = replace(task(arm="b"), train=replace(TRAIN, batch=2))
    for machine, words in (
        (Machine(devices=4), ("devices = 2 or fewer", "4 processes a run, and b.tiny.d0 with batch 2")),
        (Machine(devices=1, micro_batch=3, determinism="layout-invariant"), ("batch 8", "micro_batch 3")),
    ):
        with pytest.raises(CostarError) as error:
            preflight([task(), small] if machine.devices > 1 else [task()], supply(), machine, force=True)
        assert error.value.exit_code == 2
        assert all(word in str(error.value) for word in words)
    preflight([task(), small], supply(), Machine(devices=2), force=True)


def test_sizes_below_a_tenth_of_a_gigabyte_are_told_in_megabytes() -> None:
    text = refused([task()], supply(disk=int(1.3 * 2**20)))
    assert ", 1.3 MB" in text
    assert " MB of disk" in text
    assert "0.0 GB" not in text


def test_checkpoints_for_restarts_count_where_training_is_longer_than_they_are_apart() -> None:
    one = task(steps=10**6)
    disk = 2 * checkpoint_bytes(one.shape, "adamw") + 4 * one.shape.parameters
    preflight([one], supply(disk=disk), Machine(save_minutes=0), force=True)
    assert "disk" in refused([one], supply(disk=disk), Machine(save_minutes=1), force=True)


def test_force_overrides_the_estimate_of_time_only() -> None:
    endless = task(steps=10**10)
    assert "--force" in refused([endless], supply())
    assert "needs" in preflight([endless], supply(), Machine(save_minutes=0), force=True).line
    assert "memory" in refused([endless], supply(memory=1), force=True)


def test_runs_that_do_not_fit_side_by_side_train_one_after_another() -> None:
    tasks = [task(arm="a"), task(arm="b")]
    narrow = preflight(tasks, supply(memory=needed(tasks[0]) * 3 // 2), Machine(), force=False)
    wide = preflight(tasks, supply(memory=needed(tasks[0]) * 2), Machine(), force=False)
    assert (narrow.processes, wide.processes) == (1, 2)
    assert "1 run side by side" in narrow.line
    assert "2 runs side by side" in wide.line
    assert available_memory() > 0


def test_the_ladder_of_suggestions() -> None:
    assert [smaller(name) for name in ("8b", "1b", "160m", "60m", "15m", "tiny", "own")] == [
        "1b",
        "160m",
        "60m",
        "15m",
        "tiny",
        None,
        None,
    ]


def test_makespan_of_hand_worked_queues() -> None:
    assert makespan({}, {}, 2) == 0
    assert makespan({"a": 4, "b": 3, "c": 3, "d": 2}, {}, 2) == 6
    assert makespan({"a": 4, "b": 3, "c": 3, "d": 2}, {}, 9) == 4
    assert makespan({"trunk": 10, "late": 5}, {"late": ("trunk", 5)}, 2) == 10
    assert makespan({"trunk": 10, "late": 5}, {"late": ("trunk", 5)}, 1) == 15
    assert makespan({"trunk": 10, "late": 9, "other": 2}, {"late": ("trunk", 5)}, 2) == 14


def test_makespan_lies_between_its_bounds_for_any_queue() -> None:
    """List scheduling: at least the mean load and the longest chain; at most both together."""
    chance = random.Random(7)
    for _ in range(300):
        names = [str(number) for number in range(chance.randint(1, 9))]
        works = {name: float(chance.randint(0, 20)) for name in names}
        after = {}
        for number, name in enumerate(names[1:], 1):
            if chance.random() < 0.5:
                before = names[chance.randrange(number)]
                after[name] = (before, chance.uniform(0, works[before]))
        slots = chance.randint(1, 4)
        chains: dict[str, float] = {}
        for name in names:
            before, wait = after.get(name, ("", 0.0))
            chains[name] = works[name] + (chains[before] - works[before] + wait if before else 0)
        load, chain = sum(works.values()) / slots, max(chains.values())
        assert max(load, chain) - 1e-9 <= makespan(works, after, slots) <= load + chain + 1e-9
        assert makespan(works, after, 1) >= sum(works.values()) - 1e-9


def test_a_run_begins_at_its_branch_where_only_its_parent_is_trained(built_copy: Path) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    shutil.rmtree(workspace.run("late.nano.d0"))
    before = sorted(str(path) for path in built_copy.rglob("*"))
    (late,) = open_tasks(suite, workspace, suite.runs(arm="late"), 512)
    assert (late.parent, late.first, late.steps) == ("standard.nano.d0", 48, 48)
    shutil.rmtree(workspace.run("standard.nano.d0"))
    shutil.rmtree(workspace.run("early.nano.d0"))
    shutil.rmtree(workspace.run("perturbed.nano.d0"))
    (late,) = open_tasks(suite, workspace, suite.runs(arm="late"), 512)
    assert (late.parent, late.steps) == (None, 96)
    assert {str(path) for path in built_copy.rglob("*")} < set(before)


@pytest.mark.slow
def test_a_probe_measures_real_steps_and_leaves_the_suite_as_it_was(built: Path) -> None:
    suite, workspace = load_suite(built / "suite.toml"), Workspace(built)
    before = sorted(str(path) for path in built.rglob("*"))
    name = suite.runs()[0]
    one = replace(task(), name=name)
    verdict = Verdict(processes=2, seconds=600, model=name.model, need="1 GB", have="here 2 GB", tasks=(one,))
    probed = probed_runs(verdict, suite, workspace, Machine(limit_hours=1), force=False)
    assert "(probe: " in probed.line
    assert probed.seconds != verdict.seconds
    endless = replace(verdict, tasks=(replace(one, train=replace(TRAIN, steps=10**7)),))
    with pytest.raises(CostarError, match="limit_hours") as error:
        probed_runs(endless, suite, workspace, Machine(limit_hours=1), force=False)
    assert "(probe: " in str(error.value)
    assert sorted(str(path) for path in built.rglob("*")) == before


def test_a_short_queue_is_not_probed(built: Path) -> None:
    verdict = Verdict(processes=1, seconds=10, model="tiny", tasks=(task(),))
    assert probed_runs(verdict, load_suite(built / "suite.toml"), Workspace(built), Machine(), force=False) is verdict


def test_any_preset_adds_runs_to_the_arms_and_its_shrunken_form_trains(built_copy: Path) -> None:
    """`make train MODEL=1b`, with a 1b that is shrunk in every number but keeps its shape: grouped queries, untied head."""
    folder = built_copy.parent.parent
    path = folder / "small.toml"
    shrunk = "\n[model.1b]\nlayers = 2\nhidden = 64\nheads = 4\nkv_heads = 1\nffn = 256\ntied = false\n"
    path.write_text(path.read_text().replace("[corpus]", shrunk + "\n[corpus]"))
    done = costar(folder, "train", "./small.toml", "--model", "1b", "--arm", "perturbed")
    assert "pre-flight 1b: needs" in done.stdout
    assert (built_copy / "runs" / "perturbed.1b.d0" / "hf" / "step-000096" / "model.safetensors").is_file()


def test_the_real_1b_is_refused_in_one_line_where_it_cannot_be_trained(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_text("limit_hours = 1\n")
    write_small_suite(tmp_path, SUITE.replace("steps       = 96", "steps       = 5000"))
    done = costar(tmp_path, "train", "./small.toml", "--model", "1b", check=False)
    assert done.returncode == 1
    assert "pre-flight" in done.stderr
    assert "1b: needs" in done.stderr
    assert "MODEL=160m" in done.stderr


def test_an_unknown_model_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_small_suite(tmp_path)
    done = costar(tmp_path, "train", "./small.toml", "--model", "tinyy", check=False)
    assert done.returncode == 2
    assert "did you mean 'tiny'" in done.stderr
