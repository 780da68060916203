"""The engine in one and in several real processes: same data, same mean gradient, and the same bits where they are promised."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from costar.core.design import TrainDesign
from costar.core.machine import Layout
from costar.core.models import ModelShape
from costar.train.engine import Engine
from costar.train.init import init_weights
from costar.train.world import World, join_world, leave_world
from torch.distributed.tensor import DTensor

from tests.designs import train_design
from tests.gloo import in_world

STEPS = 3


def shape(tied: bool = False) -> ModelShape:
    return ModelShape(layers=2, hidden=48, heads=4, kv_heads=2, ffn=112, vocab_size=300, tied=tied)


def design(optimizer: str = "muon", batch: int = 8) -> TrainDesign:
    return train_design(steps=10, batch=batch, optimizer=optimizer, lr=1e-2, every=5)


def train(
    world: World, layout: Layout, *, optimizer: str = "muon", batch: int = 8, tied: bool = False
) -> dict[str, Any]:
    """A few updates on random rows: losses, norms, loss on other rows, and a hash and the sum of all weights."""
    torch.set_num_threads(1)
    engine = Engine(shape(tied), design(optimizer, batch), layout, world)
    init_weights(engine.model, 1, 0)
    generator = np.random.default_rng(0)
    measured = []
    for _ in range(STEPS):
        ids = generator.integers(0, 300, (batch, 33))
        first, last = world.rows(batch)
        update = engine.update(ids[first:last], 1e-2)
        measured.append((update.loss.item(), update.norm.item()))
    losses = engine.evaluate(generator.integers(0, 300, (11, 33)))
    loss = float(losses.mean())
    weights = [p.full_tensor() if isinstance(p, DTensor) else p for p in engine.model.parameters()]
    state = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in weights)).hexdigest()
    return {"measured": measured, "loss": loss, "state": state}


CASES: dict[str, dict[str, Any]] = {
    "none": {"layout": Layout()},
    "adamw": {"layout": Layout(), "optimizer": "adamw"},
    "invariant": {"layout": Layout(determinism="layout-invariant")},
    "full": {"layout": Layout(sharding="full")},
    "full adamw": {"layout": Layout(sharding="full"), "optimizer": "adamw"},
    "full tied recompute": {"layout": Layout(sharding="full", micro_batch=1, recompute=True), "tied": True},
    "hybrid": {"layout": Layout(sharding="hybrid")},
    "full compiled": {"layout": Layout(sharding="full", compile=True)},
    "odd batch": {"layout": Layout(micro_batch=2), "batch": 7},
    "odd batch full": {"layout": Layout(sharding="full", micro_batch=2), "batch": 7},
}


def train_in(processes: int, cases: Sequence[str], nodes: int = 1) -> dict[str, Any]:
    """The results of cases in that many real processes; all of them have the same."""
    found = in_world("tests.train.test_engine", processes, cases, nodes=nodes)
    assert all(each == found[0] for each in found)
    return dict(found[0])


def agree(several: dict[str, Any], one: dict[str, Any]) -> None:
    """Equal up to the rounding of products in bfloat16."""
    np.testing.assert_allclose(several["measured"], one["measured"], rtol=1e-2)
    np.testing.assert_allclose(several["loss"], one["loss"], rtol=2e-3)


def check_against_one_process(processes: int, nodes: int = 1) -> None:
    names = [name for name in CASES if nodes > 1 or name not in ("hybrid", "full compiled")]
    found = train_in(processes, names, nodes)
    for name in names:
        layout = CASES[name]["layout"]
        alone = train(
            World(), Layout(determinism=layout.determinism), **{k: v for k, v in CASES[name].items() if k != "layout"}
        )
        agree(found[name], alone)
        if name == "invariant":
            assert found[name] == {**alone, "measured": [list(pair) for pair in alone["measured"]]}


def test_two_processes_update_as_one_does_and_layout_invariant_ones_bit_for_bit() -> None:
    check_against_one_process(2)


@pytest.mark.slow
def test_four_processes_on_two_nodes_update_as_one_does() -> None:
    check_against_one_process(4, nodes=2)


def test_micro_batches_and_recomputing_change_the_gradient_by_rounding_only() -> None:
    whole = train(World(), Layout())
    for layout in (Layout(micro_batch=3), Layout(recompute=True), Layout(micro_batch=1, recompute=True)):
        agree(train(World(), layout), whole)


def test_the_loss_of_a_step_is_the_mean_over_all_targets_of_the_batch() -> None:
    engine = Engine(shape(), design(batch=4), Layout(micro_batch=3), World())
    init_weights(engine.model, 1, 0)
    ids = np.random.default_rng(1).integers(0, 300, (4, 33))
    expected = engine.evaluate(ids)
    assert engine.update(ids, 1e-3).loss.item() == pytest.approx(expected.mean(), rel=1e-3)


def test_losses_of_sequences_are_those_of_each_alone() -> None:
    engine = Engine(shape(), design(), Layout(), World())
    init_weights(engine.model, 1, 0)
    ids = np.random.default_rng(1).integers(0, 300, (11, 33))
    together = engine.evaluate(ids)
    assert together.shape == (11,)
    assert together == pytest.approx([engine.evaluate(row[None])[0] for row in ids], rel=1e-5)
    assert len(set(together)) == 11


def test_a_sharded_model_turns_positions_in_float32_as_every_other_does() -> None:
    engine = Engine(shape(), design(), Layout(sharding="full"), World())
    seen: list[torch.dtype] = []
    engine.model.model.layers[0].register_forward_hook(lambda _, given, __: seen.append(given[1].dtype))
    try:
        engine.evaluate(np.zeros((1, 33), np.int64))
    finally:
        leave_world()
    assert seen == [torch.float32]


if __name__ == "__main__":
    joined = join_world(torch.device("cpu"))
    sys.stdout.write(json.dumps({name: train(joined, **CASES[name]) for name in sys.argv[1:]}) + "\n")
