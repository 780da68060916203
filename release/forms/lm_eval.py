"""The records of an arm as tasks of lm-evaluation-harness, so that it measures on a released pair what costar measured.

`release/lm-eval/<arm>-d<draw>/` holds a YAML and a JSONL for each task, a group for each perturbation and one for all, and
`measured.json`, which says to which scores of costar the results are equal.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from ...core.design import Suite
from ...core.plugins import code_sha256, load_plugin, plugin_names
from ...core.workspace import Workspace, replacing, write_json, write_text
from ...corpus.reading import corpus_eos
from ...eval.assigned import read_assigned
from ...eval.context import SuiteContext
from ...insertion.build import require_insertion
from ...insertion.origins import TWIN
from ...insertion.records import read_records
from ..canary import RISK, canary_of
from ..chosen import Chosen
from ..folders import built_from, pairs_of, write_folder
from ..harness_tasks import PROBES, HarnessTask, tasks_of
from ..pages import rendered, yaml_text

OPTIONS = ()
FOLDER = "lm-eval"
TASK_VERSION = 1.0
LABELS = ("record_id", "perturbation", "kind", "risk", "role", "cluster_id", "stratum", "licence", "source")


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """Write the tasks of an arm and draw, the same for all its models.

    Raises:
        CostarError: an arm that is not the treated one of a pair, a suite that is not built that far, or another writer.
    """
    pairs = pairs_of(suite, chosen)
    require_insertion(suite, workspace)
    inputs = [
        chosen.arm,
        chosen.draw,
        [list(map(str, pair)) for pair in pairs],
        vars(suite.eval),
        suite.seed,
        _probes_sha256(),
        built_from(workspace),
    ]

    def fill(folder: Path) -> None:
        context = SuiteContext(suite, workspace).shared
        labels = document_labels(workspace, chosen.arm, chosen.draw)
        eos = corpus_eos(suite.corpus, workspace.corpus)
        tasks = [task for name in suite.arms[chosen.arm].inserted for task in tasks_of(context, name, labels, eos)]
        prefix = _plain(f"costar_{suite.name}_{chosen.arm}_d{chosen.draw}")
        write_tasks(folder, prefix, tasks)
        page = rendered(
            "lm_eval.md.j2", suite=suite.name, arm=chosen.arm, draw=chosen.draw, pairs=pairs, group=prefix, tasks=tasks
        )
        write_text(folder / "README.md", page)

    return [write_folder(workspace, FOLDER, f"{chosen.arm}-d{chosen.draw}", inputs, fill)]


def _probes_sha256() -> list[str]:
    """The code that asks the questions, so that the tasks follow it."""
    return [code_sha256(load_plugin(PROBES, name, place="probes")) for name in plugin_names(PROBES)]


def document_labels(workspace: Workspace, arm: str, draw: int) -> dict[str, dict[str, Any]]:
    """What every document says of its record in an arm and draw. A twin, which is never inserted, has its item's level."""
    records, _ = read_records(workspace.insertion)
    assigned = read_assigned(workspace)
    levels, members = assigned.levels[(arm, draw)], assigned.members[(arm, draw)]
    canary = canary_of(workspace)
    found = {}
    for row in records.select(list(LABELS)).to_pylist():
        level = levels.get(row["record_id"].removesuffix(TWIN))
        if level is not None:
            split = "member" if row["record_id"] in members else "nonmember"
            marked = {"canary": canary} if row["risk"] == RISK else {}
            found[row["record_id"]] = row | {"level": level, "split": split} | marked
    return found


def write_tasks(folder: Path, prefix: str, tasks: list[HarnessTask]) -> None:
    """A YAML and a JSONL for every task, the groups, and `measured.json`; names begin with the prefix."""
    groups: dict[str, list[str]] = {}
    measured = {}
    for task in tasks:
        name = f"{prefix}_{_plain(task.perturbation)}_{task.name}"
        groups.setdefault(f"{prefix}_{_plain(task.perturbation)}", []).append(name)
        measured[name] = {**task.measured, "documents": len(task.rows), "left_out": task.left_out}
        data = folder / "data" / f"{name}.jsonl"
        with replacing(data) as temporary, temporary.open("wb") as file:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in task.rows)
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"data/{name}.jsonl"}}}
        write_text(
            folder / f"{name}.yaml",
            yaml_text({"task": name, "tag": prefix} | source | {"test_split": "test", **task.settings} | _metadata()),
        )
    for group, names in groups.items():
        write_text(folder / f"{group}.yaml", yaml_text({"group": group, "task": names} | _metadata()))
    whole = {"group": f"{prefix}_all", "task": list(groups)} | _metadata()
    write_text(folder / f"{prefix}.yaml", yaml_text(whole))
    write_json(folder / "measured.json", measured)


def _metadata() -> dict[str, Any]:
    return {"metadata": {"version": TASK_VERSION}}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)
