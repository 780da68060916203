from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.loading import load_probe
from costar.eval.probes import Context, Found, Gap, Score, relearning
from costar.eval.reader import OwnReader
from costar.eval.score import Measurer
from costar.insertion.overlay import open_suite_overlay
from costar.train.config import read_config
from costar.train.model import Llama
from torch import Tensor

RUN = "perturbed.nano.d0"


@pytest.fixture(scope="module")
def case(built: Path) -> tuple[Context, OwnReader]:
    torch.set_num_threads(1)
    workspace = Workspace(built)
    measurer = Measurer(load_suite(built / "suite.toml"), workspace)
    reader = measurer._reader(read_config(workspace, RUN), 96)
    assert isinstance(reader, OwnReader)
    return measurer.contexts.of_run(RUN), reader


def measured(context: Context, reader: OwnReader) -> list[Score]:
    found = list(relearning.scores(context, Found(ledger={}, reader=reader)))
    assert not any(isinstance(each, Gap) for each in found)
    return [each for each in found if isinstance(each, Score)]


def test_the_checkpoint_is_untouched_and_the_same_weights_give_the_same_bits(case: tuple[Context, OwnReader]) -> None:
    context, reader = case
    before = {name: tensor.clone() for name, tensor in reader.module.state_dict().items()}
    first, second = measured(context, reader), measured(context, reader)
    assert first == second
    assert all(torch.equal(tensor, before[name]) for name, tensor in reader.module.state_dict().items())
    assert all(parameter.grad is None for parameter in reader.module.parameters())


def test_passes_zero_is_the_likelihood_and_each_pass_lowers_the_loss(case: tuple[Context, OwnReader]) -> None:
    context, reader = case
    by_pass: dict[str, dict[str, float]] = {}
    for score in measured(context, reader):
        if score.metric == "nll_token":
            by_pass.setdefault(score.variant, {})[score.record_id] = score.value
    assert list(by_pass) == [f"passes={number}" for number in relearning.PASSES]
    subjects = {subject.record_id: subject for subject in context.subjects}
    for record_id, value in by_pass["passes=0"].items():
        ids = torch.tensor(relearning.ids_of(subjects[record_id]))
        with torch.no_grad():
            logits = reader.logits(reader.states(torch.cat([torch.tensor([reader.begin]), ids])[None, :-1]))[0].double()
        expected = -torch.log_softmax(logits, -1).gather(1, ids[:, None]).mean()
        assert value == pytest.approx(float(expected), abs=1e-4)
    means = [float(np.mean(list(values.values()))) for values in by_pass.values()]
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0] - 0.5


def test_levels_have_equal_numbers_and_take_turns(case: tuple[Context, OwnReader]) -> None:
    context, _ = case
    levels = context.levels()
    batches = list(relearning.batches(context))
    sampled = [subject for batch in batches for subject in batch]
    assert len({subject.record_id for subject in sampled}) == len(sampled)
    counts = Counter((subject.perturbation, levels[subject.record_id]) for subject in sampled)
    assert counts[("passages", 0)] == relearning.PER_LEVEL
    assert counts[("passages", 14)] == 12  # as many as there are
    first = [Counter(levels[subject.record_id] for subject in batch) for batch in batches if batch[0].kind == "passage"]
    assert all(max(count.values()) - min(count.values()) <= 1 for count in first[:-1] if len(count) == 3)


def test_a_batch_knows_nothing_of_another(case: tuple[Context, OwnReader]) -> None:
    context, reader = case
    quizzes = replace(context, subjects=tuple(s for s in context.subjects if s.perturbation == "quizzes"))
    alone = measured(quizzes, reader)
    assert alone
    assert set(alone) <= set(measured(context, reader))


def trained(model: Llama, inputs: Callable[[int], Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        ids = inputs(step)
        logits = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_what_was_learned_and_overwritten_comes_back_in_fewer_passes(built: Path) -> None:
    """The held-out records tell: once learned, two passes lead further than four do without; never learned, they do not."""
    torch.set_num_threads(1)
    workspace, suite = Workspace(built), load_suite(built / "suite.toml")
    measurer, run = Measurer(suite, workspace), "standard.nano.d0"
    whole = measurer.contexts.of_run(run)
    context = replace(whole, subjects=tuple(s for s in whole.subjects if s.perturbation == "passages"))
    levels = context.levels()  # labels alone: this run inserts nothing

    def means(reader: OwnReader) -> dict[tuple[str, int], float]:
        values: dict[tuple[str, int], list[float]] = {}
        for score in measured(context, reader):
            if score.metric == "nll_token":
                values.setdefault((score.variant, levels[score.record_id]), []).append(score.value)
        return {key: float(np.mean(found)) for key, found in values.items()}

    reader = measurer._reader(read_config(workspace, run), 96)
    assert isinstance(reader, OwnReader)
    assert isinstance(reader.module, Llama)
    never = means(reader)
    texts = [relearning.ids_of(s) for s in context.subjects if s.role == "main" and levels[s.record_id] == 14]
    width = min(map(len, texts))
    chosen = torch.tensor([[reader.begin, *ids[:width]] for ids in texts])
    overlay = open_suite_overlay(workspace, "standard", 0, seed=suite.seed)
    trained(reader.module, lambda step: chosen, 20)
    learned = means(reader)
    trained(
        reader.module,
        lambda step: torch.tensor(overlay.sequences(np.arange(8 * step, 8 * step + 8)).astype(np.int64)),
        60,
    )
    once = means(reader)
    assert once[("passes=0", 14)] > learned[("passes=0", 14)] + 1  # most of it was overwritten
    assert once[("passes=2", 14)] < once[("passes=4", 0)]
    assert never[("passes=2", 14)] > never[("passes=4", 0)]


def test_records_that_are_too_long_are_gaps_and_the_rest_is_measured(case: tuple[Context, OwnReader]) -> None:
    context, reader = case
    model = reader.module
    assert isinstance(model, Llama)
    short = OwnReader(model, vocab_size=reader.vocab_size, longest=40, eos=reader.begin)
    found = list(relearning.scores(context, Found(ledger={}, reader=short)))
    gaps = [each for each in found if isinstance(each, Gap)]
    assert {gap.record_id for gap in gaps} == {
        s.record_id for b in relearning.batches(context) for s in b if len(relearning.ids_of(s)) > 40
    }
    assert all("the model reads at most 40" in gap.reason for gap in gaps)
    assert len(found) > len(gaps)


def test_it_is_taken_of_models_that_can_be_trained_at_ends_only(built: Path) -> None:
    loaded = load_probe("relearning", load_suite(built / "suite.toml"))
    assert loaded.only_at_ends
    assert loaded.reads == ("levels",)
