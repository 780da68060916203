"""A release proves itself wherever it lies; each kind of damage is named, whatever hides it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.hashing import sha256_file
from costar.core.parquet import write_table
from costar.release.facts import FACTS, SUMS, read_release
from costar.release.pages import SNIPPET
from costar.release.snippets import broken_links, failing_snippets, pages, run_snippets, written_snippets
from costar.release.verify import Proof, verify_release
from costar.release.verify_files import damaged_files, wrong_tables
from costar.release.verify_models import wrong_manifests, wrong_models

from tests.release.releases import summed_again
from tests.small import costar

TREATED, CONTROL = "perturbed.nano.d0", "standard.nano.d0"
WEIGHTS = "model.safetensors"


def still(share: float, remark: str) -> None:
    """No bar."""


def verify(folder: Path) -> Proof:
    return verify_release(folder, still)


@pytest.fixture
def release(built: Path, tmp_path: Path) -> Path:
    """A copy that lies alone: no suite, corpus or manifest beside it."""
    return Path(shutil.copytree(built / "release", tmp_path / "elsewhere"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def change_facts(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_release_is_verified_by_the_command_line_without_its_suite(release: Path) -> None:
    done = costar(release.parent, "verify", "elsewhere")
    facts = json.loads((release / FACTS).read_text())
    models = len(facts["revisions"]) + sum(map(len, facts["revisions"].values()))
    assert f"{models} models loaded, 40 scores of last steps found again" in done.stdout
    assert not list(release.rglob("__pycache__"))
    damage = release / "models" / CONTROL / WEIGHTS
    flip(damage)
    done = costar(release.parent, "verify", str(release), check=False)
    assert done.returncode == 1
    assert f"{CONTROL}/{WEIGHTS}: its bytes are not those that were written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_blind_release_is_verified_without_what_it_withholds(blind: Path, tmp_path: Path) -> None:
    proof = verify(Path(shutil.copytree(blind / "release", tmp_path / "blind")))
    assert proof.problems == []
    assert proof.models > 0
    assert proof.scores > 0


def test_flipped_missing_extra_and_swapped_files_are_named(release: Path) -> None:
    flip(release / "data" / "records.parquet")
    flip(release / "README.md")
    (release / "data" / "exposures.parquet").unlink()
    (release / "data" / "more.parquet").write_bytes(b"PAR1")
    swap(release / "models" / TREATED / WEIGHTS, release / "models" / CONTROL / WEIGHTS)
    steps = release / "revisions" / TREATED
    shutil.copyfile(steps / "step24" / WEIGHTS, steps / "step48" / WEIGHTS)
    problems = {text.replace(f"{release}/", "") for text in verify(release).problems}
    assert problems == {
        "data/records.parquet: its bytes are not those that were written",
        "README.md: its bytes are not those that were written",
        "data/exposures.parquet: missing",
        f"data/more.parquet: not in {SUMS}",
        f"models/{TREATED}/{WEIGHTS} and models/{CONTROL}/{WEIGHTS}: swapped",
        f"revisions/{TREATED}/step48/{WEIGHTS}: holds the bytes of revisions/{TREATED}/step24/{WEIGHTS}",
    }


def test_hidden_files_are_not_of_a_release_and_damaged_exports_are_named(release: Path) -> None:
    (release / ".cache").mkdir()
    (release / ".cache" / "lock").touch()
    export = release / "harness" / "perturbed-d0"
    export.mkdir(parents=True)
    (export / "tasks.yaml").write_text("task: x\n")
    assert damaged_files(read_release(release), still) == [f"{export}: an export that was not finished"]
    digest = "0" * 64
    (export / SUMS).write_text(f"{digest}  tasks.yaml\n{digest}  gone.yaml\n")
    (export / "README.md").write_text("```python\nimport no_such_tool\n```\nwrites `data/x.jsonl` [a](b.md)\n")
    problems = damaged_files(read_release(release), still)
    assert problems == [
        f"{export}/gone.yaml: missing",
        f"{export}/README.md: not in {SUMS}",
        f"{export}/tasks.yaml: its bytes are not those that were written",
    ]
    assert broken_links(read_release(release))[1] == [f"{export}/README.md: the link to b.md leads nowhere"]


@pytest.mark.parametrize(
    "text", ["", "no sums\n", "0" * 64 + "  ../out\n", "0" * 64 + "  /etc/x\n", ("0" * 64 + "  a\n") * 2, "\xff"]
)
def test_sums_that_are_none_are_named(release: Path, text: str) -> None:
    (release / SUMS).write_bytes(text.encode("latin-1"))
    with pytest.raises(CostarError, match=SUMS) as refusal:
        verify(release)
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"suite": 3}, "suite is a whole number, not a text"),
        ({"blind": "no"}, "blind is a text, not true or false"),
        ({"pairs": {}}, "pairs is an object, not a list"),
        ({"pairs": []}, "no pairs"),
        ({"pairs": [1]}, r"pairs\[0\] is a whole number, not an object"),
        ({"pairs": [{"treated": "a", "control": "b", "arm": "a", "model": "m", "draw": "0"}]}, "draw is a text"),
        ({"pairs": [{"treated": "../a", "control": "b", "arm": "a", "model": "m", "draw": 0}]}, "not those of runs"),
        ({"revisions": {TREATED: ["24"]}}, f"revisions of {TREATED}"),
        ({"pairs": [{"treated": 'a"+x+"', "control": "b", "arm": "a", "model": "m", "draw": 0}]}, "not those of runs"),
        (
            {"pairs": [{"treated": TREATED, "control": CONTROL, "arm": "late", "model": "nano", "draw": 0}]},
            "as arm late",
        ),
        (
            {"pairs": [{"treated": TREATED, "control": CONTROL, "arm": "perturbed", "model": "nano", "draw": 1}]},
            "draw 1",
        ),
        ({"release_id": "x"}, "release_id is not a sha256"),
        ({"withheld": None}, "withheld is null, not an object"),
        ({"withheld": {"tables": ["effects"], "revealed": False}}, "withheld has no commitment"),
        ({"withheld": {"tables": 1, "revealed": False, "commitment": "x"}}, "withheld tables is a whole number"),
        ({"extraction": []}, "extraction is a list, not an object"),
        ({"extraction": {"prefixes": ["8"], "suffix": 8}}, "extraction prefixes"),
        ({"extraction": {"prefixes": [8], "suffix": True}}, "extraction suffix is true or false"),
    ],
)
def test_facts_of_a_wrong_type_are_named(release: Path, values: dict[str, Any], message: str) -> None:
    change_facts(release / FACTS, **values)
    with pytest.raises(CostarError, match=message) as refusal:
        verify(release)
    assert FACTS in refusal.value.place


@pytest.mark.parametrize("text", [None, "[]", "{", "\x00"])
def test_facts_that_are_lost_or_no_facts_are_named_by_the_command_line(release: Path, text: str | None) -> None:
    if text is None:
        (release / FACTS).unlink()
    else:
        (release / FACTS).write_text(text)
    done = costar(release.parent, "verify", str(release), check=False)
    assert done.returncode == 1
    assert FACTS in done.stderr
    assert "Traceback" not in done.stderr


def test_a_release_takes_no_options_of_a_suite(release: Path) -> None:
    done = costar(release.parent, "verify", str(release), "--replay", "2", check=False)
    assert done.returncode == 2
    assert "--replay" in done.stderr


def drop_revision(folder: Path) -> None:
    facts = json.loads((folder / FACTS).read_text())
    change_facts(folder / FACTS, revisions=facts["revisions"] | {TREATED: [24, 48, 72, 96, 120]})


@pytest.mark.parametrize(
    ("spoil", "place", "message"),
    [
        ({"run": CONTROL}, "models", f"run is {CONTROL}, but the release has {TREATED}"),
        ({"step": 24}, "models", "step is 24, but the release has 96"),
        ({"step": "96"}, "models", "step is a text, not a whole number"),
        ({"revision": "main"}, "step24", "revision is main, but the release has step24"),
        ({"tokenizer_sha256": "0" * 64}, "models", "tokenizer_sha256 is 0000"),
        ({"pair": {"twin": "late.nano.d0"}}, "models", f"twin is late.nano.d0, but the release has {CONTROL}"),
        ({"pair": {"twin": CONTROL, "twin_revision": "step7"}}, "step24", f"step7, which {CONTROL} does not have"),
        ({"state_sha256": "0" * 64}, "models", "another state at one step"),
        ({"other_pairs": None}, "models", "other_pairs is null, not a list"),
        ({"arm": "late"}, "models", "arm is late, but the release has perturbed"),
        ({"model": "tiny"}, "step24", "model is tiny, but the release has nano"),
        ({"draw": 1}, "models", "draw is 1, but the release has 0"),
        ({"tokens_sha256": "0" * 64}, "models", "tokens_sha256 is 0000"),
        ({"order_sha256": "0" * 64}, "step24", "order_sha256 is 0000"),
        ({"seed": 8}, "step48", f"seed is 8, but 7 in models/{CONTROL} of its pair"),
        ({"weights_sha256": {}}, "step24", "model.safetensors is not of the weights that it names"),
        ({"weights_sha256": None}, "step24", "weights_sha256 is null, not an object"),
    ],
)
def test_a_manifest_that_disagrees_with_the_release_is_named(
    release: Path, spoil: dict[str, Any], place: str, message: str
) -> None:
    folder = release / ("models" if place == "models" else "revisions") / TREATED / (place if place != "models" else "")
    change_facts(folder / "costar_manifest.json", **spoil)
    (problem, *_) = wrong_manifests(read_release(release))
    assert message in problem
    assert TREATED in problem


def test_a_revision_that_the_facts_promise_and_the_folder_lacks_is_named(release: Path) -> None:
    drop_revision(release)
    problems = wrong_manifests(read_release(release))
    assert any("step120/costar_manifest.json: no facts" in problem for problem in problems)


def name_weights(folder: Path) -> None:
    change_facts(folder / "costar_manifest.json", weights_sha256={WEIGHTS: sha256_file(folder / WEIGHTS)})


def test_weights_of_a_checkpoint_in_another_ones_folder_are_named_though_every_sum_agrees(release: Path) -> None:
    source, target = (f"revisions/{run}/step72" for run in (TREATED, CONTROL))
    shutil.copyfile(release / source / WEIGHTS, release / target / WEIGHTS)
    summed_again(release)
    assert verify(release).problems == [
        f"{release / target}/costar_manifest.json: {WEIGHTS} is not of the weights that it names "
        f"({told_weights(release / target)[:11]}…), but of {source}/{WEIGHTS}"
    ]
    name_weights(release / target)
    summed_again(release)
    assert verify(release).problems == [
        f"{TREATED} and {CONTROL}: the same weights at step 72, though their states differ"
    ]


def told_weights(folder: Path) -> str:
    return str(json.loads((folder / "costar_manifest.json").read_text())["weights_sha256"][WEIGHTS])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.PKL", "modeling.py", "inner/state.pt"])
def test_pickles_and_code_beside_weights_are_named_and_nothing_is_loaded(release: Path, name: str) -> None:
    for folder in (release / "models" / TREATED, release / "revisions" / CONTROL / "step24"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    summed_again(release)
    proof = verify(release)
    assert [problem.split(": ", 1)[1] for problem in proof.problems] == [
        "a pickle or code; a release has weights as safetensors only"
    ] * 2
    assert (proof.models, proof.snippets) == (0, 0)


def test_exchanged_weights_are_found_by_their_scores_though_every_sum_agrees(release: Path) -> None:
    folders = release / "models" / TREATED, release / "models" / CONTROL
    swap(*(folder / WEIGHTS for folder in folders))
    for folder in folders:
        name_weights(folder)
    summed_again(release)
    assert damaged_files(read_release(release), still) == []
    assert wrong_manifests(read_release(release)) == []
    problems = wrong_models(read_release(release), still)[2]
    named = [problem for problem in problems if "nats per token, found" in problem]
    assert any(f"models/{TREATED}: record " in problem for problem in named)
    assert any(f"models/{CONTROL}: record " in problem for problem in named)
    assert problems == named


def test_scores_that_were_changed_are_found_by_the_models_though_every_sum_agrees(release: Path) -> None:
    path = release / "data" / "scores.parquet"
    table = pq.read_table(path, partitioning=None)
    rows = table.to_pylist()
    for row in rows:
        if (row["run"], row["metric"]) == (TREATED, "nll_token"):
            row["value"] += 0.002
    write_table(path, table.from_pylist(rows, schema=table.schema))
    models, scores, problems = wrong_models(read_release(release), still)
    assert (models, scores) == (10, 40)
    assert len(problems) == 20
    assert all(TREATED in problem for problem in problems)


def test_models_that_do_not_load_or_give_no_numbers_are_named(release: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (release / "models" / TREATED / WEIGHTS).write_bytes(b"nothing")
    path = release / "revisions" / CONTROL / "step24" / WEIGHTS
    weights = load_file(path)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    _, _, problems = wrong_models(read_release(release), still)
    assert len(problems) == 2
    assert f"{TREATED}: does not load" in problems[0]
    assert problems[1].endswith(f"{CONTROL}/step24: logits that are not finite")


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite("data/README.md", "| records | ", "| records | 9"), "rows of records"),
        (rewrite("data/README.md", "data_files: records.parquet", "data_files: no.parquet"), "records has no file"),
        (rewrite("data/README.md", "config_name: records", "config: records"), "names no tables"),
        (rewrite("data/README.md", "configs:", "other:"), "names no tables"),
        (lambda folder: shutil.copy(folder / "data/scores.parquet", folder / "data/x.parquet"), "in no configuration"),
        (lambda folder: (folder / "data/effects.parquet").write_bytes(b"PAR1"), "not a whole Parquet file"),
        (lambda folder: next((folder / "data/ledger").iterdir()).unlink(), "rows of ledger"),
    ],
)
def test_tables_and_the_card_that_names_them_agree(release: Path, change: Callable[[Path], None], message: str) -> None:
    assert wrong_tables(read_release(release))[1] == []
    change(release)
    assert any(message in problem for problem in wrong_tables(read_release(release))[1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[a](models/none)", "the link to models/none leads nowhere"),
        ("[a](../../etc)", "the link to ../../etc leads nowhere"),
        ("[a](/etc)", "the link to /etc leads nowhere"),
        ("see `data/none.parquet`", "names data/none.parquet, which is not there"),
        (f"`revisions/{TREATED}/step25`", f"names revisions/{TREATED}/step25, which is not there"),
    ],
)
def test_links_and_paths_that_lead_nowhere_are_named_with_their_page(release: Path, line: str, message: str) -> None:
    assert broken_links(read_release(release))[1] == []
    page = release / "models" / CONTROL / "README.md"
    page.write_text(f"{page.read_text()}\n{line} and [b](https://example.org/x), [c](README.md#d)\n")
    assert [
        problem for problem in broken_links(read_release(release))[1] if message in problem and str(page) in problem
    ]


@pytest.mark.parametrize("page", ["README.md", "data/README.md", f"models/{TREATED}/README.md", "data/MORE.md"])
@pytest.mark.parametrize("fence", ["```python", "``` python", "  ```py", "~~~python"])
def test_snippets_that_costar_does_not_write_are_named_and_never_run(release: Path, page: str, fence: str) -> None:
    path = release / page
    text = path.read_text() if path.is_file() else ""
    for other in release.rglob("*.md"):
        other.unlink()
    mark = release.parent / "mark"
    path.write_text(f"{text}\n{fence}\nopen({str(mark)!r}, 'w')\n{fence.strip()[:3]}\n")
    problems = failing_snippets(read_release(release), still)[1]
    assert problems == [f"{path}: a snippet that this version of costar does not write; not run"]
    assert not mark.exists()


def test_a_snippet_that_was_changed_is_not_run(release: Path) -> None:
    mark = release.parent / "mark"
    rewrite("README.md", "from datasets import", f"open({str(mark)!r}, 'w')\nfrom datasets import")(release)
    for other in release.glob("*/**/*.md"):
        other.unlink()
    (problem,) = failing_snippets(read_release(release), still)[1]
    assert problem == f"{release}/README.md: a snippet that this version of costar does not write; not run"
    assert not mark.exists()


def test_every_snippet_of_a_release_is_one_that_costar_writes_and_one_that_fails_is_named(
    release: Path, blind: Path
) -> None:
    for folder in (release, blind / "release"):
        expected = written_snippets(read_release(folder))
        found = {name: SNIPPET.findall(text) for name, text in pages(read_release(folder)).items()}
        assert found.keys() == expected.keys()
        assert all(len(found[name]) == 1 and found[name] in expected[name] for name in found)
    (release / "data" / "membership.parquet").write_bytes(b"PAR1")
    count, problems = failing_snippets(read_release(release), still)
    assert count == 6
    assert {problem.split(": ")[0] for problem in problems} == {f"{release}/README.md", f"{release}/data/README.md"}


def test_snippets_run_in_order_without_credentials_and_those_that_fail_or_do_not_end_are_told(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SOME_PASSWORD", "secret")
    fine = (
        "import os\nassert 'secret' not in str(os.environ)\nassert os.path.isdir('models')\n"
        f"assert os.path.expanduser('~') != {str(Path.home())!r}\nx = 1\n"
    )
    assert run_snippets(release, [fine, "assert x == 1\n"], 60) == ""
    failed = run_snippets(release, ["x = 1\n", "\nimport no_such_module\n"], 60)
    assert failed == "snippet 2, line 2 fails: ModuleNotFoundError: No module named 'no_such_module'"
    assert "does not end" in run_snippets(release, ["while True:\n    pass\n"], 2)
