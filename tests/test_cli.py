"""The command line as a user meets it: exit codes, messages, idempotence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from costar.eval.analyses import TABLES

from tests.small import costar, write_small_suite


def test_without_a_verb_the_verbs_are_listed(tmp_path: Path) -> None:
    done = costar(tmp_path, "--help")
    for verb in [
        "plan",
        "corpus",
        "insert",
        "manifest",
        "verify",
        "train",
        "eval",
        "report",
        "release",
        "rebuild",
        "sql",
        "status",
        "score",
        "all",
    ]:
        assert f" {verb} " in done.stdout


def test_plan_prints_runs_tree_load_and_power_without_building_anything(tmp_path: Path) -> None:
    done = costar(tmp_path, "plan", "demo")
    assert "4 runs for the price of 3.5" in done.stdout
    assert "30.8%" in done.stdout
    assert "64×: 0.99" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "absent"], 2, "no such suite"),
        (["plan", "./absent.toml"], 2, "no such file"),
        (["insert", "./small.toml"], 2, "costar corpus"),
        (["train", "./small.toml"], 2, "costar corpus"),
        (["verify", "./small.toml"], 2, "costar corpus"),
        (["report", "./small.toml"], 2, "costar"),
        (["sql", "./small.toml", "from runs"], 2, "no manifest"),
        (["train", "./small.toml", "--arm", "latte"], 2, "did you mean 'late'"),
        (["train", "./small.toml", "--draw", "7"], 2, "--draw"),
        (["plan", "--wrong"], 2, "No such option"),
    ],
)
def test_a_verb_out_of_turn_or_a_wrong_name_is_the_users_input(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    write_small_suite(tmp_path)
    done = costar(tmp_path, *arguments, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_records_file_is_named_before_any_work(tmp_path: Path) -> None:
    path = write_small_suite(tmp_path)
    path.write_text(path.read_text().replace('records = { from = "generator" }', 'records = { from = "absent.jsonl" }'))
    done = costar(tmp_path, "corpus", "./small.toml", check=False)
    assert done.returncode == 2
    assert "absent.jsonl" in done.stderr
    assert not (tmp_path / "build").exists()


def test_a_second_call_skips_what_is_current_and_changes_no_file(built_copy: Path) -> None:
    folder = built_copy.parent.parent

    def stamps() -> dict[str, int]:
        skipped = ["manifest.duckdb", "verified.txt", "stage-effects.json", "stage-membership.json"]
        skipped += [f"{name}.parquet" for name in (*TABLES, "membership", "dataset_inference")]
        files = (
            p
            for p in built_copy.rglob("*")
            if p.is_file() and p.name not in skipped and not p.name.endswith(".lock") and "report" not in p.parts
        )
        return {str(p): p.stat().st_mtime_ns for p in files}

    before = stamps()
    done = costar(folder, "all", "./small.toml")
    assert done.stdout.count("current, skipped") == 2
    assert done.stdout.count("already trained") == 4
    assert stamps() == before


def test_the_chain_ends_with_the_table_and_the_caveats(built_copy: Path) -> None:
    done = costar(built_copy.parent.parent, "all", "./small.toml")
    tail = done.stdout[done.stdout.index("How well is") :]
    for word in (
        "copies",
        "standard",
        "perturbed",
        "early",
        "late",
        "One draw",
        "denser",
        "Label permutation",
        "Done in",
    ):
        assert word in tail


def test_verify_replays_steps_bit_for_bit(built_copy: Path) -> None:
    done = costar(built_copy.parent.parent, "verify", "./small.toml", "--replay", "3")
    assert "12 steps repeated bit for bit" in done.stdout


def test_an_arm_is_exported_and_a_wrong_form_or_arm_is_named(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    for arguments, message in (
        (["--export", "arrow", "--arm", "late"], "megatron"),
        (["--export", "megatron", "--arm", ""], "correct it"),
        (["--export", "megatron", "--arm", "latte"], "latte"),
        (["--export", "megatron", "--arm", "late", "--draw", "3"], "0 to 0"),
    ):
        done = costar(folder, "release", "./small.toml", *arguments, check=False)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    costar(folder, "release", "./small.toml", "--export", "megatron", "--arm", "late", "--parts", "1")
    names = {path.name for path in (built_copy / "release" / "megatron" / "late-d0").iterdir()}
    assert {"tokens.bin", "tokens.idx", "export.json", "tokens.bin.000.zst", "SHA256SUMS"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run"], "--dry-run beside --push"),
        (["--dry-run", "--blind"], "--dry-run beside --push"),
        (["--blind", "--export", "hf"], "--export --blind\n  found     2 things to do"),
        (["--push", "lab", "--export", "hf"], "--export --push"),
        (["--push", "lab", "--blind"], "--push --blind"),
        (["--reveal", "--blind"], "--blind --reveal"),
        (["--arm", "late"], "--arm beside --export"),
        (["--draw", "0"], "--draw beside --export"),
        (["--parts", "4", "--push", "lab"], "--parts beside --export"),
    ],
    ids=" ".join,
)
def test_options_of_release_that_do_not_go_together_are_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    write_small_suite(tmp_path)
    done = costar(tmp_path, "release", "./small.toml", *options, check=False)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_dry_run_writes_what_a_push_of_the_current_release_would_send(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    done = costar(folder, "release", "./small.toml", "--push", "lab", "--dry-run")
    assert "nothing sent" in done.stdout
    tree = built_copy / "release-dry-run" / "lab"
    assert (tree / "models" / "small-perturbed.nano.d0" / "step24" / "model.safetensors").is_file()
    done = costar(folder, "release", "./small.toml", "--push", "lab", check=False)
    assert done.returncode == 2
    assert "--push\n  found     " in done.stderr  # no token here, or no network in tests
    path = folder / "small.toml"
    path.write_text(path.read_text().replace('arms = ["perturbed"]', 'arms = ["perturbed"]\nlicence = "MIT"'))
    done = costar(folder, "release", "./small.toml", "--push", "lab", "--dry-run", check=False)
    assert done.returncode == 2
    assert "pack it again: costar release" in done.stderr


def test_the_digests_of_another_trainer_are_verified_or_refuted(built: Path, tmp_path: Path) -> None:
    import costar as package

    suite = package.open(str(built))
    for name, arm in (("right", "late"), ("wrong", "early")):
        with package.DigestRecorder(tmp_path / f"{name}.jsonl", arm="late", batch=8) as recorder:
            recorder.update(suite.sequences(arm, list(range(80 * 8))))
    done = costar(tmp_path, "verify", str(built), "--digests", "right.jsonl")
    assert "80 of 96 planned steps" in done.stdout
    done = costar(tmp_path, "verify", str(built), "--digests", "wrong.jsonl", check=False)
    assert done.returncode == 2
    assert "read arm early instead" in done.stderr


def flip(path: Path) -> None:
    """Change one bit and nothing else."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_names_flipped_bits_and_the_same_verbs_mend_them(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    names = {
        "corpus/tokens.bin": "corpus",
        "insertion/assignments.parquet": "insert",
        "eval/ledger/run=early.nano.d0/step=48/passages.text.eos.parquet": "eval",
    }
    for name, verb in names.items():
        whole = (built_copy / name).read_bytes()
        flip(built_copy / name)
        done = costar(folder, "verify", "./small.toml", check=False)
        assert done.returncode in (1, 2)
        assert not (built_copy / "verified.txt").exists()
        costar(folder, verb, "./small.toml")
        assert (built_copy / name).read_bytes() == whole
    costar(folder, "verify", "./small.toml")


