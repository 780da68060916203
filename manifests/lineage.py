"""Which run wrote what a run has: a branch inherits its parent's checkpoints, logs and scores up to where it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.workspace import Workspace, read_facts, read_marker

CONFIG_KEYS = (
    "run",
    "arm",
    "model",
    "draw",
    "train",
    "shape",
    "sequence_length",
    "parent_run",
    "branch_step",
    "checkpoints",
    "config_sha256",
)


@dataclass(frozen=True)
class Stretch:
    """Checkpoint steps in (after, upto] of a run, written by `owner`."""

    owner: str
    after: int
    upto: int


def read_configs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """`config.json` of every begun run."""
    paths = sorted(workspace.runs.glob("*/config.json"))
    return {
        path.parent.name: read_facts(path, CONFIG_KEYS, mend="remove the run's folder and train it again")
        for path in paths
    }


def stretches(configs: dict[str, dict[str, Any]], run: str) -> list[Stretch]:
    """The owners of a run's steps, the run itself first."""
    config = configs[run]
    found = [Stretch(run, config["branch_step"] if config["parent_run"] else -1, config["train"]["steps"])]
    while config["parent_run"]:
        upto = config["branch_step"]
        owner = config["parent_run"]
        config = configs[owner]
        after = config["branch_step"] if config["parent_run"] else -1
        found.append(Stretch(owner, after, upto))
    return found


def checkpoint_rows(workspace: Workspace, configs: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    """(run, step, tokens, path, state_sha256, inherited) of every finished checkpoint, inherited ones with each heir.

    Those that are kept only so that branches can begin, or a killed process go on, are left out: they come and go.
    """
    own: dict[str, dict[int, tuple[str, str]]] = {}
    for run in configs:
        own[run] = {}
        for state in sorted((workspace.run(run) / "checkpoints").glob("step-*/state.json")):
            if read_marker(state.parent) is not None:
                facts = read_facts(state, ["step", "state_sha256"], mend="remove the checkpoint's folder")
                if facts["step"] in configs[run]["checkpoints"]:
                    own[run][facts["step"]] = (str(state.parent.relative_to(workspace.root)), facts["state_sha256"])
    rows = []
    for run, config in configs.items():
        tokens = config["train"]["batch"] * config["sequence_length"]
        for stretch in stretches(configs, run):
            for step, (path, sha) in own[stretch.owner].items():
                if stretch.after < step <= stretch.upto:
                    rows.append((run, step, step * tokens, path, sha, stretch.owner != run))
    return sorted(rows)
