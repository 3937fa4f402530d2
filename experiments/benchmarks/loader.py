"""AlexNet on image files: what the loader gives, what the step takes, and both together, in images a second.

python experiments/benchmarks/loader.py [--device cpu|cuda] [--root FOLDER] [--size N] [--workers N] [--seconds S]
                                        [--batches N...] [--precisions fp32 bf16] [--compile] [--costs]

* loader: training batches, decoded, cut and moved to the device, nothing computed;
* step: forward, loss, backward and SGD step of one batch that is on the device already;
* end to end: the second epoch of ``fit``, its scoring left out, and that over the smaller of the two (aim: 0.9);
* peak: memory of the device (of a CPU: of the process) during the steps.

By batch size and precision; with --compile the network compiled as well, with --costs charged as well (transport and
proximity on the dense layers); for these the step alone. The three take turns, medians count. Without --root JPEG
files of 500 x 375 pixels are made: noise around a gradient, as large as ImageNet's. Batches by default 256 and 1024, of
224 x 224 pixels; on a CPU 32, of 64 x 64.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import COSTS, report, synchronize
from PIL import Image
from torch import nn

from spatial.compiling import compiled_network
from spatial.folders import Files, index
from spatial.models import build
from spatial.objective import Objective, parameter_groups
from spatial.streaming import FileTasks, default_workers
from spatial.tasks import Batch
from spatial.training import fit

CLASSES, FILES = 10, 400  # distinct files; an epoch reads them as often as it needs
TURNS = 3
LEARNING: dict[str, Any] = {"optimizer": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}


def write_files(root: Path) -> None:
    """A folder of JPEG files of ImageNet's kind: about 110 kB each."""
    draws = np.random.default_rng(0)
    rows, columns = np.mgrid[:375, :500] / 500
    for number in range(FILES):
        folder = root / ("val" if number >= FILES - CLASSES else "train") / str(number % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        waves = np.stack([np.sin(20 * draws.random() * (rows * draws.random() + columns)) for _ in range(3)], -1)
        noise = draws.normal(0, 12, waves.shape)
        pixels = (128 + 80 * waves + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)


def repeated(files: Files, count: int) -> Files:
    """As many images as ``count``: the files again and again."""
    chosen = np.arange(count) % len(files.names)
    return files._replace(names=files.names[chosen], labels=files.labels[torch.from_numpy(chosen)])


def network(classes: int, size: int, device: str) -> nn.Module:
    model = build("alexnet", {"shape": (3, size, size), "classes": (classes,)}, seed=0)
    return model.to(memory_format=torch.channels_last).to(device)


def refuse(words: str) -> None:
    """What ``--compile`` says; no row stands for code that was not compiled."""
    if words.startswith("warning"):
        raise RuntimeError(words)


class Step:
    """A training step on a batch that stays on the device."""

    def __init__(self, batch: Batch, classes: int, precision: str, compile: bool, costs: bool):
        self.batch, self.precision = batch, precision
        model = network(classes, batch.images.shape[-1], batch.images.device.type).train()
        charged = COSTS if costs else {}
        strengths = {name: charged.get(name, 0.0) for name in ("transport", "proximity")}
        groups = parameter_groups(model, lr=0.01, weight_decay=1e-4, position_lr=None, **strengths)
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
        fused = compiled_network(model, refuse) if compile else None
        self.objective = Objective(model, (classes,), network=fused, **charged)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.batch.images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.objective(*self.batch)[0]
        loss.backward()
        self.optimizer.step()


def rate(work: Iterator[Any], images: int, seconds: float, device: str) -> float:
    """Images a second of what comes, ``images`` at a time, for about so many seconds; the first two warm up."""
    for _ in islice(work, 2):
        pass
    synchronize(device)
    began, done = time.perf_counter(), 0
    for _ in work:
        done += 1
        if time.perf_counter() - began > seconds:
            break
    synchronize(device)
    return done * images / (time.perf_counter() - began)


def forever(step: Step) -> Iterator[None]:
    while True:
        step()
        yield
        synchronize(step.batch.images.device.type)


def peak(device: str) -> float:
    """MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def end_to_end(files: Files, test: FileTasks, options: argparse.Namespace, batch: int, precision: str) -> float:
    """Images a second of an epoch."""
    train = FileTasks(files, options.size, options.device, workers=options.workers)
    model = network(files.classes, options.size, options.device)
    epochs = fit([model], train, test, seeds=[0], epochs=2, batch_size=batch, precision=precision, **LEARNING)
    *_, point = epochs  # the first warms up
    return len(files.labels) // batch * batch / point.results[0].seconds[0]


def measure(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    found, rows = index(root), []
    test = FileTasks(repeated(found.val, 2), options.size, options.device)
    for batch, precision in product(options.batches, options.precisions):
        loader = FileTasks(repeated(found.train, batch * 10_000), options.size, options.device, workers=options.workers)
        (first, *_) = islice(loader.training_batches(torch.arange(batch)[:, None], batch, 0, 1), 1)
        forms = product((False, True) if options.compile else (False,), (False, True) if options.costs else (False,))
        for compile, costs in forms:
            if options.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            step = Step(first, found.train.classes, precision, compile, costs)
            rows.append({
                "batch": batch, "precision": precision, "compiled": compile, "costs": costs,
                "loader": None, "step": None, "end to end": None, "end to end / smaller": None, "peak, MiB": None,
            })  # fmt: skip
            if compile or costs:
                rows[-1]["step"] = rate(forever(step), batch, options.seconds, options.device)
                rows[-1]["peak, MiB"] = peak(options.device)
                continue
            order = loader.training_order(0, 1)
            turns = []
            for _ in range(TURNS):
                loading = rate(loader.training_batches(order, batch, 0, 1), batch, options.seconds, options.device)
                stepping = rate(forever(step), batch, options.seconds, options.device)
                rows[-1]["peak, MiB"] = peak(options.device)
                steps = max(4, round(min(loading, stepping) * options.seconds / batch))
                whole = end_to_end(repeated(found.train, steps * batch), test, options, batch, precision)
                turns.append((loading, stepping, whole, whole / min(loading, stepping)))
            names = ("loader", "step", "end to end", "end to end / smaller")
            rows[-1] |= dict(zip(names, map(median, zip(*turns, strict=True)), strict=True))
            print({name: rows[-1][name] for name in rows[-1]}, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    options.size = options.size or (64 if on_cpu else 224)
    options.batches = options.batches or ([32] if on_cpu else [256, 1024])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as made:
        if options.root is None:
            write_files(Path(made))
        rows = measure(options.root or Path(made), options)
    report("loader", rows, options.device)


if __name__ == "__main__":
    main()