def test_a_damaged_checkpoint_is_named_and_trained_again_once_it_is_removed(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    path = built_copy / "runs" / "early.nano.d0" / "checkpoints" / "step-000096" / "rank-00000.safetensors"
    flip(path)
    done = costar(folder, "verify", "./small.toml", check=False)
    assert done.returncode == 1
    assert "step-000096/rank-00000.safetensors" in done.stderr
    shutil.rmtree(path.parent)
    costar(folder, "train", "./small.toml")
    costar(folder, "verify", "./small.toml")


def test_eval_of_what_is_not_there_is_the_users_input(built: Path) -> None:
    for arguments, message in (
        (["--arm", "latte"], "did you mean 'late'"),
        (["--step", "17"], "no finished checkpoint"),
    ):
        done = costar(built.parent.parent, "eval", str(built), *arguments, check=False)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.parametrize(
    "name",
    ["corpus/tokens.bin", "insertion/renderings.parquet", "insertion/exposures/arm=late/draw=0/exposures.parquet"],
)
def test_half_written_files_are_named_and_rebuilt_by_their_verb(built_copy: Path, name: str) -> None:
    folder = built_copy.parent.parent
    path = built_copy / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = costar(folder, "verify", str(built_copy), check=False)
    assert done.returncode in (1, 2)
    assert path.name in done.stderr
    costar(folder, "corpus", "./small.toml")
    costar(folder, "insert", "./small.toml")
    assert path.read_bytes() == whole


def test_sql_takes_queries_recipes_tables_and_built_folders(built: Path) -> None:
    folder = built.parent.parent
    query = "select arm, level, count(*) from exposures join assignments using (arm, draw, record_id) group by all order by all"
    done = costar(folder, "sql", "./small.toml", query, "--csv")
    assert done.stdout.splitlines()[1] == "early,1,12"
    assert "late.nano.d0" in costar(folder, "sql", str(built), "dose_response").stdout
    assert "nano" in costar(folder, "sql", str(built), "models").stdout
    assert "dose_response" in costar(folder, "sql", str(built)).stdout
    done = costar(folder, "sql", str(built), "selec 1", check=False)
    assert done.returncode == 2
    assert "a recipe" in done.stderr


def test_status_says_what_is_done(built: Path) -> None:
    done = costar(built.parent.parent, "status", "./small.toml")
    states = [line.split("  ")[-1] if line.endswith("done") else line for line in done.stdout.splitlines()]
    assert sum(" done" in f" {state}" for state in states) == 2 + 4 + 4
    assert "missing" not in done.stdout


def test_draws_that_have_the_same_to_say_are_one_line_of_a_plan(tmp_path: Path) -> None:
    lines = costar(tmp_path, "plan", "findings").stdout.splitlines()
    (ordering,) = [line for line in lines if line.startswith("ordering.tiny")]
    assert "× 3 draws" in ordering
