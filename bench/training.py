"""Training tokens per second against other trainers: same model, data, precision and threads, in one run.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 python bench/training.py [--suite build/demo]
        [--arm perturbed] [--model tiny] [--steps 12] [--rounds 5] [--compile] [--optimizer adamw]

All sides train a Llama of the same shape from the same initialization on the sequences of one arm of a built suite, in
the order of its slots, with fused AdamW, the same rates and bfloat16 autocast where the CPU has instructions for it
(`--optimizer muon` changes our side only). Peers: `transformers.Trainer`, and the model of litgpt in a plain loop where
litgpt is installed (its pins refuse our huggingface_hub: `pip install --no-deps litgpt lightning lightning-utilities
torchmetrics`). With `--compile` our blocks are compiled too, and `transformers.Trainer` runs eager and compiled. Sides
take turns, each in a process of its own, so that none finds the settings or the memory of another; the ratios of each
round and their medians are printed as JSON, in wall-clock and in CPU seconds. The corpus and the insertion of the suite
suffice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from costar.core.design import RunName
from costar.core.machine import Layout
from costar.core.models import presets
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.overlay import Overlay
from costar.train.config import RunConfig, make_config
from costar.train.export import hf_config
from costar.train.identity import pick_device, pick_dtype
from costar.train.init import init_weights
from costar.train.model import Llama
from costar.train.trainer import Trainer

UNTIMED = 2  # steps that warm up, and compile
CLOCKS = ("wall", "cpu")
Seconds = dict[str, float]
Side = Callable[[RunConfig, Overlay, int], Seconds]


class Clock:
    """Wall-clock and CPU seconds a step since the last untimed one."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> Seconds:
        first, last = self.marks[UNTIMED - 1], self.marks[-1]
        timed = len(self.marks) - UNTIMED
        return {name: (b - a) / timed for name, a, b in zip(CLOCKS, first, last, strict=True)}


def seconds_a_step(step: Callable[[], object], steps: int) -> Seconds:
    clock = Clock()
    for _ in range(UNTIMED + steps):
        step()
        clock.mark()
    return clock.seconds()


def ours(config: RunConfig, overlay: Overlay, steps: int, *, compiled: bool = False) -> Seconds:
    """Seconds a step of costar's loop: reading, digest, update and log row included."""
    return seconds_a_step(Trainer(config, overlay, Layout(compile=compiled)).train_step, steps)


def transformers(config: RunConfig, overlay: Overlay, steps: int, *, compiled: bool = False) -> Seconds:
    """Seconds a step of `transformers.Trainer`, between its callbacks."""
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments
    from transformers import Trainer as HfTrainer

    clock = Clock()

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return (steps + UNTIMED) * config.train.batch

        def __getitem__(self, slot: int) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(overlay.sequences(np.array([slot]))[0].astype(np.int64))
            return {"input_ids": ids[:-1], "labels": ids[:-1]}

    class InOrder(HfTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = LlamaForCausalLM(LlamaConfig(**hf_config(config.shape, config.sequence_length, config.eos_id)))
    first = Llama(config.shape)
    init_weights(first, config.seed, config.draw)
    model.load_state_dict(first.state_dict())
    del first
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.train.batch,
            max_steps=steps + UNTIMED,
            learning_rate=config.train.lr,
            weight_decay=config.train.weight_decay,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            torch_compile=compiled,
            bf16=pick_dtype(pick_device()) == torch.bfloat16,
            use_cpu=pick_device().type == "cpu",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        InOrder(model=model, args=arguments, train_dataset=Rows(), callbacks=[Marks()]).train()
    return clock.seconds()


def litgpt(config: RunConfig, overlay: Overlay, steps: int) -> Seconds:
    """Seconds a step of litgpt's model in the loop of its `pretrain`, without Fabric: reading, clipping and update."""
    from litgpt.config import Config
    from litgpt.model import GPT

    shape = config.shape
    model = GPT(
        Config(
            block_size=config.sequence_length,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_query_groups=shape.kv_heads,
            n_embd=shape.hidden,
            head_size=shape.head_size,
            intermediate_size=shape.ffn,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=shape.norm_eps,
            mlp_class_name="LLaMAMLP",
            rope_base=int(shape.rope_theta),
        )
    )
    torch.nn.init.normal_(model.transformer.wte.weight, 0.0, 0.02)
    if shape.tied:
        model.lm_head.weight = model.transformer.wte.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, betas=(0.9, 0.95), fused=True)
    dtype, batch = pick_dtype(pick_device()), config.train.batch
    slots = iter(range(0, (steps + UNTIMED) * batch, batch))

    def step() -> float:
        first = next(slots)
        ids = torch.from_numpy(overlay.sequences(np.arange(first, first + batch)).astype(np.int64))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return seconds_a_step(step, steps)


