"""The models of a release as `transformers` loads them: they are what their manifests say and score what was shipped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ..core.console import Update
from ..core.design import RunName
from ..core.errors import shorten
from ..core.hashing import keyed_hashes, sha256_file
from ..core.parquet import read_table
from .facts import MANIFEST, SUMS, Release, wrong_types
from .sums import read_sums
from .verify_files import configured

SAMPLE = 16  # records that are scored again, of each run
FEWER = (
    4  # and of the branch of its last step; earlier ones have no scores, and their weights are those of the manifest
)
NEAR = 1e-3  # nats per token
WEIGHTS = ".safetensors"
MEND = "fetch the release again"
TYPES = {"suite": str, "run": str, "arm": str, "model": str, "draw": int, "step": int, "revision": str}
HASHES = ("tokens_sha256", "tokenizer_sha256", "config_sha256", "state_sha256", "order_sha256")
OBJECTS = {"pair": dict, "other_pairs": list, "weights_sha256": dict}
SHARED = ("model", "draw", "seed", "tokens_sha256", "tokenizer_sha256", "order_sha256")  # what twins have in common
Manifests = dict[tuple[str, int | None], dict[str, Any]]  # by run and step; None is `main`


def wrong_manifests(release: Release) -> list[str]:
    """What `costar_manifest.json` of every model says that the release, its weights or its twin do not.

    Hashes of weights are those of SHA256SUMS, which has been compared with the files.
    """
    problems: list[str] = []
    manifests: Manifests = {}
    sums = read_sums(release.folder / SUMS)
    for run, step, folder in release.model_folders():
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: no facts ({shorten(error)})")
            continue
        if not isinstance(manifest, dict):
            problems.append(f"{path}: not an object")
            continue
        found = wrong_types(manifest, TYPES | dict.fromkeys(HASHES, str) | OBJECTS)
        if not found:
            found = _disagreeing(release, manifest, run, step, folder)
            found += _other_weights(release, manifest, folder, sums)
            manifests[run, step] = manifest
        problems += [f"{path}: {text}" for text in found]
    return problems + _unequal(release, manifests)


def _other_weights(release: Release, manifest: dict[str, Any], folder: Path, sums: dict[str, str]) -> list[str]:
    """Weights that are not those the manifest names, and whose they are."""
    own = f"{folder.relative_to(release.folder).as_posix()}/"
    actual = {
        name.removeprefix(own): sha for name, sha in sums.items() if name.startswith(own) and name.endswith(WEIGHTS)
    }
    found = []
    for name in sorted(actual.keys() | manifest["weights_sha256"].keys()):
        says, sha = manifest["weights_sha256"].get(name), actual.get(name)
        if says != sha:
            owner = next((other for other, digest in sums.items() if digest == sha and not other.startswith(own)), None)
            is_of = f", but of {owner}" if owner else ""
            found.append(f"{name} is not of the weights that it names ({shorten(says, 12)}){is_of}")
    return found


def _unequal(release: Release, manifests: Manifests) -> list[str]:
    """Manifests that differ where the two of a pair, or the branches of a run, must not, or agree where they must not."""
    problems = []
    for (run, step), manifest in manifests.items():
        last = manifests.get((run, manifest["step"]))
        if step is None and last is not None and last["state_sha256"] != manifest["state_sha256"]:
            problems.append(f"models/{run} and revisions/{run}/step{manifest['step']}: another state at one step")
    for pair in release.pairs:
        treated, control = pair["treated"], pair["control"]
        first = manifests.get((control, None), {})
        for (run, step), manifest in manifests.items():
            if run in (treated, control) and first:
                where = f"models/{run}" if step is None else f"revisions/{run}/step{step}"
                problems += [
                    f"{release.folder / where / MANIFEST}: {key} is {manifest.get(key)}, but {first.get(key)} "
                    f"in models/{control} of its pair"
                    for key in SHARED
                    if manifest.get(key) != first.get(key)
                ]
            twin = manifests.get((control, step)) if run == treated else None
            if twin and twin["state_sha256"] != manifest["state_sha256"] and _weights(twin) == _weights(manifest):
                at = "the last step" if step is None else f"step {step}"
                problems.append(f"{treated} and {control}: the same weights at {at}, though their states differ")
    return list(dict.fromkeys(problems))


def _weights(manifest: dict[str, Any]) -> list[str]:
    return sorted(map(str, manifest["weights_sha256"].values()))


def _disagreeing(release: Release, manifest: dict[str, Any], run: str, step: int | None, folder: Path) -> list[str]:
    """Where a manifest says otherwise than the release and the files beside it."""
    pairs = [manifest["pair"], *manifest["other_pairs"]]
    told = {str(pair.get("twin")) if isinstance(pair, dict) else "" for pair in pairs}
    steps = release.revisions.get(run, [])
    revision = "main" if step is None else f"step{step}"
    found = []
    for key, says, expected in (
        ("suite", manifest["suite"], release.suite),
        ("run", manifest["run"], run),
        *((key, manifest[key], getattr(RunName.parse(run), key)) for key in ("arm", "model", "draw")),
        ("revision", manifest["revision"], revision),
        ("step", manifest["step"], step if step is not None else max(steps, default=manifest["step"])),
        ("twin", ", ".join(sorted(told)), ", ".join(sorted(release.twins(run)))),
        ("tokenizer_sha256", manifest["tokenizer_sha256"], sha256_file(folder / "tokenizer.json")),
    ):
        if says != expected:
            found.append(f"{key} is {says}, but the release has {expected}")
    for pair in pairs if not found else []:
        twin, at = pair["twin"], pair.get("twin_revision")
        if at is not None and at not in ("main", *(f"step{each}" for each in release.revisions.get(twin, []))):
            found.append(f"twin_revision is {at}, which {twin} does not have")
    return found


def wrong_models(release: Release, update: Update) -> tuple[int, int, list[str]]:
    """Load every model and score a sample of records again: how many models, how many scores, and what is wrong.

    Scores are of last steps. A suite that was not measured ships none; then there are none to compare with.
    """
    shipped = _shipped(release)
    texts = _texts(release)
    folders = release.model_folders()
    scored, problems = 0, []
    for number, (run, step, folder) in enumerate(folders):
        update(number / len(folders), str(folder.relative_to(release.folder)))
        try:
            reader = Reader(folder)
        except Exception as error:  # whatever a loader raises: the model is not usable
            problems.append(f"{folder}: does not load: {type(error).__name__}: {shorten(error, 160)}")
            continue
        if not reader.is_finite():
            problems.append(f"{folder}: logits that are not finite")
            continue
        at = _step_of(folder) if step is None else step
        rows = [row for row in shipped.get((run, at), []) if (row["record_id"], row["rendering"]) in texts]
        for row in _sample(release, run, rows, SAMPLE if step is None else FEWER):
            found = reader.nll(texts[row["record_id"], row["rendering"]])
            if found is None:
                continue
            scored += 1
            if not abs(found - row["value"]) <= NEAR:
                problems.append(
                    f"{folder}: record {row['record_id']} ({row['rendering']}): shipped {row['value']:.4f} nats per token, "
                    f"found {found:.4f}"
                )
    return len(folders), scored, problems


def _sample(release: Release, run: str, rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Rows that anybody who verifies this release draws, and that nobody chose."""
    keys = keyed_hashes((release.release_id, run), [f"{row['record_id']}/{row['rendering']}" for row in rows])
    order = sorted(range(len(rows)), key=lambda number: keys[number])
    return [rows[number] for number in order[:most]]


