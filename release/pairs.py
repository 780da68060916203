"""The pairs that a suite releases: two finished runs that differ in their arm, and the checkpoints that each kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.workspace import Workspace
from ..manifests.lineage import checkpoint_rows, read_configs
from ..train.config import read_config
from ..train.loop import is_finished


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs of one model and draw; `pair` is the name of the treated one."""

    treated: str
    control: str
    arm: str
    model: str
    draw: int

    @property
    def pair(self) -> str:
        return self.treated

    @property
    def runs(self) -> tuple[str, str]:
        return self.treated, self.control

    def twin(self, run: str) -> str:
        """The other run of the pair."""
        return self.control if run == self.treated else self.treated

    def role(self, run: str) -> str:
        """What a run is in the pair."""
        return "treated" if run == self.treated else "control"

    def facts(self) -> dict[str, str | int]:
        """The pair as `release.json` has it."""
        return {
            "pair": self.pair,
            **{key: getattr(self, key) for key in ("treated", "control", "arm", "model", "draw")},
        }


def find_pairs(suite: Suite, workspace: Workspace) -> list[Pair]:
    """The pairs that the suite releases.

    Raises:
        CostarError: no arm is named, or a run of a pair is not finished.
    """
    pairs = []
    for arm in suite.release.arms:
        design = suite.arms[arm]
        for model in design.models:
            for draw in range(design.draws):
                names = [str(RunName(arm=a, model=model, draw=draw)) for a in (arm, design.control or "")]
                for name in names:
                    if not is_finished(workspace, read_config(workspace, name)):
                        raise CostarError(
                            f"release of {names[0]}",
                            found=f"{name} is not finished",
                            expected="both runs of the pair",
                            mend="run `costar train`",
                        )
                pairs.append(Pair(treated=names[0], control=names[1], arm=arm, model=model, draw=draw))
    if not pairs:
        raise CostarError(
            "[release] arms", found="none", expected="arms to release", mend='add arms = ["…"] under [release]'
        )
    return pairs


def runs_of(pairs: Sequence[Pair]) -> list[str]:
    """Every run of some pairs once, in order."""
    return sorted({run for pair in pairs for run in pair.runs})


def inserted_by(suite: Suite, pairs: Sequence[Pair]) -> list[str]:
    """The perturbations that the runs of some pairs read, in the suite's order."""
    arms = {RunName.parse(run).arm for pair in pairs for run in pair.runs}
    return [name for name in suite.perturbations if any(name in suite.arms[arm].inserted for arm in arms)]


def kept_states(workspace: Workspace, runs: Sequence[str]) -> dict[str, dict[int, str]]:
    """Run → step → hash of the state, of every finished checkpoint that is kept for good, inherited ones too."""
    found: dict[str, dict[int, str]] = {run: {} for run in runs}
    for run, step, _, _, state, _ in checkpoint_rows(workspace, read_configs(workspace)):
        if run in found:
            found[run][step] = state
    return found
