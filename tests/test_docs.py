"""The snippets of the documentation run, load or answer as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import costar
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.manifests.sql import open_manifest

from tests.small import SUITE
from tests.small import costar as costar_cli

DOCS = Path(costar.__file__).resolve().parent / "docs"
PAGE = DOCS / "any-trainer.md"
AROUND = """
[arm.standard]
perturbations = []
[perturbation.biographies]
kind = "biography"
records = { from = "generator" }
levels = { 0 = 10, 1 = 10 }
[perturbation.chats]
kind = "chat"
records = { from = "generator" }
levels = { 0 = 10, 1 = 10 }
"""


def snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["design.md", "records.md"])
def test_every_table_of_the_documentation_is_a_suite_that_loads(page: str, tmp_path: Path) -> None:
    head, tail = SUITE[: SUITE.index("[arm.standard]")], SUITE[SUITE.index("[train]") : SUITE.index("[release]")]
    found = blocks(page, "toml")
    assert found
    for number, block in enumerate(found):
        path = tmp_path / f"block-{number}.toml"
        around = AROUND.replace("[arm.standard]\nperturbations = []\n", "") if "[arm.standard]" in block else AROUND
        path.write_text(head + around + block + tail, encoding="utf-8")
        load_suite(path)


def test_every_table_of_the_corpus_page_is_one_that_loads(tmp_path: Path) -> None:
    begin, end = SUITE.index("[corpus]"), SUITE.index("[perturbation.passages]")
    corpora = [block for block in blocks("your-corpus.md", "toml") if "[corpus" in block]
    assert len(corpora) == 2
    for number, block in enumerate(corpora):
        keys = "sequence_length = 128\ntokenizer = { train = 'bpe', vocabulary = 512 }\n"
        whole = (
            block
            if "sequence_length" in block
            else block.replace("[corpus.mixture]", f"[corpus]\n{keys}[corpus.mixture]")
        )
        path = tmp_path / f"block-{number}.toml"
        path.write_text(SUITE[:begin] + whole + SUITE[end:], encoding="utf-8")
        load_suite(path)


def test_the_queries_of_the_corpus_page_answer(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    queries = blocks("your-corpus.md", "sql")
    answers = [connection.execute(query).fetchall() for query in queries]
    connection.close()
    assert {row[0] for row in answers[0]} >= {"read", "held_out", "base"}
    assert len(answers) == 3


def test_the_query_of_the_design_page_answers(built: Path) -> None:
    (query,) = blocks("design.md", "sql")
    connection = open_manifest(Workspace(built))
    query = query.replace("'factorial'", "'perturbed'").replace("732", "96")
    assert {row[0] for row in connection.execute(query).fetchall()} >= {0, 1, 14}
    connection.close()


def run_snippet(code: str, built: Path, folder: Path) -> str:
    """What a snippet prints in a folder where `build/demo` is the small suite, whose ids its models hold too."""
    (folder / "build").mkdir()
    (folder / "build" / "demo").symlink_to(built)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trainer_of_transformers_reads_what_the_plan_says(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate, which costar does not pin")
    (code,) = [each for each in snippets() if "Trainer(" in each]
    assert "10 of 96 planned steps read what the plan says" in run_snippet(code, built, tmp_path)
    assert len((tmp_path / "late.jsonl").read_text().splitlines()) == 11


def test_a_loop_of_ones_own_reads_what_the_plan_says(built: Path, tmp_path: Path) -> None:
    (code,) = [each for each in snippets() if "DigestRecorder(" in each]
    run_snippet(code, built, tmp_path)
    assert len((tmp_path / "mine.jsonl").read_text().splitlines()) == 11


def test_every_snippet_is_run() -> None:
    assert len(snippets()) == 2


def probe_rows() -> dict[str, tuple[str, str]]:
    """The table of probes: name → metrics as written, what it takes."""
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]* \| ([^|]*) \| ([^|]*) \|$", text, flags=re.MULTILINE)
    return {name: (metrics, takes.strip()) for name, metrics, takes in rows}


def test_the_table_of_probes_is_what_there_is() -> None:
    from costar.core.plugins import load_plugin, plugin_names

    takes = {"loglik": "ledger", "generate": "continuations", "weights": "the model itself", "gradients": "gradients"}
    rows = probe_rows()
    assert sorted(rows) == plugin_names("costar.eval.probes")
    for name, (metrics, taken) in rows.items():
        probe = load_plugin("costar.eval.probes", name, place="")
        assert set(probe.METRICS) <= set(re.findall(r"`,?([a-z0-9_]+)`", metrics)), name
        assert [takes[need] for need in probe.NEEDS] == [taken], name


def test_hubbles_measurements_are_all_there() -> None:
    """47 tasks; every probe that the table names is asked for by suites/hubble.toml and has the metrics."""
    from costar.core.plugins import load_plugin

    text = (DOCS / "hubble.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1:5] for row in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)][2:]
    count = sum(int(found[1]) if (found := re.search(r"\((\d+)\)\s*$", task)) else 1 for task, *_ in rows)
    assert count == 47
    asked = load_suite(DOCS.parent / "suites" / "hubble.toml").eval.probes
    for _, probes, _, metrics in rows:
        named = re.findall(r"`([a-z-]+)`", probes)
        assert set(named) <= set(asked)
        known = {metric for name in named for metric in load_plugin("costar.eval.probes", name, place="").METRICS}
        assert set(re.findall(r"`([a-z0-9_]+)`", metrics)) <= known


def test_the_probe_of_the_evaluation_page_is_scored_from_the_ledger_alone(built_copy: Path) -> None:
    (code,) = blocks("evaluation.md", "python")
    folder = built_copy.parent.parent
    (folder / "probes").mkdir()
    (folder / "probes" / "halves.py").write_text(code, encoding="utf-8")
    path = folder / "small.toml"
    path.write_text(path.read_text().replace('["likelihood", ', '["likelihood", "halves", '), encoding="utf-8")
    before = {p: p.stat().st_mtime_ns for p in (built_copy / "eval" / "ledger").rglob("*.parquet")}
    costar_cli(folder, "eval", "./small.toml")
    assert {p: p.stat().st_mtime_ns for p in (built_copy / "eval" / "ledger").rglob("*.parquet")} == before
    connection = open_manifest(Workspace(built_copy))
    query = "select metric, count(*) from scores where metric in ('gain', 'll_byte') group by metric"
    counts = dict(connection.execute(query).fetchall())
    assert counts["gain"] == counts["ll_byte"] > 1000
    connection.close()
