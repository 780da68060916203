"""A run's configuration: `runs/<run>/config.json`, everything that decides what the run is."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..core.design import RunName, Suite, TrainDesign, earlier_exposure, kept_steps, plain
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.models import ModelShape
from ..core.workspace import Workspace, corpus_facts, write_json
from ..insertion.overlay import Edits, Overlay, open_overlay
from .imports import check_checkpoint_folder, check_vocabulary, find_checkpoint

RANDOM, PARENT, CHECKPOINT = "random", "parent", "huggingface"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run's first weights come from; optimizer, schedule and slots begin anew in any case.

    `kind` is "random", "parent" (the last weights of the run `source`) or "huggingface" (the checkpoint that the suite
    names `source`). `sha256` is the parent's configuration, from which its weights follow, or the hash of the
    checkpoint's tensors. `folder` says where a checkpoint lay when the run was planned; like `source` it enters no hash.
    `earlier_exposure` is what the weights had read before: "none", what the "parent" read, or "unknown".
    """

    kind: str = RANDOM
    source: str = ""
    sha256: str = ""
    folder: str = ""
    earlier_exposure: str = "none"

    @property
    def key(self) -> tuple[str, str]:
        """What two runs that start alike have in common."""
        return self.kind, self.sha256

    @property
    def parent(self) -> str | None:
        """The run whose last weights these are."""
        return self.source if self.kind == PARENT else None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """`checkpoints`, `branches`, `parent_run` and `branch_step` say how a run is trained, not what it is: they enter no hash.

    `checkpoints` are the steps that the run itself writes and keeps for good, `branches` those that it keeps only until the
    runs that begin there have a checkpoint of their own. `vocabulary` counts the ids of the tokenizer; the shape has as many
    or more.
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
    vocabulary: int
    start: Start = field(default_factory=Start)

    @property
    def kept(self) -> frozenset[int]:
        """Every step after which the run writes a checkpoint that something else counts on."""
        return frozenset((*self.checkpoints, *self.branches))

    def config_sha256(self) -> str:
        """The hash of what decides every bit of the run besides the numeric identity of the machine."""
        train = {key: value for key, value in asdict(self.train).items() if key not in ("every", "also")}
        if not self.train.decay:
            del train["decay"]  # older versions had none, and their runs keep their hashes
        start = {} if self.start.kind == RANDOM else {"start": self.start.key}
        return sha256_json(
            start
            | {
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
        earlier = {"branches": (), "vocabulary": raw["shape"]["vocab_size"], "start": {}}  # what older versions lack
        raw = earlier | raw
        values = {each.name: raw[each.name] for each in fields(cls)}
        values["shape"] = ModelShape(**raw["shape"])
        values["train"] = TrainDesign(**{"decay": 0} | raw["train"] | {"also": tuple(raw["train"]["also"])})
        values["checkpoints"], values["branches"] = tuple(raw["checkpoints"]), tuple(raw["branches"])
        values["start"] = Start(**raw["start"])
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


def wanted_or_begun(suite: Suite, names: Sequence[RunName], begun: Collection[str]) -> list[RunName]:
    """The runs that are asked for and those that are begun: the suite's, then those of models beside it, by arm."""
    wanted, models = {str(name) for name in names}, sorted({name.model for name in names} - set(suite.models))
    known = [*suite.runs(), *(name for model in models for name in suite.runs(model=model))]
    return [name for name in known if str(name) in wanted or str(name) in begun]


def make_config(
    suite: Suite,
    workspace: Workspace,
    name: RunName,
    folders: Sequence[Path] = (),
    overlay: Overlay | None = None,
    *,
    fetch: bool = True,
    hashes: dict[Path, str] | None = None,
) -> tuple[RunConfig, Overlay]:
    """The configuration of a run over the finished corpus and insertion, not yet placed in the run tree.

    A checkpoint to start from lies below one of the folders, or beside the suite file. `overlay` is that of the arm and draw,
    where it is open already; `hashes` keeps those of checkpoints between calls. Without `fetch` nothing is downloaded and
    no weights are hashed: the configuration tells which runs share steps, and trains none.

    Raises:
        CostarError: there is no such checkpoint, or it does not fit the model or the tokenizer.
    """
    facts = corpus_facts(workspace)
    arm = suite.arms[name.arm]
    shape, start = _find_start(suite, workspace, name, facts, folders, fetch, {} if hashes is None else hashes)
    overlay = overlay or open_overlay(
        workspace, name.arm, name.draw, seed=suite.seed, length=facts["sequence_length"], eos=facts["eos_id"]
    )
    config = RunConfig(
        run=str(name),
        arm=name.arm,
        model=name.model,
        draw=name.draw,
        seed=suite.seed,
        shape=shape,
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
        vocabulary=facts["vocab_size"],
        start=start,
    )
    return config, overlay


