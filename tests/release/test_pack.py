from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.release.pack import write_release


def test_checksums_cover_every_file_and_agree(built: Path) -> None:
    folder = built / "release"
    sums = dict(reversed(line.split("  ", 1)) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
    assert set(sums) == files
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_each_model_names_its_twin_and_the_hashes_of_its_data(built: Path) -> None:
    models = built / "release" / "models"
    manifests = {p.name: json.loads((p / "costar_manifest.json").read_text()) for p in models.iterdir()}
    assert {run: m["pair"] for run, m in manifests.items()} == {
        "perturbed.nano.d0": {"role": "treated", "twin": "standard.nano.d0"},
        "standard.nano.d0": {"role": "control", "twin": "perturbed.nano.d0"},
    }
    treated, control = manifests["perturbed.nano.d0"], manifests["standard.nano.d0"]
    assert treated["tokens_sha256"] == control["tokens_sha256"]
    assert treated["overlay_sha256"] != control["overlay_sha256"]
    assert treated["determinism"] == "repeatable"


def test_nothing_released_is_pickle_or_points_at_this_machine(built: Path) -> None:
    for path in (built / "release").rglob("*"):
        assert path.suffix not in (".bin", ".pt", ".pkl", ".pickle")
        if path.is_file() and path.suffix in (".json", ".md"):
            assert str(built.parent.parent) not in path.read_text()


def test_the_snippet_of_the_page_runs_as_it_stands(built_copy: Path) -> None:
    folder = built_copy / "release"
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert code is not None
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(built_copy / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    losses = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if "nats per token" in line}
    assert set(losses) == {"treated", "control"}


def test_the_loss_of_a_released_model_is_the_one_in_the_ledger(built: Path) -> None:
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = built / "release" / "models" / "perturbed.nano.d0"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    scores = pq.read_table(
        built / "eval" / "scores" / "run=perturbed.nano.d0" / "step-000096.likelihood.parquet", partitioning=None
    ).to_pylist()
    records = pq.read_table(built / "release" / "data" / "records.parquet", partitioning=None).to_pylist()
    nll = {r["record_id"]: r["value"] for r in scores if r["metric"] == "nll_token"}
    for record in records[:20]:
        ids = tokenizer(tokenizer.eos_token + record["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            assert model(ids, labels=ids).loss.item() == pytest.approx(nll[record["record_id"]], abs=1e-4)


def test_the_data_folder_loads_with_datasets(built: Path, tmp_path: Path) -> None:
    from datasets import get_dataset_config_names, load_dataset

    folder = str(built / "release" / "data")
    names = get_dataset_config_names(folder)
    assert set(names) == {"records", "renderings", "assignments", "exposures", "effects"}
    exposures = load_dataset(folder, "exposures", split="train", cache_dir=str(tmp_path))
    assert set(exposures["arm"]) == {"perturbed"}
    assert len(exposures) == 12 + 168 + 20 + 40


def test_a_current_release_is_left_alone_and_a_damaged_one_is_packed_again(built_copy: Path) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    path = built_copy / "release" / "data" / "records.parquet"
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    write_release(suite, workspace)
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(before[:-1] + b"x")
    write_release(suite, workspace)
    assert path.read_bytes() == before


def test_an_unfinished_run_is_named(built_copy: Path) -> None:
    shutil.rmtree(built_copy / "runs" / "perturbed.nano.d0" / "checkpoints" / "step-000096")
    with pytest.raises(CostarError, match=r"perturbed.nano.d0 is not finished"):
        write_release(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
