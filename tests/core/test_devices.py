"""The share of a device's peak that a training uses: known for known devices, never guessed."""

from __future__ import annotations

import pytest
from costar.core.devices import mfu, peak_flops


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_a_device_has_the_dense_peak_of_its_own_kind(name: str, tera: float) -> None:
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x86_64 AVX512 amx",
        "Tesla V100-SXM2-16GB",
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ],
)
def test_an_unknown_device_and_a_slice_of_one_have_none(name: str) -> None:
    assert peak_flops(name) is None
    assert mfu(name, 1, 1e9, 1e5) is None


def test_mfu_is_the_work_done_over_what_all_devices_could_do() -> None:
    assert mfu("NVIDIA H100 80GB HBM3", 8, 8e9, 494_500.0) == pytest.approx(0.5)
