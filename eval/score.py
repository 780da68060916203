"""Measuring a checkpoint: the ledger and every probe's scores, each a Parquet file with its marker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.parquet import read_table, write_table
from ..core.pool import Job
from ..core.schedule import shared_rates
from ..core.workspace import (
    Workspace,
    changed_files,
    finish_step,
    is_current,
    output_lock,
    read_marker,
    start_step,
)
from ..corpus.reading import open_tokenizer
from ..insertion.records import read_records
from ..manifests.lineage import read_configs, stretches
from ..manifests.tables import SCORES
from ..train.checkpoint import check_checkpoint, finished_steps, load_checkpoint, read_saved, require_config
from ..train.config import RunConfig, begun_runs, read_config
from ..train.identity import pick_device
from ..train.model import Llama
from .ledger import by_request, score_requests, write_ledger
from .probes import Context, Rendered, Request, Score, Subject, load_probe

VERSION = 1


@dataclass
class Measurer:
    """Everything that measuring the checkpoints of a suite shares."""

    suite: Suite
    workspace: Workspace

    @cached_property
    def context(self) -> Context:
        records, renderings = read_records(self.workspace.insertion)
        tokenizer = open_tokenizer(self.suite.corpus, self.workspace.corpus)
        written: dict[str, dict[str, Rendered]] = {}
        for row in renderings.to_pylist():
            spans = {span["attribute"]: (span["start"], span["end"]) for span in row["spans"]}
            rendered = Rendered(ids=tuple(row["token_ids"]), n_bytes=row["n_bytes"], spans=spans)
            written.setdefault(row["record_id"], {})[row["rendering"]] = rendered
        subjects = tuple(
            Subject(
                record_id=row["record_id"],
                perturbation=row["perturbation"],
                kind=row["kind"],
                role=row["role"],
                fields=json.loads(row["fields"]),
                renderings=written[row["record_id"]],
            )
            for row in records.to_pylist()
        )
        inserted = {
            name: frozenset(
                each.rendering for arm in self.suite.arms.values() if name in arm.inserted for each in arm.factors[name]
            )
            - {""}
            for name in self.suite.perturbations
        }
        return Context(
            subjects=subjects,
            inserted=inserted,
            inserted_ids=self._inserted_ids(),
            design=self.suite.eval,
            tokenizer=tokenizer,
        )

    def _inserted_ids(self) -> frozenset[str]:
        """Records that some arm and draw inserts."""
        table = read_table(self.workspace.insertion / "assignments.parquet", mend="run `costar insert` again")
        pairs = zip(table.column("record_id").to_pylist(), table.column("split").to_pylist(), strict=True)
        return frozenset(record_id for record_id, split in pairs if split == "member")

    @cached_property
    def byte_counts(self) -> np.ndarray[Any, Any]:
        tokenizer = self.context.tokenizer
        return np.array([tokenizer.byte_count(i) for i in range(tokenizer.vocab_size)], np.int32)

    @cached_property
    def requests(self) -> list[Request]:
        """The sequences that the probes want, each once."""
        wanted: dict[tuple[str, str], Request] = {}
        for name in self.suite.eval.probes:
            for request in load_probe(name).requests(self.context):
                wanted.setdefault((request.record_id, request.rendering), request)
        return list(wanted.values())

    def input_hash(self, state_sha256: str, *, with_tree: bool) -> str:
        records = read_marker(self.workspace.insertion, "records")
        design = vars(self.suite.eval)
        secrets = sorted(
            s.record_id
            for s in self.context.subjects
            if s.kind == "password" and s.record_id in self.context.inserted_ids
        )
        inserted = {name: sorted(found) for name, found in self.context.inserted.items()}
        return sha256_json([VERSION, state_sha256, records, design, inserted, with_tree and secrets])

    def measures_tree(self, config: RunConfig, step: int) -> bool:
        """Probes that run the model themselves are taken at phase ends and last steps, of every arm that may share the step."""
        if step == config.train.steps:
            return True
        arms = [a for a in self.suite.arms.values() if step in (a.train.steps, *a.phase_ends())]
        return any(
            arm.train.slots == config.train.slots
            or (arm.train.batch == config.train.batch and step <= shared_rates(arm.train, config.train))
            for arm in arms
        )

    def is_current(self, config: RunConfig, step: int) -> bool:
        folder = self.workspace.ledger(config.run, step)
        marker = read_marker(folder)
        state = _state_sha256(self.workspace, config.run, step)
        if marker is None or state is None:
            return False
        inputs = self.input_hash(state, with_tree=self.measures_tree(config, step))
        return is_current(folder, inputs) and is_current(self.workspace.scores(config.run), inputs, str(step))

    def measure(self, config: RunConfig, step: int) -> None:
        """Measure one checkpoint of a run.

        Raises:
            CostarError: the checkpoint is damaged, or another process measures it.
        """
        folder, scores_folder = self.workspace.ledger(config.run, step), self.workspace.scores(config.run)
        with output_lock(folder, f"eval {config.run} step {step}"):
            checkpoint = self.workspace.checkpoint(config.run, step)
            saved = check_checkpoint(checkpoint)
            require_config(checkpoint, config.config_sha256())
            if self.is_current(config, step):
                return
            with_tree = self.measures_tree(config, step)
            inputs = self.input_hash(saved.state_sha256, with_tree=with_tree)
            start_step(folder)
            start_step(scores_folder, str(step))
            model = Llama(config.shape).to(pick_device())
            load_checkpoint(checkpoint, model, None)
            model.eval()
            keep_outputs(model, self.context.tokenizer.vocab_size)
            columns = score_requests(model, self.requests, self.context.tokenizer.eos_id, self.byte_counts)
            write_ledger(folder / "ledger.parquet", config.run, step, self.requests, columns)
            ledger = by_request(self.requests, columns)
            rows: list[tuple[str, Score]] = []
            for name in self.suite.eval.probes:
                probe = load_probe(name)
                if probe.NEEDS != "tree" or with_tree:
                    rows += [(name, score) for score in probe.scores(self.context, ledger, model)]
            path = scores_folder / f"step-{step:06d}.parquet"
            write_table(path, _scores_table(config.run, step, rows))
            finish_step(scores_folder, inputs, [path], str(step), saved.state_sha256)
            finish_step(folder, inputs, [folder / "ledger.parquet"])


def keep_outputs(model: Llama, count: int) -> None:
    """Leave a model the logits of the first `count` ids: padding has no token, takes no probability and no rank."""
    if count < model.lm_head.weight.shape[0]:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight[:count].detach())


def _state_sha256(workspace: Workspace, run: str, step: int) -> str | None:
    saved = read_saved(workspace.checkpoint(run, step))
    return saved.state_sha256 if saved else None


def _scores_table(run: str, step: int, rows: Sequence[tuple[str, Score]]) -> pa.Table:
    columns = {
        "run": [run] * len(rows),
        "step": [step] * len(rows),
        "record_id": [score[0] for _, score in rows],
        "rendering": [score[1] for _, score in rows],
        "probe": [probe for probe, _ in rows],
        "variant": [score[2] for _, score in rows],
        "metric": [score[3] for _, score in rows],
        "value": [score[4] for _, score in rows],
    }
    return pa.table(columns, schema=SCORES)


class EvalQueue:
    """Hands out measuring jobs for finished checkpoints; inherited ones belong to the run that wrote them."""

    AT_ONCE = 4  # checkpoints a job: enough to pay for starting a process

    def __init__(self, measurer: Measurer, *, runs: Sequence[str] | None = None, step: int | None = None):
        self.measurer, self.runs, self.step = measurer, runs, step
        self._jobs: dict[str, list[str]] = {}

    def targets(self) -> list[tuple[RunConfig, int]]:
        """Every finished checkpoint that is asked for, of those that are kept for good."""
        found = []
        for run, config in begun_runs(self.measurer.workspace).items():
            if RunName.parse(run).arm in self.measurer.suite.arms and (self.runs is None or run in self.runs):
                steps = sorted(set(finished_steps(self.measurer.workspace, run)) & set(config.checkpoints))
                found += [(config, step) for step in steps if self.step in (None, step)]
        return found

    def require_targets(self) -> None:
        """Stop when nothing that is asked for is there to be measured."""
        if not self.targets():
            begun = ", ".join(begun_runs(self.measurer.workspace)) or "none yet"
            raise CostarError(
                "eval",
                found="no finished checkpoint of that kind",
                expected=f"one of the runs begun: {begun}",
                mend="name one of them, or train first",
            )

    def pending(self) -> list[str]:
        """Those that are not measured, as `run:step`."""
        return [f"{c.run}:{step}" for c, step in self.targets() if not self.measurer.is_current(c, step)]

    def next_job(self, running: frozenset[str], slots: int) -> Job | None:
        taken = {target for name, targets in self._jobs.items() if name in running for target in targets}
        open_targets = [target for target in self.pending() if target not in taken]
        if not open_targets:
            return None
        share = min(self.AT_ONCE, -(-len(open_targets) // max(slots - len(running), 1)))
        targets = open_targets[:share]
        name = f"eval {targets[0]}"
        self._jobs[name] = targets
        return Job(name=name, module="costar.eval.worker", arguments=(str(self.measurer.workspace.root), *targets))


def damaged_files(workspace: Workspace) -> list[str]:
    """Ledgers and scores whose bytes are not those that were written."""
    problems = [
        f"{workspace.eval / name}: its bytes are not those computed"
        for name in changed_files(workspace.eval, "effects")
    ]
    for folder in sorted((workspace.eval / "ledger").glob("run=*/step=*")):
        problems += [f"{folder / name}: its bytes are not those that were written" for name in changed_files(folder)]
    for folder in sorted((workspace.eval / "scores").glob("run=*")):
        for marker in sorted(folder.glob("stage-*.json")):
            step = marker.stem.removeprefix("stage-")
            problems += [
                f"{folder / name}: its bytes are not those that were written" for name in changed_files(folder, step)
            ]
    return problems


def read_ledger(workspace: Workspace, run: str, step: int | None) -> pa.Table:
    """The ledger of a run's checkpoint (default: the last measured one), also where an ancestor wrote it.

    Raises:
        CostarError: that checkpoint was not measured.
    """
    read_config(workspace, run)
    measured = {
        int(path.name.removeprefix("step=")): path
        for stretch in reversed(stretches(read_configs(workspace), run))
        for path in (workspace.eval / "ledger" / f"run={stretch.owner}").glob("step=*")
        if stretch.after < int(path.name.removeprefix("step=")) <= stretch.upto and read_marker(path) is not None
    }
    wanted = max(measured, default=None) if step is None else step
    if wanted not in measured:
        raise CostarError(
            f"ledger of {run}",
            found=f"no measurement at step {wanted}" if wanted is not None else "no measurement",
            expected=f"one of the steps {', '.join(map(str, sorted(measured))) or '(none yet)'}",
            mend="run `costar eval` first",
        )
    return read_table(measured[wanted] / "ledger.parquet", mend="run `costar eval` again")
