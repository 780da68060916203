"""What probes read of a built suite: its records as text and tokens, and what stands before a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.design import RunName, Suite
from ..core.workspace import Workspace
from ..corpus.reading import open_tokenizer
from ..corpus.windows import open_windows
from ..insertion.overlay import open_suite_overlay, read_exposures
from ..insertion.records import read_records
from .assigned import ArmDraw, Assigned, read_assigned
from .probes import Context, Rendered, Site, Subject
from .spans import first_spans

COUNTED = 10**9  # tokens of the base that `counts` reads at most
CHUNK = 1 << 24
AT_ONCE = 1024


class SuiteContext:
    """The contexts of a suite's runs: they share all but the sites."""

    def __init__(self, suite: Suite, workspace: Workspace):
        self.suite, self.workspace = suite, workspace

    @cached_property
    def shared(self) -> Context:
        records, renderings = read_records(self.workspace.insertion)
        written: dict[str, dict[str, Rendered]] = {}
        for row in renderings.to_pylist():
            rendered = Rendered(
                text=row["text"],
                ids=tuple(row["token_ids"]),
                n_bytes=row["n_bytes"],
                spans=first_spans(row["spans"]),
            )
            written.setdefault(row["record_id"], {})[row["rendering"]] = rendered
        subjects = tuple(
            Subject(
                record_id=row["record_id"],
                perturbation=row["perturbation"],
                kind=row["kind"],
                role=row["role"],
                fields=json.loads(row["fields"]),
                renderings=written[row["record_id"]],
            )
            for row in records.to_pylist()
        )
        return Context(
            subjects=subjects,
            inserted=inserted_renderings(self.suite),
            fates=self._fates(),
            design=self.suite.eval,
            tokenizer=open_tokenizer(self.suite.corpus, self.workspace.corpus),
            length=self.suite.corpus.sequence_length,
            seed=self.suite.seed,
            counts=lambda: self.counts,
        )

    def of_run(self, run: str) -> Context:
        """The context of a run: its sites are those of the arm that it carries and of the arms that it controls."""
        return replace(self.shared, sites=lambda: self.sites(run), levels=lambda: self._levels(run))

    @cached_property
    def sites(self) -> Callable[[str], dict[str, dict[str, Site]]]:
        """Arm → record → its first copy, by run; kept for the run that was asked for last, as they may be large."""
        return lru_cache(maxsize=1)(self._sites)

    def _levels(self, run: str) -> dict[str, int]:
        name = RunName.parse(run)
        return self._assigned.levels.get((name.arm, name.draw), {})

    @cached_property
    def _assigned(self) -> Assigned:
        return read_assigned(self.workspace)

    def _fates(self) -> dict[str, frozenset[ArmDraw]]:
        """The arms and draws that insert a record, for those that some do."""
        found: dict[str, set[ArmDraw]] = {}
        for key, records in self._assigned.members.items():
            for record_id in records:
                found.setdefault(record_id, set()).add(key)
        same: dict[frozenset[ArmDraw], frozenset[ArmDraw]] = {}  # one object for each fate
        return {record_id: same.setdefault(fate := frozenset(own), fate) for record_id, own in found.items()}

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How often each id occurs in the base, or in the first billion of its tokens."""
        tokens = open_windows(self.workspace.corpus, self.suite.corpus.sequence_length).store.tokens[:COUNTED]
        size = self.shared.tokenizer.vocab_size
        found = np.zeros(size, np.int64)
        for first in range(0, len(tokens), CHUNK):
            found += np.bincount(tokens[first : first + CHUNK], minlength=size)[:size]
        return found

    def _sites(self, run: str) -> dict[str, dict[str, Site]]:
        name = RunName.parse(run)
        numbers = list(range(self.shared.tokenizer.vocab_size))  # one object for each id, whatever the number of copies
        return {
            arm.name: self._arm_sites(arm.name, name.draw, numbers)
            for arm in self.suite.arms.values()
            if name.arm in (arm.name, arm.control) and arm.inserted and arm.filler == "none" and name.draw < arm.draws
        }

    def _arm_sites(self, arm: str, draw: int, numbers: list[int]) -> dict[str, Site]:
        overlay = open_suite_overlay(self.workspace, arm, draw, seed=self.suite.seed)
        table = read_exposures(self.workspace, arm, draw).sort_by("slot")
        first: dict[str, tuple[str, int, int]] = {}
        columns = (table.column(name).to_pylist() for name in ("record_id", "rendering", "slot", "start"))
        for record_id, rendering, slot, start in zip(*columns, strict=True):
            first.setdefault(record_id, (rendering, slot, start))
        found: dict[str, Site] = {}
        ids = sorted(first)
        for begin in range(0, len(ids), AT_ONCE):
            part = ids[begin : begin + AT_ONCE]
            sequences = overlay.sequences(np.array([first[record_id][1] for record_id in part], np.int64))
            for record_id, sequence in zip(part, sequences, strict=True):
                rendering, _, start = first[record_id]
                found[record_id] = Site(rendering, tuple(numbers[number] for number in sequence[:start]))
        return found


def inserted_renderings(suite: Suite) -> dict[str, frozenset[str]]:
    """The renderings that some arm names, per perturbation."""
    return {
        name: frozenset(
            each.rendering for arm in suite.arms.values() if name in arm.inserted for each in arm.factors[name]
        )
        - {""}
        for name in suite.perturbations
    }
