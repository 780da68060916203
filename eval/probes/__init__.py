"""Probes: measurements, one file each, found by name in this folder or in `probes/` beside the suite file.

A probe is a module with

- `NEEDS`: what it takes of a model: `loglik` (the ledger), `generate` (greedy continuations), `weights` (it runs the model
  itself), `gradients` (it trains a copy). All but `loglik` are taken at phase ends and last steps only;
- `KINDS`: the kinds of records it applies to, empty for all;
- `METRICS`: each metric it returns, and what it is;
- `SOURCE`: where its definition is from;
- `scores(context, found)`: a `Score` for everything measured, a `Gap` for everything that could not be;

and, as it needs them,

- `requests(context)`: the sequences it wants in the ledger;
- `prompts(context)`: the prompts it wants continued;
- `READS`: what it reads of the suite beyond the records, `sites`, `levels` or `counts`, so that its scores follow them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ...core.design import EvalDesign, Suite
from ...core.errors import CostarError, nearest, shorten
from ...core.hashing import sha256_file
from ...core.plugins import code_sha256, load_plugin, plugin_names
from ...corpus.tokenizer import Tokenizer
from ..reader import Reader

Span = tuple[int, int]
EOS = "eos"
PACKAGE = "costar.eval.probes"
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

    `inserted` names the renderings that some arm inserts, per perturbation; `inserted_ids` the records that some arm and
    draw inserts, `fates` by which arms and draws. `length` is L; `first` the id before a text, None for EOS. `sites()` has,
    for the run's own arm and those that it controls, the first copy of each record, arm → record → site; `levels()` the
    level of each main record in the run's arm and draw; `counts()` how often each id [V] occurs in the base.
    """

    subjects: tuple[Subject, ...]
    inserted: Mapping[str, frozenset[str]]
    inserted_ids: frozenset[str]
    design: EvalDesign
    tokenizer: Tokenizer
    length: int
    seed: int
    fates: Mapping[str, frozenset[tuple[str, int]]] = field(default_factory=dict)
    sites: Callable[[], Mapping[str, Mapping[str, Site]]] = dict
    levels: Callable[[], Mapping[str, int]] = dict
    counts: Callable[[], NDArray[np.int64]] = lambda: np.zeros(0, np.int64)
    first: int | None = None

    @property
    def begin(self) -> int:
        """The id that stands before a text: EOS for the suite's models, BOS for one from elsewhere that has it."""
        return self.tokenizer.eos_id if self.first is None else self.first

    def of_kind(self, *kinds: str) -> list[Subject]:
        """The subjects of these kinds, in the order of the suite."""
        return [subject for subject in self.subjects if subject.kind in kinds]


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
        names = ("token_id", "n_bytes", "logp", "rank", "top1", "mean_logp", "var_logp", "lse_top40")
        stop = None if end is None else end - self.start
        return Tokens(start=start, **{name: getattr(self, name)[start - self.start : stop] for name in names})

    @property
    def total(self) -> float:
        """The summed log-probability in nats."""
        return float(self.logp.sum(dtype="float64"))

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.logp).all())


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
    NEEDS: tuple[str, ...]
    KINDS: tuple[str, ...]
    METRICS: Mapping[str, str]
    SOURCE: str

    def scores(self, context: Context, found: Found) -> Iterable[Score | Gap]: ...


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A probe by name, the hash of its code, and whether that is the user's own."""

    name: str
    probe: Probe
    code: str
    own: bool

    @property
    def only_at_ends(self) -> bool:
        """Whether it is taken at phase ends and last steps only."""
        return set(self.probe.NEEDS) != {"loglik"}

    def requests(self, context: Context) -> Iterable[Request]:
        return getattr(self.probe, "requests", _nothing)(context)

    def prompts(self, context: Context) -> Iterable[Prompt]:
        return getattr(self.probe, "prompts", _nothing)(context)

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of the suite beyond the records: `sites`, `counts`."""
        return tuple(getattr(self.probe, "READS", ()))


def _nothing(context: Context) -> tuple[Any, ...]:
    return ()


def own_probes(suite: Suite) -> dict[str, Path]:
    """The user's probes, `probes/*.py` beside the suite file."""
    return {path.stem.replace("_", "-"): path for path in sorted((suite.path.resolve().parent / "probes").glob("*.py"))}


