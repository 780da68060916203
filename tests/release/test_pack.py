from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.release.pack import write_release
from costar.release.sums import release_id
from huggingface_hub import ModelCard

PARTS = ("models", "revisions", "data")


def sums_of(folder: Path) -> dict[str, str]:
    lines = (line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines())
    return {name: digest for digest, name in lines}


def released(folder: Path) -> set[str]:
    """The files of a release, but for its sums and exports."""
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}
    return {str(n) for n in names if len(n.parts) == 1 or n.parts[0] in PARTS} - {"SHA256SUMS"}


def pack(built: Path, **changed: object) -> int:
    return write_release(replace(load_suite(built / "suite.toml"), **changed), Workspace(built))  # type: ignore[arg-type]


def test_checksums_cover_every_file_and_agree(built: Path) -> None:
    folder = built / "release"
    sums = sums_of(folder)
    assert set(sums) == released(folder)
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_facts_name_pairs_revisions_and_what_the_release_is_made_of(built: Path) -> None:
    folder = built / "release"
    facts = json.loads((folder / "release.json").read_text())
    treated, control = "perturbed.nano.d0", "standard.nano.d0"
    pair = {"pair": treated, "treated": treated, "control": control, "arm": "perturbed", "model": "nano", "draw": 0}
    assert facts["pairs"] == [pair]
    assert facts["revisions"] == {run: [24, 48, 72, 96] for run in (treated, control)}
    assert (facts["version"], facts["suite"], facts["blind"], facts["withheld"]) == (1, "small", False, {})
    assert facts["release_id"] == release_id(sums_of(folder))
    other = {**sums_of(folder), "README.md": "0" * 64}
    assert release_id(other) == facts["release_id"]
    assert release_id({**other, "data/README.md": "0" * 64}) != facts["release_id"]


def test_nothing_released_is_pickle_or_points_at_this_machine(built: Path) -> None:
    for path in (built / "release").rglob("*"):
        assert path.suffix not in (".bin", ".pt", ".pkl", ".pickle")
        if path.is_file() and path.suffix in (".json", ".md", ".cff"):
            assert str(built.parent.parent) not in path.read_text()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "data/README.md",
        "models/perturbed.nano.d0/README.md",
        "revisions/standard.nano.d0/step24/README.md",
    ],
)
def test_the_snippets_of_every_page_run_as_they_stand(built: Path, tmp_path: Path, page: str) -> None:
    folder = built / "release"
    (code,) = re.findall(r"```python\n(.*?)```", (folder / page).read_text(), re.S)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if page == "README.md":
        told = {
            line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if "nats per token" in line
        }
        assert told["treated"] < told["control"]


def test_a_current_release_is_left_alone_and_a_damaged_one_is_packed_again(built_copy: Path) -> None:
    folder = built_copy / "release"
    weights = folder / "models" / "perturbed.nano.d0" / "model.safetensors"
    paths = [folder / "data" / "records.parquet", weights]
    before, stamps = [path.read_bytes() for path in paths], [path.stat().st_mtime_ns for path in paths]
    assert pack(built_copy) == 1
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    for path, content in zip(paths, before, strict=True):
        with path.open("rb+") as file:  # in place, so that a link of the file is damaged with it
            file.seek(len(content) - 9)
            file.write(b"x")
    assert pack(built_copy) == 1
    assert [path.read_bytes() for path in paths] == before


def test_a_release_outlives_its_runs_and_is_not_touched_by_a_later_export(built_copy: Path) -> None:
    folder, sums = built_copy / "release", sums_of(built_copy / "release")
    shutil.rmtree(built_copy / "runs")
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())


