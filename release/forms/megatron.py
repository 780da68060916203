"""One arm and draw as files that GPT-NeoX and Megatron read: a materialized store and the order of training.

`release/megatron/<arm>-d<draw>/` holds `tokens.bin` (the base with every exposure written in), `tokens.idx` with the
true ends of the documents, NeoX's three index tables under the names that NeoX looks for, and `export.json` with the
NeoX settings to use (`data_path` is the path of `tokens`, without suffix). NeoX then reads the rows of the arm's runs
in their order. A corpus with order tables keeps its tables and the documents of its base. If asked for, the `.bin` is
there again as zstd parts: `zstd -dc tokens.bin.*.zst > tokens.bin`, then `sha256sum -c SHA256SUMS`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from ...core.design import ArmDesign, Suite
from ...core.errors import CostarError
from ...core.hashing import sha256_file, sha256_json
from ...core.workspace import (
    Workspace,
    check_files,
    corpus_facts,
    finish_step,
    is_current,
    output_lock,
    replacing,
    start_step,
    write_json,
    write_text,
)
from ...corpus.neox import NeoxIndex, arm_index, index_stem, save_index
from ...corpus.store import write_idx
from ...corpus.windows import TableWindows
from ...insertion.build import require_insertion
from ...insertion.materialize import EditList, edited_documents, materialize
from ...insertion.order import Order
from ...insertion.overlay import Overlay, open_suite_overlay
from ...insertion.pieced import edit_list
from ..chosen import Chosen

OPTIONS = ("parts",)
FOLDER = "megatron"
VERSION = 1
NEOX_SEED = 1234
MIB = 1 << 20
READ_AT_ONCE = 4 * MIB
ORDER_AT_ONCE = 1 << 22
ZSTD_LEVEL = 3


def export_folder(workspace: Workspace, arm: str, draw: int) -> Path:
    return workspace.release / FOLDER / f"{arm}-d{draw}"


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """Write an arm with the right to write its folder, and return it.

    Raises:
        CostarError: what `export_megatron` refuses, or another process writes it.
    """
    require_insertion(suite, workspace)
    _check_parts(chosen.parts)
    with output_lock(export_folder(workspace, chosen.arm, chosen.draw), "export"):
        return [export_megatron(suite, workspace, chosen.arm, chosen.draw, parts_mb=chosen.parts)]


def export_megatron(
    suite: Suite,
    workspace: Workspace,
    arm: str,
    draw: int,
    *,
    parts_mb: int | None = None,
    neox_seed: int = NEOX_SEED,
) -> Path:
    """Write the export of an arm and draw and return its folder. Leaves a current one alone.

    `parts_mb` adds the `.bin` in parts of that many MiB before compression. `neox_seed` is the `seed` of the NeoX
    configuration: it is part of the file names that NeoX looks for, and changes no order.

    Raises:
        CostarError: no such arm or draw, the suite is not built that far, or the arm reads a part of its base twice.
    """
    design = _find_arm(suite, arm, draw)
    _check_parts(parts_mb)
    overlay = open_suite_overlay(workspace, arm, draw, seed=suite.seed)
    _refuse_epochs(design, overlay.order.size)
    facts = corpus_facts(workspace)
    identity = {
        "suite": suite.name,
        "arm": arm,
        "draw": draw,
        "seed": suite.seed,
        "overlay_sha256": overlay.edits.sha256(),
        "exposures": len(overlay.edits.slots),
        "slots": design.train.slots,
        "sequences": overlay.order.size,
        **{key: facts[key] for key in ("tokens_sha256", "tokenizer_sha256", "vocab_size", "eos_id", "sequence_length")},
    }
    settings = _neox_settings(design, overlay.length, neox_seed)
    base = check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")["files"]
    inputs = sha256_json([VERSION, identity, settings, parts_mb, base])
    folder = export_folder(workspace, arm, draw)
    if is_current(folder, inputs):
        return folder
    start_step(folder)
    for path in folder.iterdir():
        path.unlink()
    store, bin_path, idx_path = overlay.store, folder / "tokens.bin", folder / "tokens.idx"
    edits = edit_list(overlay)
    materialize(workspace.corpus / "tokens.bin", edits, bin_path)
    digest = sha256_file(bin_path)
    sizes, index = _documents(overlay, edits, facts["eos_id"])
    with replacing(idx_path) as temporary:
        write_idx(temporary, sizes, store.tokens.dtype)
    stem = index_stem(folder / "tokens", slots=design.train.slots, length=overlay.length, seed=neox_seed)
    paths = [bin_path, idx_path, *save_index(stem, index, slots=design.train.slots)]
    if parts_mb is not None:
        paths += write_parts(bin_path, parts_mb * MIB, digest)
    counts = {"tokens": len(store.tokens), "documents": len(sizes), "tokens_bin_sha256": digest}
    write_json(folder / "export.json", {**identity, **counts, "neox": settings})
    finish_step(folder, inputs, [*paths, folder / "export.json"])
    return folder


def _documents(overlay: Overlay, edits: EditList, eos: int) -> tuple[NDArray[np.int32], NeoxIndex]:
    """The sizes of the exported documents and the tables of the order. Given tables count in the documents of the base,
    so both stay as they are."""
    if isinstance(overlay.windows, TableWindows):
        return overlay.store.sizes, overlay.windows.index
    sizes = edited_documents(overlay.store.sizes, edits, eos)
    return sizes, arm_index(sizes, _all_sequences(overlay.order), overlay.length)


def _find_arm(suite: Suite, arm: str, draw: int) -> ArmDesign:
    if arm not in suite.arms:
        raise CostarError("arm", found=arm, expected=f"one of {', '.join(suite.arms)}", mend="correct it")
    design = suite.arms[arm]
    if not 0 <= draw < design.draws:
        raise CostarError("draw", found=str(draw), expected=f"below {design.draws}", mend="correct it")
    return design


def _check_parts(parts_mb: int | None) -> None:
    if parts_mb is not None and parts_mb < 1:
        raise CostarError("parts", found=str(parts_mb), expected="MiB, from 1 on", mend="give 1,024 for parts of 1 GiB")


def _refuse_epochs(design: ArmDesign, sequences: int) -> None:
    """One materialized stream holds one epoch: at a second pass the same bytes would be read with the copies of both."""
    if design.train.slots > sequences:
        raise CostarError(
            f"arm {design.name}",
            found=f"{design.train.slots:,} slots",
            expected=f"at most {sequences:,}, the sequences of the base: it would be read more than once",
            mend="fewer steps or a larger base; or read the arm as an overlay, with costar.torch_dataset",
        )


def _neox_settings(design: ArmDesign, length: int, seed: int) -> dict[str, Any]:
    """The keys of a NeoX configuration that make it read this export, and nothing else, in its order."""
    return {
        "data_path": "tokens",
        "data_impl": "mmap",
        "split": "1,0,0",
        "seq_length": length,
        "train_iters": design.train.steps,
        "train_batch_size": design.train.batch,
        "eval_iters": 0,
        "seed": seed,
        "pack_impl": "packed",
        "allow_chopped": True,
    }


def _all_sequences(order: Order) -> NDArray[np.int64]:
    """The sequence read at every slot of the first epoch [S], computed in blocks."""
    out = np.empty(order.size, np.int64)
    for first in range(0, order.size, ORDER_AT_ONCE):
        slots = np.arange(first, min(first + ORDER_AT_ONCE, order.size))
        out[first : first + len(slots)] = order.sequences(slots)
    return out


def write_parts(path: Path, size: int, digest: str) -> list[Path]:
    """Compress a file of sha256 `digest` in parts of `size` bytes, each on its own, with SHA256SUMS; the new paths."""
    count = max(1, -(-path.stat().st_size // size))
    digits = max(3, len(str(count - 1)))
    parts = []
    with path.open("rb") as source:
        for number in range(count):
            part = path.with_name(f"{path.name}.{number:0{digits}}.zst")
            with (
                replacing(part) as temporary,
                temporary.open("wb") as file,
                zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(file, closefd=False) as out,
            ):
                left = size
                while block := source.read(min(left, READ_AT_ONCE)):
                    out.write(block)
                    left -= len(block)
            parts.append(part)
    sums = [f"{sha256_file(part)}  {part.name}\n" for part in parts]
    write_text(path.with_name("SHA256SUMS"), "".join(sums) + f"{digest}  {path.name}\n")
    return [*parts, path.with_name("SHA256SUMS")]


def join_parts(folder: Path, path: Path) -> None:
    """Write `path` from the parts in a folder, as `zstd -dc tokens.bin.*.zst` would, each checked by its sum.

    Raises:
        CostarError: no SHA256SUMS, a part is missing or damaged, or the whole is not what was split.
    """

    def fail(place: Path, found: str, expected: str) -> CostarError:
        return CostarError(str(place), found=found, expected=expected, mend="copy the parts and SHA256SUMS again")

    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise fail(sums, "no such file", "the sums of the parts")
    lines = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
    if not lines or not all(len(line) == 2 for line in lines):
        raise fail(sums, "lines that are not sums", "a sum, two spaces and a name")
    *parts, (whole, _) = lines
    state = hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as out:
        for digest, name in parts:
            part = folder / Path(name).name
            if not part.is_file() or sha256_file(part) != digest:
                raise fail(part, "a damaged part" if part.is_file() else "no such file", f"sha256 {digest}")
            with part.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as source:
                while block := source.read(READ_AT_ONCE):
                    state.update(block)
                    out.write(block)
        if state.hexdigest() != whole:
            raise fail(sums, f"parts that join to sha256 {state.hexdigest()}", whole)
