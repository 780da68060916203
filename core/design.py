"""A suite as plain values: what the stages work with, after the suite file has been read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from .analysis import AnalysisDesign, Hypothesis
from .models import ModelPreset, presets

Phase = tuple[Fraction, Fraction]
FACTORS = ("phase", "position", "spacing", "rendering")  # in the order of `ArmDesign.combinations`


def phase_slots(phase: Phase, slots: int) -> tuple[int, int]:
    """The slots [lo, hi) of a phase of a run with `slots` slots: ceil(a·N) … ceil(b·N), in exact rationals."""
    return math.ceil(phase[0] * slots), math.ceil(phase[1] * slots)


@dataclass(frozen=True, kw_only=True)
class SourceDesign:
    """Where base text comes from. `name` is the part of a mixture, empty for a corpus of one source; `share` its part of
    the base in bytes, relative to the other parts, None for all of it. `megabytes` and `seed` are for text that is generated.
    """

    name: str
    source: str
    paths: tuple[str, ...]
    text: str
    megabytes: int | None
    share: Decimal | None
    seed: int

    @property
    def is_stored(self) -> bool:
        """Whether it is a token store that another tool built."""
        return self.source in ("megatron", "datatrove")


@dataclass(frozen=True, kw_only=True)
class CorpusDesign:
    """The base. With `reuse`, the path of a built suite, everything but the sequence length is taken from there.

    `index` names the order tables of a given store, `tasks` is the number of shards that text is worked through in.
    """

    sources: tuple[SourceDesign, ...]
    reuse: str | None
    index: str | None
    quality: tuple[str, ...]
    deduplicate: str
    held_out: Decimal
    validation: Decimal
    tasks: int
    sequence_length: int
    tokenizer_file: str | None
    vocabulary: int | None
    eos: str

    @property
    def source(self) -> str:
        """The names of the sources, for people."""
        return self.reuse or " + ".join(dict.fromkeys(each.source for each in self.sources))


@dataclass(frozen=True, kw_only=True)
class PerturbationDesign:
    """`ordinal` is the place in the suite file; `levels` maps copies to the number of main records.

    `strata` are fields of a record within which levels are randomized ("length": its tokens in doublings), `cluster` the
    field whose equal values get one level together. `rendering` is what arms insert that name no other, `templates` are
    further ones. `overlaps` names perturbations that may hold the same texts, `allow` what the safety gate would refuse,
    each with a statement of origin.
    """

    name: str
    ordinal: int
    kind: str
    origin: str
    tokens: int | None
    length: int | None
    max_tokens: int | None
    rename: Mapping[str, str]
    where: Mapping[str, Any]
    without: tuple[str, ...]
    levels: Mapping[int, int]
    home: Phase
    licence: str
    strata: tuple[str, ...]
    cluster: str | None
    rendering: str
    templates: Mapping[str, str]
    overlaps: tuple[str, ...]
    allow: Mapping[str, str]

    @property
    def records(self) -> int:
        return sum(self.levels.values())

    @property
    def copies(self) -> int:
        return sum(level * count for level, count in self.levels.items())


@dataclass(frozen=True, kw_only=True)
class TrainDesign:
    """How a run trains. `decay` is the number of last steps over which a "wsd" schedule comes down, 0 for others."""

    steps: int
    batch: int
    optimizer: str
    lr: float
    lr_end: float
    schedule: str
    warmup: int
    decay: int
    weight_decay: float
    every: int
    also: tuple[int, ...]

    @property
    def slots(self) -> int:
        return self.steps * self.batch


@dataclass(frozen=True, kw_only=True, order=True)
class Factors:
    """How the copies of a record are inserted; `rendering` is empty for the canonical one."""

    phase: Phase
    position: str
    spacing: str
    rendering: str


@dataclass(frozen=True, kw_only=True)
class ArmDesign:
    """One data condition.

    `inserted` names what this arm selects from the roster of the suite. `factors` has, for every perturbation of the
    suite, the combinations among which its records are divided at random; one where nothing is randomized. `turn` rotates
    the assignment of levels by that share of the records. A `filler` takes the records' places. Its runs start from the
    last weights of the `parent` arm's, or from a Hugging Face checkpoint (`init`), or from nothing.
    """

    name: str
    control: str | None
    models: tuple[str, ...]
    draws: int
    inserted: tuple[str, ...]
    factors: Mapping[str, tuple[Factors, ...]]
    turn: Fraction
    filler: str
    parent: str | None
    init: str | None
    train: TrainDesign

    def combinations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """The combinations of a perturbation's factors as texts: phase, position, spacing, rendering."""
        return tuple(
            (f"{each.phase[0]}-{each.phase[1]}", each.position, each.spacing, each.rendering)
            for each in self.factors[name]
        )

    def randomized(self, name: str) -> dict[str, tuple[str, ...]]:
        """What this arm randomizes of a perturbation: factor → its values as `effects` writes them, the reference first."""
        values = zip(*self.combinations(name), strict=True)
        named = {factor: tuple(dict.fromkeys(each)) for factor, each in zip(FACTORS, values, strict=True)}
        return {factor: tuple(v or "canonical" for v in each) for factor, each in named.items() if len(each) > 1}

    def phases(self, name: str) -> list[Phase]:
        """The phases that the records of a perturbation may have in this arm."""
        return sorted({each.phase for each in self.factors[name]})

    def span(self, name: str) -> tuple[int, int]:
        """The slots from the first to the last at which a copy of a perturbation may fall."""
        bounds = [phase_slots(phase, self.train.slots) for phase in self.phases(name)]
        return min(lo for lo, _ in bounds), max(hi for _, hi in bounds)

    def end_of(self, phase: Phase) -> int:
        """The step at which the state has read every slot of a phase."""
        return -(-phase_slots(phase, self.train.slots)[1] // self.train.batch)

    def phase_end(self, name: str) -> int:
        """The step at which the state has read every copy of a perturbation that may fall."""
        return -(-self.span(name)[1] // self.train.batch)

    def phase_ends(self) -> list[int]:
        """Steps at which the state has read everything of a phase that begins or ends inside the run."""
        phases = {phase for name in self.inserted for phase in self.phases(name)}
        ends = {end for phase in phases for end in phase_slots(phase, self.train.slots)}
        steps = {-(-end // self.train.batch) for end in ends}
        return sorted(step for step in steps if 0 < step < self.train.steps)


def kept_steps(arm: ArmDesign, arms: Mapping[str, ArmDesign]) -> tuple[int, ...]:
    """The checkpoints of an arm: those asked for, the last, and the phase ends of every arm of the same length, so that
    pairs share them."""
    train = arm.train
    steps = {*range(train.every, train.steps + 1, train.every), train.steps, *train.also}
    for other in arms.values():
        if (other.train.steps, other.train.batch) == (train.steps, train.batch):
            steps |= set(other.phase_ends())
    return tuple(sorted(step for step in steps if 0 <= step <= train.steps))


def earlier_exposure(arm: str, arms: Mapping[str, ArmDesign]) -> str:
    """What an arm's weights had read before its first step: "none", what its "parent" read, or "unknown"."""
    design = arms[arm]
    if design.init:
        return "unknown"
    if design.parent is None:
        return "none"
    return "unknown" if earlier_exposure(design.parent, arms) == "unknown" else "parent"


@dataclass(frozen=True, kw_only=True)
class EvalDesign:
    probes: tuple[str, ...]
    prefixes: tuple[int, ...]
    suffix: int
    analysis: AnalysisDesign


@dataclass(frozen=True, kw_only=True)
class ReleaseDesign:
    """`licence` is that of the models, `authors` those to cite, as "Family, Given"."""

    arms: tuple[str, ...]
    licence: str
    authors: tuple[str, ...]


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

    @property
    def argument(self) -> str:
        """What a user gives to a verb: the suite's name where it is found by it, or its path."""
        return self.name if self.path.parent.name == "suites" else str(self.path)

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The hypotheses of the suite, in the order of the file."""
        return self.eval.analysis.hypotheses

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
        flat |= {
            f"corpus.{key}": plain(value) for key, value in vars(self.corpus).items() if key not in ("sources", "tasks")
        }
        for source in self.corpus.sources:
            table = f"corpus.mixture.{source.name}" if source.name else "corpus"
            flat |= {
                f"{table}.{key}": plain(value) for key, value in vars(source).items() if key not in ("name", "seed")
            }
        flat |= {f"train.{key}": plain(value) for key, value in vars(arm.train).items() if key not in ("every", "also")}
        flat |= {f"model.{run.model}.{key}": value for key, value in vars(self.preset(run.model)).items()}
        flat[f"arm.{run.arm}.perturbations"] = list(arm.inserted)
        flat[f"arm.{run.arm}.assignment"] = str(arm.turn)
        flat[f"arm.{run.arm}.filler"] = arm.filler
        flat |= {f"arm.{run.arm}.parent": arm.parent, f"arm.{run.arm}.init": arm.init}
        for name in arm.inserted:
            perturbation = self.perturbations[name]
            flat |= {f"arm.{run.arm}.{key}.{name}": value for key, value in _factor_keys(arm.factors[name]).items()}
            for key in (
                "kind",
                "origin",
                "tokens",
                "length",
                "max_tokens",
                "rename",
                "where",
                "without",
                "levels",
                "strata",
                "cluster",
                "templates",
            ):
                flat[f"perturbation.{name}.{key}"] = plain(getattr(perturbation, key))
        return flat


def _factor_keys(factors: tuple[Factors, ...]) -> dict[str, Any]:
    """The factors of a perturbation under the keys of an arm, or in one list where they are randomized."""
    if len(factors) > 1:
        return {"factors": plain([vars(each) for each in factors])}
    keys = {"phase": "phase", "renderings": "rendering", "position": "position", "spacing": "spacing"}
    return {key: plain(getattr(factors[0], name)) for key, name in keys.items()}


def plain(value: Any) -> Any:
    """A value as JSON holds it, so that what was stored compares equal to what was read."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Decimal | Fraction):
        return str(value)
    return value
