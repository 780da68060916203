"""The arms of a suite file: what each inserts, when and how, and whether it differs from its control in nothing else."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from . import schema
from .design import ArmDesign, Factors, PerturbationDesign, Phase, TrainDesign, plain
from .errors import CostarError, nearest

MOST_TURNS = 100
TURN = re.compile(r"rotate-([0-9]{1,9})/([0-9]{1,9})")
Fail = Callable[..., CostarError]


def fractions(phase: tuple[Decimal, Decimal]) -> Phase:
    """A phase as written, in exact rationals."""
    return Fraction(phase[0]), Fraction(phase[1])


@dataclass(frozen=True, kw_only=True)
class ArmReader:
    """Turns tables `[arm.x]` into designs; `fail` makes the error of a key."""

    spec: schema.SuiteSpec
    perturbations: Mapping[str, PerturbationDesign]
    fail: Fail

    def read(self, name: str, table: schema.ArmTable, train: TrainDesign) -> ArmDesign:
        """One arm, checked by itself; `check_control` compares it with its control."""
        key = f"[arm.{name}]"
        inserted = self._inserted(key, table)
        control = table.control if table.control is not None else ("standard" if name != "standard" else "none")
        if table.filler != "none" and control == "none":
            raise self.fail(
                f"{key} filler",
                found=f'filler = "{table.filler}" without a control',
                expected="an arm that differs from its control in the filler",
                mend='name a control, such as "standard"',
            )
        idle = [k for k in ("filler", "factors", "assignment", "phase", "renderings") if k in table.model_fields_set]
        if not inserted and idle:
            raise self.fail(
                key,
                found=f"{', '.join(idle)} in an arm that inserts nothing",
                expected="perturbations to which it applies",
                mend="name perturbations, or remove the keys",
            )
        for other in table.renderings:
            if other in self.perturbations and other not in inserted:
                raise self.fail(
                    f"{key} renderings",
                    found=f"{other}, which the arm does not insert",
                    expected=f"one of {', '.join(inserted)}",
                    mend="add it to perturbations, or remove it here",
                )
        if table.parent is not None and table.init is not None:
            raise self.fail(
                key,
                found="parent and init",
                expected="one of the two: weights come from one place",
                mend="remove one; the parent arm may have the init",
            )
        return ArmDesign(
            name=name,
            control=None if control == "none" else control,
            models=tuple(table.models or self.spec.suite.models),
            draws=table.draws or self.spec.suite.draws,
            inserted=inserted,
            factors=self._factors(key, table, inserted),
            turn=self._turn(key, table.assignment),
            filler=table.filler,
            parent=table.parent,
            init=table.init,
            train=train,
        )

    def _inserted(self, key: str, table: schema.ArmTable) -> tuple[str, ...]:
        patterns = ["*"] if table.perturbations is None else table.perturbations
        for pattern in patterns:
            if pattern != "*" and not fnmatch.filter(self.perturbations, pattern):
                self._refuse_unknown(f"{key} perturbations", [pattern])
        return tuple(p for p in self.perturbations if any(fnmatch.fnmatch(p, pattern) for pattern in patterns))

    def _factors(self, key: str, table: schema.ArmTable, inserted: tuple[str, ...]) -> dict[str, tuple[Factors, ...]]:
        """What is fixed for each perturbation, and the product of what is randomized."""
        phases = {p: design.home for p, design in self.perturbations.items()}
        if isinstance(table.phase, tuple):
            phases |= {p: fractions(table.phase) for p in inserted}
        elif table.phase is not None:
            self._refuse_unknown(f"{key} phase", table.phase)
            phases |= {p: fractions(phase) for p, phase in table.phase.items()}
        self._refuse_unknown(f"{key} renderings", table.renderings)
        positions = self._spread(f"{key} position", table.position, "balanced")
        spacings = self._spread(f"{key} spacing", table.spacing, "uniform")
        self._refuse_unknown(f"{key} factors", (name for name in table.factors if name != schema.ALL))
        for factors in table.factors.values():
            self._check_factors(key, table, factors)
        found = {}
        for name in self.perturbations:
            many = table.factors.get(name) or table.factors.get(schema.ALL) or schema.FactorsTable()
            randomize, default = name in inserted, self.perturbations[name].rendering
            found[name] = tuple(
                Factors(phase=phase, position=position, spacing=spacing, rendering=rendering)
                for phase, position, spacing, rendering in itertools.product(
                    [fractions(phase) for phase in many.phase if randomize] or [phases[name]],
                    [*many.position] if randomize and many.position else [positions[name]],
                    [*many.spacing] if randomize and many.spacing else [spacings[name]],
                    [*many.rendering] if randomize and many.rendering else [table.renderings.get(name, default)],
                )
            )
        return found

    def _check_factors(self, key: str, table: schema.ArmTable, factors: schema.FactorsTable) -> None:
        randomized = {name: getattr(factors, name) for name in schema.FactorsTable.model_fields}
        fixed = {"phase": table.phase, "rendering": table.renderings}
        given = table.model_fields_set
        for name, values in randomized.items():
            written = name in factors.model_fields_set
            if written and (len(values) < 2 or len(values) != len(set(values))):
                raise self.fail(
                    f"{key} factors.{name}",
                    found=plain(values),
                    expected="two or more values that differ",
                    mend="correct it",
                )
            if values and (fixed.get(name) or name in given):
                raise self.fail(
                    f"{key}",
                    found=f"{name} both fixed and under factors",
                    expected="one of the two",
                    mend=f"remove `{'renderings' if name == 'rendering' else name}` or factors.{name}",
                )

    def _turn(self, key: str, assignment: str) -> Fraction:
        """The share of the records by which an arm's assignment is rotated."""
        match = TURN.fullmatch({"suite": "rotate-0/1", "swap": "rotate-1/2"}.get(assignment, assignment))
        if match is None or not int(match[1]) < int(match[2]) <= MOST_TURNS:
            raise self.fail(
                f"{key} assignment",
                found=assignment,
                expected=f'"suite", "swap", or "rotate-k/n" with k below n and n at most {MOST_TURNS}',
                mend="correct it",
            )
        return Fraction(int(match[1]), int(match[2]))

    def _spread(self, key: str, given: str | Mapping[str, str], default: str) -> dict[str, str]:
        """A choice for the whole roster, so that dropping a perturbation moves nothing, or a table per perturbation."""
        if isinstance(given, str):
            return dict.fromkeys(self.perturbations, given)
        self._refuse_unknown(key, given)
        return dict.fromkeys(self.perturbations, default) | dict(given)

    def _refuse_unknown(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.perturbations:
                raise self.fail(
                    key,
                    found=name,
                    expected=f"one of {', '.join(self.perturbations)}",
                    mend=f"correct the name{nearest(name, self.perturbations)}",
                )


def check_parent(arm: ArmDesign, arms: Mapping[str, ArmDesign], fail: Fail) -> None:
    """The arm whose last weights an arm starts from has the same runs, and does not start from this one.

    Raises:
        CostarError: the parent is missing, lacks a model or a draw, or there is a circle of parents.
    """
    if arm.parent is None:
        return
    key = f"[arm.{arm.name}] parent"
    if arm.parent not in arms:
        raise fail(
            key,
            found=arm.parent,
            expected=f"one of {', '.join(a for a in arms if a != arm.name)}",
            mend=f"correct the name, or add [arm.{arm.parent}]{nearest(arm.parent, arms)}",
        )
    seen = [arm.name]
    while (above := arms.get(seen[-1])) and above.parent:
        if above.parent in seen:
            raise fail(
                key,
                found=" → ".join([*seen, above.parent]),
                expected="an arm that is trained before this one, and no circle of parents",
                mend="name another parent, or remove the key",
            )
        seen.append(above.parent)
    parent = arms[arm.parent]
    missing = [f"model {name}" for name in arm.models if name not in parent.models]
    missing += [f"draw {draw}" for draw in range(parent.draws, arm.draws)]
    if missing:
        raise fail(
            key,
            found=f"{arm.parent!r} without {', '.join(missing)}",
            expected="a parent with every model and draw of the arm",
            mend="give both arms the same models and draws",
        )


def _other_starts(arm: ArmDesign, control: ArmDesign, arms: Mapping[str, ArmDesign]) -> list[str]:
    """How the weights that a pair starts from differ in more than the insertions of a pair of parents."""
    if arm.parent and control.parent and arms[arm.parent].control == control.parent:
        return []
    starts = {"parent": (arm.parent, control.parent), "init": (arm.init, control.init)}
    return [f"{key} ({a or 'none'} against {b or 'none'})" for key, (a, b) in starts.items() if a != b]


def check_control(arm: ArmDesign, arms: Mapping[str, ArmDesign], fail: Fail) -> None:
    """An arm differs from its control in its insertions only.

    Raises:
        CostarError: the control is missing, is the arm itself, or differs in training, start, models or draws.
    """
    if arm.control is None:
        return
    if arm.control not in arms:
        raise fail(
            f"[arm.{arm.name}] control",
            found=arm.control,
            expected=f'one of {", ".join(a for a in arms if a != arm.name)}, or "none"',
            mend=f'correct the name, add [arm.{arm.control}], or say control = "none"{nearest(arm.control, arms)}',
        )
    control = arms[arm.control]
    for names in (arm.models, control.models):
        if len(set(names)) < len(names):
            raise fail(
                f"[arm.{arm.name}] models", found=", ".join(names), expected="each model once", mend="correct it"
            )
    both = [name for name in arm.inserted if name in control.inserted and control.filler == "none"]
    if both and (arm.filler != "none" or arm.turn != control.turn):
        raise fail(
            f"[arm.{arm.name}] control",
            found=f"{control.name!r}, which inserts {', '.join(both)} itself",
            expected="a control that inserts none of the records that are compared",
            mend='name another, such as "standard"',
        )
    alike = (arm.inserted, arm.factors, arm.turn) == (control.inserted, control.factors, control.turn)
    if control.filler != "none" and not alike:
        raise fail(
            f"[arm.{arm.name}] control",
            found=f"fillers of {control.name!r} for other copies than this arm inserts",
            expected="the same perturbations, phases, positions, spacing, renderings and assignment",
            mend="give both arms the same keys, or name another control",
        )
    seen = [arm.name]
    while (above := arms.get(seen[-1])) and above.control:
        if above.control in seen:
            raise fail(
                f"[arm.{arm.name}] control",
                found=" → ".join([*seen, above.control]),
                expected="another arm, and no circle of controls",
                mend='name another control, or say control = "none"',
            )
        seen.append(above.control)
    differing = [
        f"{key} ({getattr(arm.train, key)} against {getattr(control.train, key)})"
        for key in vars(arm.train)
        if key not in ("every", "also") and getattr(arm.train, key) != getattr(control.train, key)
    ]
    if missing := set(arm.models) - set(control.models):
        differing.append(f"models ({', '.join(sorted(missing))} not in the control)")
    if arm.draws > control.draws:
        differing.append(f"draws ({arm.draws} against {control.draws})")
    starts = _other_starts(arm, control, arms)
    if starts:
        differing += starts
    if differing:
        raise fail(
            f"[arm.{arm.name}]",
            found=f"differs from its control {control.name!r} in {'; '.join(differing)}",
            expected="a pair that differs in its insertions only"
            + (": the same init, the same parent, or parents that are themselves arm and control" if starts else ""),
            mend='give both arms the same keys, name another control, or say control = "none"',
        )
