"""The numeric identity of a run's processes: everything besides its configuration that its floating-point bits depend on."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

from ..core.errors import CostarError
from ..core.machine import Layout, computes_bfloat16, cpu_flags

REPEATABLE = "repeatable"
DATA_EXACT = "data-exact"
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 products on GPUs and on CPUs with instructions for it, float32 otherwise."""
    return torch.bfloat16 if device.type == "cuda" or computes_bfloat16() else torch.float32


def promise_of(layout: Layout, device: torch.device) -> str:
    """The promise to keep (invariant 6): what the layout says, or repeatable on CPU and data-exact on GPUs."""
    return layout.determinism or (REPEATABLE if device.type == "cpu" else DATA_EXACT)


def pin(layout: Layout, device: torch.device) -> None:
    """Hold every choice of kernels still, where more than data-exact is promised. Call it before the model is built.

    Strict mode, not warnings only: with warnings, the backward pass of flash attention stays as it is. Filling memory
    that is about to be written costs time and changes nothing.

    Raises:
        CostarError: the environment asks for cuBLAS workspaces of another kind.
    """
    if promise_of(layout, device) == DATA_EXACT or device.type == "cpu":
        return
    if os.environ.setdefault(CUBLAS, ":4096:8") not in (":4096:8", ":16:8"):
        raise CostarError(
            f"environment, {CUBLAS}",
            found=os.environ[CUBLAS],
            expected=":4096:8 or :16:8, with which sums are repeatable",
            mend="remove it from the environment",
        )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def numeric_identity(device: torch.device, dtype: torch.dtype, facts: dict[str, Any]) -> dict[str, Any]:
    """What two groups of processes must share for the same bits (invariant 6); `facts` say how the run is laid out."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        hardware += " amx" if "amx_bf16" in cpu_flags() else ""
    versions = {"cuda": torch.version.cuda or ""} if device.type == "cuda" else {}
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device.type,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        **versions,
        **facts,
    }
