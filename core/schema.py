"""The suite file's keys and their types. Only `suite.py` reads this; the rest of the house sees `design.py`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator


def _to_float(value: Any) -> Any:
    return float(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


def _to_decimal(value: Any) -> Any:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_short(number: Decimal) -> bool:
    """Finite, and of at most 30 decimals: its exact fraction stays small."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -30


def _to_phase(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:
        a, b = value
        numbers = all(isinstance(end, int | Decimal) and not isinstance(end, bool) for end in value)
        if numbers and all(_is_short(Decimal(end)) for end in value) and 0 <= a < b <= 1:
            return (Decimal(a), Decimal(b))
    raise ValueError("expected [a, b] with 0 ≤ a < b ≤ 1")


ALL = "*"
SCHEMES = ("hubble-large", "hubble-small", "hubble-wikipedia")


@dataclass(frozen=True, kw_only=True)
class Detect:
    """Sizes that show an effect of `effect` standard deviations at each number of copies."""

    effect: float
    copies: tuple[int, ...]


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _to_levels(value: Any) -> str | Detect | dict[int, int]:
    if isinstance(value, str) and value in SCHEMES:
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"expected {{ copies = records, … }} like {{ 0 = 100, 1 = 12 }}, {{ detect = …, copies = […] }}, or one of "
            f"{', '.join(SCHEMES)}"
        )
    if "detect" in value:
        return _to_detect(value)
    levels = {}
    for key, count in value.items():
        if not str(key).isdecimal():
            raise ValueError(f"level {key!r}: expected a whole number of copies, 0 or more")
        if not _is_count(count, 1):
            raise ValueError(f"level {key}: expected a whole number of records, 1 or more, not {count!r}")
        if int(key) in levels:
            raise ValueError(f"level {key}: expected each level once")
        levels[int(key)] = count
    return dict(sorted(levels.items()))


def _to_detect(value: dict[str, Any]) -> Detect:
    effect, copies = _to_float(value["detect"]), value.get("copies")
    good = (
        isinstance(copies, list) and copies and all(_is_count(c, 1) for c in copies) and len(set(copies)) == len(copies)
    )
    if set(value) != {"detect", "copies"} or not isinstance(effect, float) or not 0.01 <= effect <= 10 or not good:
        raise ValueError("expected { detect = standard deviations from 0.01 to 10, copies = [1, 4, …] }")
    return Detect(effect=effect, copies=tuple(copies or ()))


