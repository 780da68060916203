"""The differences of a contrast in stacks, and the records of a stack in cells.

Measures and steps that cover the same records are columns of one stack, so that they share their resamples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core.design import FACTORS, Suite
from .contrasts import Contrast, common_steps, differences, measures
from .differences import Differences, Floats, Rows
from .resampling import generator
from .scores import Measure, Scores

MOST_NUMBERS = 2**26  # of one stack: 512 MiB
LEAST_UNITS = 200
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """`values` [n, K] of differences: a column for each (step, measure) in `columns`, all of the records [n] of `frame`,
    whose own values are those of the first. `unit` [n] numbers what is resampled as a whole."""

    columns: tuple[tuple[int, Measure], ...]
    frame: Differences
    unit: Rows
    values: Floats

    def where(self, keep: Mask) -> Stack:
        """The records for which `keep` [n] holds."""
        return replace(self, frame=self.frame.where(keep), unit=self.unit[keep], values=self.values[keep])

    def chosen(self, places: Sequence[int]) -> Stack:
        """Some of the columns."""
        return replace(self, columns=tuple(self.columns[k] for k in places), values=self.values[:, list(places)])


def stacks(scores: Scores, contrast: Contrast) -> Iterator[Stack]:
    """Everything that was measured of a contrast."""
    frames: dict[bytes, Differences] = {}
    columns: dict[bytes, list[tuple[int, Measure]]] = {}
    values: dict[bytes, list[Floats]] = {}

    def stacked(key: bytes) -> Stack:
        frame = frames.pop(key)
        columns_, values_ = tuple(columns.pop(key)), np.stack(values.pop(key), axis=1)
        return Stack(columns=columns_, frame=frame, unit=units(frame), values=values_)

    for step in common_steps(scores, contrast):
        for measure in measures(scores, contrast, step):
            found = differences(scores, contrast, step, measure)
            if found is None:
                continue
            key = hashlib.blake2b(found.draw.tobytes() + found.record.tobytes(), digest_size=16).digest()
            frames.setdefault(key, found)
            columns.setdefault(key, []).append((step, measure))
            values.setdefault(key, []).append(found.value)
            if len(found) * len(values[key]) >= MOST_NUMBERS:
                yield stacked(key)
    for key in list(frames):
        yield stacked(key)


def units(frame: Differences) -> Rows:
    """The cluster of each record [n]; of very many clusters, blocks of equally many that got the same in every draw.

    Blocks of independent clusters are independent, and a block has one level, factor and stratum in each draw, so that
    signs and levels of whole blocks are drawn again as those of clusters are. They are as large as leaves every level (with
    one combination of factors) `LEAST_UNITS` of them, more than which would change an interval by a few parts in a hundred.
    """
    clusters, place = np.unique(frame.cluster, return_inverse=True)
    got = np.stack([frame.draw, frame.level, frame.cell])
    group = np.unique(got, axis=1, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(np.unique(group * len(clusters) + place) // len(clusters))
    size = int(sizes.min()) // LEAST_UNITS
    if size < 2:
        return frame.cluster
    draws = frame.draws
    signature = np.full((1 + 2 * len(draws), len(clusters)), -1, np.int64)
    signature[0, place] = frame.stratum
    for number, draw in enumerate(draws.tolist()):
        own = frame.draw == draw
        signature[1 + 2 * number, place[own]] = group[own]
        signature[2 + 2 * number] = np.bincount(place[own], minlength=len(clusters))
    alike = np.unique(signature, axis=1, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((generator("blocks", len(clusters)).permutation(len(clusters)), alike))
    starts = np.flatnonzero(np.diff(alike[order], prepend=-1))
    rank = np.arange(len(clusters)) - np.repeat(starts, np.diff(starts, append=len(clusters)))
    block = np.empty(len(clusters), np.int64)
    block[order] = np.cumsum(rank % size == 0) - 1
    return np.asarray(block[place])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Some records of a stack: those of a level, perhaps with one value of a factor only."""

    level: int
    factor: str
    rows: Mask


def level_cells(frame: Differences) -> list[Cell]:
    """The records of each level, ascending; level 0 is held out."""
    return [Cell(level=level, factor="", rows=frame.level == level) for level in np.unique(frame.level).tolist()]


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What an arm randomizes of a perturbation: its `values` in the order of the suite file, the first the reference, and
    for every combination the place of its value and the number of the combination of all other factors."""

    name: str
    values: tuple[str, ...]
    value_of: Rows
    others_of: Rows


def factors(suite: Suite, contrast: Contrast) -> list[Factor]:
    """The factors of the treated arm that differ among its records."""
    arm, found = suite.arms[contrast.arm], []
    combinations = arm.combinations(contrast.perturbation)
    for name, values in arm.randomized(contrast.perturbation).items():
        place = FACTORS.index(name)
        rest = [each[:place] + each[place + 1 :] for each in combinations]
        order = list(dict.fromkeys(rest))
        found.append(
            Factor(
                name=name,
                values=values,
                value_of=np.array([values.index(each[place] or "canonical") for each in combinations], np.int64),
                others_of=np.array([order.index(each) for each in rest], np.int64),
            )
        )
    return found


def value_cells(frame: Differences, factor: Factor, cell: Cell) -> list[Cell]:
    """The records of a cell by their value of a factor."""
    value = factor.value_of[frame.cell]
    return [
        replace(cell, factor=f"{factor.name}={name}", rows=cell.rows & (value == place))
        for place, name in enumerate(factor.values)
    ]
