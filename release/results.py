"""What the card of a released model says was measured of it: its own validation loss, and what it knows at each level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..core.analysis import NLL, Measure
from ..core.design import Suite
from ..core.workspace import Workspace
from ..eval.report_data import Measured, measure_title, opened
from ..manifests.lineage import read_configs, stretches
from ..manifests.tables import VALIDATION
from ..train.config import RunConfig
from ..train.log import read_if_whole

OF_RUN = """
select level, count(*) as n, avg(value) as mean from record_scores
where arm = ? and model = ? and draw = ? and step = ? and perturbation = ? and probe = ? and variant = ? and metric = ?
  and role = 'main' and isfinite(value)
group by level order by level
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A mean over `n` records of one perturbation at one level; of validation documents where there is no perturbation."""

    perturbation: str
    level: int
    title: str
    unit: str
    metric: str
    n: int
    value: float


@contextmanager
def measured_in(suite: Suite, workspace: Workspace) -> Iterator[Measured | None]:
    """The manifest, opened for results; None where nothing was measured yet."""
    if not (workspace.eval / "effects.parquet").is_file():
        yield None
        return
    with opened(suite, workspace) as measured:
        yield measured


def validation_loss(workspace: Workspace, run: str, step: int) -> float | None:
    """The loss of a run on validation documents at a checkpoint, also where the run it branched from measured it."""
    for stretch in stretches(read_configs(workspace), run):
        if stretch.after < step <= stretch.upto:
            path = workspace.run(stretch.owner) / "log" / "validation.parquet"
            table = read_if_whole(path, VALIDATION) if path.is_file() else None
            rows = [] if table is None else table.select(["step", "loss"]).to_pylist()
            return next((row["loss"] for row in rows if row["step"] == step), None)
    return None


def levels_known(
    suite: Suite, measured: Measured | None, config: RunConfig, step: int, names: Sequence[str]
) -> list[Result]:
    """What a run knows of some perturbations at each level: by their primary measures and by the loss of a record."""
    if measured is None:
        return []
    found = []
    for name in names:
        measures: list[Measure] = list(dict.fromkeys([NLL, *measured.measures[name][:2]]))
        for measure in measures:
            title, unit = measure_title(suite, measure)
            at = [config.arm, config.model, config.draw, step, name, *measure]
            found += [
                Result(
                    perturbation=name,
                    level=row["level"],
                    title=title,
                    unit=unit,
                    metric=measure[2],
                    n=row["n"],
                    value=row["mean"],
                )
                for row in measured.rows(OF_RUN, at)
            ]
    return found
