"""Probes: measurements, one file each, found by name.

A probe is a module with

- `NEEDS`: `loglik` (the ledger suffices) or `tree` (it runs the model itself, at phase ends and the last step only);
- `requests(context)`: the sequences it wants in the ledger;
- `scores(context, ledger, model)`: its scores, one (record_id, rendering, variant, metric, value) each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ...core.design import EvalDesign, Suite
from ...core.plugins import load_plugin
from ...corpus.tokenizer import Tokenizer

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A rendering as tokens: `ids` [n], and the tokens of each attribute."""

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


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every probe may read. `inserted` names the renderings that some arm inserts, per perturbation."""

    subjects: tuple[Subject, ...]
    inserted: Mapping[str, frozenset[str]]
    inserted_ids: frozenset[str]
    design: EvalDesign
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Request:
    """One sequence to score, after EOS."""

    record_id: str
    rendering: str
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The ledger of one sequence, arrays [n]."""

    logp: NDArray[np.float32]
    top1: NDArray[np.bool_]
    n_bytes: NDArray[np.int32]


Ledger = Mapping[tuple[str, str], Tokens]
Score = tuple[str, str, str, str, float]


class Probe(Protocol):
    NEEDS: str

    def requests(self, context: Context) -> Iterable[Request]: ...
    def scores(self, context: Context, ledger: Ledger, model: Any) -> Iterable[Score]: ...


def load_probe(name: str) -> Probe:
    return cast(Probe, load_plugin("costar.eval.probes", name, place="[eval] probes"))


def check_probes(suite: Suite) -> None:
    """Every probe of the suite file exists."""
    for name in suite.eval.probes:
        load_probe(name)
