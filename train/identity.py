"""The numeric identity of a process: everything besides the run's configuration that its floating-point bits depend on."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

REPEATABLE = "repeatable"
DATA_EXACT = "data-exact"


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 autocast on GPUs and on CPUs with instructions for it, float32 otherwise."""
    if device.type == "cuda" or {"amx_bf16", "avx512_bf16"} & cpu_flags():
        return torch.bfloat16
    return torch.float32


def cpu_flags() -> set[str]:
    """The instruction sets of the CPU, as the kernel lists them; empty where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((set(line.split(":", 1)[1].split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


def numeric_identity(device: torch.device, dtype: torch.dtype, micro_batch: int) -> dict[str, Any]:
    """What two processes must share for the same bits (invariant 6)."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        hardware += " amx" if "amx_bf16" in cpu_flags() else ""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device.type,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "world_size": 1,
        "micro_batch": micro_batch,
        "dtype": str(dtype).removeprefix("torch."),
        "compile": False,
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
    }
