"""Probes: measurements, one file each, found by name in this folder or in `probes/` beside the suite file.

A probe is a module with

- `NEEDS`: what it takes of a model: `loglik` (the ledger), `generate` (greedy continuations), `weights` (it runs the model
  itself), `gradients` (it trains a copy). All but `loglik` are taken at phase ends and last steps only;
- `KINDS`: the kinds of records it applies to, empty for all; it sees no others;
- `METRICS`: each metric it returns, and what it is;
- `SOURCE`: where its definition is from;
- `scores(context, found)`: a `Score` for everything measured, a `Gap` for everything that could not be;

and, as it needs them,

- `requests(context)`: the sequences it wants in the ledger;
- `prompts(context)`: the prompts it wants continued;
- `READS`: what it reads of the suite beyond the records, `sites`, `levels` or `counts`, so that its scores follow them; it
  is given no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.design import EvalDesign
from ...corpus.tokenizer import Tokenizer
from ..assigned import ArmDraw

if TYPE_CHECKING:
    from ..reader import Reader

Span = tuple[int, int]
EOS = "eos"
NEEDED = ("loglik", "generate", "weights", "gradients")
READABLE = ("sites", "levels", "counts")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A rendering as text and as tokens: `ids` [n], and the tokens of each attribute."""

    text: str
    ids: tuple[int, ...]
    n_bytes: int
    spans: Mapping[str, Span]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A record under measurement, with all its renderings, the canonical one first."""

    record_id: str
    perturbation: str
    kind: str
    role: str
    fields: Mapping[str, Any]
    renderings: Mapping[str, Rendered]

    @property
    def canonical(self) -> str:
        return next(iter(self.renderings))


class Site(NamedTuple):
    """A copy in its training sequence: the rendering, and the ids before it."""

    rendering: str
    before: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every probe may read of the suite, and of the run that is measured.

    `inserted` names the renderings that some arm inserts, per perturbation; `fates` the records that some arm and draw
    inserts, with all that do. `length` is L; `first` the id before a text, None for EOS. `sites()` has,
    for the run's own arm and those that it controls, the first copy of each record, arm → record → site; `levels()` the
    level of each main record in the run's arm and draw; `counts()` how often each id [V] occurs in the base.
    """

    subjects: tuple[Subject, ...]
    inserted: Mapping[str, frozenset[str]]
    design: EvalDesign
    tokenizer: Tokenizer
    length: int
    seed: int
    fates: Mapping[str, frozenset[ArmDraw]] = field(default_factory=dict)
    sites: Callable[[], Mapping[str, Mapping[str, Site]]] = dict
    levels: Callable[[], Mapping[str, int]] = dict
    counts: Callable[[], NDArray[np.int64]] = lambda: np.zeros(0, np.int64)
    first: int | None = None

    @property
    def begin(self) -> int:
        """The id that stands before a text: EOS for the suite's models, BOS for one from elsewhere that has it."""
        return self.tokenizer.eos_id if self.first is None else self.first


