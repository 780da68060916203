"""What a run needs: memory of each of its devices, disk, FLOP. From shapes alone, without torch.

The sums for CPU are measured: `bench/needs.py` compares them with the peak of fresh processes. Those for GPUs are read
off the same operations with the sizes that GPU kernels save (Korthikanti et al., arXiv 2205.05198, section 4, for the
pattern); they have not been measured.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .design import TrainDesign
from .devices import has_gpu_driver
from .machine import (
    LAYOUT_INVARIANT,
    Layout,
    computes_bfloat16,
    is_invariant,
    resolved_micro_batch,
    resolved_sharding,
)
from .models import ModelShape

GIB = 2**30
MIB = 2**20
RATE = """
import sys, time, numpy as np
a = np.ones((512, 512), np.float32); a @ a
best = 1e9
for _ in range(40):
    started = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - started)
sys.stdout.write(str(2 * 512**3 / best))
"""
GPU = """
import json, sys, time, torch
if torch.cuda.is_available():
    a = torch.ones(4096, 4096, dtype=torch.bfloat16, device="cuda")
    best = 1e9
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    free = min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    facts = {"name": torch.cuda.get_device_name(0), "count": torch.cuda.device_count(), "free": free}
    sys.stdout.write(json.dumps(facts | {"rate": 2 * 4096**3 / best}))
"""
OF_PLAIN = {"cpu": 0.6, "cuda": 0.4}  # of the speed of a plain product, what training reaches, roughly
# torch, its kernels and the reader of Parquet; the context of a GPU with its libraries
PROGRAM = {"cpu": 418 * MIB, "cuda": 1024 * MIB}
BFLOAT_KERNELS = 8 * MIB  # what the products of oneDNN in bfloat16 add on CPU
# glibc keeps freed pieces that fit nothing: shares measured with bench/needs.py. torch's pool on GPUs: not measured.
SPLINTERS = {
    "gradients": 0.6,
    "activations, 2 bytes": 0.05,
    "activations, 4 bytes": 0.27,
    "recomputed, 2 bytes": 0.55,
    "recomputed, 4 bytes": 2.3,
}
GPU_SPLINTERS = 0.08


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes of memory of each device and of disk of one run, and its FLOP."""

    memory: int
    disk: int
    flops: float


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a run computes on: its kind ("cpu" or "cuda"), and the dtype of its products (2 bytes or 4)."""

    kind: str
    product_bytes: int


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs of this machine: name of the first, how many, bytes free on the fullest, FLOP/s of a plain product."""

    name: str
    count: int
    free: int
    rate: float


def state_bytes(shape: ModelShape, optimizer: str) -> int:
    """Bytes of the optimizer state in float32: two moments for AdamW; Muon has one for the matrices of the blocks."""
    matrices = shape.layers * (shape.block_parameters - 2 * shape.hidden)
    return 8 * shape.parameters - (4 * matrices if optimizer == "muon" else 0)


def block_activations(shape: ModelShape, device: Device, *, autocast: bool) -> int:
    """Bytes that the backward pass of one block keeps, for a token."""
    product, hidden, ffn = device.product_bytes, shape.hidden, shape.ffn
    kv = shape.kv_heads * shape.head_size
    attended = 4 if device.kind == "cpu" else product  # on CPU attention runs in float32
    stream = 4 if autocast else product
    casts = product if product < stream else 0  # autocast copies the input of every product, for each product anew
    normed = 2 * stream if device.kind == "cpu" else stream  # the fused kernel of GPUs keeps its input only
    kept = {
        "input_layernorm": normed * hidden,
        "q_proj, k_proj, v_proj": (3 * casts or stream) * hidden,
        "attention": attended * (2 * hidden + 2 * kv) + 4 * shape.heads,
        "o_proj": product * hidden if casts else 0,
        "post_attention_layernorm": normed * hidden,
        "gate_proj, up_proj": (2 * casts or stream) * hidden,
        "silu, product, down_proj": 4 * product * ffn,
    }
    return sum(kept.values())


