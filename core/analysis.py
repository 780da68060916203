"""The analysis as the suite file fixes it before training: primary measures, families of tests, margins of equivalence.

What is not primary is exploratory: adjusted within its own measure, and never the ground of a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CostarError, nearest
from .hashing import sha256_json
from .metrics import metric_of

Measure = tuple[str, str, str]  # probe, variant, metric
NLL: Measure = ("likelihood", "", "nll_token")
SECONDARY = {
    "testset": ("choice", "format=cloze", "margin"),
    "infill": ("infill", "format=sentence", "margin"),
    "password": ("secret-rank", "", "exposure_bits"),
}


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim, the row of `effects` that it speaks of, and what is expected of the estimate there.

    `expect` is "below" or "above" (zero), or "equivalent" (none within the margin of the row). `treated` and `control` are
    arms; `level` is None where rows have none; `step` is a number of optimizer steps. p-values are adjusted over the
    hypotheses of one `finding`. `draws` is how many are planned of both arms. `hubble` is the published figure in words.
    """

    name: str
    claim: str
    expect: str
    estimand: str
    measure: Measure
    perturbation: str
    model: str
    treated: str
    control: str
    factor: str
    level: int | None
    step: int
    finding: str
    draws: int
    hubble: str


@dataclass(frozen=True, kw_only=True)
class AnalysisDesign:
    """By perturbation: its `primary` measure and the `margins` within which that one's effects count as none, in its own
    units (NaN where none was set). `families` says over what Holm's adjustment of the primary p-values goes:
    "perturbation" (the levels of one contrast) or "suite" (everything primary of one estimand). `hypotheses` are those of
    the suite file, in its order.
    """

    primary: Mapping[str, Measure]
    margins: Mapping[str, float]
    families: str
    hypotheses: tuple[Hypothesis, ...] = ()

    def is_primary(self, perturbation: str, measure: Measure) -> bool:
        return self.primary.get(perturbation) == measure

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "primary": {name: measure_text(measure) for name, measure in self.primary.items()},
            "margins": dict(self.margins),
            "families": self.families,
            "hypotheses": [vars(each) | {"measure": measure_text(each.measure)} for each in self.hypotheses],
        }

    def sha256(self) -> str:
        return sha256_json(self.plain())


def measure_text(measure: Measure) -> str:
    """'choice margin format=cloze': probe, metric, variant."""
    probe, variant, metric = measure
    return " ".join(part for part in (probe, metric, variant) if part)


def parse_measure(text: str) -> Measure | None:
    """What `measure_text` wrote; None where it is not of that form."""
    parts = text.split()
    if len(parts) not in (2, 3):
        return None
    return parts[0], parts[2] if len(parts) == 3 else "", parts[1]


def default_primary(kind: str, probes: Sequence[str]) -> Measure:
    """What a kind is judged by unless the suite says otherwise: its own continuous measure where that is measured, for a
    share of right answers needs several times the records; the loss otherwise."""
    own = SECONDARY.get(kind, NLL)
    return own if own[0] in probes else NLL


def read_analysis(
    kinds: Mapping[str, str],
    probes: Sequence[str],
    primary: Mapping[str, str],
    margins: Mapping[str, float],
    families: str,
    fail: Callable[..., CostarError],
) -> AnalysisDesign:
    """The analysis of a suite whose perturbations have these `kinds`; `primary` and `margins` are by kind.

    Raises:
        CostarError: a kind that no perturbation has, a measure of another form, or of a probe that is not asked for.
    """
    for key, given in (("primary", primary), ("margins", margins)):
        for kind in given:
            if kind not in kinds.values():
                known = ", ".join(sorted(set(kinds.values()))) or "no kind: there are no perturbations"
                raise fail(
                    f"[eval] {key}",
                    found=kind,
                    expected=f"kinds of this suite: {known}",
                    mend=f"correct or remove it{nearest(kind, kinds.values())}",
                )
    chosen = {}
    for kind, text in primary.items():
        measure = parse_measure(text)
        if measure is None or measure[0] not in probes:
            raise fail(
                f"[eval] primary.{kind}",
                found=text,
                expected=f"'PROBE METRIC' or 'PROBE METRIC VARIANT' of a probe in [eval] probes: {', '.join(probes)}",
                mend="correct it, or add the probe",
            )
        chosen[kind] = measure
    found = {name: chosen.get(kind) or default_primary(kind, probes) for name, kind in kinds.items()}
    widths = {name: margins.get(kind, metric_of(found[name][2]).margin) for name, kind in kinds.items()}
    return AnalysisDesign(primary=found, margins=widths, families=families)
