"""An overlay read without costar gives the rows of training, slot by slot."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.design import Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.corpus.store import TokenStore
from costar.insertion.overlay import open_suite_overlay, read_exposures
from costar.release.export import write_export
from costar.train.log import read_log_rows

from tests.corpus.test_ordered import ORDERED, write_tables
from tests.corpus.test_ordered import build as build_ordered
from tests.insertion.test_designs import ARMS
from tests.insertion.test_designs import build as build_designs
from tests.release.linked import linked_workspace

ARM = "late"


@pytest.fixture(scope="module")
def exported(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace, Path]:
    suite, workspace = linked_workspace(built, tmp_path_factory.mktemp("overlay"))
    return suite, workspace, write_export(suite, workspace, "overlay", arm=ARM)[0]


def reader_of(folder: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("read_overlay", folder / "read_overlay.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_its_rows_are_those_of_training_at_every_slot(exported: tuple[Suite, Workspace, Path]) -> None:
    suite, workspace, folder = exported
    slots = np.arange(suite.arms[ARM].train.slots)
    expected = open_suite_overlay(workspace, ARM, 0, seed=suite.seed).sequences(slots)
    reader = reader_of(folder)
    assert np.array_equal(np.stack(list(reader.rows())), expected)
    assert np.array_equal(np.stack(list(reader.rows(300, 340))), expected[300:340])


def test_its_digests_are_those_that_the_run_logged(exported: tuple[Suite, Workspace, Path]) -> None:
    """A branch logs from where it begins, so the digests before are in those that follow."""
    suite, workspace, folder = exported
    found = list(reader_of(folder).digests(suite.arms[ARM].train.steps))
    logged = {row["step"]: row["data_digest"] for row in read_log_rows(workspace, f"{ARM}.nano.d0")}
    assert len(logged) > 40
    assert {step: found[step] for step in logged} == logged
    assert json.loads((folder / "overlay.json").read_text())["digests"] == found[:8]


def test_the_reader_names_another_order_and_damaged_bytes(
    exported: tuple[Suite, Workspace, Path], tmp_path: Path
) -> None:
    folder = exported[2]
    for name in ("overlay.json", "edits.parquet", "tokens.bin", "order.npy", "read_overlay.py"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command = [sys.executable, "-P", "read_overlay.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "8 steps read as training read them\n")
    order = np.load(tmp_path / "order.npy")
    order[[3, 4]] = order[[4, 3]]
    np.save(tmp_path / "order.npy", order)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "8 steps read NOT as training read them\n")


def test_edits_name_the_copies_that_they_are(exported: tuple[Suite, Workspace, Path]) -> None:
    _, workspace, folder = exported
    edits = pq.read_table(folder / "edits.parquet", partitioning=None).to_pylist()
    exposures = read_exposures(workspace, ARM, 0).sort_by("slot").to_pylist()
    keys = ("slot", "sequence", "record_id", "copy")
    assert [[row[key] for key in keys] for row in edits] == [[row[key] for key in keys] for row in exposures]


@pytest.fixture(scope="module")
def designs(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace]:
    return build_designs(built, tmp_path_factory.mktemp("designs"), ARMS)


@pytest.mark.parametrize("arm", ["standard", "factorial", "filled", "edited", "epochs"])
def test_arms_of_every_design_are_read_the_same_also_through_several_epochs(
    arm: str, designs: tuple[Suite, Workspace]
) -> None:
    suite, workspace = designs
    (folder,) = write_export(suite, workspace, "overlay", arm=arm)
    expected = open_suite_overlay(workspace, arm, 0, seed=suite.seed)
    slots = np.arange(suite.arms[arm].train.slots)
    assert np.array_equal(np.stack(list(reader_of(folder).rows())), expected.sequences(slots))
    if arm == "epochs":
        assert len(slots) > 2 * expected.order.size


def test_a_corpus_that_is_read_by_order_tables_is_refused_with_the_form_that_has_them(
    built: Path, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    for name in ("tokens.bin", "tokens.idx", "tokenizer.json"):
        shutil.copyfile(built / "corpus" / name, tmp_path / "given" / name)
    (tmp_path / "ordered.toml").write_text(ORDERED, encoding="utf-8")
    write_tables(tmp_path, np.arange(len(TokenStore.open(built / "corpus").sizes)))
    workspace = build_ordered(tmp_path)
    with pytest.raises(CostarError, match="--export megatron"):
        write_export(load_suite(tmp_path / "ordered.toml"), workspace, "overlay", arm="perturbed")


def test_a_base_that_links_the_store_of_another_tool_is_there_as_a_file(built: Path, tmp_path: Path) -> None:
    """A relative link would point nowhere from the export."""
    suite, workspace = linked_workspace(built, tmp_path)
    (workspace.root / "corpus").unlink()
    shutil.copytree(built / "corpus", workspace.corpus)
    (tmp_path / "given").mkdir()
    shutil.move(workspace.corpus / "tokens.bin", tmp_path / "given" / "tokens.bin")
    (workspace.corpus / "tokens.bin").symlink_to(Path("..") / ".." / "given" / "tokens.bin")
    (folder,) = write_export(suite, workspace, "overlay", arm=ARM)
    assert not (folder / "tokens.bin").is_symlink()
    assert (folder / "tokens.bin").read_bytes() == (built / "corpus" / "tokens.bin").read_bytes()
    assert list(reader_of(folder).digests(8)) == json.loads((folder / "overlay.json").read_text())["digests"]
