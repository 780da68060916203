"""Membership inference on a suite: can an attack tell the records that a run has read from those held out?

Members of a level, or of all, against records of level 0 of the same stratum. What an attack may use is its tier:

- `plain`: the run's model alone;
- `reference`: another model too, which is not the twin: the control of another size, or of another draw;
- `oracle`: the control twin, which nobody has who attacks: an upper bound;
- `draws`: the runs of the suite that have not read a record (offline LiRA and RMIA): privileged as well.

Gates show whether the numbers mean anything: the same attacks on a control, which has read no record (`standard`), and an
attack that sees no model (`blind`), must find nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .blind import blind_p, blind_scores, chosen_rows, predictor, text_features
from .dataset_inference import METHOD as INFERENCE
from .dataset_inference import cluster_features, inference_p
from .roc import LEAST_NONMEMBERS, Floats, Trial, auc, bootstrap_interval, make_trial, permutation_p, rate_at
from .stats import BOOTSTRAPS, LEAST_CLUSTERS, PERMUTATIONS, holm

METHOD = (
    f"pairs within strata; expanded percentile interval of {BOOTSTRAPS:,} cluster bootstraps; "
    f"p by {PERMUTATIONS:,} permutations of labels within strata"
)
FEW = f"fewer than {LEAST_CLUSTERS} clusters: no interval"
CONSTANT = "no interval: every resample has the same area"
ALPHA = 0.05
RATES = {0.01: "tpr_01", 0.001: "tpr_001"}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Who is a member: draw → record → level, 0 for held out; and the cluster and stratum of each record.

    `arm` is the first that has these labels."""

    arm: str
    perturbation: str
    levels: Mapping[int, Mapping[str, int]]
    cluster: Mapping[str, str]
    stratum: Mapping[str, str]

    @property
    def tested(self) -> list[int | None]:
        """The levels that are set against 0, and None for all of them together where there are several."""
        present: list[int | None] = [*sorted({level for own in self.levels.values() for level in own.values()} - {0})]
        return [*present, None] if len(present) > 1 else present


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack on the runs of an arm, one a draw: draw → record → score, higher for a more likely member.

    The scores may come from anywhere: `run` and `step` only name them.
    """

    run: str
    step: int | None
    name: str
    tier: str
    scores: Mapping[int, Mapping[str, float]]
    reference: str = ""
    gate: str = ""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The canonical text of each record and how many tokens it has: what the blind attack sees."""

    text: Mapping[str, str]
    n_tokens: Mapping[str, int]


Row = dict[str, Any]
Pairs = tuple[tuple[int, str], ...]  # draw and record


def evaluate(labels: Labels, attacks: Sequence[Attack]) -> list[Row]:
    """A row for every attack and level. Attacks that score the same records share their resamples."""
    groups: dict[Pairs, list[Attack]] = defaultdict(list)
    for attack in attacks:
        groups[_scored_pairs(labels, attack)].append(attack)
    rows: list[Row] = []
    for pairs, own in groups.items():
        values = np.array([[attack.scores[draw][record] for draw, record in pairs] for attack in own])
        for level in labels.tested:
            chosen = _of_level(labels, pairs, level)
            trial = _trial(labels, [pairs[i] for i in chosen])
            if trial is not None:
                rows += _cell(labels, own, values[:, chosen], trial, level)
    return adjusted(rows)


def _scored_pairs(labels: Labels, attack: Attack) -> Pairs:
    """The labelled records for which an attack has a number."""
    return tuple(
        (draw, record)
        for draw, own in sorted(labels.levels.items())
        for record in sorted(own)
        if np.isfinite(attack.scores.get(draw, {}).get(record, np.nan))
    )


def _of_level(labels: Labels, pairs: Pairs, level: int | None) -> list[int]:
    """Which of the records are held out or of a level."""
    found = [labels.levels[draw][record] for draw, record in pairs]
    return [i for i, own in enumerate(found) if own == 0 or level in (None, own)]