def sides(compiled: bool) -> dict[str, Side]:
    found: dict[str, Side] = {"ours": ours, "transformers": transformers}
    if compiled:
        found["ours compiled"] = lambda *given: ours(*given, compiled=True)
        found["transformers compiled"] = lambda *given: transformers(*given, compiled=True)
    if importlib.util.find_spec("litgpt"):
        found["litgpt"] = litgpt
    return found


def configured(options: argparse.Namespace) -> tuple[RunConfig, Overlay]:
    """The configuration of a run that nobody need have begun, with the preset asked for."""
    workspace = Workspace(Path(options.suite))
    suite = load_suite(workspace.root / "suite.toml")
    config, overlay = make_config(suite, workspace, RunName(arm=options.arm, model=suite.models[0], draw=0))
    design = replace(config.train, optimizer=options.optimizer, lr=1e-3, schedule="constant", warmup=0)
    shape = presets()[options.model].shape(config.shape.vocab_size)
    return replace(config, train=design, shape=shape), overlay


def in_a_process(side: str) -> Seconds:
    done = subprocess.run([sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ratios(rounds: list[dict[str, Seconds]], ours: str, peer: str) -> dict[str, Any]:
    """How many times as fast we are."""
    found = {clock: [each[peer][clock] / each[ours][clock] for each in rounds] for clock in CLOCKS}
    medians = {clock: round(statistics.median(values), 3) for clock, values in found.items()}
    return {**medians, "rounds": {clock: [round(value, 3) for value in values] for clock, values in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="build/demo")
    parser.add_argument("--arm", default="perturbed")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--side", default="", help="run one side and print its seconds a step")
    options = parser.parse_args()
    if pick_device().type == "cpu":
        torch.set_num_threads(1)
    config, overlay = configured(options)
    chosen = sides(options.compile)
    if options.side:
        print(json.dumps(chosen[options.side](config, overlay, options.steps)))
        return
    rounds: list[dict[str, Seconds]] = []
    for number in range(options.rounds):
        order = list(chosen) if number % 2 == 0 else list(reversed(chosen))
        rounds.append({name: in_a_process(name) for name in order})
    batch, length = config.train.batch, config.sequence_length
    peers = [name for name in chosen if not name.startswith("ours")]
    packages = ["torch", "transformers", "accelerate", *(["litgpt"] if "litgpt" in chosen else [])]
    figures = {
        "what": f"training tokens/s, {options.model}, {options.optimizer}, batch {batch} × {length}",
        "versions": {name: version(name) for name in packages},
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "load": os.getloadavg(),
        "dtype": str(pick_dtype(pick_device())),
        "threads": torch.get_num_threads(),
        "tokens/s": {
            name: {
                clock: round(batch * length / statistics.median(each[name][clock] for each in rounds))
                for clock in CLOCKS
            }
            for name in chosen
        },
        "ratios": {
            f"{mine} / {peer}": ratios(rounds, mine, peer) for mine in chosen if mine not in peers for peer in peers
        },
    }
    print(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
