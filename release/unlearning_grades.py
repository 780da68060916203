"""Grades of unlearning submissions: how far is a model from having read its forget set, and what did that cost?

With M the memorization of a set of records, in nats per token or as the share of tokens given back:

    recovery      (M treated − M unlearned) / (M treated − M control) of the forget set: 1 is the control, more is too far
    keep_damage   the same of the inserted records that were to stay: 0 is the treated model
    utility_gap   nats per token of held-out records, unlearned − treated

The control has read none of the records, so it is what a perfect method reaches on the forget set, exactly so when all is
forgotten. The floor of recovery is how far from 1 chance alone takes it: by as much as treated and control differ on as
many held-out records, which neither has read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CostarError
from ..eval.clusters import Clustered
from ..eval.resampling import mean_interval, resamples, sampled_means
from ..eval.roc import expanded_tail
from ..eval.stats import LEAST_CLUSTERS
from .extraction_grades import clustered
from .released import Released, has_pad_behind, open_tokenizer
from .submissions import Submission, graded_records
from .submitted import check_model, read_forget
from .unlearning_sets import divided

LEGEND = (
    "floor: what treated and control differ by on held-out records, which neither has read, around 1 for recovery and "
    "around 0 for damage and gap; above: the gap's interval over its floor"
)
Grade = dict[str, Any]
Measured = Mapping[str, tuple[float, float]]
METRICS = (
    "nll_token",
    "exact_fraction",
)  # in the order of `Measured`; memorization is less of the one, more of the other
SIGNS = (-1.0, 1.0)


def grade_unlearning(submission: Submission, released: Released) -> Iterator[Grade]:
    """A grade for each perturbation, level and measure of memorization; utility once for each perturbation.

    Raises:
        CostarError: the model or the forget set are not what can be graded.
    """
    folder = check_model(submission, released)
    wanted = graded_records(submission, released)
    levels, texts = released.column("level"), released.column("text")
    forget = read_forget(submission, wanted)
    if forget is None and released.is_blind:
        raise CostarError(
            str(submission.folder),
            found="no forget.txt",
            expected="the records that were to be forgotten: the default set follows from labels that are withheld",
            mend="name them, an id a line",
        )
    if forget is None:
        rows = [row for row in released.records.to_pylist() if row["record_id"] in wanted]
        halves = divided(rows, released.pair["arm"], released.pair["draw"])
        forget = [row["record_id"] for row in halves.forget]
    if not any(levels[record] > 0 for record in forget):
        raise CostarError(
            str(submission.folder),
            found="a forget set in which no record was inserted",
            expected="records that the treated model has read",
            mend="name others in forget.txt",
        )
    measured = [
        measure_records(path, {record: texts[record] for record in wanted}, released.model(released.treated))
        for path in (folder, released.model(released.treated), released.model(released.control))
    ]
    chosen = set(forget)
    for name in sorted(set(wanted.values())):
        own = [record for record in sorted(wanted) if wanted[record] == name]
        held_out = [record for record in own if levels[record] == 0]
        present: list[int | None] = [*sorted({levels[record] for record in own} - {0})]
        for level in [*present, None] if len(present) > 1 else present:
            at = [record for record in own if levels[record] > 0 and level in (None, levels[record])]
            for metric, records in (
                ("recovery", [record for record in at if record in chosen]),
                ("keep_damage", [record for record in at if record not in chosen]),
            ):
                for column in range(len(METRICS)) if records else ():
                    about = {"perturbation": name, "level": level, "n": len(records), "n_members": len(records)}
                    values = [_memorized(released, each, records, column) for each in measured]
                    noise = [_memorized(released, each, held_out, column) for each in measured[1:]] if held_out else []
                    yield about | _share(f"{metric}.{METRICS[column]}", values, noise, (name, level or -1))
        if held_out:
            yield {"perturbation": name, "level": 0, "n": len(held_out), "n_members": 0} | _gap(
                released, measured, held_out, name
            )


def measure_records(folder: Path, texts: Mapping[str, str], tokens: Path) -> dict[str, tuple[float, float]]:
    """Record → nats per token and share of tokens that are the likeliest, of texts after EOS.

    The tokenizer is that of `tokens`, a released model: one that is submitted would decide what is measured.

    Raises:
        CostarError: the model cannot be loaded, cannot read a record whole, or gives no finite numbers.
    """
    from ..eval.hf_reader import HfReader, load_model, longest_input
    from ..eval.ledger import refusals, score_requests
    from ..eval.probes import Request

    tokenizer = open_tokenizer(tokens)
    model, eos = load_model(folder), tokenizer.eos_id
    longest, size = longest_input(model.config, None), tokenizer.vocab_size
    reader = HfReader(model, vocab_size=size - has_pad_behind(tokens), longest=longest, begin=eos, end=eos)
    requests = [Request(record, "", tuple(tokenizer.encode(texts[record]))) for record in sorted(texts)]
    refused = refusals(requests, reader.longest, reader.vocab_size)
    kept = [request for request in requests if request.key not in refused and len(request.ids) <= reader.longest]
    if len(kept) < len(requests):
        lost = sorted(set(texts) - {request.record_id for request in kept})
        raise CostarError(
            str(folder),
            found=f"{len(lost):,} records that it cannot read whole: {', '.join(lost[:3])}",
            expected="every record of the submission's perturbations measured",
            mend="give it the config.json of the release, or name other perturbations",
        )
    bytes_of = np.array([tokenizer.byte_count(number) for number in range(size)], np.int32)
    columns = score_requests(reader, kept, bytes_of)
    ends = np.cumsum(columns["lengths"])[:-1]
    found = {}
    for request, logp, top1 in zip(kept, np.split(columns["logp"], ends), np.split(columns["top1"], ends), strict=True):
        found[request.record_id] = (float(-logp.mean(dtype="float64")), float(top1.mean()))
    wrong = [record for record, values in found.items() if not np.isfinite(values[0])]
    if wrong:
        raise CostarError(
            str(folder),
            found=f"losses that are no finite numbers, of {len(wrong):,} records: {', '.join(wrong[:3])}",
            expected="a model that still predicts",
            mend="unlearn with a smaller rate or fewer steps",
        )
    return found


def _memorized(released: Released, measured: Measured, records: Sequence[str], column: int) -> Clustered:
    """Memorization by one measure [n, 1], summed by cluster."""
    return clustered(released, records, [[SIGNS[column] * measured[record][column]] for record in records])


def _share(metric: str, values: Sequence[Clustered], noise: Sequence[Clustered], key: tuple[str, int]) -> Grade:
    """How much of what treated and control differ by is gone, with the ends of its bootstrap and its floor."""
    unlearned, treated, control = values
    both = Clustered(
        np.concatenate([treated.sums - unlearned.sums, treated.sums - control.sums], 1),
        treated.counts,
        treated.strata,
        treated.names,
    )
    gone, memorized = (float(value) for value in both.means)
    grade: Grade = {"metric": metric, "method": "ratio of means"}
    samples = sampled_means([both], ("unlearning", metric, *key), resamples(both.size))[0]
    tail = expanded_tail(both.size)
    enough = both.size >= LEAST_CLUSTERS
    if (enough and np.quantile(samples[1], tail) <= 0) or not memorized > 0:
        return grade | {
            "value": None,
            "method": "no ratio: treated and control do not differ by more than chance on these records",
        }
    grade |= {"value": gone / memorized, "memorized": memorized}
    if enough:
        gone_in, of = samples[:, samples[1] > 0]  # all but a share below `tail`
        low, high = np.quantile(gone_in / of, [tail, 1 - tail])
        grade |= {"ci_low": float(low), "ci_high": float(high)}
        grade["method"] += "; expanded percentile interval over clusters"
    else:
        grade["method"] += "; too few clusters for an interval"
    if noise:
        width = _spread(noise, len(treated.counts)) / memorized
        middle = 1.0 if metric.startswith("recovery") else 0.0
        grade |= {"floor_low": middle - width, "floor_high": middle + width}
        grade["method"] += (
            f"; floor: around {middle:.0f}, what treated and control differ by on as many held-out records"
        )
    return grade


def _spread(noise: Sequence[Clustered], clusters: int) -> float:
    """The 95 % half-width of treated − control over so many held-out clusters, with what they differ by in the mean."""
    treated, control = noise
    each = (treated.sums - control.sums)[:, 0] / treated.counts
    mean = float((treated.means - control.means)[0])
    return abs(mean) + 1.96 * float(each.std(ddof=1) if len(each) > 1 else 0.0) / float(np.sqrt(clusters))


def _gap(released: Released, measured: Sequence[Measured], held_out: Sequence[str], name: str) -> Grade:
    """Nats per token that held-out records lost, beside what the control differs by."""
    unlearned, treated, control = (
        clustered(released, held_out, [[each[record][0]] for record in held_out]) for each in measured
    )
    own, other = (
        Clustered(each.sums - treated.sums, treated.counts, treated.strata, treated.names)
        for each in (unlearned, control)
    )
    grade: Grade = {"metric": "utility_gap.nll_token", "value": float(own.means[0])}
    if own.size < LEAST_CLUSTERS:
        return grade | {"method": "too few clusters for an interval"}
    interval, floor = (mean_interval(each, ("unlearning", name, "gap")) for each in (own, other))
    return grade | {
        "ci_low": float(interval.low[0]),
        "ci_high": float(interval.high[0]),
        "floor_low": min(float(floor.low[0]), 0.0),
        "floor_high": max(float(floor.high[0]), 0.0),
        "above_floor": float(interval.low[0]) > max(float(floor.high[0]), 0.0),
        "method": "BCa interval over clusters",
    }
