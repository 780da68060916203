"""The loss on validation documents: the same sequences for every run and checkpoint, none of which any run reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.console import complain
from ..core.parquet import write_rows
from ..core.workspace import Workspace
from ..corpus.store import MEND, TokenStore
from ..corpus.windows import as_windows
from ..manifests.tables import VALIDATION
from .log import read_if_whole

# Tokens measured at a checkpoint. Losses of tokens scatter by 2 to 3 nats, so their mean is known to about 0.01, and to
# much less when checkpoints or runs are compared, for all measure the same tokens. A forward pass over so many costs an
# 8 B model 1 PFLOP: a few seconds on one GPU.
TOKENS = 65_536


def validation_sequences(workspace: Workspace, length: int) -> NDArray[np.int64] | None:
    """The first validation sequences of L = `length` tokens in stored order: ids [n, L+1] at stride L, as training reads.

    At most `TOKENS` targets, but at least one sequence. None where the corpus has no validation documents, or fewer
    than L + 1 tokens of them.

    Raises:
        CostarError: the store is cut, or its index is of another one.
    """
    prefix = workspace.corpus / "validation"
    if not prefix.with_name("validation.idx").is_file():
        return None
    rows = as_windows(TokenStore.open_prefix(prefix, mend=MEND).tokens, length)[: max(1, TOKENS // length)]
    return rows.astype(np.int64) if len(rows) else None


@dataclass
class ValidationLog:
    """`log/validation.parquet`: the mean nats a token at permanent checkpoints, `losses` those of each sequence in the order
    of `validation_sequences`. `step` is a checkpoint's, `tokens` what the run had read by then."""

    path: Path
    run: str
    rows: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path, run: str, step: int) -> ValidationLog:
        """The rows up to the checkpoint at `step`, from which the run goes on; later ones are cut off."""
        path = folder / "validation.parquet"
        rows = _read_rows(path)
        if rows is None:
            complain(
                f"{run}: {path.name} is damaged; only later checkpoints are measured on validation documents again"
            )
        return cls(path, run, [row for row in rows or [] if row["step"] <= step])

    def append(self, step: int, tokens: int, losses: NDArray[np.float64]) -> None:
        """The losses [n] of the sequences at a checkpoint; call it before that is written, so that none is without them."""
        row = {"run": self.run, "step": step, "tokens": tokens, "loss": float(losses.mean()), "losses": losses.tolist()}
        self.rows = [each for each in self.rows if each["step"] != step] + [row]
        write_rows(self.path, VALIDATION, self.rows)


def last_validation(workspace: Workspace, run: str) -> dict[str, Any] | None:
    """The last row of a run's own validation losses; None where there is none, or the file is damaged."""
    rows = _read_rows(workspace.run(run) / "log" / "validation.parquet")
    return rows[-1] if rows else None


def _read_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a file, none where there is no file; None where it is damaged. An older file has no `losses`."""
    if not path.is_file():
        return []
    table = read_if_whole(path, VALIDATION)
    return None if table is None else [dict.fromkeys(VALIDATION.names) | row for row in table.to_pylist()]
