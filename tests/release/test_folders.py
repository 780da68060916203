"""Every form of export: the same bytes from the same input, all of them summed, whole after a kill, and only for pairs."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from costar.core.design import Suite
from costar.core.errors import CostarError
from costar.core.workspace import Workspace, output_lock
from costar.release.export import write_export
from costar.release.folders import write_folder

from tests.release.linked import files_of, linked_workspace, sums_of

FORMS = ("lm-eval", "membership", "open-unlearning", "overlay")
ARM = "perturbed"


@pytest.fixture(scope="module")
def linked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace]:
    return linked_workspace(built, tmp_path_factory.mktemp("folders"))


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_summed_whole_repeatable_and_left_alone(
    form: str, linked: tuple[Suite, Workspace], built: Path, tmp_path: Path
) -> None:
    (folder,) = write_export(*linked, form, arm=ARM)
    assert folder == linked[1].release / form / f"{ARM}-d0"
    sums = sums_of(folder)
    assert set(sums) == files_of(folder)
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    stamps = {name: (folder / name).stat().st_mtime_ns for name in sums}
    write_export(*linked, form, arm=ARM)
    assert {name: (folder / name).stat().st_mtime_ns for name in sums} == stamps
    (again,) = write_export(*linked_workspace(built, tmp_path), form, arm=ARM)
    assert sums_of(again) == sums


@pytest.mark.parametrize("form", FORMS)
def test_no_text_of_an_export_names_this_machine(form: str, linked: tuple[Suite, Workspace], built: Path) -> None:
    (folder,) = write_export(*linked, form, arm=ARM)
    for name in files_of(folder):
        if name.endswith((".md", ".json", ".yaml", ".jsonl", ".py")):
            text = (folder / name).read_text(encoding="utf-8")
            assert not [root for root in (built.parent.parent, linked[1].root) if str(root) in text], name


@pytest.mark.parametrize("form", ["lm-eval", "membership", "open-unlearning"])
def test_an_arm_that_is_no_treated_one_is_refused_with_those_that_are(
    form: str, linked: tuple[Suite, Workspace]
) -> None:
    with pytest.raises(CostarError, match="standard") as refused:
        write_export(*linked, form, arm="standard")
    assert "perturbed, early, late" in str(refused.value)


@pytest.mark.parametrize("form", ["lm-eval", "overlay"])
def test_a_model_is_no_option_of_a_form_that_is_the_same_for_all(form: str, linked: tuple[Suite, Workspace]) -> None:
    with pytest.raises(CostarError, match="--model with --export"):
        write_export(*linked, form, arm=ARM, model="nano")


@pytest.mark.parametrize("form", ["membership", "open-unlearning"])
def test_a_model_that_the_arm_does_not_have_is_refused(form: str, linked: tuple[Suite, Workspace]) -> None:
    with pytest.raises(CostarError, match="one of nano"):
        write_export(*linked, form, arm=ARM, model="giant")


def test_what_a_killed_writer_left_is_written_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def killed(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "half").write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(workspace, "form", "arm-d0", ["a"], killed)

    def whole(folder: Path) -> None:
        (folder / "whole").write_text("x")

    folder = write_folder(workspace, "form", "arm-d0", ["a"], whole)
    assert files_of(folder) == {"whole"}
    assert (folder / "stage.json").is_file()


def test_a_damaged_file_and_another_input_are_written_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def fill(place: Path) -> None:
        (place / "text").write_text("right")

    folder = write_folder(workspace, "form", "arm-d0", ["a"], fill)
    (folder / "text").write_text("wrong")
    write_folder(workspace, "form", "arm-d0", ["a"], fill)
    assert (folder / "text").read_text() == "right"

    def other(place: Path) -> None:
        (place / "other").write_text("now")

    write_folder(workspace, "form", "arm-d0", ["b"], other)
    assert files_of(folder) == {"other"}


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with (
        output_lock(workspace.release / "form" / "arm-d0", "export form"),
        pytest.raises(CostarError, match="being written"),
    ):
        write_folder(workspace, "form", "arm-d0", ["a"], lambda place: None)


@pytest.mark.parametrize(("form", "above"), [("membership", 2), ("overlay", 0)])
def test_the_snippets_of_a_page_run_as_they_stand(
    form: str, above: int, linked: tuple[Suite, Workspace], tmp_path: Path
) -> None:
    (folder,) = write_export(*linked, form, arm=ARM)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S))
    assert code
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    place = [folder, *folder.parents][above]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
