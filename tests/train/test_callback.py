"""The callback records what the model of `transformers.Trainer` is fed: shuffling, evaluation, resuming, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import costar
import pytest
import torch
from costar.core.errors import CostarError
from costar.train.callback import fed_rows

TRAIN = """
import sys, costar
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
suite, folder = sys.argv[1:]
shape = dict(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
arguments = TrainingArguments(output_dir=folder, per_device_train_batch_size=2, gradient_accumulation_steps=2,
    train_sampling_strategy="sequential", remove_unused_columns=False, report_to="none", save_strategy="no",
    use_cpu=True, max_steps=6)
callback = costar.digest_callback(folder + "/d.jsonl", arm="late")
Trainer(LlamaForCausalLM(LlamaConfig(**shape)), arguments, train_dataset=costar.torch_dataset(suite, arm="late"),
    data_collator=costar.collate_ids, callbacks=[callback]).train()
"""


@pytest.fixture
def _accelerate() -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate, which costar does not pin")


def train(built: Path, folder: Path, *, resume: str | None = None, **changes: Any) -> Any:
    """A few steps of a tiny model on arm `late`, or on other rows; the model."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    rows = costar.torch_dataset(str(built), arm=changes.pop("arm", "late"))
    arguments: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6}
    arguments |= {"train_sampling_strategy": "sequential", "remove_unused_columns": False, "report_to": "none"}
    arguments |= {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    trainer = Trainer(
        LlamaForCausalLM(config),
        TrainingArguments(output_dir=str(folder / "out"), **arguments | changes),
        train_dataset=rows,
        eval_dataset=torch.utils.data.Subset(rows, range(300, 304)),
        data_collator=costar.collate_ids,
        callbacks=[costar.digest_callback(folder / "d.jsonl", arm="late")],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


@pytest.mark.usefixtures("_accelerate")
@pytest.mark.parametrize(
    "changes", [{}, {"eval_strategy": "steps", "eval_steps": 2}, {"dataloader_num_workers": 1}, {"torch_compile": True}]
)
def test_what_the_model_is_fed_is_the_plan(changes: dict[str, Any], built: Path, tmp_path: Path) -> None:
    """Whatever evaluates in between, prefetches, or compiles the model."""
    if "torch_compile" in changes:
        changes = changes | {"torch_compile_backend": "eager"}
    model = train(built, tmp_path, **changes)
    proof = costar.verify_digests(str(built), tmp_path / "d.jsonl")
    assert (proof.agreed, proof.steps, proof.problems) == (6, 6, [])
    assert not model._forward_pre_hooks


@pytest.mark.usefixtures("_accelerate")
def test_a_trainer_that_shuffles_or_reads_another_arm_is_caught(built: Path, tmp_path: Path) -> None:
    for name, changes in (("shuffled order", {"train_sampling_strategy": "random"}), ("arm perturbed", {})):
        folder = tmp_path / name
        folder.mkdir()
        train(built, folder, arm="late" if changes else "perturbed", **changes)
        (problem,) = costar.verify_digests(str(built), folder / "d.jsonl").problems
        assert name in problem


@pytest.mark.usefixtures("_accelerate")
def test_a_resumed_training_continues_the_file(built: Path, tmp_path: Path) -> None:
    train(built, tmp_path, save_strategy="steps", save_steps=4)
    train(built, tmp_path, resume=str(tmp_path / "out" / "checkpoint-4"), max_steps=8)
    proof = costar.verify_digests(str(built), tmp_path / "d.jsonl")
    assert (proof.agreed, proof.steps, proof.problems) == (8, 8, [])
    (tmp_path / "d.jsonl").unlink()
    with pytest.raises(CostarError, match="digests of 0 steps"):
        train(built, tmp_path, resume=str(tmp_path / "out" / "checkpoint-4"), max_steps=8)


@pytest.mark.usefixtures("_accelerate")
def test_two_processes_of_the_trainer_read_the_plan(built: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "train.py"), str(built), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    proof = costar.verify_digests(str(built), tmp_path / "d.jsonl")
    assert (proof.agreed, proof.steps, proof.problems) == (6, 6, [])


def test_labels_other_than_the_inputs_are_refused() -> None:
    batch = costar.collate_ids([torch.arange(5), torch.arange(5)])
    assert batch["input_ids"].shape == (2, 5)
    assert fed_rows((), batch)[1] is None
    moved = {"input_ids": batch["input_ids"][:, :-1], "shift_labels": batch["input_ids"][:, 1:]}
    assert fed_rows((), moved)[1] is moved["shift_labels"]
    masked = batch["labels"].clone()
    masked[0, 0] = -100
    with pytest.raises(CostarError, match="labels that differ"):
        fed_rows((), batch | {"labels": masked})
    with pytest.raises(CostarError, match="without input_ids"):
        fed_rows((), {"inputs_embeds": torch.zeros(1)})
