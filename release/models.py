"""The models of a release as repositories: `models/<run>` is what `main` holds, `revisions/<run>/step<n>` each checkpoint.

Weights are hard links to the run's own exports where the disk allows it: a release costs no second copy of them, and
outlives the runs. Their bytes are compared with what was written when they were exported, so damage does not travel.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.workspace import Workspace, read_facts, read_marker, replacing, write_json, write_text
from ..corpus.windows import open_windows
from ..insertion.order import make_order
from ..train.config import RunConfig, read_config
from ..train.export import export_path
from .facts import MANIFEST
from .forms.hf import export_checkpoint
from .pairs import Pair

FORMAT = 1
WEIGHTS = ".safetensors"
CHUNK = 1 << 20  # slots whose order is hashed at a time
Manifest = dict[str, Any]
Card = Callable[[RunConfig, Manifest], str]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The models of a release: run → kept steps, and the hashes of files that are known already."""

    revisions: dict[str, list[int]] = field(default_factory=dict)
    known: dict[Path, str] = field(default_factory=dict)


def pack_models(
    suite_name: str,
    workspace: Workspace,
    pairs: Sequence[Pair],
    states: Mapping[str, Mapping[int, str]],
    card: Card,
    *,
    blind: bool,
) -> Packed:
    """Write the repositories of every run of the pairs; `states` are run → step → hash of the state."""
    packed = Packed()
    orders: dict[tuple[int, int], str] = {}
    for run, steps in states.items():
        config = read_config(workspace, run)
        order_key = (config.draw, config.train.slots)
        if order_key not in orders:
            orders[order_key] = order_sha256(workspace, config)
        packed.revisions[run] = sorted(steps)
        last = config.train.steps
        for step in sorted(steps):
            targets = [(workspace.release / "revisions" / run / f"step{step}", f"step{step}")]
            if step == last:
                targets.append((workspace.release / "models" / run, "main"))
            for target, revision in targets:
                packed.known.update(place_export(workspace, run, step, target))
                weights = sorted(target.glob(f"*{WEIGHTS}"))
                manifest = {
                    **_pairs_of(run, pairs, step, revision, states),
                    **_identity(workspace, suite_name, config, step, revision),
                    "tokenizer_sha256": sha256_file(target / "tokenizer.json"),
                    "state_sha256": steps[step],
                    "weights_sha256": {path.name: packed.known.get(path) or sha256_file(path) for path in weights},
                    "order_sha256": orders[order_key],
                    **({} if blind else {"seed": config.seed}),
                }
                write_json(target / MANIFEST, manifest)
                write_text(target / "README.md", card(config, manifest))
    return packed


def place_export(workspace: Workspace, run: str, step: int, target: Path) -> dict[Path, str]:
    """The files of a run's export in a folder; the hashes of those that are links.

    Raises:
        CostarError: an export whose bytes are wrong again after it was written anew.
    """
    for attempt in range(2):
        exported = export_checkpoint(workspace, run, step)
        marker = read_marker(exported)
        assert marker is not None
        files = {exported / name: facts["sha256"] for name, facts in marker["files"].items()}
        wrong = [path for path, sha in files.items() if sha256_file(path) != sha]
        if not wrong:
            break
        if attempt:
            raise CostarError(
                str(wrong[0]),
                found="other bytes than those just written",
                expected="a disk that keeps what is written",
                mend="check the disk",
                exit_code=1,
            )
        (export_path(workspace, run, step) / "stage.json").unlink()
    target.mkdir(parents=True, exist_ok=True)
    linked = {}
    for path, sha in sorted(files.items()):
        if path.suffix == WEIGHTS and _linked(path, target / path.name):
            linked[target / path.name] = sha
        else:
            with replacing(target / path.name) as temporary:
                shutil.copyfile(path, temporary)
    return linked


def _linked(source: Path, target: Path) -> bool:
    """Whether a file could be given a second name; not across disks, nor on every kind of disk."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def order_sha256(workspace: Workspace, config: RunConfig) -> str:
    """The hash of which base sequence stands at each slot of a run, as little-endian int64: equal within a pair."""
    order = make_order(open_windows(workspace.corpus, config.sequence_length), seed=config.seed, draw=config.draw)
    state = hashlib.sha256()
    for first in range(0, config.train.slots, CHUNK):
        slots = np.arange(first, min(first + CHUNK, config.train.slots), dtype=np.int64)
        state.update(np.ascontiguousarray(order.sequences(slots), "<i8").tobytes())
    return state.hexdigest()


def _pairs_of(
    run: str, pairs: Sequence[Pair], step: int, revision: str, states: Mapping[str, Mapping[int, str]]
) -> Manifest:
    """The pairs that a run is in: of a control that several arms share, the first as `pair`, then the others."""
    found = []
    for pair in pairs:
        if run in pair.runs:
            twin = pair.twin(run)
            twin_revision = revision if step in states[twin] else None
            found.append({"id": pair.pair, "role": pair.role(run), "twin": twin, "twin_revision": twin_revision})
    return {"pair": found[0], "other_pairs": found[1:]}


def _identity(workspace: Workspace, suite_name: str, config: RunConfig, step: int, revision: str) -> Manifest:
    identity = read_facts(workspace.run(config.run) / "identity.json", ["determinism"], mend="train the run again")
    return {
        "format": FORMAT,
        "suite": suite_name,
        "run": config.run,
        "arm": config.arm,
        "model": config.model,
        "draw": config.draw,
        "step": step,
        "steps": config.train.steps,
        "revision": revision,
        "tokens": step * config.train.batch * config.sequence_length,
        "tokens_sha256": config.tokens_sha256,
        "corpus_tokenizer_sha256": config.tokenizer_sha256,
        "overlay_sha256": config.overlay_sha256,
        "config_sha256": config.config_sha256(),
        "start": config.start.kind,
        "start_sha256": config.start.sha256,
        "earlier_exposure": config.start.earlier_exposure,
        "determinism": identity["determinism"],
        "costar_version": importlib.metadata.version("costar"),
    }
