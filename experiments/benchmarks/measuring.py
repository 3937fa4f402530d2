"""What the benchmarks share: a settled process, interleaved timing, the machine, tables and CSV files."""

import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # `spatial` is not installed

from spatial import process

process.settle()  # as main.py does, before torch is imported

import torch

from spatial.data import ImageSet
from spatial.environment import commit, processor

COSTS: dict[str, Any] = {"transport": 3.0, "proximity": 3.0, "norm": "l1", "per": "neuron"}  # as the demo's


def images(count: int) -> ImageSet:
    """Random images and labels of MNIST's kind: values do not matter for the time."""
    return ImageSet(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (count,)), 10)


def interleaved(cases: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of every case; the cases take turns, so that a busy moment meets all of them."""
    for case in cases.values():  # memory, caches, compilers
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            synchronize(device)
            began = time.perf_counter()
            case()
            synchronize(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def synchronize(device: str) -> None:
    """Wait until an accelerator has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where, when and of what a measurement was made."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    return {
        "machine": name, "torch": torch.__version__, "python": platform.python_version(),
        "commit": (commit() or "none")[:7], "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def report(name: str, rows: Sequence[dict[str, Any]], device: str = "cpu") -> None:
    """Print rows as a table in Markdown; write them to ``results/NAME-DEVICE.csv`` with the machine."""
    here = machine(device)
    print(f"\n{name}.py: " + ", ".join(f"{key} {value}" for key, value in here.items()))
    print("| " + " | ".join(rows[0]) + " |")
    print("| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row.values()) + " |", flush=True)
    path = HERE / "results" / f"{name}-{device}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *here], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in (row | here).items()} for row in rows)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