def _trial(labels: Labels, pairs: Sequence[tuple[int, str]]) -> Trial | None:
    """Members against held-out records; None where a side is empty."""
    members = [labels.levels[draw][record] > 0 for draw, record in pairs]
    if all(members) or not any(members):
        return None
    return make_trial(
        members,
        [labels.stratum[record] for _, record in pairs],
        [labels.cluster[record] for _, record in pairs],
        [draw for draw, _ in pairs],
    )


def _cell(labels: Labels, attacks: Sequence[Attack], values: Floats, trial: Trial, level: int | None) -> Iterator[Row]:
    key = (labels.perturbation, -1 if level is None else level)
    areas = auc(values, trial)
    enough = trial.is_enough
    nothing = np.full(len(values), np.nan)
    low, high = bootstrap_interval(values, trial, key) if enough else (nothing, nothing)
    p_values = permutation_p(values, trial, key) if enough else nothing
    for number, attack in enumerate(attacks):
        if np.isnan(areas[number]):
            continue
        ends = (float(low[number]), float(high[number])) if enough else (0.0, 0.0)
        p = float(p_values[number]) if enough else None
        yield _row(labels, attack, values[number], trial, level, float(areas[number]), ends, p, METHOD)


def _row(
    labels: Labels,
    attack: Attack,
    scores: Floats,
    trial: Trial,
    level: int | None,
    area: float,
    ends: tuple[float, float],
    p_value: float | None,
    method: str,
) -> Row:
    has_interval = trial.is_enough and ends[0] < ends[1]
    notes = [
        method if has_interval else f"{CONSTANT}; {method.rsplit('; ', maxsplit=1)[-1]}" if trial.is_enough else FEW
    ]
    held_out = int((~trial.is_member).sum())
    rates: Row = {}
    for alpha, name in RATES.items():
        rate = rate_at(scores, trial, alpha)
        rates |= {name: rate.tpr if rate else None, name.replace("tpr", "fpr"): rate.fpr if rate else None}
        rates |= {f"{name}_low": rate.low if rate else None, f"{name}_high": rate.high if rate else None}
        if rate is None:
            wanted = f"{LEAST_NONMEMBERS[alpha]:,} non-members a draw"
            notes.append(f"no rate at {100 * alpha:g} % false positives: it takes {wanted}, here are {held_out:,}")
        elif rate.low is None:
            notes.append("no interval of the rate: records share clusters or draws")
    return {
        "run": attack.run,
        "step": attack.step,
        "perturbation": labels.perturbation,
        "labels": labels.arm,
        "level": level,
        "attack": attack.name,
        "tier": attack.tier,
        "reference": attack.reference,
        "gate": attack.gate,
        "n_members": int(trial.is_member.sum()),
        "n_nonmembers": held_out,
        "n_runs": len(np.unique(trial.draws)),
        "auc": area,
        "ci_low": ends[0] if has_interval else None,
        "ci_high": ends[1] if has_interval else None,
        "p_value": p_value,
        "p_adjusted": None,
        **rates,
        "method": "; ".join(notes),
    }


def evaluate_blind(labels: Labels, texts: Texts) -> list[Row]:
    """The attack that sees no model, on every level: of `run` none."""
    attack = Attack(run="", step=None, name="blind", tier="blind", scores={}, gate="blind")
    pairs = tuple((draw, record) for draw, own in sorted(labels.levels.items()) for record in sorted(own))
    rows = []
    for level in labels.tested:
        key = (labels.perturbation, -1 if level is None else level)
        cell = [pairs[i] for i in _of_level(labels, pairs, level)]
        trial = _trial(labels, cell)
        if trial is None:
            continue
        chosen = chosen_rows(trial, key)
        if len(chosen) < len(cell):
            cell = [cell[i] for i in chosen]
            trial = _trial(labels, cell)
            if trial is None:
                continue
        features = text_features([texts.text[r] for _, r in cell], [texts.n_tokens[r] for _, r in cell])
        matrix = predictor(features, trial.units, key)
        values = blind_scores(matrix, trial.is_member)[None]
        area = float(auc(values, trial)[0])
        if np.isnan(area):
            continue
        low, high = bootstrap_interval(values, trial, key) if trial.is_enough else (np.zeros(1), np.zeros(1))
        p = blind_p(matrix, trial, key) if trial.is_enough else None
        ends = (float(low[0]), float(high[0]))
        rows.append(_row(labels, attack, values[0], trial, level, area, ends, p, METHOD))
    return adjusted(rows)


