"""Measuring the checkpoints of a suite's runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.design import Suite
from ..core.hashing import sha256_json
from ..core.schedule import shared_rates
from ..core.workspace import Workspace, changed_files, finish_step, output_lock, read_marker, start_step
from ..train.checkpoint import check_checkpoint, load_checkpoint, read_saved, require_config
from ..train.config import RunConfig
from ..train.identity import pick_device
from ..train.model import Llama
from .context import SuiteContext
from .loading import load_probes
from .measure import VERSION, Measurement, Places, measuring_code
from .probes import NEEDED, READABLE, Loaded
from .reader import OwnReader, Reader


@dataclass
class Measurer:
    """Everything that measuring the checkpoints of a suite shares."""

    suite: Suite
    workspace: Workspace

    @cached_property
    def contexts(self) -> SuiteContext:
        return SuiteContext(self.suite, self.workspace)

    @cached_property
    def probes(self) -> list[Loaded]:
        return load_probes(self.suite)

    @cached_property
    def byte_counts(self) -> np.ndarray[Any, Any]:
        tokenizer = self.contexts.shared.tokenizer
        return np.array([tokenizer.byte_count(i) for i in range(tokenizer.vocab_size)], np.int32)

    @cached_property
    def facts(self) -> str:
        """The hash of what all scores depend on beside weights and probes."""
        context = self.contexts.shared
        marker = read_marker(self.workspace.insertion, "records")
        design = {key: value for key, value in vars(self.suite.eval).items() if key not in ("probes", "analysis")}
        inserted = {name: sorted(found) for name, found in context.inserted.items()}
        return sha256_json(
            [
                self.suite.seed,
                marker,
                design,
                inserted,
                _together(context.fates),
                context.length,
                self.byte_counts.tolist(),
            ]
        )

    @cached_property
    def reads(self) -> dict[str, str]:
        """What only some probes depend on, by what they read."""
        insert = sha256_json(read_marker(self.workspace.insertion, "insert"))
        base = sha256_json(read_marker(self.workspace.corpus, "tokens"))
        return {"sites": insert, "levels": insert, "counts": base}

    def due(self, config: RunConfig, step: int) -> list[Loaded]:
        """The probes that a checkpoint is measured with."""
        at_end = self.is_end(config, step)
        return [loaded for loaded in self.probes if at_end or not loaded.only_at_ends]

    def is_end(self, config: RunConfig, step: int) -> bool:
        """Whether a step is the last, or a phase ends there, in the run or in any arm that may share the checkpoint."""
        if step == config.train.steps:
            return True
        arms = [a for a in self.suite.arms.values() if step in (a.train.steps, *a.phase_ends())]
        return any(
            arm.train.slots == config.train.slots
            or (arm.train.batch == config.train.batch and step <= shared_rates(arm.train, config.train))
            for arm in arms
        )

    def _inputs(self, config: RunConfig, step: int, identity: str) -> str:
        probes = [(p.name, p.code, [self.reads[name] for name in p.reads]) for p in self.due(config, step)]
        return sha256_json([VERSION, measuring_code(), identity, self.facts, probes])

    def is_as_asked(self, config: RunConfig, step: int) -> bool:
        """Whether a checkpoint was measured as the suite asks now."""
        saved = read_saved(self.workspace.checkpoint(config.run, step))
        marker = read_marker(self.workspace.scores(config.run), str(step))
        if saved is None or marker is None:
            return False
        return bool(marker["input"] == self._inputs(config, step, saved.state_sha256))

    def is_current(self, config: RunConfig, step: int) -> bool:
        """Whether a checkpoint is measured as the suite asks, and every file has the bytes that were written."""
        if not self.is_as_asked(config, step):
            return False
        parts = [(self.workspace.scores(config.run), str(step)), (self.workspace.ledger(config.run, step), "")]
        if any("generate" in loaded.probe.NEEDS for loaded in self.due(config, step)):
            parts.append((self.workspace.generated(config.run, step), ""))
        return all(read_marker(folder, name) and not changed_files(folder, name) for folder, name in parts)

    def measure(self, config: RunConfig, step: int) -> None:
        """Measure one checkpoint of a run.

        Raises:
            CostarError: the checkpoint is damaged, or another process measures it.
        """
        folder, scores = self.workspace.ledger(config.run, step), self.workspace.scores(config.run)
        with output_lock(folder, f"eval {config.run} step {step}"):
            checkpoint = self.workspace.checkpoint(config.run, step)
            saved = check_checkpoint(checkpoint)
            require_config(checkpoint, config.config_sha256())
            if self.is_current(config, step):
                return
            start_step(scores, str(step))
            measurement = Measurement(
                places=Places(
                    ledger=folder,
                    generated=self.workspace.generated(config.run, step),
                    scores=scores,
                    run=config.run,
                    step=step,
                ),
                identity=saved.state_sha256,
                facts=self.facts,
                context=self.contexts.of_run(config.run),
                probes=self.due(config, step),
                serves=frozenset({*NEEDED, *READABLE}),
                byte_counts=self.byte_counts,
                open_reader=lambda: self._reader(config, step),
                reads=self.reads,
            )
            paths = measurement.run()
            finish_step(scores, self._inputs(config, step, saved.state_sha256), paths, str(step), saved.state_sha256)

    def _reader(self, config: RunConfig, step: int) -> Reader:
        model = Llama(config.shape).to(pick_device())
        load_checkpoint(self.workspace.checkpoint(config.run, step), model, None)
        tokenizer = self.contexts.shared.tokenizer
        return OwnReader(model, vocab_size=tokenizer.vocab_size, longest=config.sequence_length, eos=tokenizer.eos_id)


def _together(fates: Mapping[str, Hashable]) -> list[list[str]]:
    """The records that have a fate in common, whatever arms and draws it is of."""
    found: dict[Hashable, list[str]] = {}
    for record_id in sorted(fates):
        found.setdefault(fates[record_id], []).append(record_id)
    return sorted(found.values())
