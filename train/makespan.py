"""How long a queue of works takes that share slots and wait for each other."""

from __future__ import annotations

from collections.abc import Mapping


def makespan(works: Mapping[str, float], after: Mapping[str, tuple[str, float]], slots: int) -> float:
    """Seconds until the last work ends, where a free slot takes the longest of those that can begin.

    `works` has the seconds of each, `after` for some the work that comes before it and how many seconds of that one must
    have passed. This is the order in which `TrainQueue` hands out runs (list scheduling, longest processing time first;
    Graham 1969).
    """
    assert slots >= 1
    assert all(before in works for before, _ in after.values())
    begun: dict[str, float] = {}
    free = [0.0] * slots
    while len(begun) < len(works):
        now = min(free)
        opens = {
            name: begun[after[name][0]] + after[name][1] if name in after else 0.0
            for name in works
            if name not in begun and (name not in after or after[name][0] in begun)
        }
        assert opens, "works wait for each other in a circle"
        now = max(now, min(opens.values()))
        chosen = max((name for name, opening in opens.items() if opening <= now), key=lambda name: works[name])
        begun[chosen] = now
        free[free.index(min(free))] = now + works[chosen]
    return max(free)
