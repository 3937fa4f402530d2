"""Ten seeds trained together against ten seeds one after the other, and against one.

python experiments/benchmarks/seeds.py [--device cpu|cuda] [--model mlp|conv] [--seeds N] [WIDTH...]
    default: cpu, mlp, 10, 30 100 300 1000

A two-layer network of each width on two tasks (mix, batch 256, Adam), costs on: seconds of an epoch of 4,096 random
inputs on a CPU (20 steps are too few to see an accelerator busy: 60,000 there). `--replicas auto` follows from this.
"""

import argparse
from functools import partial

import torch
from measuring import COSTS, images, interleaved, report

from spatial.models import build
from spatial.tasks import Tasks
from spatial.training import fit


def epoch(name: str, width: int, groups: list[list[int]], train: Tasks, test: Tasks) -> None:
    """One epoch of every seed, group after group."""
    arguments = {"shape": (1, 28, 28), "classes": train.classes, "layers": (width, width)}
    for seeds in groups:
        models = [build(name, arguments, seed).to(train.device) for seed in seeds]
        next(fit(models, train, test, seeds=seeds, epochs=1, batch_size=256, **COSTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", type=int, nargs="*", default=[30, 100, 300, 1000])
    parser.add_argument("--model", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    count = 4096 if options.device == "cpu" else 60_000
    train = Tasks([images(count), images(count)], "mix", options.device)
    test = Tasks([images(100), images(100)], "mix", options.device)
    seeds = list(range(options.seeds))
    cases = {"one": [[0]], "together": [seeds], "sequential": [[seed] for seed in seeds]}
    rows = []
    for width in options.widths:
        epochs = {name: partial(epoch, options.model, width, groups, train, test) for name, groups in cases.items()}
        taken = interleaved(epochs, 3, options.device)
        rows.append(
            {
                "width": width, "seeds": options.seeds, **taken,
                "together / sequential": taken["together"] / taken["sequential"],
                "together / one": taken["together"] / taken["one"],
            }
        )  # fmt: skip
    report("seeds" if options.model == "mlp" else f"seeds-{options.model}", rows, options.device)


if __name__ == "__main__":
    main()
