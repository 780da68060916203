"""The hypotheses of a suite file: claims that are fixed, and hashed with the analysis plan, before anything is trained.

Each speaks of one row of `effects`, so what is checked here is that the suite can have such a row at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import schema
from .analysis import AnalysisDesign, Hypothesis, Measure, measure_text, parse_measure
from .arms import Fail
from .design import ArmDesign, PerturbationDesign, kept_steps
from .errors import nearest

VALIDATION: Measure = ("validation", "", "nll_token")
WITHOUT_LEVEL = ("displacement", "shift", "utility")
OF_TWO_ARMS = ("timing", "interference", "shift")
LESS = " − "  # parts a value of a factor from the reference it is compared with


@dataclass(frozen=True, kw_only=True)
class HypothesisReader:
    """Turns tables `[hypothesis.x]` into values; `fail` makes the error of a key."""

    analysis: AnalysisDesign
    probes: Sequence[str]
    perturbations: Mapping[str, PerturbationDesign]
    arms: Mapping[str, ArmDesign]
    fail: Fail

    def read(self, name: str, table: schema.HypothesisTable) -> Hypothesis:
        """One hypothesis, checked against the arms, perturbations and probes of the suite.

        Raises:
            CostarError: it speaks of something that the suite does not have.
        """
        key = f"[hypothesis.{name}]"
        self._check_known(f"{key} treated", table.treated, self.arms)
        arm = self.arms[table.treated]
        control = table.control or arm.control or ""
        if table.control:
            self._check_known(f"{key} control", control, self.arms)
        if not control or (table.estimand in OF_TWO_ARMS and not table.control):
            raise self.fail(
                f"{key} control",
                found="nothing",
                expected=f"the arm that {table.treated} is compared with",
                mend="add control, with the name of an arm",
            )
        model = table.model or arm.models[0]
        self._check_known(f"{key} model", model, arm.models)
        self._check_perturbation(key, table, arm)
        factor = table.factor.replace(" - ", LESS)
        self._check_factor(key, table.estimand, table.perturbation, factor, arm)
        return Hypothesis(
            name=name,
            claim=table.claim,
            expect=table.expect,
            estimand=table.estimand,
            measure=self._measure(key, table),
            perturbation=table.perturbation,
            model=model,
            treated=table.treated,
            control=control,
            factor=factor,
            level=self._level(key, table),
            step=self._step(key, table, factor, arm, control),
            finding=table.finding,
            draws=min(arm.draws, self.arms[control].draws),
            hubble=table.hubble,
        )

    def _check_known(self, key: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        if name not in known:
            raise self.fail(
                key,
                found=name or "nothing",
                expected=f"one of {', '.join(known)}",
                mend=f"correct the name{nearest(name, known)}",
            )

    def _check_perturbation(self, key: str, table: schema.HypothesisTable, arm: ArmDesign) -> None:
        if table.estimand == "utility":
            if table.perturbation:
                raise self.fail(
                    f"{key} perturbation",
                    found=table.perturbation,
                    expected="none: utility is the loss on text that no arm inserts",
                    mend="remove it",
                )
            return
        self._check_known(f"{key} perturbation", table.perturbation, self.perturbations)
        if table.perturbation not in arm.inserted and table.estimand != "displacement":
            raise self.fail(
                f"{key} perturbation",
                found=f"{table.perturbation}, which {arm.name} does not insert",
                expected=f"one of {', '.join(arm.inserted) or 'none: it inserts nothing'}",
                mend="name another perturbation, or another arm",
            )

    def _measure(self, key: str, table: schema.HypothesisTable) -> Measure:
        if table.estimand == "utility":
            return VALIDATION
        if not table.measure:
            return self.analysis.primary[table.perturbation]
        measure = parse_measure(table.measure)
        if measure is None or measure[0] not in self.probes:
            raise self.fail(
                f"{key} measure",
                found=table.measure,
                expected=f"'PROBE METRIC' or 'PROBE METRIC VARIANT' of a probe in [eval] probes: {', '.join(self.probes)}",
                mend="correct it, or add the probe",
            )
        if table.expect == "equivalent" and not self.analysis.is_primary(table.perturbation, measure):
            primary = measure_text(self.analysis.primary[table.perturbation])
            raise self.fail(
                f"{key} measure",
                found=f"{table.measure}, which has no margin",
                expected=f"the primary measure, {primary}",
                mend="remove the key, or make this the primary measure of the kind in [eval]",
            )
        return measure

    def _level(self, key: str, table: schema.HypothesisTable) -> int | None:
        if table.estimand in WITHOUT_LEVEL:
            if table.level is not None:
                raise self.fail(
                    f"{key} level",
                    found=table.level,
                    expected=f"none: {table.estimand} is over all records",
                    mend="remove it",
                )
            return None
        levels = [
            level for level in self.perturbations[table.perturbation].levels if level or table.estimand != "direct"
        ]
        if table.estimand == "spillover":
            levels = [0]
        level = table.level if table.level is not None or table.estimand != "spillover" else 0
        if level not in levels:
            raise self.fail(
                f"{key} level",
                found="nothing" if level is None else level,
                expected=f"one of {', '.join(map(str, levels))}",
                mend="add a level that the perturbation has" if level is None else "correct it",
            )
        return level

    def _check_factor(self, key: str, estimand: str, perturbation: str, factor: str, arm: ArmDesign) -> None:
        """A value of what the arm randomizes, or for the estimand `factor` two of them, the reference behind."""
        if not factor and estimand != "factor":
            return
        known = arm.randomized(perturbation)
        name, _, rest = factor.partition("=")
        values = known.get(name, ())
        if estimand == "factor":
            allowed = [f"{each}={value}{LESS}{many[0]}" for each, many in known.items() for value in many[1:]]
        else:
            allowed = [f"{each}={value}" for each, many in known.items() for value in many]
        if f"{name}={rest}" not in allowed or not values:
            raise self.fail(
                f"{key} factor",
                found=factor or "nothing",
                expected=f"one of {'; '.join(allowed)}"
                if allowed
                else f"an arm that randomizes something of {perturbation}",
                mend=f"correct it{nearest(factor, allowed)}"
                if allowed
                else f"name an arm with factors, not {arm.name}",
            )

    def _step(self, key: str, table: schema.HypothesisTable, factor: str, arm: ArmDesign, control: str) -> int:
        """The last step, the end of the phase (of the cell where one is named), or the number itself."""
        if table.step == "last":
            return arm.train.steps
        if table.step == "phase-end":
            if not table.perturbation:
                raise self.fail(f"{key} step", found='"phase-end"', expected='"last" or a number', mend="correct it")
            values = factor.removeprefix("phase=").split(LESS) if factor.startswith("phase=") else []
            ends = [arm.end_of(phase) for phase in arm.phases(table.perturbation) if f"{phase[0]}-{phase[1]}" in values]
            return max(ends, default=arm.phase_end(table.perturbation))
        both = set(kept_steps(arm, self.arms)) & set(kept_steps(self.arms[control], self.arms))
        if table.step not in both:
            raise self.fail(
                f"{key} step",
                found=table.step,
                expected=f"a checkpoint of both arms: {', '.join(map(str, sorted(both)))}",
                mend="correct it, or add it to checkpoints.also in [train]",
            )
        return table.step