@dataclass(frozen=True)
class Request:
    """One sequence to score. The ledger has the tokens of `ids` from `start` on.

    They follow `before`, or EOS where that is empty; `context` names what stands before (`eos`, `site`, …). A whole text
    after EOS that is longer than the model reads is scored in windows (windows.py).
    """

    record_id: str
    rendering: str
    ids: tuple[int, ...]
    context: str = EOS
    before: tuple[int, ...] = ()
    start: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.record_id, self.rendering, self.context

    @property
    def rolls(self) -> bool:
        """Whether it can be scored in windows: it is a whole text after EOS."""
        return not self.before and not self.start


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The ledger of one sequence, arrays [n − start], from position `start` on."""

    start: int
    token_id: NDArray[np.int32]
    n_bytes: NDArray[np.int32]
    logp: NDArray[np.float32]
    rank: NDArray[np.int32]
    top1: NDArray[np.bool_]
    mean_logp: NDArray[np.float32]
    var_logp: NDArray[np.float32]
    lse_top40: NDArray[np.float32]

    def part(self, start: int, end: int | None = None) -> Tokens:
        """The tokens at positions [start, end) of the sequence."""
        assert start >= self.start
        stop = None if end is None else end - self.start
        arrays = {name: values for name, values in vars(self).items() if name != "start"}
        return Tokens(start=start, **{name: values[start - self.start : stop] for name, values in arrays.items()})

    @property
    def total(self) -> float:
        """The summed log-probability in nats."""
        return float(self.logp.sum(dtype="float64"))

    @property
    def nll(self) -> float:
        """The mean negative log-probability of a token in nats."""
        return -self.total / len(self.logp)

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.logp).all())


def too_long(n: int, most: int, what: str = "tokens") -> str:
    """Why something of so many tokens was not measured."""
    return f"{n:,} {what}, the model reads at most {most:,}"


@dataclass(frozen=True)
class Prompt:
    """Text to be continued greedily, after EOS: at most `new_tokens`, up to the first of the `stops` or EOS."""

    record_id: str
    rendering: str
    variant: str
    ids: tuple[int, ...]
    new_tokens: int
    stops: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        return self.record_id, self.rendering, self.variant


@dataclass(frozen=True)
class Generated:
    """A continuation: its ids, without EOS, and its text before the first stop."""

    ids: tuple[int, ...]
    text: str


class Score(NamedTuple):
    """A value of a metric for a rendering of a record. `variant` says how it was measured: `key=value`, joined by commas."""

    record_id: str
    rendering: str
    variant: str
    metric: str
    value: float


class Gap(NamedTuple):
    """A measurement that could not be taken, and why, in words that name what was found."""

    record_id: str
    rendering: str
    variant: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured of one model. `refused` has the sequences and prompts that could not be, and why."""

    ledger: Mapping[tuple[str, str, str], Tokens]
    generated: Mapping[tuple[str, str, str], Generated] = field(default_factory=dict)
    refused: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    reader: Reader | None = None

    def tokens(self, record_id: str, rendering: str, context: str = EOS) -> Tokens | str:
        """The ledger of a sequence, or why there is none."""
        key = (record_id, rendering, context)
        return self.ledger.get(key) or self.refused.get(key, "not asked for")

    def continuation(self, record_id: str, rendering: str, variant: str) -> Generated | str:
        """The continuation of a prompt, or why there is none."""
        key = (record_id, rendering, variant)
        return self.generated.get(key) or self.refused.get(key, "not asked for")


class Probe(Protocol):
    """What every probe has; the names are explained above. It may have `requests`, `prompts` and `READS` as well."""

    NEEDS: tuple[str, ...]
    KINDS: tuple[str, ...]
    METRICS: Mapping[str, str]
    SOURCE: str

    def scores(self, context: Context, found: Found) -> Iterable[Score | Gap]: ...


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A probe by name, the hash of its code, and whether it is from a user's file."""

    name: str
    probe: Probe
    code: str
    from_user: bool

    @property
    def only_at_ends(self) -> bool:
        """Whether it is taken at phase ends and last steps only."""
        return set(self.probe.NEEDS) != {"loglik"}

    def requests(self, context: Context) -> Iterable[Request]:
        return getattr(self.probe, "requests", _nothing)(self._seen(context))

    def prompts(self, context: Context) -> Iterable[Prompt]:
        return getattr(self.probe, "prompts", _nothing)(self._seen(context))

    def scores(self, context: Context, found: Found) -> Iterable[Score | Gap]:
        return self.probe.scores(self._seen(context), found)

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of the suite beyond the records: `sites`, `levels`, `counts`."""
        return tuple(getattr(self.probe, "READS", ()))

    def _seen(self, context: Context) -> Context:
        """What the probe has declared of a context: the records of its kinds, and what it reads."""
        kinds = self.probe.KINDS
        subjects = tuple(each for each in context.subjects if not kinds or each.kind in kinds)
        refused: dict[str, Any] = {name: _refusing(name, self.name) for name in READABLE if name not in self.reads}
        return replace(context, subjects=subjects, **refused)


def _nothing(context: Context) -> tuple[Any, ...]:
    return ()


def _refusing(reader: str, probe: str) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise AssertionError(f'{probe} reads {reader}, which is not in its READS: write READS = ("{reader}",)')

    return refuse
