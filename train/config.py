"""A run's configuration: `runs/<run>/config.json`, everything that decides what the run is."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..core.design import RunName, Suite, TrainDesign, plain
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.models import ModelShape
from ..core.workspace import Workspace, corpus_facts, write_json
from ..insertion.overlay import Overlay, open_overlay


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """`checkpoints`, `branches`, `parent_run` and `branch_step` say how a run is trained, not what it is: they enter no hash.

    `checkpoints` are the steps that the run itself writes and keeps for good, `branches` those that it keeps only until the
    runs that begin there have a checkpoint of their own.
    """

    run: str
    arm: str
    model: str
    draw: int
    seed: int
    shape: ModelShape
    train: TrainDesign
    sequence_length: int
    eos_id: int
    eos: str
    tokens_sha256: str
    tokenizer_sha256: str
    overlay_sha256: str
    checkpoints: tuple[int, ...]
    branches: tuple[int, ...]
    parent_run: str | None
    branch_step: int
    spec: dict[str, Any]

    @property
    def kept(self) -> frozenset[int]:
        """Every step after which the run writes a checkpoint that something else counts on."""
        return frozenset((*self.checkpoints, *self.branches))

    def config_sha256(self) -> str:
        """The hash of what decides every bit of the run besides the numeric identity of the machine."""
        train = {key: value for key, value in asdict(self.train).items() if key not in ("every", "also")}
        return sha256_json(
            {
                "seed": self.seed,
                "draw": self.draw,
                "shape": asdict(self.shape),
                "train": train,
                "sequence_length": self.sequence_length,
                "tokens": self.tokens_sha256,
                "overlay": self.overlay_sha256,
            }
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"config_sha256": self.config_sha256()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> RunConfig:
        raw = {"branches": ()} | raw  # configurations of earlier versions have none
        values = {field.name: raw[field.name] for field in fields(cls)}
        values["shape"] = ModelShape(**raw["shape"])
        values["train"] = TrainDesign(**raw["train"] | {"also": tuple(raw["train"]["also"])})
        values["checkpoints"], values["branches"] = tuple(raw["checkpoints"]), tuple(raw["branches"])
        return cls(**values)


def config_path(workspace: Workspace, run: str) -> Path:
    return workspace.run(run) / "config.json"


def read_config(workspace: Workspace, run: str) -> RunConfig:
    """The configuration of a run that was at least begun.

    Raises:
        CostarError: there is none, or it was damaged.
    """
    path = config_path(workspace, run)
    try:
        config = RunConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = sorted(p.parent.name for p in workspace.runs.glob("*/config.json"))
        raise CostarError(
            f"run {run!r}",
            found="no such run",
            expected=f"one of {', '.join(known) or 'none yet'}",
            mend="train it first",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CostarError(
            str(path), found=f"not a run's configuration ({error})", expected="config.json", mend="train the run again"
        ) from None
    if config.run != run:
        raise CostarError(
            str(path), found=f"the configuration of {config.run}", expected=run, mend="remove the copied folder"
        )
    return config


def begun_runs(workspace: Workspace) -> dict[str, RunConfig]:
    """Every run that has a configuration."""
    names = sorted(path.parent.name for path in workspace.runs.glob("*/config.json"))
    return {name: read_config(workspace, name) for name in names}


def make_config(
    suite: Suite, workspace: Workspace, name: RunName, overlay: Overlay | None = None
) -> tuple[RunConfig, Overlay]:
    """The configuration of a run over the finished corpus and insertion, not yet placed in the run tree."""
    facts = corpus_facts(workspace)
    arm = suite.arms[name.arm]
    overlay = overlay or open_overlay(
        workspace, name.arm, name.draw, seed=suite.seed, length=facts["sequence_length"], eos=facts["eos_id"]
    )
    config = RunConfig(
        run=str(name),
        arm=name.arm,
        model=name.model,
        draw=name.draw,
        seed=suite.seed,
        shape=suite.preset(name.model).shape(facts["vocab_size"]),
        train=arm.train,
        sequence_length=facts["sequence_length"],
        eos_id=facts["eos_id"],
        eos=facts["eos"],
        tokens_sha256=facts["tokens_sha256"],
        tokenizer_sha256=facts["tokenizer_sha256"],
        overlay_sha256=overlay.edits.sha256(),
        checkpoints=planned_checkpoints(suite, name.arm),
        branches=(),
        parent_run=None,
        branch_step=0,
        spec=plain(suite.relevant_spec(name)),
    )
    return config, overlay


def planned_checkpoints(suite: Suite, arm: str) -> tuple[int, ...]:
    """Steps to keep: the suite's, the last, and the phase ends of every arm of the same length, so that pairs share them."""
    design = suite.arms[arm].train
    steps = {*range(design.every, design.steps + 1, design.every), design.steps, *design.also}
    for other in suite.arms.values():
        if (other.train.steps, other.train.batch) == (design.steps, design.batch):
            steps |= set(other.phase_ends())
    return tuple(sorted(step for step in steps if 0 <= step <= design.steps))


def write_config(workspace: Workspace, config: RunConfig) -> None:
    """Write `config.json`, unless it says the same already."""
    path = config_path(workspace, config.run)
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != plain(config.to_json()):
        write_json(path, config.to_json())


def with_tree(
    config: RunConfig, *, parent: str | None, branch_step: int, checkpoints: Collection[int], branches: Collection[int]
) -> RunConfig:
    """The configuration with its place in the tree: where it begins, what it keeps for good, and what for other runs."""
    own = {step for step in {*checkpoints, *branches} if step > branch_step or (step == 0 and parent is None)}
    return replace(
        config,
        parent_run=parent,
        branch_step=branch_step,
        checkpoints=tuple(sorted(own & set(checkpoints))),
        branches=tuple(sorted(own - set(checkpoints))),
    )