def _find_start(
    suite: Suite,
    workspace: Workspace,
    name: RunName,
    facts: dict[str, Any],
    folders: Sequence[Path],
    fetch: bool,
    hashes: dict[Path, str],
) -> tuple[ModelShape, Start]:
    """The shape of a run's model and where its weights come from."""
    arm, earlier = suite.arms[name.arm], earlier_exposure(name.arm, suite.arms)
    if arm.parent is not None:
        parent, _ = make_config(suite, workspace, replace(name, arm=arm.parent), folders, fetch=fetch, hashes=hashes)
        sha = parent.config_sha256()
        return parent.shape, Start(kind=PARENT, source=parent.run, sha256=sha, earlier_exposure=earlier)
    preset = suite.preset(name.model)
    if arm.init is None:
        return preset.shape(facts["vocab_size"]), Start()
    place = f"{suite.path}, [arm.{name.arm}] init"
    unread = Start(kind=CHECKPOINT, source=arm.init, sha256=arm.init, earlier_exposure=earlier)
    try:
        folder = find_checkpoint(arm.init, [*folders, suite.path.resolve().parent], place, fetch=fetch)
    except CostarError:
        begun = read_config(workspace, str(name)) if config_path(workspace, str(name)).is_file() else None
        if begun is None or begun.start.source != arm.init:
            raise
        return begun.shape, begun.start if fetch else unread  # what was begun from a checkpoint outlives its removal
    if folder is None:
        return preset.shape(facts["vocab_size"]), unread
    shape, weights = check_checkpoint_folder(folder, preset, name.model, place)
    check_vocabulary(folder, shape, workspace.corpus / "tokenizer.json", facts["vocab_size"], place)
    if not fetch:
        return shape, unread
    folder = folder.resolve()
    if folder not in hashes:
        hashes[folder] = weights.sha256()
    return shape, replace(unread, sha256=hashes[folder], folder=str(folder))


def make_configs(
    suite: Suite, workspace: Workspace, names: Sequence[RunName], folders: Sequence[Path] = (), *, fetch: bool = True
) -> tuple[list[RunConfig], dict[str, Edits]]:
    """The configurations of runs, not yet placed, and the edits that each reads; models of one arm and draw share theirs.

    Every checkpoint is hashed once, without `fetch` never.
    """
    overlays: dict[tuple[str, int], Overlay] = {}
    hashes: dict[Path, str] = {}
    configs, edits = [], {}
    for name in names:
        known = overlays.get((name.arm, name.draw))
        config, overlay = make_config(suite, workspace, name, folders, known, fetch=fetch, hashes=hashes)
        overlays[name.arm, name.draw] = overlay
        configs.append(config)
        edits[config.run] = overlay.edits
    return configs, edits


def check_inits(suite: Suite, workspace: Workspace, folders: Sequence[Path]) -> list[str]:
    """Compare the checkpoints that arms start from with their models, before anything is built; notes on those not here.

    Arms whose runs are all begun need theirs no longer.

    Raises:
        CostarError: one is missing, is damaged, or has another shape.
    """
    notes = []
    for arm in suite.arms.values():
        begun = (config_path(workspace, str(run)).is_file() for run in suite.runs(arm=arm.name))
        if arm.init is None or all(begun):
            continue
        place = f"{suite.path}, [arm.{arm.name}] init"
        folder = find_checkpoint(arm.init, [*folders, suite.path.resolve().parent], place, fetch=False)
        if folder is None:
            notes.append(f"[arm.{arm.name}]: {arm.init} is not here yet; `costar train` fetches and checks it")
            continue
        for model in arm.models:
            check_checkpoint_folder(folder, suite.preset(model), model, place)
    return notes


def planned_checkpoints(suite: Suite, arm: str) -> tuple[int, ...]:
    """Steps to keep: the suite's, the last, and the phase ends of every arm of the same length, so that pairs share them."""
    return kept_steps(suite.arms[arm], suite.arms)


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