def _shipped(release: Release) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The shipped likelihoods, by run and step."""
    names = ["run", "step", "record_id", "rendering", "value"]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for path in configured(release.folder / "data").get("scores", []):
        table = read_table(path, mend=MEND, columns=[*names, "probe", "metric"])
        chosen = pc.and_(pc.equal(table.column("probe"), "likelihood"), pc.equal(table.column("metric"), "nll_token"))
        for row in table.filter(chosen).select(names).to_pylist():
            found.setdefault((row["run"], row["step"]), []).append(row)
    return found


def _texts(release: Release) -> dict[tuple[str, str], str]:
    """The text of each rendering."""
    found: dict[tuple[str, str], str] = {}
    for path in configured(release.folder / "data").get("renderings", []):
        table = read_table(path, mend=MEND, columns=["record_id", "rendering", "text"])
        columns = [table.column(name).to_pylist() for name in ("record_id", "rendering", "text")]
        found |= {(record, rendering): text for record, rendering, text in zip(*columns, strict=True)}
    return found


def _step_of(folder: Path) -> int:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return int(manifest["step"])


class Reader:
    """A model and its tokenizer, in float32, without network."""

    def __init__(self, folder: Path):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        ).eval()

    def is_finite(self) -> bool:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([[self.tokenizer.eos_token_id]])).logits
        return bool(torch.isfinite(logits).all())

    def nll(self, text: str) -> float | None:
        """Nats per token of a text after EOS; None where it is longer than the model reads."""
        import torch

        ids = [self.tokenizer.eos_token_id, *self.tokenizer(text, add_special_tokens=False).input_ids]
        if len(ids) > self.model.config.max_position_embeddings + 1 or len(ids) < 2:
            return None
        row = torch.tensor([ids])
        with torch.no_grad():
            logits = self.model(row[:, :-1]).logits[0].float()
        return float(torch.nn.functional.cross_entropy(logits, row[0, 1:]))
