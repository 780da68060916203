"""Every snippet of docs/use-a-release.md runs as it stands, one after the other, beside a release."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import costar
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PAGE = Path(costar.__file__).resolve().parent / "docs" / "use-a-release.md"
SHELL = """
import subprocess as _subprocess
print("$", {command!r}, flush=True)
_subprocess.run(["bash", "-c", 'costar() {{ "$PYTHON" -m costar "$@"; }}; ' + {command!r}], check=True)
"""


def blocks() -> list[tuple[str, str]]:
    """(language, code) of every snippet."""
    return re.findall(r"^```(python|sh)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture
def beside(built: Path, tmp_path: Path) -> Path:
    """A folder with `release/` and `build/demo`."""
    shutil.copytree(built / "release", tmp_path / "release")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "demo").symlink_to(built)
    return tmp_path


def run(code: str, folder: Path) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHON": sys.executable, "HF_HOME": str(folder / ".hf"), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_snippet_runs_in_order(beside: Path) -> None:
    code = [text if language == "python" else SHELL.format(command=text) for language, text in blocks()]
    told = run("\n".join(code), beside)
    for command in (
        "costar sql",
        "costar score loss",
        "costar score greedy",
        "costar score difference",
        "costar verify",
    ):
        assert f"$ {command}" in told
    grades = {
        name: json.loads((beside / name / "grades.json").read_text()) for name in ("loss", "greedy", "difference")
    }
    areas = {(row["perturbation"], row["level"]): row for row in grades["loss"]["grades"] if row["metric"] == "auc"}
    assert areas["passages", 14]["above_floor"]
    assert {row["metric"] for row in grades["greedy"]["grades"]} == {"extracted", "false_positives"}
    found = {row["metric"].split(".")[0] for row in grades["difference"]["grades"]}
    assert found == {"recovery", "keep_damage", "utility_gap"}


def test_what_is_asked_of_a_pair_does_not_depend_on_the_others(beside: Path) -> None:
    """A second pair of the same records at other levels, with scores of its own."""
    sql = [text for language, text in blocks() if language == "python" and "question = " in text]
    assert len(sql) == 2
    load = 'import json\n\nfacts = json.load(open("release/release.json"))\npair = facts["pairs"][0]\n'
    code = "\n".join([load, *sql])
    alone = run(code, beside)
    for name, levels in (("membership", {0: 14, 1: 0, 2: 0, 4: 0, 14: 1}), ("scores", {})):
        path = beside / "release" / "data" / f"{name}.parquet"
        table = pq.read_table(path)
        rows = [row for row in table.to_pylist() if row["run"] == "perturbed.nano.d0"]
        more = [row | {"run": "perturbed.nano.d1", "draw": 1} for row in rows]
        if levels:
            more = [row | {"level": levels[row["level"]]} for row in more]
        more = [{key: row[key] for key in table.column_names} for row in more]
        path.unlink()
        pq.write_table(pa.concat_tables([table, pa.Table.from_pylist(more, schema=table.schema)]), path)
    assert len(alone.splitlines()) > 10
    assert run(code, beside) == alone


def test_the_page_names_no_snippet_that_is_not_run() -> None:
    fenced = re.findall(r"^```(\w+)", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert fenced == [language for language, _ in blocks()]


def test_the_commitment_of_the_page_is_over_the_sealed_tables() -> None:
    from costar.release.sealed import SEALED

    named = re.search(r"echo NONCE; sha256sum (.*?)\)", PAGE.read_text(encoding="utf-8"))
    assert named is not None
    assert named[1].split() == [f"{name}.parquet" for name in sorted(SEALED)]
