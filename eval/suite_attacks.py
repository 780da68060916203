"""The attacks on the runs of a suite, put together from their scores, and the tables that come of them.

A run is attacked at its last step, and where the last phase of a perturbation ends, if that is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.console import stage_line
from ..core.design import ArmDesign, Suite, earlier_exposure
from ..core.errors import CostarError
from ..core.parquet import read_table, write_rows
from ..core.workspace import Workspace, changed_files, finish_step, output_lock, start_step
from ..insertion.records import read_records
from ..manifests.tables import DATASET_INFERENCE, MEMBERSHIP
from .assigned import ArmDraw, read_assigned
from .attacks import lira, rmia
from .membership import Attack, Labels, Row, Texts, adjusted, evaluate, evaluate_blind, gate_text, infer_sets
from .scores import Scores, load_scores

PROBE, METRIC = "membership", "attack_score"
LOSS, DIFFERENCE = "loss", "loss-difference"
TABLES = {"membership": MEMBERSHIP, "dataset_inference": DATASET_INFERENCE}
MEND = "run `costar eval` again"


def compute_membership(suite: Suite, workspace: Workspace, scores: Scores | None = None) -> str:
    """Rebuild both tables from every score that is present, and say what the gates say, where anything was attacked."""
    started = time.monotonic()
    with output_lock(workspace.eval, "membership", wait=True):
        rows, sets = _computed(suite, workspace, scores or load_scores(suite, workspace))
        start_step(workspace.eval, "membership")
        paths = []
        for (name, schema), found in zip(TABLES.items(), (rows, sets), strict=True):
            paths.append(write_rows(workspace.eval / f"{name}.parquet", schema, sorted(found, key=_order)))
        finish_step(workspace.eval, "", paths, "membership")
    text = gate_text(rows)
    if text:
        stage_line("membership", text, time.monotonic() - started)
    return text


def read_membership(workspace: Workspace) -> tuple[list[Row], list[Row]]:
    """The rows of both tables, none where they were never computed; refused when their bytes are not those written."""
    changed = changed_files(workspace.eval, "membership")
    if changed:
        path = workspace.eval / changed[0]
        raise CostarError(str(path), found="other numbers than those computed", expected="its own bytes", mend=MEND)
    paths = [workspace.eval / f"{name}.parquet" for name in TABLES]
    one, other = (read_table(path, mend=MEND).to_pylist() if path.is_file() else [] for path in paths)
    return one, other


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("perturbation", "labels", "gate", "run", "step", "tier", "attack", "reference", "level", "n")
    return tuple((str(type(row[n])), row[n]) if row[n] is not None else ("", 0) for n in names if n in row)


def _computed(suite: Suite, workspace: Workspace, scores: Scores) -> tuple[list[Row], list[Row]]:
    if not any(
        measure[0] == PROBE for steps in scores.values.values() for found in steps.values() for measure in found
    ):
        return [], []
    records, _ = read_records(workspace.insertion)
    columns = [records.column(name).to_pylist() for name in ("record_id", "text", "n_tokens")]
    texts = Texts(text=dict(zip(*columns[:2])), n_tokens=dict(zip(columns[0], columns[2])))
    attacked = Attacked(suite, scores, read_assigned(workspace).members)
    rows: list[Row] = []
    sets: list[Row] = []
    seen: list[Labels] = []
    for labels, attacks in attacked.trials():
        rows += evaluate(labels, attacks)
        sets += infer_sets(labels, attacks)
        if labels not in seen:  # other models have the same records and labels
            seen.append(labels)
            rows += evaluate_blind(labels, texts)
    return adjusted(rows), sets


@dataclass(frozen=True)
class Attacked:
    """A suite's scores as attacks: `members` has the records that each arm and draw inserts."""

    suite: Suite
    scores: Scores
    members: Mapping[ArmDraw, frozenset[str]]

    @cached_property
    def models(self) -> list[str]:
        return sorted({run.split(".")[1] for run in self.scores.values})

    def trials(self) -> Iterator[tuple[Labels, list[Attack]]]:
        """Labels, with every attack on runs that they are the labels of, and on the controls of those."""
        for model in self.models:
            for perturbation in self.suite.perturbations:
                groups: list[tuple[Labels, list[ArmDesign]]] = []
                for arm in self.suite.arms.values():
                    labels = self._labels(arm, model, perturbation)
                    same = next((arms for own, arms in groups if labels and own.levels == labels.levels), None)
                    if same is not None:
                        same.append(arm)
                    elif labels is not None:
                        groups.append((labels, [arm]))
                for labels, arms in groups:
                    attacks = {attack_key(a): a for arm in arms for a in self._attacks(labels, arm, model)}
                    yield labels, list(attacks.values())

    def _labels(self, arm: ArmDesign, model: str, perturbation: str) -> Labels | None:
        """The labels of an arm's measured draws; a record that an ancestor has read is no non-member."""
        if perturbation not in arm.inserted or arm.filler != "none":
            return None
        levels = {}
        for draw in range(arm.draws):
            if self.last(arm, model, draw) is None:
                continue
            members, earlier = self.members[(arm.name, draw)], self._read_earlier(arm, draw)
            levels[draw] = {
                record: level
                for record, level in self._levels(arm, draw, perturbation).items()
                if (record in members if level else record not in earlier)
            }
        if not levels:
            return None
        return Labels(
            arm=arm.name,
            perturbation=perturbation,
            levels=levels,
            cluster=self._named("cluster"),
            stratum=self._named("stratum"),
        )

    @cached_property
    def _perturbation(self) -> dict[str, str]:
        """The perturbation of every main record."""
        return self._named("perturbation")

    def _named(self, what: str) -> dict[str, str]:
        """The perturbation, cluster or stratum of every main record."""
        subjects = self.scores.subjects
        names = {"perturbation": "perturbations", "cluster": "clusters", "stratum": "strata"}[what]
        values = np.array(getattr(subjects, names), object)[getattr(subjects, what)]
        return dict(zip(subjects.ids, values.tolist(), strict=True))

    def _levels(self, arm: ArmDesign, draw: int, perturbation: str) -> dict[str, int]:
        """The level of every record of a perturbation."""
        subjects = self.scores.subjects
        rows = subjects.members(perturbation)
        levels = subjects.levels[(arm.name, draw)][rows].tolist()
        return dict(zip((subjects.ids[row] for row in rows.tolist()), levels, strict=True))

    def _read_earlier(self, arm: ArmDesign, draw: int) -> frozenset[str]:
        """The records that the arm's ancestors insert."""
        found: frozenset[str] = frozenset()
        parent = arm.parent
        while parent is not None:
            found |= self.members.get((parent, draw), frozenset())
            parent = self.suite.arms[parent].parent
        return found

    def _may_have_read(self, arm: ArmDesign, draw: int, perturbation: str) -> bool:
        """Whether an arm's runs have read records of a perturbation, themselves or through ancestors, or none can know."""
        read = self.members.get((arm.name, draw), frozenset()) | self._read_earlier(arm, draw)
        unknown = earlier_exposure(arm.name, self.suite.arms) == "unknown"
        return unknown or any(self._perturbation.get(record) == perturbation for record in read)

    def found(self, arm: ArmDesign, model: str, draw: int, step: int) -> dict[str, dict[str, float]]:
        """Attack → record → score of a run at a step."""
        run = f"{arm.name}.{model}.d{draw}"
        return {
            measure[1].removeprefix("attack="): self.scores.by_id(run, step, measure)
            for measure in sorted(self.scores.values.get(run, {}).get(step, {}))
            if (measure[0], measure[2]) == (PROBE, METRIC)
        }

    def last(self, arm: ArmDesign, model: str, draw: int) -> dict[str, float] | None:
        """The loss scores of a run at its last step."""
        measure = (PROBE, f"attack={LOSS}", METRIC)
        return self.scores.by_id(f"{arm.name}.{model}.d{draw}", arm.train.steps, measure) or None

    def _attacks(self, labels: Labels, arm: ArmDesign, model: str) -> Iterator[Attack]:
        last = arm.train.steps
        end = arm.phase_end(labels.perturbation)
        draws = sorted(labels.levels)
        control = self.suite.arms[arm.control] if arm.control else None
        for step in sorted({last, end}):
            run = self._name(arm, model, draws)
            yield from self._plain(arm, model, draws, step, run)
            known = [
                draw
                for draw in draws
                if control
                and self.last(control, model, draw)
                and not self._may_have_read(control, draw, labels.perturbation)
            ]
            if control and known:
                at = step if self.found(control, model, known[0], step) else control.train.steps
                twin = self._name(control, model, known)
                yield from self._plain(control, model, known, at, twin, gate="standard")
                references = {draw: self.found(control, model, draw, at).get(LOSS) for draw in known}
                yield from self._difference(arm, model, step, run, "oracle", twin, references)
            if control and step == last:
                name, others = self._reference(labels, control, model)
                yield from self._difference(arm, model, step, run, "reference", name, others)
        yield from self._draws(labels, arm, model, draws)

    def _name(self, arm: ArmDesign, model: str, draws: Sequence[int]) -> str:
        return f"{arm.name}.{model}.d{draws[0]}" if len(draws) == 1 else f"{arm.name}.{model}"

    def _plain(
        self, arm: ArmDesign, model: str, draws: Sequence[int], step: int, run: str, gate: str = ""
    ) -> Iterator[Attack]:
        by_draw = {draw: self.found(arm, model, draw, step) for draw in draws}
        for name in sorted({name for found in by_draw.values() for name in found}):
            scores = {draw: found[name] for draw, found in by_draw.items() if name in found}
            yield Attack(run=run, step=step, name=name, tier="plain", scores=scores, gate=gate)

    def _reference(
        self, labels: Labels, control: ArmDesign, model: str
    ) -> tuple[str, dict[int, dict[str, float] | None]]:
        """The loss scores of the control of another size, or of another draw, and its name; none of what it may have read."""
        draws = sorted(labels.levels)
        unread = {
            draw
            for draw in {*draws, *range(control.draws)}
            if not self._may_have_read(control, draw, labels.perturbation)
        }
        for other in self.models:
            found = {draw: self.last(control, other, draw) if draw in unread else None for draw in draws}
            if other != model and any(found.values()):
                return self._name(control, other, draws), found
        measured = [draw for draw in range(control.draws) if draw in unread and self.last(control, model, draw)]
        others = {draw: next((other for other in measured if other != draw), None) for draw in draws}
        name = f"{control.name}.{model}, another draw"
        return name, {d: None if o is None else self.last(control, model, o) for d, o in others.items()}

    def _difference(
        self,
        arm: ArmDesign,
        model: str,
        step: int,
        run: str,
        tier: str,
        reference: str,
        references: Mapping[int, Mapping[str, float] | None],
    ) -> Iterator[Attack]:
        """Nats per token over those of a reference."""
        scores = {}
        for draw, base in references.items():
            own = self.found(arm, model, draw, step).get(LOSS, {})
            both = {record: value - base[record] for record, value in own.items() if base and record in base}
            if both:
                scores[draw] = both
        if scores:
            yield Attack(run=run, step=step, name=DIFFERENCE, tier=tier, scores=scores, reference=reference)

    def _draws(self, labels: Labels, arm: ArmDesign, model: str, draws: Sequence[int]) -> Iterator[Attack]:
        """Offline LiRA and RMIA with the runs of other draws, and those of this draw that insert nothing of it."""
        found: dict[str, dict[int, dict[str, float]]] = {"lira": {}, "rmia": {}}
        used: set[str] = set()
        for draw in draws:
            own = self.last(arm, model, draw)
            assert own is not None
            records = [record for record in sorted(labels.levels[draw]) if record in own]
            out = self._out(labels.perturbation, model, draw, records)
            used |= set(out)
            if len(out) < 2 or not records:
                continue
            scores = np.array([own[record] for record in records])
            without = np.array([list(row) for row in zip(*out.values())])
            held_out = np.array([labels.levels[draw][record] == 0 for record in records])
            for name, values in (("lira", lira(scores, without)), ("rmia", rmia(scores, without, held_out))):
                kept = {r: float(v) for r, v in zip(records, values, strict=True) if np.isfinite(v)}
                if kept:
                    found[name][draw] = kept
        run, last = self._name(arm, model, draws), arm.train.steps
        for name, by_draw in found.items():
            if by_draw:
                reference = f"up to {len(used)} runs without the record"
                yield Attack(run=run, step=last, name=name, tier="draws", scores=by_draw, reference=reference)

    def _out(self, perturbation: str, model: str, draw: int, records: Sequence[str]) -> dict[str, list[float]]:
        """Run → the loss scores of records that it has not read, NaN of those that it has.

        Within a draw the labels of all arms hang together, so that only arms count there that insert none of these
        records: otherwise members and non-members would be compared with different runs.
        """
        found = {}
        for arm in self.suite.arms.values():
            for other in range(arm.draws):
                scores = self.last(arm, model, other)
                read = self.members.get((arm.name, other), frozenset()) | self._read_earlier(arm, other)
                if scores is None or (other == draw and any(self._perturbation.get(r) == perturbation for r in read)):
                    continue
                found[f"{arm.name}.{model}.d{other}"] = [
                    np.nan if record in read else scores.get(record, np.nan) for record in records
                ]
        return found


def attack_key(attack: Attack) -> tuple[Any, ...]:
    """What tells attacks apart: a control that several arms share is attacked once."""
    return attack.run, attack.step, attack.name, attack.tier, attack.reference, attack.gate
