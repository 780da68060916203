"""A suite as plain values: what the stages work with, after the suite file has been read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from .models import ModelPreset, presets

Phase = tuple[Fraction, Fraction]


def phase_slots(phase: Phase, slots: int) -> tuple[int, int]:
    """The slots [lo, hi) of a phase of a run with `slots` slots: ceil(a·N) … ceil(b·N), in exact rationals."""
    return math.ceil(phase[0] * slots), math.ceil(phase[1] * slots)


@dataclass(frozen=True, kw_only=True)
class CorpusDesign:
    source: str
    paths: tuple[str, ...]
    text: str
    held_out: Decimal
    sequence_length: int
    tokenizer_file: str | None
    vocabulary: int | None
    eos: str


@dataclass(frozen=True, kw_only=True)
class PerturbationDesign:
    """`ordinal` is the place in the suite file; `levels` maps copies to the number of main records."""

    name: str
    ordinal: int
    kind: str
    origin: str
    tokens: int | None
    length: int | None
    rename: Mapping[str, str]
    levels: Mapping[int, int]
    home: Phase
    licence: str

    @property
    def records(self) -> int:
        return sum(self.levels.values())

    @property
    def copies(self) -> int:
        return sum(level * count for level, count in self.levels.items())


@dataclass(frozen=True, kw_only=True)
class TrainDesign:
    steps: int
    batch: int
    optimizer: str
    lr: float
    lr_end: float
    schedule: str
    warmup: int
    weight_decay: float
    every: int
    also: tuple[int, ...]

    @property
    def slots(self) -> int:
        return self.steps * self.batch


@dataclass(frozen=True, kw_only=True)
class ArmDesign:
    """One data condition. `phases` covers the whole roster, `inserted` names what this arm selects from it."""

    name: str
    control: str | None
    models: tuple[str, ...]
    draws: int
    inserted: tuple[str, ...]
    phases: Mapping[str, Phase]
    renderings: Mapping[str, str]
    positions: Mapping[str, str]
    spacings: Mapping[str, str]
    train: TrainDesign

    def phase_ends(self) -> list[int]:
        """Steps at which the state has read everything of a phase that begins or ends inside the run."""
        ends = {end for name in self.inserted for end in phase_slots(self.phases[name], self.train.slots)}
        steps = {-(-end // self.train.batch) for end in ends}
        return sorted(step for step in steps if 0 < step < self.train.steps)


@dataclass(frozen=True, kw_only=True)
class EvalDesign:
    probes: tuple[str, ...]
    prefixes: tuple[int, ...]
    suffix: int


@dataclass(frozen=True, kw_only=True)
class ReleaseDesign:
    arms: tuple[str, ...]
    licence: str


@dataclass(frozen=True, kw_only=True)
class RunName:
    """arm × model × draw."""

    arm: str
    model: str
    draw: int

    def __str__(self) -> str:
        return f"{self.arm}.{self.model}.d{self.draw}"

    @classmethod
    def parse(cls, text: str) -> RunName:
        arm, model, draw = text.rsplit(".", 2)
        return cls(arm=arm, model=model, draw=int(draw[1:]))


@dataclass(frozen=True, kw_only=True)
class Suite:
    name: str
    seed: int
    draws: int
    models: tuple[str, ...]
    corpus: CorpusDesign
    perturbations: Mapping[str, PerturbationDesign]
    arms: Mapping[str, ArmDesign]
    model_presets: Mapping[str, ModelPreset]
    train: TrainDesign
    eval: EvalDesign
    release: ReleaseDesign
    spec: Mapping[str, Any]
    toml: str
    path: Path

    def runs(self, model: str | None = None, arm: str | None = None, draw: int | None = None) -> list[RunName]:
        """The suite's runs in the order of its arms. A `model` outside the suite adds its runs to every arm."""
        names = []
        for design in self.arms.values():
            for each in (model,) if model else design.models:
                names += [RunName(arm=design.name, model=each, draw=k) for k in range(design.draws)]
        return [n for n in names if arm in (None, n.arm) and draw in (None, n.draw)]

    def preset(self, model: str) -> ModelPreset:
        return self.model_presets.get(model) or presets()[model]

    def relevant_spec(self, run: RunName) -> dict[str, Any]:
        """The keys of the suite file that a run's numbers depend on, with their values, flat.

        A perturbation that the arm does not insert is left out: it can only move a copy by taking its slot, and
        `insert` compares the exposures themselves.
        """
        arm = self.arms[run.arm]
        flat: dict[str, Any] = {"suite.seed": self.seed}
        flat |= {f"corpus.{key}": plain(value) for key, value in vars(self.corpus).items()}
        flat |= {f"train.{key}": plain(value) for key, value in vars(arm.train).items() if key not in ("every", "also")}
        flat |= {f"model.{run.model}.{key}": value for key, value in vars(self.preset(run.model)).items()}
        flat[f"arm.{run.arm}.perturbations"] = list(arm.inserted)
        for name in arm.inserted:
            perturbation = self.perturbations[name]
            flat[f"arm.{run.arm}.phase.{name}"] = [str(end) for end in arm.phases[name]]
            flat[f"arm.{run.arm}.renderings.{name}"] = arm.renderings[name]
            flat[f"arm.{run.arm}.position.{name}"] = arm.positions[name]
            flat[f"arm.{run.arm}.spacing.{name}"] = arm.spacings[name]
            for key in ("kind", "origin", "tokens", "length", "rename", "levels"):
                flat[f"perturbation.{name}.{key}"] = plain(getattr(perturbation, key))
        return flat


def plain(value: Any) -> Any:
    """A value as JSON holds it, so that what was stored compares equal to what was read."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Decimal | Fraction):
        return str(value)
    return value