def find_probe(name: str, suite: Suite) -> Path | None:
    """The user's file of a probe, or None for one of costar's own. Nothing of it is run.

    Raises:
        CostarError: there is no such probe, or two.
    """
    shipped, own = plugin_names(PACKAGE), own_probes(suite)
    if name in own and name in shipped:
        raise CostarError(
            str(own[name]),
            found=f"a probe by the name of costar's own {name!r}",
            expected="a name of its own, so that scores say what was measured",
            mend="rename the file, and the probe in [eval] probes",
        )
    if name not in own and name not in shipped:
        known = [*shipped, *own]
        raise CostarError(
            "[eval] probes",
            found=name,
            expected=f"one of {', '.join(known)}, or a file probes/{name.replace('-', '_')}.py beside the suite file",
            mend=f"correct the name{nearest(name, known)}",
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise CostarError(
            "[eval] probes",
            found=name,
            expected="small letters, digits and single hyphens: files are named after it",
            mend="rename the probe and its file",
        )
    return own.get(name)


def load_probe(name: str, suite: Suite) -> Loaded:
    """The probe of a name. The user's file is run here, and nowhere before.

    Raises:
        CostarError: there is none, or the user's file is no probe.
    """
    path = find_probe(name, suite)
    if path is not None:
        return Loaded(name=name, probe=_own_probe(path), code=sha256_file(path), own=True)
    module = load_plugin(PACKAGE, name, place="[eval] probes")
    return Loaded(name=name, probe=cast(Probe, module), code=code_sha256(module), own=False)


def _own_probe(path: Path) -> Probe:
    """A probe from the user's file."""
    _check_names(path, _names(path))
    module = ModuleType(f"costar_own_probe_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(
            compile(path.read_bytes(), str(path), "exec"), vars(module)
        )  # no cached bytecode: the bytes that are hashed
    except Exception as error:  # whatever the user's code raises
        raise _no_probe(path, error) from error
    _check_values(path, module)
    return cast(Probe, module)


def _no_probe(path: Path, error: Exception) -> CostarError:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return CostarError(
        f"{path}{line}",
        found=f"{type(error).__name__}: {shorten(getattr(error, 'msg', '') or error)}",
        expected="a probe",
        mend="correct the file (docs/evaluation.md shows one)",
    )


def _names(path: Path) -> set[str]:
    """The names that a file binds at its top level, read without running it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise _no_probe(path, error) from None
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found


def _check_names(path: Path, names: set[str]) -> None:
    missing = [name for name in ("NEEDS", "KINDS", "METRICS", "SOURCE", "scores") if name not in names]
    if missing:
        raise CostarError(
            str(path),
            found=f"nothing of {', '.join(missing)}",
            expected="NEEDS, KINDS, METRICS, SOURCE and scores(context, found)",
            mend="add it (docs/evaluation.md shows a probe)",
        )


def _check_values(path: Path, module: ModuleType) -> None:
    needs, metrics = getattr(module, "NEEDS", None), getattr(module, "METRICS", None)
    reads = getattr(module, "READS", ())
    checks: list[tuple[str, object, bool, str]] = [
        ("NEEDS", needs, _are(needs, NEEDED) and bool(needs), f"a tuple of {', '.join(NEEDED)}"),
        ("READS", reads, _are(reads, READABLE), f"a tuple of {', '.join(READABLE)}"),
        ("METRICS", metrics, isinstance(metrics, Mapping) and bool(metrics), "a table of metrics, and what each is"),
        ("scores", getattr(module, "scores", None), callable(getattr(module, "scores", None)), "a function"),
    ]
    for name, value, holds, expected in checks:
        if not holds:
            raise CostarError(
                f"{path}, {name}", found=shorten(repr(value)), expected=expected, mend="correct it (docs/evaluation.md)"
            )


def _are(value: object, known: tuple[str, ...]) -> bool:
    return isinstance(value, tuple) and all(each in known for each in value)


def load_probes(suite: Suite) -> list[Loaded]:
    """Every probe of the suite file."""
    return [load_probe(name, suite) for name in suite.eval.probes]


def check_probes(suite: Suite) -> None:
    """Every probe of the suite file is there and has what a probe has; none is run.

    Raises:
        CostarError: one is not, or is no probe.
    """
    for name in suite.eval.probes:
        path = find_probe(name, suite)
        if path is not None:
            _check_names(path, _names(path))
