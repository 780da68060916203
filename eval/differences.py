"""Treated − control of one measure at one step, record by record and draw by draw: what every estimate is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clusters import DRAW

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Columns [n], sorted by draw, then record; each record at most once a draw.

    `record`, `cluster` and `stratum` number what they name over the whole suite; `level` is the record's in that draw and
    arm; `cell` the combination of factors it has where the arm randomizes any, else 0; `value` is never NaN. Without a
    control, `value` is the treated run's own.
    """

    draw: Rows
    record: Rows
    cluster: Rows
    stratum: Rows
    level: Rows
    cell: Rows
    value: Floats

    def __len__(self) -> int:
        return len(self.value)

    def where(self, keep: NDArray[np.bool_]) -> Differences:
        """The rows for which `keep` [n] holds."""
        return Differences(**{name: column[keep] for name, column in vars(self).items()})

    @property
    def places(self) -> Rows:
        """A number [n] for each record in its draw."""
        return self.draw * DRAW + self.record

    @property
    def draws(self) -> Rows:
        """The draws that are there, ascending."""
        return np.unique(self.draw)
