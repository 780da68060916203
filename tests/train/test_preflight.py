from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.design import TrainDesign
from costar.core.errors import CostarError
from costar.core.models import presets
from costar.core.plan import Needs, run_needs
from costar.train.preflight import preflight, smaller

from tests.small import SUITE, costar, write_small_suite

TRAIN = TrainDesign(
    steps=100,
    batch=8,
    optimizer="adamw",
    lr=1e-3,
    lr_end=0,
    schedule="constant",
    warmup=0,
    decay=0,
    weight_decay=0.1,
    every=50,
    also=(),
)


def check(needs: Needs, folder: Path, *, flops: float = 1.0, force: bool = False) -> str:
    return preflight(
        needs, disk=needs.disk, total_flops=flops, processes=2, folder=folder, model="1b", limit_hours=24, force=force
    ).line


def test_needs_grow_with_the_model_and_hold_its_state() -> None:
    sizes = [
        run_needs(presets()[name].shape(1024), TRAIN, 256, 0, 100, 2).memory
        for name in ("tiny", "15m", "60m", "160m", "1b")
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 16 * presets()["1b"].shape(1024).parameters


def test_too_little_memory_names_need_supply_and_a_smaller_model(tmp_path: Path) -> None:
    with pytest.raises(CostarError) as error:
        check(Needs(memory=2**50, disk=1, flops=1), tmp_path)
    text = str(error.value)
    assert "1,048,576" in text or "1048576.0 GB of memory" in text
    assert "here" in text
    assert "MODEL=160m" in text
    assert error.value.exit_code == 1


def test_too_little_disk_is_refused_even_when_forced(tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="disk"):
        check(Needs(memory=1, disk=2**60, flops=1), tmp_path, force=True)


def test_force_overrides_the_estimate_of_time_only(tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="--force"):
        check(Needs(memory=1, disk=1, flops=1), tmp_path, flops=1e22)
    assert "needs" in check(Needs(memory=1, disk=1, flops=1), tmp_path, flops=1e22, force=True)


def test_runs_that_do_not_fit_side_by_side_train_one_after_another(tmp_path: Path) -> None:
    from costar.train.preflight import available_memory

    assert "1 run side by side" in check(Needs(memory=available_memory() * 2 // 3, disk=1, flops=1), tmp_path)
    assert "2 runs side by side" in check(Needs(memory=1, disk=1, flops=1), tmp_path)


def test_the_ladder_of_suggestions() -> None:
    assert [smaller(name) for name in ("8b", "1b", "160m", "60m", "15m", "tiny", "own")] == [
        "1b",
        "160m",
        "60m",
        "15m",
        "tiny",
        None,
        None,
    ]


def test_any_preset_adds_runs_to_the_arms_and_its_shrunken_form_trains(built_copy: Path) -> None:
    """`make train MODEL=1b`, with a 1b that is shrunk in every number but keeps its shape: grouped queries, untied head."""
    folder = built_copy.parent.parent
    path = folder / "small.toml"
    shrunk = "\n[model.1b]\nlayers = 2\nhidden = 64\nheads = 4\nkv_heads = 1\nffn = 256\ntied = false\n"
    path.write_text(path.read_text().replace("[corpus]", shrunk + "\n[corpus]"))
    done = costar(folder, "train", "./small.toml", "--model", "1b", "--arm", "perturbed")
    assert "pre-flight 1b: needs" in done.stdout
    assert (built_copy / "runs" / "perturbed.1b.d0" / "hf" / "step-000096" / "model.safetensors").is_file()


def test_the_real_1b_is_refused_in_one_line_where_it_cannot_be_trained(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_text("limit_hours = 1\n")
    write_small_suite(tmp_path, SUITE.replace("steps       = 96", "steps       = 5000"))
    done = costar(tmp_path, "train", "./small.toml", "--model", "1b", check=False)
    assert done.returncode == 1
    assert "pre-flight" in done.stderr
    assert "1b: needs" in done.stderr
    assert "MODEL=160m" in done.stderr


def test_an_unknown_model_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_small_suite(tmp_path)
    done = costar(tmp_path, "train", "./small.toml", "--model", "tinyy", check=False)
    assert done.returncode == 2
    assert "did you mean 'tiny'" in done.stderr
