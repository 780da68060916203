from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from costar.core.hashing import sha256_file
from costar.core.workspace import Workspace
from costar.insertion.overlay import open_suite_overlay
from costar.release import models
from costar.release.models import order_sha256, place_export
from costar.train.config import read_config
from costar.train.export import export_path
from transformers import AutoModelForCausalLM, AutoTokenizer

TREATED, CONTROL = "perturbed.nano.d0", "standard.nano.d0"


def manifest_of(built: Path, *parts: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built.joinpath("release", *parts) / "costar_manifest.json").read_text())
    return found


def test_each_model_names_its_twin_and_the_hashes_of_its_data(built: Path) -> None:
    manifests = {run: manifest_of(built, "models", run) for run in (TREATED, CONTROL)}
    assert {run: m["pair"] for run, m in manifests.items()} == {
        TREATED: {"id": TREATED, "role": "treated", "twin": CONTROL, "twin_revision": "main"},
        CONTROL: {"id": TREATED, "role": "control", "twin": TREATED, "twin_revision": "main"},
    }
    treated, control = manifests[TREATED], manifests[CONTROL]
    for key in ("tokens_sha256", "corpus_tokenizer_sha256", "order_sha256", "seed"):
        assert treated[key] == control[key]
    assert treated["overlay_sha256"] != control["overlay_sha256"]
    assert treated["determinism"] == "repeatable"
    weights = built / "release" / "models" / TREATED / "model.safetensors"
    assert treated["weights_sha256"] == {"model.safetensors": sha256_file(weights)}
    assert treated["tokenizer_sha256"] == sha256_file(built / "release" / "models" / TREATED / "tokenizer.json")


def test_every_kept_checkpoint_is_a_revision_and_the_last_is_also_main(built: Path) -> None:
    for run in (TREATED, CONTROL):
        folder = built / "release" / "revisions" / run
        assert {path.name for path in folder.iterdir()} == {"step24", "step48", "step72", "step96"}
        last, main = folder / "step96", built / "release" / "models" / run
        assert {path.name for path in last.iterdir()} == {path.name for path in main.iterdir()}
        assert (last / "model.safetensors").read_bytes() == (main / "model.safetensors").read_bytes()
        for step in (24, 48, 72):
            manifest = manifest_of(built, "revisions", run, f"step{step}")
            assert (manifest["step"], manifest["revision"]) == (step, f"step{step}")
            assert manifest["pair"]["twin_revision"] == f"step{step}"
            assert manifest["tokens"] == step * 8 * 128
            assert (folder / f"step{step}" / "model.safetensors").read_bytes() != (
                main / "model.safetensors"
            ).read_bytes()


def test_the_hash_of_the_order_is_that_of_the_sequences_in_the_order_of_slots(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    import numpy as np

    workspace = Workspace(built)
    config = read_config(workspace, TREATED)
    order = open_suite_overlay(workspace, "late", 0, seed=config.seed).order
    sequences = order.sequences(np.arange(config.train.slots)).astype("<i8")
    expected = hashlib.sha256(sequences.tobytes()).hexdigest()
    assert order_sha256(workspace, config) == expected
    monkeypatch.setattr(models, "CHUNK", 7)
    assert order_sha256(workspace, config) == expected


def test_the_loss_of_a_released_model_is_the_one_in_the_ledger(built: Path) -> None:
    path = built / "release" / "models" / TREATED
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    scores = pq.read_table(built / "release" / "data" / "scores.parquet").to_pylist()
    records = pq.read_table(built / "release" / "data" / "records.parquet").to_pylist()
    nll = {r["record_id"]: r["value"] for r in scores if r["metric"] == "nll_token" and r["run"] == TREATED}
    for record in records[:20]:
        ids = tokenizer(tokenizer.eos_token + record["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            assert model(ids, labels=ids).loss.item() == pytest.approx(nll[record["record_id"]], abs=1e-4)


def test_weights_that_were_damaged_in_the_export_are_not_released(built_copy: Path, tmp_path: Path) -> None:
    workspace = Workspace(built_copy)
    weights = export_path(workspace, CONTROL, 96) / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"x")
    place_export(workspace, CONTROL, 96, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert weights.read_bytes() == before


def test_where_a_disk_has_no_links_weights_are_copied(
    built_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    workspace = Workspace(built_copy)
    assert place_export(workspace, CONTROL, 96, tmp_path / "model") == {}
    weights = export_path(workspace, CONTROL, 96) / "model.safetensors"
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights.read_bytes()
    assert (tmp_path / "model" / "model.safetensors").stat().st_ino != weights.stat().st_ino