Float = Annotated[float, BeforeValidator(_to_float), Field(allow_inf_nan=False)]
Share = Annotated[Decimal, BeforeValidator(_to_decimal), Field(gt=0, lt=1)]
PhaseSpec = Annotated[tuple[Decimal, Decimal], BeforeValidator(_to_phase)]
LevelsSpec = Annotated[str | Detect | dict[int, int], PlainValidator(_to_levels)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SuiteTable(Table):
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    models: Annotated[list[str], Field(min_length=1)]


class TokenizerTable(Table):
    train: Literal["bpe"] | None = None
    vocabulary: Annotated[int, Field(ge=300)] | None = None
    file: str | None = None
    eos: str = "<|endoftext|>"

    @model_validator(mode="after")
    def _one_way(self) -> TokenizerTable:
        if (self.file is None) == (self.train is None) or (self.train is None) != (self.vocabulary is None):
            raise ValueError('expected { train = "bpe", vocabulary = N } or { file = "tokenizer.json" }')
        return self


class SourceKeys(Table):
    """Where base text comes from: of the whole corpus, or of a part of its mixture."""

    source: str | None = None
    path: str | list[str] = []
    text: str = "text"
    megabytes: Count | None = None


class MixtureTable(SourceKeys):
    source: str
    share: Annotated[Decimal, BeforeValidator(_to_decimal), Field(gt=0)] | None = None


class CorpusTable(SourceKeys):
    mixture: dict[str, MixtureTable] = {}
    reuse: Annotated[str | None, Field(alias="from")] = None
    index: str | None = None
    quality: list[str] = []
    deduplicate: Literal["exact", "minhash"] = "exact"
    held_out: Share = Decimal("0.05")
    validation: Share | None = None
    tasks: Annotated[int, Field(ge=1, le=100_000)] = 16
    sequence_length: Annotated[int, Field(ge=16)]
    tokenizer: TokenizerTable | None = None


class RecordsTable(Table):
    origin: Annotated[str, Field(alias="from")]
    tokens: Annotated[int, Field(ge=2)] | None = None
    length: Annotated[int, Field(ge=1, le=12)] | None = None
    count: Count | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    map: dict[str, str] = {}
    where: dict[str, str | int | bool] = {}
    without: list[str] = []


class PerturbationTable(Table):
    kind: str
    records: RecordsTable
    levels: LevelsSpec
    phase: PhaseSpec = (Decimal(0), Decimal(1))
    licence: str | None = None
    strata: list[str] = ["length"]
    cluster: str | None = None
    rendering: str = ""
    templates: dict[str, Annotated[str, Field(min_length=1)]] = {}
    overlaps: list[str] = []
    allow: dict[str, Annotated[str, Field(min_length=10)]] = {}


class CheckpointsTable(Table):
    every: Count | None = None
    also: list[Annotated[int, Field(ge=0)]] = []


class TrainKeys(Table):
    """The keys of `[train]`; an arm may repeat any of them."""

    steps: Count | None = None
    batch: Count | None = None
    optimizer: Literal["adamw", "muon"] | None = None
    lr: Annotated[Float, Field(gt=0)] | None = None
    lr_end: Annotated[Float, Field(ge=0)] | None = None
    schedule: Literal["constant", "cosine", "wsd"] | None = None
    warmup: Annotated[int, Field(ge=0)] | None = None
    decay: Count | None = None
    weight_decay: Annotated[Float, Field(ge=0)] | None = None
    checkpoints: CheckpointsTable | None = None


class TrainTable(TrainKeys):
    steps: Count
    batch: Count
    lr: Annotated[Float, Field(gt=0)]
    optimizer: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    lr_end: Annotated[Float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[Float, Field(ge=0)] = 0.1
    checkpoints: CheckpointsTable = CheckpointsTable()


Position = Literal["balanced", "start", "middle", "end"]
Spacing = Literal["uniform", "even", "burst"]


class FactorsTable(Table):
    """What an arm randomizes per record: each key lists the values among which its records are divided."""

    phase: list[PhaseSpec] = []
    position: list[Position] = []
    spacing: list[Spacing] = []
    rendering: list[str] = []


def _to_factors(value: Any) -> Any:
    """A table of factors for all perturbations stands under "*", so that it is one of several by perturbation."""
    flat = isinstance(value, dict) and not (value and all(isinstance(each, dict) for each in value.values()))
    return {ALL: value} if flat else value


class ArmTable(TrainKeys):
    perturbations: list[str] | None = None
    phase: PhaseSpec | dict[str, PhaseSpec] | None = None
    renderings: dict[str, str] = {}
    position: Position | dict[str, Position] = "balanced"
    spacing: Spacing | dict[str, Spacing] = "uniform"
    factors: Annotated[dict[str, FactorsTable], BeforeValidator(_to_factors)] = {}
    assignment: str = "suite"
    filler: Literal["none", "base", "kin"] = "none"
    control: str | None = None
    parent: str | None = None
    init: str | None = None
    models: list[str] | None = None
    draws: Count | None = None


class ModelTable(Table):
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count | None = None
    ffn: Count
    tied: bool = True


class EvalTable(Table):
    probes: list[str] = ["likelihood", "extraction", "choice", "secret-rank"]
    prefixes: Annotated[list[Count], Field(min_length=1)] = [16]
    suffix: Count = 32
    primary: dict[str, str] = {}
    margins: dict[str, Annotated[Float, Field(gt=0)]] = {}
    families: Literal["perturbation", "suite"] = "perturbation"


class HypothesisTable(Table):
    """A claim, the row of effects it speaks of, and what is expected there."""

    claim: Annotated[str, Field(min_length=10)]
    expect: Literal["below", "above", "equivalent"]
    estimand: Literal[
        "total",
        "spillover",
        "direct",
        "timing",
        "displacement",
        "interference",
        "factor",
        "shift",
        "utility",
    ]
    perturbation: str = ""
    level: Annotated[int, Field(ge=0)] | None = None
    treated: str
    control: str = ""
    factor: str = ""
    measure: str = ""
    model: str = ""
    step: Literal["last", "phase-end"] | Count = "last"
    finding: str = ""
    hubble: str = ""


class ReleaseTable(Table):
    arms: list[str] = []
    licence: str = "CC0-1.0"
    authors: list[Annotated[str, Field(min_length=1)]] = []


class SuiteSpec(Table):
    suite: SuiteTable
    corpus: CorpusTable
    perturbation: dict[str, PerturbationTable] = {}
    arm: Annotated[dict[str, ArmTable], Field(min_length=1)]
    model: dict[str, ModelTable] = {}
    train: TrainTable
    eval: EvalTable = EvalTable()
    hypothesis: dict[str, HypothesisTable] = {}
    release: ReleaseTable = ReleaseTable()
