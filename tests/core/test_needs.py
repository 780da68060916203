from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import costar
import pytest
from costar.core.machine import Layout
from costar.core.models import presets
from costar.core.needs import GIB, MIB, Device, checkpoint_bytes, fitting_change, memory_parts, size_text, state_bytes

from tests.designs import train_design

BENCH = Path(costar.__file__).resolve().parent / "bench"
CPU = Device(kind="cpu", product_bytes=4)
GPU = Device(kind="cuda", product_bytes=2)
TRAIN = train_design()


def memory(model: str, layout: Layout, *, devices: int = 1, device: Device = CPU, length: int = 256) -> int:
    shape = presets()[model].shape(1024)
    return sum(memory_parts(shape, TRAIN, length, layout, devices=devices, device=device).values())


def test_needs_grow_with_the_model_and_hold_its_state() -> None:
    sizes = [memory(name, Layout()) for name in ("tiny", "15m", "60m", "160m", "1b")]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 16 * presets()["1b"].shape(1024).parameters


def test_smaller_micro_batches_and_activations_computed_again_need_less() -> None:
    for device in (CPU, GPU):
        plain = memory("160m", Layout(), device=device, length=1024)
        assert memory("160m", Layout(micro_batch=2), device=device, length=1024) < plain
        assert memory("160m", Layout(recompute=True), device=device, length=1024) < plain


def test_sharding_divides_parameters_and_state_by_the_processes() -> None:
    shape = presets()["8b"].shape(50_304)
    parts = [memory_parts(shape, TRAIN, 2048, Layout(), devices=count, device=GPU) for count in (1, 8)]
    for name in ("parameters", "optimizer"):
        assert parts[0][name] == 8 * parts[1][name]
    assert memory("1b", Layout(sharding="full"), devices=4, device=GPU) < memory(
        "1b", Layout(sharding="none"), devices=4, device=GPU
    )


def test_one_sharded_process_casts_both_tables_and_a_layout_invariant_one_holds_everything() -> None:
    shape = presets()["1b"].shape(50_304)
    casts = {
        sharding: memory_parts(shape, TRAIN, 2048, Layout(sharding=sharding), device=GPU)["copies for products"]
        for sharding in ("full", "none")
    }
    assert not shape.tied
    assert casts["full"] - casts["none"] == 2 * shape.vocab_size * shape.hidden
    invariant = Layout(determinism="layout-invariant")
    parts = memory_parts(shape, TRAIN, 2048, invariant, devices=4, device=GPU)
    assert parts["parameters"] == 4 * shape.parameters


def test_a_setting_that_is_named_keeps_the_promise_of_the_layout() -> None:
    shape, invariant = presets()["160m"].shape(1024), Layout(determinism="layout-invariant", micro_batch=6)
    train = replace(TRAIN, batch=12)
    change = fitting_change(
        shape, train, 1024, invariant, devices=2, most_devices=2, device=CPU, room=memory("160m", Layout(), length=1024)
    )
    assert change is not None
    assert change.settings == "micro_batch = 3"


def test_sizes_in_words_are_never_zero() -> None:
    assert [size_text(int(size)) for size in (1.3 * MIB, GIB / 2, 61.9 * GIB, 1000 * GIB)] == [
        "1.3 MB",
        "0.5 GB",
        "61.9 GB",
        "1,000 GB",
    ]


def test_the_state_of_an_optimizer_is_what_torch_keeps() -> None:
    import torch
    from costar.train.identity import pick_dtype
    from costar.train.model import Llama
    from costar.train.optim import Optimizers
    from costar.train.world import World

    shape = presets()["tiny"].shape(512)
    for optimizer in ("adamw", "muon"):
        model = Llama(shape)
        world = World()
        optimizers = Optimizers(model, replace(TRAIN, optimizer=optimizer), dtype=pick_dtype(world.device), world=world)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers.step(1e-3)
        held = sum(tensor.nbytes for tensor in optimizers.state().values() if tensor.dim())
        assert held == state_bytes(shape, optimizer)
        assert checkpoint_bytes(shape, optimizer) == held + sum(p.nbytes for p in model.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    "case",
    [
        '{"model": "tiny", "product_bytes": 4}',
        pytest.param('{"model": "15m", "batch": 4, "micro_batch": 2, "product_bytes": 4}', marks=pytest.mark.slow),
    ],
)
def test_memory_is_within_a_tenth_of_what_a_training_process_takes(case: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); import json, needs; case = needs.Case(**json.loads({case!r}));"
        "print(needs.measured(case, 6), sum(needs.predicted(case).values()))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    measured, predicted = map(int, done.stdout.split())
    assert abs(predicted / measured - 1) < 0.1, done.stdout
