"""Checkpoints: one safetensors file for each process that holds a part, an index, the state's facts, and a marker.

`index.json` says which rows of which tensor lie in which file, so any other number of processes reads its own rows by
slicing. The only state of the data is the step. A checkpoint without its marker, which is written last, does not exist.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.workspace import Workspace, read_facts, read_marker, replacing, start_step, step_of
from .init import fill
from .model import Llama
from .optim import Optimizers
from .world import World

ENTRY = "|"  # separates a parameter's name from an entry of its optimizer's state
MEND = "remove the folder: training goes on from the checkpoint before it"


@dataclass(frozen=True)
class Saved:
    """The facts of a checkpoint: updates done, rolling digest of the rows read, hash of parameters and optimizer."""

    step: int
    data_digest: str
    config_sha256: str
    state_sha256: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows [first, last) of a tensor of some whole shape; a scalar is row 0 to 1."""

    values: Tensor
    first: int
    last: int
    shape: tuple[int, ...]


def model_state(model: Llama) -> dict[str, Tensor]:
    """Parameters by Hugging Face name, a tied head once."""
    return {name: parameter.detach() for name, parameter in sorted(model.named_parameters())}


def row_marks(values: Tensor) -> bytes:
    """What rows of a tensor contribute to its hash: blake2b-128 of each row, or the bytes of a vector as they are."""
    data = values.detach().cpu().contiguous()
    raw: Any = data.reshape(-1).view(torch.uint8).numpy()
    if data.dim() < 2 or not data.numel():
        return bytes(raw.tobytes())
    width = raw.size // len(data)
    view = memoryview(raw)
    return b"".join(hashlib.blake2b(view[i : i + width], digest_size=16).digest() for i in range(0, raw.size, width))


def combined_sha256(tensors: Iterable[tuple[str, str, tuple[int, ...], Iterable[bytes]]]) -> str:
    """The hash of a state, independent of layout and format: (name, type, shape, marks in the order of rows) of
    every tensor in the order of the names.
    """
    total = hashlib.sha256()
    for name, dtype, shape, parts in tensors:
        total.update(f"{name} {dtype} {shape}\n".encode())
        for part in parts:
            total.update(part)
    return total.hexdigest()


def state_sha256(*states: Mapping[str, Tensor]) -> str:
    """The hash of whole tensors by name."""
    return combined_sha256(
        (name, type_name(tensor), tuple(tensor.shape), [row_marks(tensor)])
        for name, tensor in sorted({name: tensor for state in states for name, tensor in state.items()}.items())
    )


def type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with replacing(path) as temporary:
        save_file_or_fail({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)


def save_file_or_fail(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Raises:
    OSError: the file cannot be written; safetensors has an error of its own for that, with the system's text in it.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from None


class Stored:
    """The tensors of a finished checkpoint, read by rows."""

    def __init__(self, folder: Path):
        """Raises:
        CostarError: the index is missing or damaged.
        """
        self.folder = folder
        self.tensors: dict[str, Any] = read_facts(folder / "index.json", ["tensors"], mend=MEND)["tensors"]

    @cached_property
    def _files(self) -> dict[str, Any]:
        names = {piece[0] for facts in self.tensors.values() for piece in facts["pieces"]}
        return {name: safe_open(self.folder / name, framework="pt") for name in names}

    def names(self) -> list[str]:
        """Names of the parameters."""
        return [name for name in self.tensors if ENTRY not in name]

    def entries(self) -> list[str]:
        """Names of the optimizer's state."""
        return [name for name in self.tensors if ENTRY in name]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, joined from the files that hold them."""
        facts, found = self.tensors[name], []
        for file, begin, end in facts["pieces"]:
            if begin < last and first < end:
                held = self._files[file].get_slice(name)
                found.append(
                    held[max(first - begin, 0) : last - begin] if facts["shape"] else self._files[file].get_tensor(name)
                )
        return found[0] if len(found) == 1 else torch.cat(found)

    def whole(self, name: str) -> Tensor:
        shape = self.tensors[name]["shape"]
        return self.rows(name, 0, shape[0] if shape else 1).reshape(shape)


def stored_sha256(folder: Path) -> str:
    """The hash of a finished checkpoint's tensors, read one after another."""
    stored = Stored(folder)
    return combined_sha256(
        (name, facts["dtype"], tuple(facts["shape"]), [row_marks(stored.whole(name))])
        for name, facts in sorted(stored.tensors.items())
    )


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


def remove_checkpoint(folder: Path) -> None:
    """Take the marker first, so that what is half removed counts as absent."""
    start_step(folder)
    shutil.rmtree(folder, ignore_errors=True)


def damaged_files(folder: Path, world: World) -> list[str]:
    """The files of a checkpoint whose bytes changed; the processes share the hashing."""
    marker = read_marker(folder)
    names = sorted(marker["files"]) if marker else []
    wrong = [name for name in names[world.rank :: world.size] if is_changed(folder, name, marker)]
    return sorted(name for part in world.gather(wrong) for name in part)


def is_changed(folder: Path, name: str, marker: Mapping[str, Any] | None) -> bool:
    assert marker is not None
    path, facts = folder / name, marker["files"][name]
    whole = path.is_file() and path.stat().st_size == facts["size"]
    return not whole or sha256_file(path) != facts["sha256"]


def require_config(folder: Path, config_sha256: str) -> None:
    """Raises:
    CostarError: the checkpoint was written under another configuration.
    """
    saved = read_saved(folder)
    if saved is not None and saved.config_sha256 != config_sha256:
        raise CostarError(
            str(folder),
            found=f"a checkpoint of another configuration ({saved.config_sha256[:12]})",
            expected=f"one of this run's ({config_sha256[:12]})",
            mend="remove the folder, or undo the change of the suite",
        )


def check_checkpoint(folder: Path) -> Saved:
    """The facts of a checkpoint whose bytes are as written.

    Raises:
        CostarError: it is damaged, or not there.
    """
    saved, wrong = read_saved(folder), damaged_files(folder, World())
    if saved is None or wrong:
        raise CostarError(
            str(folder / wrong[0] if wrong else folder),
            found="a damaged checkpoint" if wrong else "no finished checkpoint",
            expected="the bytes that were written",
            mend=MEND,
        )
    return saved


def load_checkpoint(folder: Path, model: Llama, optimizers: Optimizers | None) -> None:
    """Copy a checkpoint's values into a model, and into optimizers if given; each process reads the rows that it holds.

    Raises:
        CostarError: the checkpoint lacks a parameter, or has one of another shape.
    """
    stored = Stored(folder)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        shape = stored.tensors.get(name, {"shape": None})["shape"]
        if shape != list(parameter.shape):
            raise CostarError(
                str(folder), found=f"{name} of shape {shape}", expected=str(list(parameter.shape)), mend=MEND
            )
    fill(parameters, stored.rows)
    if optimizers is not None:
        fill(optimizers.make_state(stored.entries()), stored.rows)
