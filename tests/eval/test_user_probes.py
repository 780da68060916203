"""Probes of the user's own, by the whole path: dropped beside the suite file, run by `costar eval`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.loading import check_probes, load_probe
from costar.eval.probes import Loaded
from costar.eval.score import Measurer
from costar.manifests.sql import ask, open_manifest
from costar.train.config import read_config
from costar.train.stale import stale_runs

from tests.small import costar

PROBE = '''
"""Surprise: nats per byte of a record after EOS."""

from costar.eval.probes import Gap, Request, Score

NEEDS = ("loglik",)
KINDS = ("passage",)
METRICS = {"nll_byte": "nats per byte of the record"}
SOURCE = "a test"


def requests(context):
    for subject in context.subjects:
        yield Request(subject.record_id, subject.canonical, subject.renderings[subject.canonical].ids)


def scores(context, found):
    for subject in context.subjects:
        tokens = found.tokens(subject.record_id, subject.canonical)
        if isinstance(tokens, str):
            yield Gap(subject.record_id, subject.canonical, "", tokens)
            continue
        yield Score(subject.record_id, subject.canonical, "", "nll_byte", -tokens.total / int(tokens.n_bytes.sum()))
'''
HEAD = PROBE[: PROBE.index("def requests")]
RUN = "perturbed.nano.d0"


def named(folder: Path, probes: str) -> None:
    """Name these probes in a suite file."""
    path = folder / "small.toml"
    lines = [f"probes   = {probes}" if line.startswith("probes ") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def files(folder: Path, pattern: str) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of the files of a pattern."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.glob(pattern))}


def blocks(build: Path) -> dict[str, tuple[int, bytes]]:
    return files(build / "eval", "ledger/*/step=96/*.parquet")


def answer(build: Path, question: str) -> list[tuple[Any, ...]]:
    connection = open_manifest(Workspace(build))
    try:
        return ask(connection, question)[1]
    finally:
        connection.close()


@pytest.fixture
def folder(built_copy: Path) -> Path:
    """The folder of a built suite's file, with an empty folder for probes beside it."""
    folder = built_copy.parent.parent
    (folder / "probes").mkdir()
    return folder


@pytest.mark.slow
def test_a_probe_beside_the_suite_is_scored_edited_and_dropped_without_a_pass(folder: Path) -> None:
    build = folder / "build" / "small"
    named(folder, '["likelihood"]')
    costar(folder, "eval", "./small.toml", "--step", "96")
    before = blocks(build)
    likelihood = files(build / "eval", "scores/*/step-000096.likelihood.parquet")
    (folder / "probes" / "surprise.py").write_text(PROBE)
    named(folder, '["likelihood", "surprise"]')
    assert stale_runs(load_suite(folder / "small.toml"), Workspace(build)) == []
    costar(folder, "eval", "./small.toml", "--step", "96")
    assert blocks(build) == before  # the requests are those of likelihood: no pass
    assert files(build / "eval", "scores/*/step-000096.likelihood.parquet") == likelihood  # and nothing is scored twice
    values = answer(
        build,
        "select s.value, -l.value from scores s join scores l using (run, step, record_id) "
        "where s.metric = 'nll_byte' and l.metric = 'll_byte'",
    )
    assert len(values) > 100
    assert all(one == other for one, other in values)
    assert answer(build, "select count(*) from effects where metric = 'nll_byte' and estimand = 'direct'")[0][0] > 0
    assert answer(build, "select count(*) from record_scores where metric = 'nll_byte'")[0][0] > 100

    (folder / "probes" / "surprise.py").write_text(PROBE.replace("-tokens.total /", "2 * -tokens.total /"))
    costar(folder, "eval", "./small.toml", "--step", "96")
    assert blocks(build) == before
    doubled = answer(
        build,
        "select s.value, -l.value from scores s join scores l using (run, step, record_id) "
        "where s.metric = 'nll_byte' and l.metric = 'll_byte'",
    )
    assert all(one == 2 * other for one, other in doubled)

    shutil.rmtree(folder / "probes")  # the built directory keeps the probe
    costar(folder, "eval", "./build/small/", "--step", "96")
    assert blocks(build) == before
    named(folder, '["likelihood"]')
    costar(folder, "eval", "./small.toml", "--step", "96")
    assert not list((build / "eval").glob("scores/*/*surprise*"))
    assert blocks(build) == before
    assert files(build / "eval", "scores/*/step-000096.likelihood.parquet") == likelihood


