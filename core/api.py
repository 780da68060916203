"""The Python API: a built suite as tables, sequences and models. Everything is read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .design import Suite
from .session import open_session
from .workspace import Workspace

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ..insertion.overlay import Overlay


@dataclass(frozen=True)
class LoadedPair:
    """Two runs that differ only in their arm, as `transformers` models, and their tokenizer."""

    treated: Any
    control: Any
    tokenizer: Any


@dataclass(frozen=True)
class BuiltSuite:
    """A suite and the folder where it is built."""

    suite: Suite
    workspace: Workspace

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """A read-only relation of the manifest, with the ledger attached: `.df()`, `.fetchall()`, `.to_arrow_table()`."""
        from ..manifests.sql import open_manifest

        return open_manifest(self.workspace).sql(query)

    def _table(self, name: str) -> pa.Table:
        return self.sql(f"from {name}").to_arrow_table()

    def runs(self) -> pa.Table:
        return self._table("runs")

    def records(self) -> pa.Table:
        return self._table("records")

    def exposures(self, arm: str, draw: int = 0) -> pa.Table:
        """The copies that an arm inserts, sorted by slot."""
        from ..insertion.overlay import read_exposures

        return read_exposures(self.workspace, arm, draw)

    def overlay(self, arm: str, draw: int = 0) -> Overlay:
        from ..insertion.overlay import open_suite_overlay

        return open_suite_overlay(self.workspace, arm, draw, seed=self.suite.seed)

    def sequences(self, arm: str, slots: NDArray[np.int64] | list[int], draw: int = 0) -> NDArray[Any]:
        """Exactly what training reads: unsigned ids [len(slots), L + 1] (int32 above 65,536 ids)."""
        return self.overlay(arm, draw).sequences(np.asarray(slots))

    def pair(self, run: str) -> LoadedPair:
        """The models of a treated run and of its control at the last step.

        Raises:
            CostarError: the run has no control, or one of the two is not finished.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ..train.export import export_pair

        treated, control = export_pair(self.suite, self.workspace, run)
        load = AutoModelForCausalLM.from_pretrained
        return LoadedPair(load(treated), load(control), AutoTokenizer.from_pretrained(treated))

    def model(self, run: str, step: int | None = None) -> Any:
        """The `transformers` model of a run's checkpoint, by default of its last; also where a parent wrote it.

        It is exported to `runs/<run>/hf/` when it is first asked for, so the suite must then be writable.

        Raises:
            CostarError: no such run, no checkpoint at that step, or no right to write the export.
        """
        from transformers import AutoModelForCausalLM

        from ..release.forms.hf import export_checkpoint

        return AutoModelForCausalLM.from_pretrained(export_checkpoint(self.workspace, run, step))

    def ledger(self, run: str, step: int | None = None) -> pa.Table:
        """Per-token results of a run's checkpoint; by default of its last one, also where a parent wrote it."""
        from ..eval.stored import read_ledger

        return read_ledger(self.workspace, run, step)


def open_suite(name: str) -> BuiltSuite:
    """A built suite, by its folder, its suite file, or its name."""
    session = open_session(str(name))
    return BuiltSuite(session.suite, session.workspace)


def torch_dataset(name: str, arm: str, draw: int = 0) -> Any:
    """What an arm's runs read, in training order, as a plain `torch.utils.data.Dataset` for any other trainer.

    Item k is the ids [L + 1] of slot k as int64: inputs `[:-1]`, labels `[1:]`.
    """
    from ..train.dataset import SlotDataset

    built = open_suite(name)
    return SlotDataset(built.overlay(arm, draw), built.suite.arms[arm].train.slots)
