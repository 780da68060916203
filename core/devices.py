"""What accelerators can do at most, and what share of it a training reaches: model FLOP utilization (MFU).

Peaks are dense bfloat16 with float32 sums, in TFLOP/s, as the makers' data sheets state them; where a sheet gives the
figure with sparsity only, half of it. NVIDIA: data sheets of H100, H200, GH200, A100, A30, A10, A40, L4, L40 and L40S, of
DGX B200 (36 PFLOP/s with sparsity, 8 GPUs) and GB200 NVL72 (360, 72 GPUs); white papers of GA102 (RTX 3090, A6000) and
AD102 (RTX 4090, RTX 6000 Ada). AMD: data sheets of MI210, MI250X (a device is one of its two dies), MI300X, MI325X, MI355X.
"""

from __future__ import annotations

import os
import re

# A device has the first row whose words are all in its name.
PEAKS: tuple[tuple[str, float], ...] = (
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H200 NVL", 835),
    ("GH200", 989),
    ("H200", 989),
    ("H100", 989),
    ("GB200", 2500),
    ("B200", 2250),
    ("A100", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX A6000", 154.8),
    ("RTX 6000 Ada", 364.2),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
    ("MI355X", 2516),
    ("MI325X", 1307),
    ("MI300X", 1307),
    ("MI250X", 191.5),
    ("MI210", 181),
)


def has_gpu_driver() -> bool:
    """Whether the system shows the driver of a GPU; where it does not, torch need not be asked, which takes seconds."""
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))


def peak_flops(device: str) -> float | None:
    """The dense bfloat16 peak in FLOP/s of a device by the name that torch gives it.

    None for a CPU, an unknown device, and a slice of one (MIG), which has only a part of the peak.
    """
    words = set(re.split(r"[^a-z0-9]+", device.lower()))
    if "mig" in words or "laptop" in words:
        return None
    return next((peak * 1e12 for name, peak in PEAKS if set(name.lower().split()) <= words), None)


def mfu(device: str, devices: int, flops_per_token: float, tokens_per_second: float) -> float | None:
    """The share of the peak of `devices` such devices that a training of this rate uses; None where it is unknown."""
    peak = peak_flops(device)
    return None if peak is None else flops_per_token * tokens_per_second / (devices * peak)