def test_what_is_measured_loads_no_model(built_copy: Path) -> None:
    torch.set_num_threads(1)
    workspace = Workspace(built_copy)
    suite = load_suite(built_copy / "suite.toml")

    class Unloaded(Measurer):
        def _reader(self, config: Any, step: int) -> Any:
            raise AssertionError("a model is loaded")

    config = read_config(workspace, RUN)
    shutil.rmtree(workspace.scores(RUN))  # the ledger stays
    suite = replace(suite, eval=replace(suite.eval, probes=("likelihood", "extraction", "choice")))
    for step in (24, 96):
        Unloaded(suite, workspace).measure(config, step)
        assert Unloaded(suite, workspace).is_current(config, step)
    fewer = replace(suite, eval=replace(suite.eval, probes=("extraction", "likelihood"), prefixes=(4,)))
    Unloaded(fewer, workspace).measure(config, 96)
    with pytest.raises(AssertionError, match="a model is loaded"):
        Unloaded(suite, workspace).measure(config, 96)  # `choice` had been dropped, its blocks with it


def broken(folder: Path, text: str) -> Loaded:
    (folder / "probes" / "odd.py").write_text(text)
    return load_probe("odd", load_suite(folder / "small.toml"))


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("NEEDS = (", "odd.py, line 1", "SyntaxError"),
        (PROBE.replace("NEEDS", "WANTS"), "odd.py", "nothing of NEEDS"),
        (PROBE.replace('("loglik",)', '("logits",)'), "odd.py, NEEDS", "logits"),
        (PROBE.replace('("loglik",)', '"loglik"'), "odd.py, NEEDS", "loglik"),
        (PROBE.replace('("loglik",)', "()"), "odd.py, NEEDS", r"\(\)"),
        (PROBE.replace('("passage",)', '("passages",)'), "odd.py, KINDS", "passages"),
        (PROBE.replace('("passage",)', '"passage"'), "odd.py, KINDS", "passage"),
        (PROBE.replace('{"nll_byte": "nats per byte of the record"}', "3"), "odd.py, METRICS", "3"),
        (PROBE.replace("SOURCE =", "READS = ('base',)\nSOURCE ="), "odd.py, READS", "base"),
        (HEAD + "scores = 3\n", "odd.py, scores", "3"),
        (HEAD + "import nothing_of_that_name\n\ndef scores(context, found): ...\n", "odd.py", "ModuleNotFoundError"),
        ("\x00", "odd.py", "null bytes|SyntaxError"),
    ],
)
def test_a_file_that_is_no_probe_is_named_with_what_is_wrong(
    built: Path, tmp_path: Path, text: str, place: str, found: str
) -> None:
    shutil.copy(built.parent.parent / "small.toml", tmp_path / "small.toml")
    (tmp_path / "probes").mkdir()
    with pytest.raises(CostarError, match=found) as caught:
        broken(tmp_path, text)
    assert place in caught.value.place


def test_a_probe_by_the_name_of_a_shipped_one_is_refused(built: Path, tmp_path: Path) -> None:
    shutil.copy(built.parent.parent / "small.toml", tmp_path / "small.toml")
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "likelihood.py").write_text(PROBE)
    with pytest.raises(CostarError, match="costar's own 'likelihood'"):
        check_probes(load_suite(tmp_path / "small.toml"))
    (tmp_path / "probes" / "likelihood.py").rename(tmp_path / "probes" / "Loud.py")
    named(tmp_path, '["Loud"]')
    with pytest.raises(CostarError, match="small letters"):
        check_probes(load_suite(tmp_path / "small.toml"))


