"""What of a suite is compared with what: runs that differ in one thing, a pair of them for every draw.

- `total`: an arm and its control, for a perturbation that the arm inserts; `spillover` and `direct` come of the same pair.
- `displacement`: an arm of fillers and its control.
- `timing`: later − earlier phase, of two arms that insert that perturbation alone and differ in its phase only.
- `interference`: with − without other perturbations, of two arms that insert this one alike.
- `factor`: an arm that randomizes phase, position, spacing or rendering per record; each record less itself in the control.
- `placebo`: runs that have read nothing of a perturbation, nor their parents; they have no control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..core.design import ArmDesign, RunName, Suite, earlier_exposure
from .differences import Differences
from .scores import Measure, Scores


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Runs to compare, `treated[i]` with `control[i]` of one draw; without controls the treated runs themselves.

    `left_out` says in words which draws are missing, wholly or at the last step.
    """

    estimand: str
    perturbation: str
    model: str
    treated: tuple[str, ...]
    control: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def draws(self) -> tuple[int, ...]:
        """The draw of each treated run."""
        return tuple(RunName.parse(run).draw for run in self.treated)

    @property
    def arm(self) -> str:
        """The treated arm."""
        return RunName.parse(self.treated[0]).arm

    def of_draw(self, draw: int) -> Contrast:
        """One draw of it."""
        place = self.draws.index(draw)
        return replace(self, treated=self.treated[place : place + 1], control=self.control[place : place + 1])


def run_label(runs: tuple[str, ...]) -> str:
    """The run, or what several draws of one arm and model have in common."""
    return runs[0] if len(runs) == 1 else runs[0].rsplit(".", 1)[0] if runs else ""


def contrasts(suite: Suite, scores: Scores) -> list[Contrast]:
    """Every comparison that the suite's arms allow, in a fixed order, of the draws that are measured.

    A contrast of which no draw is measured is there too, without runs, if only to say so.
    """
    models = list(dict.fromkeys([*suite.models, *sorted({RunName.parse(run).model for run in scores.values})]))
    found = []
    for model in models:
        for estimand, perturbation, treated, control in _comparisons(suite):
            contrast = _contrast(scores, estimand, perturbation, model, treated, control)
            if contrast is not None:
                found.append(contrast)
    return found


def _comparisons(suite: Suite) -> Iterator[tuple[str, str, ArmDesign, ArmDesign | None]]:
    """(estimand, perturbation, treated arm, control)."""
    for arm in suite.arms.values():
        control = suite.arms[arm.control] if arm.control else None
        for name in arm.inserted:
            if control is not None:
                yield ("total" if arm.filler == "none" else "displacement"), name, arm, control
            if len(arm.factors[name]) > 1 and arm.filler == "none":
                reads = control is not None and name in control.inserted and control.filler == "none"
                yield "factor", name, arm, None if reads else control
        if not arm.inserted:
            for name in unread(suite, arm):
                yield "placebo", name, arm, None
    for later, earlier, name in timing_pairs(suite):
        yield "timing", name, later, earlier
    for others, alone, name in interference_pairs(suite):
        yield "interference", name, others, alone


def _contrast(
    scores: Scores, estimand: str, perturbation: str, model: str, treated: ArmDesign, control: ArmDesign | None
) -> Contrast | None:
    """The draws of a comparison that are measured; None where the arms have no runs of this model."""
    arms = (treated,) if control is None else (treated, control)
    pairs: list[tuple[str, ...]] = []
    left_out = []
    begun = False
    last = min(arm.train.steps for arm in arms)
    for draw in range(min(arm.draws for arm in arms)):
        runs = tuple(str(RunName(arm=arm.name, model=model, draw=draw)) for arm in arms)
        begun |= any(run in scores.values for run in runs)
        unmeasured = [run for run in runs if not scores.steps(run)]
        if unmeasured:
            left_out.append(f"draw {draw}: {' and '.join(unmeasured)} not measured")
        elif not (steps := _steps(scores, runs)):
            left_out.append(f"draw {draw}: {' and '.join(runs)} have no step in common")
        else:
            pairs.append(runs)
            if last not in steps:
                without = [run for run in runs if last not in scores.steps(run)]
                left_out.append(f"draw {draw}: {' and '.join(without)} not measured at the last step, {last:,}")
    if not begun and any(model not in arm.models for arm in arms):
        return None
    return Contrast(
        estimand=estimand,
        perturbation=perturbation,
        model=model,
        treated=tuple(runs[0] for runs in pairs),
        control=tuple(runs[1] for runs in pairs if control is not None),
        left_out=tuple(left_out),
    )