def test_packing_again_from_nothing_gives_the_same_bytes(built_copy: Path) -> None:
    folder, before = built_copy / "release", sums_of(built_copy / "release")
    (built_copy / "stage-release.json").unlink()
    for name in ("data/records.parquet", "README.md", "SHA256SUMS", "release.json"):  # a pack that was killed
        (folder / name).unlink()
    (folder / "models" / "left-over").mkdir()
    (folder / "models" / "left-over" / "file").touch()
    pack(built_copy)
    assert sums_of(folder) == before
    assert released(folder) == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["data/README.md", "revisions/standard.nano.d0/step48/README.md", "release.json"])
def test_a_pack_that_is_killed_ends_with_the_same_bytes_the_next_time(built_copy: Path, seen: str) -> None:
    folder, before = built_copy / "release", sums_of(built_copy / "release")
    (built_copy / "stage-release.json").unlink()
    for name in ("models", "revisions", "data", "release.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    command = [sys.executable, "-m", "costar", "release", "./small.toml"]
    process = subprocess.Popen(
        command, cwd=built_copy.parent.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (folder / seen).exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (built_copy / "stage-release.json").exists()
    pack(built_copy)
    assert sums_of(folder) == before
    assert released(folder) == set(before)


def test_what_is_refused_is_refused_before_a_file_is_touched(built_copy: Path) -> None:
    folder, before = built_copy / "release", sums_of(built_copy / "release")
    suite = load_suite(built_copy / "suite.toml")
    passages = suite.perturbations["passages"]
    with pytest.raises(CostarError, match="licence"):
        pack(built_copy, perturbations={**suite.perturbations, "passages": replace(passages, licence="proprietary")})
    assert sums_of(folder) == before
    assert (built_copy / "stage-release.json").is_file()


def test_a_blind_release_refuses_a_seed_that_can_be_guessed(built_copy: Path) -> None:
    before = sums_of(built_copy / "release")
    with pytest.raises(CostarError, match="seed"):
        write_release(load_suite(built_copy / "suite.toml"), Workspace(built_copy), blind=True)
    assert sums_of(built_copy / "release") == before


def test_an_unfinished_run_is_named(built_copy: Path) -> None:
    shutil.rmtree(built_copy / "runs" / "perturbed.nano.d0" / "checkpoints" / "step-000096")
    with pytest.raises(CostarError, match=r"perturbed.nano.d0 is not finished"):
        pack(built_copy)


def test_a_suite_without_arms_to_release_is_told_the_key(built_copy: Path) -> None:
    suite = load_suite(built_copy / "suite.toml")
    with pytest.raises(CostarError, match=r"\[release\] arms"):
        pack(built_copy, release=replace(suite.release, arms=()))


def test_insertions_of_another_state_of_the_suite_are_not_released(built_copy: Path) -> None:
    with pytest.raises(CostarError, match="costar insert"):
        pack(built_copy, seed=8)


def test_two_pairs_share_a_control_that_names_both(built_copy: Path) -> None:
    suite = load_suite(built_copy / "suite.toml")
    assert pack(built_copy, release=replace(suite.release, arms=("perturbed", "late"))) == 2
    folder = built_copy / "release"
    manifest = json.loads((folder / "models" / "standard.nano.d0" / "costar_manifest.json").read_text())
    assert [manifest["pair"]["id"], *(pair["id"] for pair in manifest["other_pairs"])] == [
        "perturbed.nano.d0",
        "late.nano.d0",
    ]
    inherited = json.loads((folder / "revisions" / "late.nano.d0" / "step48" / "costar_manifest.json").read_text())
    own = json.loads((folder / "revisions" / "standard.nano.d0" / "step48" / "costar_manifest.json").read_text())
    assert inherited["state_sha256"] == own["state_sha256"]
    results = ModelCard.load(folder / "models" / "late.nano.d0" / "README.md").data.eval_results
    assert {each.metric_args["perturbation"] for each in results if each.metric_args} == {"passages"}
    effects = pq.read_table(folder / "data" / "effects.parquet").to_pylist()
    assert {row["treated"].split(".")[0] for row in effects} == {"perturbed", "standard", "late"}
