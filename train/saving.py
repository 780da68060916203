"""Writing checkpoints while training goes on, and taking away those that are no longer needed.

On a GPU the state is copied to the CPU and written by a thread while the next steps run; on a CPU writing in between is
as fast and needs no copy. Every process writes what it holds; the first gathers their facts and writes the marker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ..core.hashing import sha256_file
from ..core.workspace import Workspace, finish_step, remove_leftovers, replacing, start_step, step_of, write_json
from .checkpoint import (
    Piece,
    Saved,
    combined_sha256,
    model_state,
    remove_checkpoint,
    row_marks,
    save_file_or_fail,
    type_name,
)
from .engine import Engine
from .init import held_rows
from .optim import local
from .world import World

Failure = tuple[Any, Any, Any]  # errno, text and file of an OSError


class Saver:
    """Writes the checkpoints of a run. Those at other steps than `kept` are for restarts: each goes when the next is whole.

    `background`: in a thread; `save` then waits for the checkpoint before.
    """

    def __init__(self, workspace: Workspace, run: str, engine: Engine, *, kept: Collection[int], background: bool):
        self.workspace, self.run, self.engine = workspace, run, engine
        self.kept, self.background = frozenset(kept), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.written = time.monotonic()

    def save(self, step: int, digest: bytes, config_sha256: str) -> None:
        """Write the state after `step` updates.

        Raises:
            OSError: this checkpoint, or the one before it, could not be written by some process.
        """
        self.wait()
        pieces = state_pieces(self.engine, copied=self.background)
        facts = (step, digest.hex(), config_sha256)
        if not self.background:
            self._write(pieces, *facts)
        else:
            self._thread = threading.Thread(target=self._guarded, args=(pieces, *facts))
            self._thread.start()
        self.written = time.monotonic()

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written."""
        return self._error is not None

    def join(self) -> None:
        """Until nothing is being written any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Until the last checkpoint is whole.

        Raises:
            OSError: it could not be written; any other error of writing as it was.
        """
        self.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _guarded(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # of whatever kind: the training thread raises it
            self._error = error

    def _write(self, pieces: dict[str, Piece], step: int, digest: str, config_sha256: str) -> None:
        world, folder = self.engine.world, self.workspace.checkpoint(self.run, step)
        _raise_any(world.gather(_begun(folder) if world.is_first else None, world.files_group))
        part = _written_part(folder, world.rank, pieces)
        _raise_any(world.gather(part.error, world.files_group))
        parts = world.collect(part, world.files_group)
        error: Failure | None = None
        if world.is_first:
            try:
                _finish(folder, parts, step, digest, config_sha256)
            except OSError as caught:
                error = (caught.errno, caught.strerror, caught.filename)
        _raise_any(world.gather(error, world.files_group))
        if world.is_first:
            self._thin(step)

    def _thin(self, newest: int) -> None:
        for folder in sorted((self.workspace.run(self.run) / "checkpoints").glob("step-*")):
            if step_of(folder) not in self.kept | {newest}:
                remove_checkpoint(folder)


def _begun(folder: Path) -> Failure | None:
    """Make the folder and take its marker away, before any process writes; what went wrong is told to all."""
    try:
        start_step(folder)
        remove_leftovers(folder)
    except OSError as error:
        return error.errno, error.strerror, error.filename
    return None


def _raise_any(failures: list[Failure | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise OSError(*failure)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one process wrote: its file, the file's hash, and for each tensor what the index and the hash need."""

    file: str
    sha256: str = ""
    tensors: tuple[tuple[str, str, tuple[int, ...], int, int, bytes], ...] = ()
    error: Failure | None = None


def state_pieces(engine: Engine, *, copied: bool) -> dict[str, Piece]:
    """The rows of parameters and optimizer state that this process is to write; `copied`: as copies on the CPU.

    Where every process holds everything, or a group of them replicates another, only the first writes.
    """
    if not _writes(engine.world, engine):
        return {}
    tensors = {**model_state(engine.model), **engine.optimizers.state()}
    whole_here = engine.world.is_first
    pieces = {}
    for name, tensor in tensors.items():
        first, last = held_rows(tensor)
        if last > first and (isinstance(tensor, DTensor) or whole_here):
            pieces[name] = Piece(values=local(tensor).detach(), first=first, last=last, shape=tuple(tensor.shape))
    if copied:
        pieces = _copied(pieces)
    return pieces


def _writes(world: World, engine: Engine) -> bool:
    if not engine.sharded:
        return world.is_first
    return world.rank < (world.node if engine.sharding == "hybrid" else world.size)


def _copied(pieces: dict[str, Piece]) -> dict[str, Piece]:
    """Copies in pinned memory where there is a GPU, all begun before the first is waited for."""
    found = {}
    for name, piece in pieces.items():
        target = torch.empty_like(piece.values, device="cpu", pin_memory=piece.values.is_cuda)
        target.copy_(piece.values, non_blocking=True)
        found[name] = Piece(values=target, first=piece.first, last=piece.last, shape=piece.shape)
    if any(piece.values.is_cuda for piece in pieces.values()):
        torch.cuda.current_stream().synchronize()
    return found


def _written_part(folder: Path, rank: int, pieces: dict[str, Piece]) -> _Part:
    """Write this process' file; an error is handed to all processes instead of leaving them waiting."""
    name = f"rank-{rank:05d}.safetensors"
    if not pieces:
        return _Part(file="")
    try:
        with replacing(folder / name) as temporary:
            save_file_or_fail({key: piece.values.cpu().contiguous() for key, piece in pieces.items()}, temporary)
        tensors = tuple(
            (key, type_name(p.values), p.shape, p.first, p.last, row_marks(p.values)) for key, p in pieces.items()
        )
        return _Part(file=name, sha256=sha256_file(folder / name), tensors=tensors)
    except OSError as error:
        return _Part(file=name, error=(error.errno, error.strerror, error.filename))


def _finish(folder: Path, parts: list[_Part], step: int, digest: str, config_sha256: str) -> None:
    """Index, facts and marker of a checkpoint whose parts are written."""
    index: dict[str, Any] = {}
    marks: dict[str, list[bytes]] = {}
    for part in parts:
        for name, dtype, shape, first, last, marked in part.tensors:
            facts = index.setdefault(name, {"dtype": dtype, "shape": list(shape), "pieces": []})
            facts["pieces"].append([part.file, first, last])
            marks.setdefault(name, []).append(marked)
    state = combined_sha256((name, f["dtype"], tuple(f["shape"]), marks[name]) for name, f in sorted(index.items()))
    write_json(folder / "index.json", {"tensors": index})
    write_json(folder / "state.json", vars(Saved(step, digest, config_sha256, state)))
    hashes = {folder / part.file: part.sha256 for part in parts if part.file}
    finish_step(folder, config_sha256, [*hashes, folder / "index.json", folder / "state.json"], known=hashes)