def unread(suite: Suite, arm: ArmDesign) -> list[str]:
    """The perturbations of which an arm's runs have read nothing, themselves or through their ancestors."""
    if earlier_exposure(arm.name, suite.arms) == "unknown":
        return []
    read: set[str] = set()
    design: ArmDesign | None = arm
    while design is not None:
        read |= set(design.inserted if design.filler == "none" else ())
        design = suite.arms[design.parent] if design.parent else None
    return [name for name in suite.perturbations if name not in read]


def timing_pairs(suite: Suite) -> list[tuple[ArmDesign, ArmDesign, str]]:
    """(later, earlier, perturbation) of arms that insert that perturbation alone and differ in its phase only."""
    found = []
    arms = list(suite.arms.values())
    for i, a in enumerate(arms):
        for b in arms[i + 1 :]:
            if len(a.inserted) != 1 or a.inserted != b.inserted or a.train != b.train:
                continue
            name = a.inserted[0]
            if len(a.factors[name]) > 1 or len(b.factors[name]) > 1 or (a.turn, a.filler) != (b.turn, b.filler):
                continue
            if (a.parent, a.init) != (b.parent, b.init):
                continue
            one, other = a.factors[name][0], b.factors[name][0]
            if one != other and replace(one, phase=other.phase) == other:
                later, earlier = (a, b) if one.phase > other.phase else (b, a)
                found.append((later, earlier, name))
    return found


def interference_pairs(suite: Suite) -> list[tuple[ArmDesign, ArmDesign, str]]:
    """(with others, alone, perturbation) of arms with one control that begin and train alike, where all that the second
    inserts is inserted alike by the first, which inserts more. Of several such second arms the one with the least."""
    found = []
    for others in suite.arms.values():
        for name in others.inserted:
            fewer = [arm for arm in suite.arms.values() if name in arm.inserted and _inserts_more(others, arm)]
            if fewer:
                found.append((others, min(fewer, key=lambda arm: len(arm.inserted)), name))
    return found


def _inserts_more(a: ArmDesign, b: ArmDesign) -> bool:
    """Whether an arm differs from another in further perturbations only."""
    trained = [replace(arm.train, every=1, also=()) for arm in (a, b)]  # when checkpoints are kept changes nothing
    return (
        set(b.inserted) < set(a.inserted)
        and a.control == b.control is not None
        and a.filler == b.filler == "none"
        and (a.turn, a.parent, a.init, trained[0]) == (b.turn, b.parent, b.init, trained[1])
        and all(a.factors[name] == b.factors[name] for name in b.inserted)
    )


def common_steps(scores: Scores, contrast: Contrast) -> list[int]:
    """The steps at which both runs of at least one draw were measured, ascending."""
    return sorted({step for pair in _pairs(contrast) for step in _steps(scores, pair)})


def _pairs(contrast: Contrast) -> list[tuple[str, ...]]:
    """The runs of every draw."""
    if not contrast.control:
        return [(run,) for run in contrast.treated]
    return list(zip(contrast.treated, contrast.control, strict=True))


def _steps(scores: Scores, runs: tuple[str, ...]) -> set[int]:
    return set.intersection(*(set(scores.steps(run)) for run in runs))


def measures(scores: Scores, contrast: Contrast, step: int) -> list[Measure]:
    """What was measured of both runs of at least one draw, sorted. Of sites only those of the treated arm: a control has
    the sites of others too."""
    found: set[Measure] = set()
    for runs in _pairs(contrast):
        found |= set.intersection(*(set(scores.values[run].get(step, {})) for run in runs))
    return sorted(measure for measure in found if _is_own_site(measure, contrast))


def _is_own_site(measure: Measure, contrast: Contrast) -> bool:
    sites = [part.removeprefix("site=") for part in measure[1].split(",") if part.startswith("site=")]
    return not sites or sites == [contrast.arm]


def differences(scores: Scores, contrast: Contrast, step: int, measure: Measure) -> Differences | None:
    """Treated − control of every record of the perturbation that both runs of a draw have a value of; None without any."""
    subjects = scores.subjects
    members = subjects.members(contrast.perturbation)
    parts = []
    for draw, runs in zip(contrast.draws, _pairs(contrast), strict=True):
        value = scores.of(runs[0], step, measure).at(members)
        for run in runs[1:]:
            value = value - scores.of(run, step, measure).at(members)
        there = np.isfinite(value)
        rows = members[there]
        levels, cells = scores.levels_of(runs[0])[rows], scores.cells_of(runs[0])[rows]
        parts.append((np.full(len(rows), draw), rows, levels, cells, value[there]))
    if not sum(len(part[1]) for part in parts):
        return None
    draw_of, record, level, cell, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(draw_of, kind="stable")  # the draws of a contrast ascend; said here, for all else rests on it
    return Differences(
        draw=draw_of[order],
        record=record[order],
        cluster=subjects.cluster[record[order]],
        stratum=subjects.stratum[record[order]],
        level=level[order],
        cell=cell[order],
        value=values[order],
    )
