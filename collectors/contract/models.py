"""What is known of each GPU model: rates, clocks, power and thermal limits.

The rows are `gpu_models.csv` beside this file (facts, with their source per
row).  An unknown model has no row, and then no FLOP: never a guessed peak.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One row; None where the row has no value."""

    key: str
    names: tuple[str, ...]
    sm_count: int | None
    cores_per_sm: int | None
    tensor_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    fp16_tflops: float | None
    """Dense FP16 tensor peak, TFLOP/s."""
    fp16_flop_per_sm_clock: float | None
    tdp_w: float | None
    memory_gb: float | None
    slowdown_c: float | None
    gpm: bool
    pci_device_ids: tuple[int, ...] = ()
    """16-bit device ids of the maker; several names may share one."""
    fp64_tensor_flop_per_sm_clock: float | None = None
    int8_tensor_op_per_sm_clock: float | None = None


def _number(text: str) -> float | None:
    try:
        return float(text.rsplit("/", maxsplit=1)[-1])
    except ValueError:
        return None


def _integer(text: str) -> int | None:
    number = _number(text)
    return None if number is None else int(number)


def _device_ids(text: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in text.split(";") if part.strip())


@lru_cache(maxsize=1)
def gpu_models() -> dict[str, GpuModel]:
    """All rows by key and by every name that NVML gives the model."""
    text = (files("collectors.contract") / "gpu_models.csv").read_text(encoding="utf-8")
    models: dict[str, GpuModel] = {}
    for row in csv.DictReader(text.splitlines()):
        names = tuple(name.strip() for name in row["nvml_names"].split(";") if name.strip())
        model = GpuModel(
            row["model_key"], names, _integer(row["sm_count"]), _integer(row["cores_per_sm"]),
            _number(row["tensor_clock_mhz"]), _number(row["nvml_max_sm_clock_mhz"]),
            _number(row["fp16_tensor_tflops"]), _number(row["fpc_sm_fp16_tensor"]),
            _number(row["tdp_w"]), _number(row["memory_gb"]), _number(row["t_slowdown_c"]),
            row["gpm"] == "yes", _device_ids(row["pci_device_ids"]),
            _number(row["fpc_sm_fp64_tensor"]), _number(row["fpc_sm_int8_tensor"]),
        )  # fmt: skip
        for name in (model.key, *names):
            models.setdefault(name, model)
    return models


@lru_cache(maxsize=1)
def _by_device_id() -> dict[int, GpuModel | None]:
    """Rows by PCI device id; None where rows that differ share it: it says nothing then."""
    found: dict[int, GpuModel | None] = {}
    for model in set(gpu_models().values()):
        for number in model.pci_device_ids:
            found[number] = None if number in found else model
    return found


def find_model(name: str, pci_device_id: int | None = None) -> GpuModel | None:
    """The row of an NVML product name or of our key, compared exactly after stripping blanks;
    else that of the PCI device id (16 bits), where one row alone has it."""
    model = gpu_models().get(name.strip())
    if model is not None or pci_device_id is None:
        return model
    return _by_device_id().get(pci_device_id)
