"""Checkpoints: a directory with safetensors, the state's facts, and a marker that is written last.

The only state of the data is the step. A checkpoint without its marker does not exist; one whose bytes changed is
passed over with a remark, and training goes on from the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import CostarError
from ..core.workspace import (
    Workspace,
    changed_files,
    finish_step,
    read_marker,
    remove_leftovers,
    replacing,
    start_step,
    step_of,
    write_json,
)
from .model import Llama
from .optim import Optimizers


@dataclass(frozen=True)
class Saved:
    """The facts of a checkpoint: updates done, rolling digest of the rows read, hash of parameters and optimizer."""

    step: int
    data_digest: str
    config_sha256: str
    state_sha256: str


def model_state(model: Llama) -> dict[str, Tensor]:
    """Parameters by Hugging Face name, a tied head once."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.shape.tied:
        del state["lm_head.weight"]
    return dict(sorted(state.items()))


def state_sha256(*states: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values, independent of any file format."""
    total = hashlib.sha256()
    for state in states:
        for name, tensor in sorted(state.items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with replacing(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)


def save_checkpoint(
    workspace: Workspace, run: str, step: int, model: Llama, optimizers: Optimizers, digest: bytes, config_sha256: str
) -> Saved:
    """Write a checkpoint of a run after `step` updates."""
    folder = workspace.checkpoint(run, step)
    start_step(folder)
    remove_leftovers(folder)
    parameters, moments = model_state(model), optimizers.state()
    saved = Saved(step, digest.hex(), config_sha256, state_sha256(parameters, moments))
    save_tensors(folder / "model.safetensors", parameters)
    save_tensors(folder / "optimizer.safetensors", moments)
    write_json(folder / "state.json", vars(saved))
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    finish_step(folder, config_sha256, [folder / name for name in names])
    return saved


def read_saved(folder: Path) -> Saved | None:
    """The facts of a finished checkpoint, or None."""
    if read_marker(folder) is None:
        return None
    try:
        return Saved(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def finished_steps(workspace: Workspace, run: str) -> list[int]:
    """The steps of a run's finished checkpoints, ascending."""
    folders = (workspace.run(run) / "checkpoints").glob("step-*")
    return sorted(step for folder in folders if (step := step_of(folder)) is not None and read_saved(folder))


def check_checkpoint(folder: Path, config_sha256: str | None) -> Saved:
    """The facts of a checkpoint whose bytes are as written and whose configuration is the one asked for.

    Raises:
        CostarError: it is damaged, or belongs to another configuration.
    """
    saved = read_saved(folder)
    wrong = changed_files(folder)
    if saved is None or wrong:
        raise CostarError(
            str(folder / wrong[0] if wrong else folder),
            found="a damaged checkpoint" if wrong else "no finished checkpoint",
            expected="the bytes that were written",
            mend="remove the folder: training goes on from the checkpoint before it",
        )
    if config_sha256 is not None and saved.config_sha256 != config_sha256:
        raise CostarError(
            str(folder),
            found=f"a checkpoint of another configuration ({saved.config_sha256[:12]})",
            expected=f"one of this run's ({config_sha256[:12]})",
            mend="remove the folder, or undo the change of the suite",
        )
    return saved


def load_checkpoint(folder: Path, model: Llama, optimizers: Optimizers | None) -> None:
    """Copy a checkpoint's values into a model, and into optimizers if given."""
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    if optimizers is not None:
        optimizers.load(load_file(folder / "optimizer.safetensors"))
