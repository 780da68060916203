"""Scores by attribute, and their mean over the attributes of a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .probes import Gap, Score


def means_over_attributes(results: Iterable[Score | Gap]) -> Iterator[Score | Gap]:
    """The results, and for each record, prompt and metric the mean of those with `attribute=…` at the end, `attribute=all`."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for each in results:
        yield each
        if isinstance(each, Score):
            prompt, _, _ = each.variant.rpartition("attribute=")
            values.setdefault((each.record_id, each.rendering, f"{prompt}attribute=all", each.metric), []).append(
                each.value
            )
    for place, found in values.items():
        yield Score(*place, sum(found) / len(found))