def memory_parts(
    shape: ModelShape, train: TrainDesign, length: int, layout: Layout, *, devices: int = 1, device: Device
) -> dict[str, int]:
    """Bytes of memory that one of the `devices` processes of a run needs, by part; their sum is its peak.

    The peak is where the last forward pass of a step ends, or where the gradients are complete, whichever is more.
    """
    product, spread = device.product_bytes, resolved_sharding(layout, device.kind) != "none"
    parts = devices if spread else 1
    micro_batch = resolved_micro_batch(layout, train.batch, devices)
    tokens, accumulates = micro_batch * length, micro_batch < math.ceil(train.batch / devices)
    gradients = 4 * shape.parameters
    embeddings = shape.vocab_size * shape.hidden * (1 if shape.tied else 2)
    gathered = 2 * shape.block_parameters + embeddings  # two blocks, and what is no block
    cast = embeddings if spread else shape.vocab_size * shape.hidden  # autocast casts the head only
    copied = gathered if parts > 1 else shape.layers * shape.block_parameters + cast
    block = tokens * block_activations(shape, device, autocast=not spread)
    stream = tokens * shape.hidden * (product if spread else 4)
    ends = {
        "last norm": 2 * stream,
        "cross-entropy": cross_entropy_bytes(shape, tokens, device),
    }
    if layout.recompute:
        ends["inputs of blocks"] = stream * shape.layers
        late = {"gradients": gradients // parts, "inputs of blocks": stream * shape.layers, "activations": block}
    else:
        ends["activations"] = block * shape.layers
        late = {"gradients": gradients // parts}
    ends["copies for products"] = product * copied if product < 4 or parts > 1 else 0
    ends["gradients of micro-batches"] = gradients if accumulates else 0  # whole until they are exchanged
    if parts > 1:
        late["gradients on their way"] = 4 * max(shape.block_parameters, embeddings)
    elif devices > 1:
        late["gradients in one piece"] = gradients * (3 if layout.determinism == LAYOUT_INVARIANT else 1)
    held = {"parameters": 4 * shape.parameters // parts, "optimizer": state_bytes(shape, train.optimizer) // parts}
    peak = max(
        ({**each, "splinters": splinter_bytes(each, layout, device)} for each in (ends, late)),
        key=lambda each: sum(each.values()),
    )
    program = PROGRAM[device.kind] + (BFLOAT_KERNELS if device.kind == "cpu" and product < 4 else 0)
    return held | peak | {"program": program}


def splinter_bytes(parts: Mapping[str, int], layout: Layout, device: Device) -> int:
    """Bytes that an allocator holds between what is used: a share of what comes and goes in a step."""
    if device.kind != "cpu":
        return int(GPU_SPLINTERS * sum(parts.values()))
    gradients = sum(size for name, size in parts.items() if name.startswith("gradients"))
    kept = "recomputed" if layout.recompute else "activations"
    others = sum(parts.values()) - gradients - parts.get("copies for products", 0)
    return int(SPLINTERS["gradients"] * gradients + SPLINTERS[f"{kept}, {device.product_bytes} bytes"] * others)


def cross_entropy_bytes(shape: ModelShape, tokens: int, device: Device) -> int:
    """Bytes of the logits of a chunk with their softmax and gradient, and of the gradients that the loss keeps."""
    product = device.product_bytes
    chunk = (
        (GIB if device.kind != "cpu" else 4 * MIB) * (2 * product + 4) // 4
    )  # float32 logits of a chunk: train/loss.py
    whole = tokens * shape.vocab_size * (2 * product + 4)
    kept = 2 * tokens * shape.hidden * product + 4 * shape.vocab_size * shape.hidden
    return min(chunk, whole) + kept


def checkpoint_bytes(shape: ModelShape, optimizer: str) -> int:
    """Bytes of one checkpoint: parameters and optimizer state in float32."""
    return 4 * shape.parameters + state_bytes(shape, optimizer)


def run_needs(
    shape: ModelShape,
    train: TrainDesign,
    length: int,
    layout: Layout,
    *,
    steps: int,
    checkpoints: int,
    devices: int = 1,
    device: Device,
) -> Needs:
    """Memory of each device, disk and FLOP of `steps` steps of a run that leaves so many checkpoints and an export."""
    parts = memory_parts(shape, train, length, layout, devices=devices, device=device)
    return Needs(
        memory=sum(parts.values()),
        disk=checkpoints * checkpoint_bytes(shape, train.optimizer) + 4 * shape.parameters,
        flops=float(shape.flops_per_token(length)) * train.batch * length * steps,
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """Settings of machine.toml in words, and the bytes that each device needs with them."""

    settings: str
    memory: int


def fitting_change(
    shape: ModelShape,
    train: TrainDesign,
    length: int,
    layout: Layout,
    *,
    devices: int,
    most_devices: int,
    device: Device,
    room: int,
) -> Change | None:
    """The first change of a layout with which a run fits into `room` bytes a device, the cheapest in time first.

    Halves of the micro-batch, then activations computed again, then parameters spread over up to `most_devices`.
    """
    invariant = layout.determinism == LAYOUT_INVARIANT
    sizes = [resolved_micro_batch(layout, train.batch, devices)]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    smaller = [(replace(layout, micro_batch=size), devices) for size in sizes[1:]]
    plain = [(layout, devices), *smaller]
    tried = [*smaller, *((replace(each, recompute=True), count) for each, count in plain)]
    count = 2 * devices
    while device.kind != "cpu" and not invariant and count <= min(most_devices, train.batch):
        tried += [
            (replace(each, sharding="full"), count) for each, _ in [(layout, devices), *tried[: 2 * len(plain) - 1]]
        ]
        count *= 2
    for each, count in tried:
        if invariant and not is_invariant(train.batch, count, resolved_micro_batch(each, train.batch, count)):
            continue
        memory = sum(memory_parts(shape, train, length, each, devices=count, device=device).values())
        if memory <= room:
            changed = {key: value for key, value in vars(each).items() if value != getattr(layout, key)}
            changed |= {"devices": count} if count != devices else {}
            words = (f"{key} = {json.dumps(value)}" for key, value in changed.items())
            return Change(settings=", ".join(words), memory=memory)
    return None


def gpus_here() -> Gpus | None:
    """The GPUs that this process may use, None where there are none.

    torch is asked in a process of its own, and only where the system shows a GPU: importing it takes seconds, and one
    that has asked holds memory of every GPU.
    """
    if not has_gpu_driver():
        return None
    done = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True, check=False)
    return Gpus(**json.loads(done.stdout)) if done.returncode == 0 and done.stdout else None


def device_of(gpus: Gpus | None) -> Device:
    """What runs compute on here: a GPU where there is one, else the CPU."""
    return Device(kind="cuda", product_bytes=2) if gpus else cpu_device()


def size_text(size: int) -> str:
    """Bytes in words: GB, below a tenth of one MB."""
    if size < GIB / 10:
        return f"{size / MIB:.1f} MB"
    return f"{size / GIB:.1f} GB" if size < 100 * GIB else f"{size / GIB:,.0f} GB"


def cpu_device() -> Device:
    """This machine's CPU: its products are in bfloat16 where it has instructions for them."""
    return Device(kind="cpu", product_bytes=2 if computes_bfloat16() else 4)


def measured_rate(gpus: Gpus | None = None) -> float:
    """FLOP/s that training reaches on one device, roughly: a share of a plain product's, on one core or one GPU.

    On CPU it is measured in a process of its own, since a BLAS that is loaded already keeps its number of threads.
    """
    if gpus is not None:
        return OF_PLAIN["cuda"] * gpus.rate
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", RATE], env=os.environ | single, capture_output=True, text=True, check=True
    )
    return OF_PLAIN["cpu"] * float(done.stdout)