def adjusted(rows: list[Row]) -> list[Row]:
    """Holm's adjustment: of an attack over its levels; of a gate over all that is tested of a perturbation, for that is
    one question, whatever the runs, steps, labels, levels and attacks that it is asked of."""
    families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        names = ("labels", "run", "step", "attack", "tier", "reference") if not row["gate"] else ()
        family = (row["gate"], row["perturbation"], *(row[name] for name in names))
        if row["p_value"] is not None and (row["gate"] or row["level"] is not None):
            families[family].append(row)
    for members in families.values():
        for row, value in zip(members, holm([row["p_value"] for row in members]), strict=True):
            row["p_adjusted"] = value
    return rows


def infer_sets(labels: Labels, attacks: Sequence[Attack]) -> Iterator[Row]:
    """Dataset inference from all plain attacks on each run by itself."""
    by_run: dict[tuple[str, int | None, str], list[Attack]] = defaultdict(list)
    for attack in attacks:
        if attack.tier == "plain":
            by_run[(attack.run, attack.step, attack.gate)].append(attack)
    for (run, step, gate), own in by_run.items():
        draws = sorted({draw for attack in own for draw in attack.scores if draw in labels.levels})
        for draw in draws:
            scores = [attack.scores[draw] for attack in own if draw in attack.scores]
            ids = [
                r for r in sorted(labels.levels[draw]) if scores and all(np.isfinite(s.get(r, np.nan)) for s in scores)
            ]
            name = run if len(draws) == 1 else f"{run}.d{draw}"  # a run of one draw has its full name
            for level in labels.tested:
                chosen = [r for r in ids if (own_level := labels.levels[draw][r]) > 0 and level in (None, own_level)]
                others = [r for r in ids if labels.levels[draw][r] == 0]
                members, held_out = (cluster_features(group, labels.cluster, scores) for group in (chosen, others))
                key = (labels.perturbation, draw, -1 if level is None else level)
                for n, p in inference_p(members, held_out, key).items():
                    yield {
                        "run": name,
                        "step": step,
                        "perturbation": labels.perturbation,
                        "labels": labels.arm,
                        "level": level,
                        "gate": gate,
                        "n": n,
                        "n_features": len(scores),
                        "p_value": p,
                        "method": INFERENCE,
                    }


def gate_text(rows: Sequence[Row]) -> str:
    """What the gates say, for people; empty where no attack was evaluated."""
    gates = [row for row in rows if row["gate"]]
    if not rows:
        return ""
    tested = [row for row in gates if row["p_adjusted"] is not None]
    if not tested:
        return "no gate could be tested, so that nothing vouches for the attacks"
    worst: dict[tuple[str, str], Row] = {}
    for row in tested:
        own = worst.setdefault((row["gate"], row["perturbation"]), row)
        if row["p_adjusted"] < own["p_adjusted"]:
            worst[(row["gate"], row["perturbation"])] = row
    failed = [
        f"{gate} on {name} ({_place(row)}p {row['p_adjusted']:.3f})"
        for (gate, name), row in sorted(worst.items())
        if row["p_adjusted"] < ALPHA
    ]
    if failed:
        chance = "members and non-members differ without being read, or it is chance, as in one gate of twenty"
        return f"{len(failed)} of {len(worst)} GATES FAILED: {', '.join(failed)}; {chance}"
    return f"{len(worst)} gates at chance"


def _place(row: Row) -> str:
    """The run and step of a row, where it has any."""
    return f"{row['run']}, step {row['step']}, " if row["run"] else ""
