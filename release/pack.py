"""The release folder: both models of every pair, the data sets, cards, checksums; checked by loading what was packed."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import read_table, write_table
from ..core.workspace import (
    Workspace,
    changed_files,
    finish_step,
    is_current,
    read_facts,
    read_marker,
    start_step,
    write_json,
    write_text,
)
from ..eval.analyses import require_analyses
from ..eval.summary import interval_text, summarize
from ..insertion.records import read_records
from ..manifests.tables import RECORDS, RENDERINGS
from ..train.checkpoint import read_saved
from ..train.config import read_config
from ..train.export import export_hf
from ..train.loop import is_finished, locate_checkpoint
from .forms.megatron import FOLDER as EXPORTS

VERSION = 1


@dataclass(frozen=True)
class Pair:
    """Two finished runs that differ in their arm."""

    treated: str
    control: str


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
                pairs.append(Pair(*names))
    if not pairs:
        raise CostarError(
            "[release] arms", found="none", expected="arms to release", mend='add arms = ["…"] under [release]'
        )
    return pairs


def write_release(suite: Suite, workspace: Workspace) -> int:
    """Pack the pairs; the number of pairs. Leaves a current release alone."""
    pairs = find_pairs(suite, workspace)
    if (workspace.eval / "effects.parquet").is_file():
        require_analyses(workspace)
    folder = workspace.release
    runs = sorted({run for pair in pairs for run in (pair.treated, pair.control)})
    inputs = sha256_json(
        [
            VERSION,
            [_state(workspace, run) for run in runs],
            read_marker(workspace.insertion, "insert"),
            sha256_file(workspace.eval / "effects.parquet") if (workspace.eval / "effects.parquet").is_file() else "",
            vars(suite.release),
        ]
    )
    if is_current(workspace.root, inputs, "release") and not changed_files(workspace.root, "release"):
        return len(pairs)
    start_step(workspace.root, "release")
    for name in ("models", "data"):
        shutil.rmtree(folder / name, ignore_errors=True)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    for pair in pairs:
        for run, twin, role in ((pair.treated, pair.control, "treated"), (pair.control, pair.treated, "control")):
            if not (folder / "models" / run).exists():
                _pack_model(suite, workspace, environment, run, twin, role)
    _pack_data(suite, workspace, environment, runs)
    page = environment.get_template("collection.md.j2").render(
        suite=suite, pairs=pairs, effects=_effect_lines(suite, workspace)
    )
    write_text(folder / "README.md", page)
    _check_by_loading(folder, runs)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".", "SHA256")) and folder / EXPORTS not in path.parents
    )
    sums = "".join(f"{sha256_file(path)}  {path.relative_to(folder)}\n" for path in files)
    write_text(folder / "SHA256SUMS", sums)
    finish_step(workspace.root, inputs, [*files, folder / "SHA256SUMS"], "release")
    return len(pairs)


def _state(workspace: Workspace, run: str) -> str:
    config = read_config(workspace, run)
    saved = read_saved(locate_checkpoint(workspace, config, config.train.steps)[1])
    assert saved is not None
    return saved.state_sha256


def _pack_model(
    suite: Suite, workspace: Workspace, environment: jinja2.Environment, run: str, twin: str, role: str
) -> None:
    config = read_config(workspace, run)
    _, checkpoint = locate_checkpoint(workspace, config, config.train.steps)
    exported = export_hf(workspace, config, checkpoint, config.train.steps)
    target = workspace.release / "models" / run
    target.mkdir(parents=True)
    for path in sorted(exported.iterdir()):
        if not path.name.startswith(("stage", ".")):
            shutil.copyfile(path, target / path.name)
    identity = read_facts(workspace.run(config.run) / "identity.json", ["determinism"], mend="train the run again")
    manifest = {
        "suite": suite.name,
        "pair": {"role": role, "twin": twin},
        "run": run,
        "arm": config.arm,
        "model": config.model,
        "draw": config.draw,
        "seed": config.seed,
        "step": config.train.steps,
        "tokens": config.train.slots * config.sequence_length,
        "tokens_sha256": config.tokens_sha256,
        "tokenizer_sha256": config.tokenizer_sha256,
        "overlay_sha256": config.overlay_sha256,
        "config_sha256": config.config_sha256(),
        "state_sha256": _state(workspace, run),
        "start": config.start.kind,
        "start_sha256": config.start.sha256,
        "earlier_exposure": config.start.earlier_exposure,
        "determinism": identity["determinism"],
        "costar_version": importlib.metadata.version("costar"),
    }
    write_json(target / "costar_manifest.json", manifest)
    copies = sum(suite.perturbations[name].copies for name in suite.arms[config.arm].inserted)
    card = environment.get_template("model_card.md.j2").render(
        suite=suite,
        config=config,
        manifest=manifest,
        twin=twin,
        role=role,
        copies=copies,
        filler=suite.arms[config.arm].filler,
    )
    write_text(target / "README.md", card)


def _pack_data(suite: Suite, workspace: Workspace, environment: jinja2.Environment, runs: Sequence[str]) -> None:
    folder = workspace.release / "data"
    arms = pa.array(sorted({RunName.parse(run).arm for run in runs}), pa.string())
    mend = "run the stage that wrote it again"
    records, renderings = read_records(workspace.insertion)
    fillers = read_table(workspace.insertion / "fillers.parquet", mend=mend)
    written = [name for name in RENDERINGS.names if name not in ("spans", "token_ids")]
    tables: dict[str, pa.Table] = {
        "records": pa.concat_tables([records, fillers.select(RECORDS.names)]),
        "renderings": pa.concat_tables([table.select(written) for table in (renderings, fillers)]),
        "assignments": read_table(workspace.insertion / "assignments.parquet", mend=mend),
        "exposures": pa.concat_tables(
            [
                read_table(path, mend=mend)
                for path in sorted((workspace.insertion / "exposures").glob("arm=*/draw=*/*.parquet"))
            ]
        ),
    }
    for name in ("assignments", "exposures"):
        tables[name] = tables[name].filter(pc.is_in(tables[name].column("arm"), value_set=arms))
    effects = workspace.eval / "effects.parquet"
    if effects.is_file():
        tables["effects"] = read_table(effects, mend=mend)
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
    sizes = {name: len(table) for name, table in tables.items()}
    licences = {design.licence for design in suite.perturbations.values()}
    licence = suite.release.licence if licences <= {suite.release.licence} else "other"
    card = environment.get_template("data_card.md.j2").render(suite=suite, sizes=sizes, licence=licence)
    write_text(folder / "README.md", card)


def _effect_lines(suite: Suite, workspace: Workspace) -> list[str]:
    """The total effects of the released arms on the main perturbation, as sentences of the page."""
    summary = summarize(suite, workspace)
    if summary is None:
        return []
    lines = []
    for arm in suite.release.arms:
        for level in summary.levels[1:]:
            row = summary.effect("total", "nll_token", level, treated=f"{arm}.")
            if row is not None:
                lines.append(f"| {arm} | {level} | {row['n']} | {interval_text(row)} |")
    return lines


def _check_by_loading(folder: Path, runs: Sequence[str]) -> None:
    """Load every model, tokenizer and table as a user would, without network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    from datasets import get_dataset_config_names, load_dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    disable_progress_bar()
    for run in runs:
        path = folder / "models" / run
        tokenizer = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path)
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer("the").input_ids])).logits
        if not bool(torch.isfinite(logits).all()):
            raise CostarError(
                str(path), found="logits that are not finite", expected="a usable model", mend="train it again"
            )
    cache = folder / ".cache"
    try:
        for name in get_dataset_config_names(str(folder / "data")):
            load_dataset(str(folder / "data"), name, split="train", cache_dir=str(cache))
    finally:
        shutil.rmtree(cache, ignore_errors=True)
