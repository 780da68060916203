"""Which main record gets what in an arm: its level, and one of the combinations of factors that the arm randomizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.design import ArmDesign, Factors, Phase, Suite, phase_slots
from ..manifests.tables import ASSIGNMENTS, BALANCE
from .kinds import load_kind
from .levels import Cluster, assign_levels, divide_evenly
from .placement import Copies, Roster, make_roster, sorted_copies
from .rewordings import renderings_of


@dataclass(frozen=True)
class Assignment:
    """Per main record [n]: its level, and the number of its combination in `arm.factors` of its perturbation."""

    level: NDArray[np.int64]
    part: NDArray[np.int64]


class Assigner:
    """The main records of a suite as columns [n], and what each gets in every arm and draw."""

    def __init__(self, suite: Suite, records: pa.Table):
        self.suite = suite
        self.role = np.array(records.column("role").to_pylist(), object)
        self.rows = np.flatnonzero(self.role == "main")
        """The rows of main records in the table of records [n]."""
        self.ids: list[str] = records.column("record_id").take(pa.array(self.rows)).to_pylist()
        self.names = np.array(records.column("perturbation").to_pylist(), object)
        """The perturbation of every record of the table, mains or not."""
        self.ordinal = np.array([suite.perturbations[name].ordinal for name in self.names[self.rows]], np.int64)
        self.tokens = records.column("n_tokens").to_numpy()[self.rows]
        self._clusters: list[str] = records.column("cluster_id").take(pa.array(self.rows)).to_pylist()
        self._strata: list[str] = records.column("stratum").take(pa.array(self.rows)).to_pylist()
        self._record_ids = records.column("record_id")
        self._levels: dict[tuple[int, Fraction], NDArray[np.int64]] = {}
        self._parts: dict[Any, NDArray[np.int64]] = {}
        self._copies: dict[tuple[int, Fraction], Copies] = {}

    def members(self, name: str) -> NDArray[np.int64]:
        """The main records of a perturbation."""
        return np.flatnonzero(self.ordinal == self.suite.perturbations[name].ordinal)

    def assignment(self, arm: ArmDesign, draw: int) -> Assignment:
        """What the records get: the same in every arm, but for the arm's turn and factors."""
        return Assignment(self._level(draw, arm.turn), self._part(arm, draw))

    def _level(self, draw: int, turn: Fraction) -> NDArray[np.int64]:
        if (draw, turn) not in self._levels:
            levels = np.zeros(len(self.ids), np.int64)
            for name, design in self.suite.perturbations.items():
                members = self.members(name)
                key, place = (self.suite.seed, draw, name), f"[perturbation.{name}] levels"
                clusters = self._grouped(members)
                assigned = assign_levels(clusters, design.levels, key=key, place=place, turn=turn)
                levels[members] = [assigned[self._clusters[i]] for i in members]
            self._levels[(draw, turn)] = levels
        return self._levels[(draw, turn)]

    def _part(self, arm: ArmDesign, draw: int) -> NDArray[np.int64]:
        """Combinations are divided within each level, so that no factor is confounded with it."""
        many = tuple((name, arm.combinations(name)) for name in arm.inserted if len(arm.factors[name]) > 1)
        if (draw, arm.turn, many) not in self._parts:
            parts = np.zeros(len(self.ids), np.int64)
            levels = self._level(draw, arm.turn)
            for name, _ in many:
                members = self.members(name)
                for level in np.unique(levels[members]):
                    cell = members[levels[members] == level]
                    key = (self.suite.seed, draw, name, "factors", int(level))
                    assigned = divide_evenly(self._grouped(cell), arm.combinations(name), key)
                    parts[cell] = [assigned[self._clusters[i]] for i in cell]
            self._parts[(draw, arm.turn, many)] = parts
        return self._parts[(draw, arm.turn, many)]

    def _grouped(self, members: NDArray[np.int64]) -> list[Cluster]:
        sizes: dict[str, int] = {}
        strata: dict[str, str] = {}
        for i in members.tolist():
            cluster = self._clusters[i]
            sizes[cluster] = sizes.get(cluster, 0) + 1
            strata.setdefault(cluster, self._strata[i])
        return [Cluster(name=name, stratum=strata[name], size=size) for name, size in sizes.items()]

    def spread(self, arm: ArmDesign, draw: int, values: Sequence[Sequence[Any]]) -> NDArray[np.object_]:
        """Per main record [n] the value of its combination; `values` has those of each perturbation, in suite order."""
        part = self._part(arm, draw)
        out = np.empty(len(self.ids), object)
        for ordinal, choices in enumerate(values):
            members = np.flatnonzero(self.ordinal == ordinal)
            table = np.empty(len(choices), object)
            table[:] = choices
            out[members] = table[part[members]]
        return out

    def factor(self, arm: ArmDesign, draw: int, name: str) -> NDArray[np.object_]:
        """Per main record [n] its `position`, `spacing` or `rendering` in an arm (canonical renderings by name)."""
        return self.spread(arm, draw, [[getattr(each, name) for each in self._named(arm, p)] for p in arm.factors])

    def _named(self, arm: ArmDesign, perturbation: str) -> list[Factors]:
        """The combinations of a perturbation, the canonical rendering by its name."""
        design = self.suite.perturbations[perturbation]
        kind = load_kind(design.kind, place=f"[perturbation.{perturbation}] kind")
        return [
            Factors(**vars(each) | {"rendering": each.rendering or renderings_of(design, kind)[0]})
            for each in arm.factors[perturbation]
        ]

    def roster(self, arm: ArmDesign, draw: int) -> Roster:
        """The roster that an arm selects from: every copy of every main record, at its phase in that arm."""
        if (draw, arm.turn) not in self._copies:
            levels = self._level(draw, arm.turn)
            self._copies = {
                (draw, arm.turn): sorted_copies(self.ids, self.ordinal, levels, seed=self.suite.seed, draw=draw)
            }
        lo, hi = self.bounds(arm, draw)
        return make_roster(self._copies[(draw, arm.turn)], lo, hi, self.factor(arm, draw, "spacing"))

    def bounds(self, arm: ArmDesign, draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slots [lo, hi) of every main record's phase [n]."""
        slots = [[phase_slots(each.phase, arm.train.slots) for each in arm.factors[p]] for p in arm.factors]
        lo, hi = ([[pair[end] for pair in pairs] for pairs in slots] for end in (0, 1))
        return self.spread(arm, draw, lo).astype(np.int64), self.spread(arm, draw, hi).astype(np.int64)

    def phase_counts(self, arm: ArmDesign, draw: int) -> dict[tuple[str, Phase], int]:
        """The copies of an arm's roster by perturbation and phase."""
        levels, part = self._level(draw, arm.turn), self._part(arm, draw)
        counts: dict[tuple[str, Phase], int] = {}
        for name, factors in arm.factors.items():
            members = self.members(name)
            for number, each in enumerate(factors):
                copies = int(levels[members[part[members] == number]].sum())
                if copies:
                    counts[(name, each.phase)] = counts.get((name, each.phase), 0) + copies
        return counts

    def table(self, arm: ArmDesign, draw: int) -> pa.Table:
        """The rows of `assignments` of an arm and draw: mains and twins, in the order of the records."""
        rows = np.flatnonzero((self.role == "main") | (self.role == "twin"))
        found = self.assignment(arm, draw)
        level = np.zeros(len(self.role), np.int32)
        level[self.rows] = found.level
        inserts = np.isin(self.names, [] if arm.filler != "none" else list(arm.inserted))
        member = (level > 0) & inserts
        columns: dict[str, Any] = {
            "arm": repeated(arm.name, len(rows)),
            "draw": pa.array(np.full(len(rows), draw, np.int64)),
            "record_id": self._record_ids.take(pa.array(rows)).combine_chunks(),
            "level": level[rows],
            "split": pa.array(np.where(member, "member", "nonmember")[rows]),
        }
        selected = (self.role == "main") & np.isin(self.names, list(arm.inserted))
        phases = self.spread(arm, draw, [[each.phase for each in arm.factors[p]] for p in arm.factors])
        factors = {
            "phase_start": [str(phase[0]) for phase in phases],
            "phase_end": [str(phase[1]) for phase in phases],
            **{name: self.factor(arm, draw, name) for name in ("position", "spacing", "rendering")},
        }
        for name, values in factors.items():
            whole = np.full(len(self.role), None, object)
            whole[self.rows] = values
            whole[~selected] = None
            columns[name] = pa.array(whole[rows], pa.string())
        return pa.table({name: columns[name] for name in ASSIGNMENTS.names}).cast(ASSIGNMENTS)

    def balance(self, draw: int) -> list[dict[str, Any]]:
        """Per cell of the suite's assignment: how many records, and how far their mean length is from the held-out ones,
        in standard deviations."""
        levels = self._level(draw, Fraction(0))
        strata, clusters = np.array(self._strata, object), np.array(self._clusters, object)
        rows = []
        for name in self.suite.perturbations:
            members = self.members(name)
            for stratum in sorted(set(strata[members])):
                cell = members[strata[members] == stratum]
                spread = float(np.std(self.tokens[cell]))
                means: dict[int, float] = {}
                for level in np.unique(levels[cell]).tolist():
                    chosen = cell[levels[cell] == level]
                    means[level] = float(np.mean(self.tokens[chosen]))
                    difference = (means[level] - means[0]) / spread if 0 in means and spread > 0 else None
                    values = (
                        name,
                        draw,
                        stratum,
                        level,
                        len(chosen),
                        len(set(clusters[chosen])),
                        means[level],
                        difference,
                    )
                    rows.append(dict(zip(BALANCE.names, values, strict=True)))
        return rows


def repeated(value: str, count: int) -> pa.Array:
    """A column of one text."""
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([value])).cast(pa.string())
