"""Training tokens per second against the Trainer of transformers: same model, data, precision, threads, in one run.

    OMP_NUM_THREADS=1 python bench/training.py [--suite build/demo] [--arm perturbed] [--model tiny] [--steps 12] [--rounds 5]

Both sides train a Llama of the same shape from the same initialization on the sequences of one arm of a built suite, in
the order of its slots, with AdamW, the same rates and bfloat16 autocast where the CPU has instructions for it. Rounds
alternate; the ratio of each round and their median are printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from costar.core.hashing import EMPTY_DIGEST
from costar.core.workspace import Workspace
from costar.insertion.overlay import Overlay, open_suite_overlay
from costar.train.config import RunConfig, read_config
from costar.train.export import hf_config
from costar.train.identity import pick_device, pick_dtype
from costar.train.trainer import Trainer


def ours(config: RunConfig, overlay: Overlay, steps: int) -> float:
    """Seconds a step of costar's loop: reading, digest, update and log row included."""
    trainer = Trainer(config, overlay)
    trainer.digest = EMPTY_DIGEST
    trainer.train_step()
    started = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    return (time.perf_counter() - started) / steps


def theirs(config: RunConfig, overlay: Overlay, steps: int) -> float:
    """Seconds a step of `transformers.Trainer`, between its callbacks, the first step left out."""
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments
    from transformers import Trainer as HfTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.perf_counter())

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return (steps + 1) * config.train.batch

        def __getitem__(self, slot: int) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(overlay.sequences(np.array([slot]))[0].astype(np.int64))
            return {"input_ids": ids[:-1], "labels": ids[:-1]}

    class InOrder(HfTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    shape = config.shape
    model = LlamaForCausalLM(LlamaConfig(**hf_config(shape, config.sequence_length, config.eos_id)))
    model.load_state_dict(Trainer(config, overlay).model.state_dict())
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.train.batch,
            max_steps=steps + 1,
            learning_rate=config.train.lr,
            weight_decay=config.train.weight_decay,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            bf16=pick_dtype(pick_device()) == torch.bfloat16,
            use_cpu=pick_device().type == "cpu",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        InOrder(model=model, args=arguments, train_dataset=Rows(), callbacks=[clock]).train()
    return (clock.marks[-1] - clock.marks[0]) / (len(clock.marks) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="build/demo")
    parser.add_argument("--arm", default="perturbed")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if pick_device().type == "cpu":
        torch.set_num_threads(1)
    workspace = Workspace(Path(options.suite))
    config = read_config(workspace, f"{options.arm}.{options.model}.d0")
    config = replace(config, train=replace(config.train, optimizer="adamw", lr=1e-3, schedule="constant", warmup=0))
    overlay = open_suite_overlay(workspace, options.arm, 0, seed=config.seed)
    tokens = config.train.batch * config.sequence_length
    rounds = []
    for number in range(options.rounds):
        pair = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        seconds = {side.__name__: side(config, overlay, options.steps) for side in pair}
        rounds.append((tokens / seconds["ours"], tokens / seconds["theirs"]))
    import transformers

    print(
        json.dumps(
            {
                "what": f"training tokens/s, {options.model}, AdamW, batch {config.train.batch} × {config.sequence_length}",
                "peer": f"transformers.Trainer {transformers.__version__}",
                "torch": torch.__version__,
                "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
                "dtype": str(pick_dtype(pick_device())),
                "threads": torch.get_num_threads(),
                "ours": round(statistics.median(a for a, _ in rounds)),
                "theirs": round(statistics.median(b for _, b in rounds)),
                "ratios": [round(a / b, 3) for a, b in rounds],
                "ratio": round(statistics.median(a / b for a, b in rounds), 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