def test_a_probe_is_run_by_eval_alone(folder: Path) -> None:
    """Who plans, verifies or reads a suite of somebody else's runs none of its code."""
    (folder / "probes" / "loud.py").write_text(PROBE + "\nimport pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    named(folder, '["likelihood", "loud"]')
    for verb in ("plan", "status", "verify", "insert", "manifest"):
        costar(folder, verb, "./small.toml")
    assert not list(folder.rglob("*.ran"))
    costar(folder, "eval", "./small.toml", "--arm", "late", "--step", "96")
    assert list(folder.rglob("*.ran"))


def results(folder: Path, text: str) -> Iterator[tuple[str, str]]:
    """(metric, "") of every score and ("", reason) of every gap of a user's probe, measured on one checkpoint."""
    torch.set_num_threads(1)
    workspace = Workspace(folder / "build" / "small")
    (folder / "probes" / "odd.py").write_text(text)
    named(folder, '["likelihood", "odd"]')
    measurer = Measurer(load_suite(folder / "small.toml"), workspace)
    measurer.measure(read_config(workspace, RUN), 96)
    assert measurer.is_current(read_config(workspace, RUN), 96)
    import pyarrow.parquet as pq

    for row in pq.read_table(workspace.scores(RUN) / "gaps-000096.odd.parquet").to_pylist():
        yield "", row["reason"]
    for row in pq.read_table(workspace.scores(RUN) / "step-000096.odd.parquet").to_pylist():
        yield row["metric"], ""


def test_whatever_a_probe_does_is_a_gap_that_says_what(folder: Path) -> None:
    one = "    subject = context.subjects[0]\n    name = subject.canonical\n    place = (subject.record_id, name, '')\n"
    asks = HEAD + "def scores(context, found):\n    return []\n\n\ndef requests(context):\n" + one
    gives = HEAD + "import numpy as np\n\n\ndef scores(context, found):\n" + one
    cases = {
        asks + "    return [1]\n": "requests failed: 1 is no Request",
        asks + "    raise KeyError('citizen')\n": "requests failed: KeyError: 'citizen'",
        asks + "    yield Request('nobody', name, (1,))\n": "requests failed: no record 'nobody'",
        asks + "    yield Request(place[0], name, (-1,))\n": "requests failed: the token -1",
        asks + "    yield Request(place[0], name, (1.5,))\n": "requests failed: TypeError",
        asks + "    yield Request(place[0], 'x' * 300, (1,))\n": "a name of 300 letters",
        asks + "    yield Request(place[0], 'x', (1,))\n    yield Request(place[0], 'x', (2,))\n": "two of one name",
        asks + "    yield Request(place[0], name, (1, 2))\n": "it asks for two sequences of one name",
        gives + "    context.counts()\n": "scores failed: AssertionError: odd reads counts, which is not in its READS",
        gives + "    return None\n": "scores failed: TypeError",
        gives + "    yield 5\n": "5 is neither a Score nor a Gap",
        gives + "    raise ValueError('no\\nidea')\n": "scores failed: ValueError: no idea",
        gives + "    yield Score('nobody', name, '', 'nll_byte', 1.0)\n": "no record of that name",
        gives + "    yield Score(*place, 'other', 1.0)\n": "'other' is not in METRICS",
        gives + "    yield Score(*place, 'nll_byte', 'much')\n": "nll_byte is 'much', no number",
        gives + "    yield Score(*place, 'nll_byte', float('inf'))\n": "nll_byte is inf",
        gives + "    yield Score(*place, 'nll_byte', np.float32('nan'))\n": "nll_byte is nan",
        gives + "    yield Score(*place, 'nll_byte', np.ones(2))\n": "no number",
        gives + "    yield Score(*place, 'nll_byte', 1)\n    yield Score(*place, 'nll_byte', 2)\n": "returned twice",
    }
    for text, reason in cases.items():
        found = list(results(folder, text))
        gaps = [told for _, told in found if told]
        assert len(gaps) == 1, (text, gaps)
        assert reason in gaps[0], (text, gaps)
    for value in ("np.float32(0.5)", "np.int64(2)", "np.array(0.5)", "True", "3"):
        assert list(results(folder, gives + f"    yield Score(*place, 'nll_byte', {value})\n")) == [("nll_byte", "")]


def test_files_of_any_line_ending_and_encoding_are_kept_as_they_are(folder: Path) -> None:
    """The copy beside the build has the bytes of the original: else its hash would never be the one that is asked for."""
    text = "# -*- coding: latin-1 -*-\n# d\u00e9j\u00e0 vu\n" + PROBE
    (folder / "probes" / "surprise.py").write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    named(folder, '["likelihood", "surprise"]')
    costar(folder, "eval", "./small.toml", "--arm", "late", timeout=120)
    kept = folder / "build" / "small" / "probes" / "surprise.py"
    assert kept.read_bytes() == (folder / "probes" / "surprise.py").read_bytes()
    assert answer(folder / "build" / "small", "select count(*) from scores where probe = 'surprise'")[0][0] > 0
