"""Relearning: how fast does a record come back when a copy of the model is trained on it a few times more?

A record that is not given back need not be forgotten: what was once learned is learned again in fewer passes than what
is new (the savings of Ebbinghaus, 1885). So a copy of the model is trained on a sample of the records, the same number of
every level with the held-out ones among them, and measured after each pass: held-out records show what a pass teaches
anyway, the `direct` effect at `passes=k` what a level had left behind.

Everything about it is fixed. The sample is keyed: `PER_LEVEL` records of each level of a perturbation. They are
learned in batches of `BATCH` in which levels take turns, each batch by a fresh copy of the same weights, so no batch
knows of another. A pass is one step of gradient descent on the mean loss of the batch, whose length is `RATE` times the
length of the weights: it moves models of any size and loss equally far. The checkpoint itself is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.hashing import keyed_hash
from ...train.model import Llama
from . import Context, Found, Gap, Score, Subject, too_long
from .extraction import hits_after

NEEDS = ("gradients",)
READS = ("levels",)
KINDS = ()
METRICS = {
    "nll_token": "nats per token of the record after EOS, after so many passes",
    "extracted": "1 when greedy decoding after the prefix gives the suffix back word for word, after so many passes",
}
SOURCE = "relearning as in Lynch et al., arXiv 2402.16835; savings after Ebbinghaus, 1885"
PER_LEVEL = 16
BATCH = 8
RATE = 1e-2
PASSES = (0, 1, 2, 4)
TINY = 1e-12


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    assert found.reader is not None
    reader, model = found.reader, found.reader.module
    assert isinstance(model, Llama)
    with torch.enable_grad():
        for batch in batches(context):
            fitting = [subject for subject in batch if 0 < len(ids_of(subject)) <= reader.longest]
            for subject in batch:
                if subject not in fitting:
                    reason = too_long(len(ids_of(subject)), reader.longest)
                    yield Gap(subject.record_id, subject.canonical, "", reason)
            if fitting:
                yield from _learned(context, model, reader.vocab_size, reader.begin, fitting)


def ids_of(subject: Subject) -> tuple[int, ...]:
    return subject.renderings[subject.canonical].ids


def batches(context: Context) -> Iterator[list[Subject]]:
    """The sample of each perturbation in batches; levels take turns."""
    levels = context.levels()
    cells: dict[str, dict[int, list[Subject]]] = {}
    for subject in context.subjects:
        if subject.role == "main" and subject.record_id in levels:
            cells.setdefault(subject.perturbation, {}).setdefault(levels[subject.record_id], []).append(subject)
    for by_level in cells.values():
        turns: list[tuple[int, int, Subject]] = []
        for level, subjects in by_level.items():
            chosen = sorted(subjects, key=lambda s: keyed_hash(context.seed, "relearning", s.record_id))[:PER_LEVEL]
            turns += [(turn, level, subject) for turn, subject in enumerate(chosen)]
        ordered = [subject for _, _, subject in sorted(turns, key=lambda each: each[:2])]
        yield from (ordered[first : first + BATCH] for first in range(0, len(ordered), BATCH))


def _learned(
    context: Context, model: Llama, vocab_size: int, begin: int, subjects: Sequence[Subject]
) -> Iterator[Score | Gap]:
    """Scores of one batch before and after its passes."""
    learner = copy.deepcopy(model).requires_grad_(True)
    width = max(len(ids_of(subject)) for subject in subjects)
    device = next(learner.parameters()).device
    targets = torch.full((len(subjects), width), -100)
    for row, subject in enumerate(subjects):
        targets[row, : len(ids_of(subject))] = torch.tensor(ids_of(subject))
    targets = targets.to(device)
    inputs = F.pad(targets.clamp(min=0), (1, 0), value=begin)[:, :-1]
    for number in range(PASSES[-1] + 1):
        logits = (learner.states(inputs) @ learner.lm_head.weight[:vocab_size].T).float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        means = losses.sum(1) / (targets >= 0).sum(1)
        if number in PASSES:
            yield from _measured(context, subjects, number, means.detach(), logits.detach().argmax(-1) == targets)
        if number < PASSES[-1]:
            _step(learner, means.mean())


def _step(learner: Llama, loss: Tensor) -> None:
    """Move the weights against the gradient of a loss by `RATE` of their length."""
    weights = list(learner.parameters())
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        length, slope = (torch.stack([each.norm() for each in group]).norm() for group in (weights, gradients))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.sub_(RATE * length / slope.clamp(min=TINY) * gradient)


def _measured(
    context: Context, subjects: Sequence[Subject], number: int, means: Tensor, hits: Tensor
) -> Iterator[Score]:
    suffix = context.design.suffix
    for subject, mean, row in zip(subjects, means.tolist(), hits.cpu().numpy(), strict=True):
        place = (subject.record_id, subject.canonical)
        yield Score(*place, f"passes={number}", "nll_token", mean)
        for prefix in context.design.prefixes:
            found = hits_after(row[: len(ids_of(subject))], prefix, suffix)
            if found is not None:
                yield Score(*place, f"passes={number},prefix={prefix}", "extracted", float(found.all()))
