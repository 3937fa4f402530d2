"""A training epoch against a bare loop over batches already made, as a ratio.

python experiments/benchmarks/epoch.py [--device cpu|cuda] [CASE...]
    cases: mix, concatenate, sequential (300-300 network, two tasks, batch 256, Adam, both costs on), plain (mix without
    costs), lenet, lenet-plane (with the prior; one task, batch 64, SGD); default: the first four

The bare loop is forward, loss, costs, backward and optimizer step of the same network, by the same fused optimizer,
over the same batches made beforehand. Both run in turn, in one process; the medians' ratio is what counts. Random
images of MNIST's size and number stand for the data.
"""

import argparse
import time
from statistics import median
from typing import Any

import torch
from measuring import COSTS, images, report, synchronize

from spatial.models import build
from spatial.objective import Objective, parameter_groups
from spatial.tasks import INPUTS, Tasks
from spatial.training import fit

REPEATS = 5
Options = dict[str, Any]

ADAM: Options = {"optimizer": "Adam", "lr": 5e-3}
SGD: Options = {"optimizer": "SGD", "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4}
WIDE: Options = {"layers": (300, 300)}
CASES: dict[str, tuple[str, Options, Options, Options, int]] = {
    "mix": ("mlp", WIDE, COSTS, ADAM, 256),
    "concatenate": ("mlp", WIDE, COSTS, ADAM, 256),
    "sequential": ("mlp", WIDE, COSTS, ADAM, 256),
    "plain": ("mlp", WIDE, {}, ADAM, 256),
    "lenet": ("lenet", {}, {}, SGD, 64),
    "lenet-plane": ("lenet", {"prior": {"topology": "plane"}}, {}, SGD, 64),
}


def network(case: str, train: Tasks) -> torch.nn.Module:
    name, arguments, *_ = CASES[case]
    shape = (2 if case == "concatenate" else 1, 28, 28)
    return build(name, {"shape": shape, "classes": train.classes, **arguments}, seed=0).to(train.device)


def whole_epoch(case: str, train: Tasks, test: Tasks) -> float:
    """Seconds of one epoch of ``fit``, scoring left out."""
    _, _, costs, learning, batch_size = CASES[case]
    point = next(
        fit([network(case, train)], train, test, seeds=[0], epochs=1, batch_size=batch_size, **costs, **learning)
    )
    return point.results[0].seconds[0]


def bare_epoch(case: str, train: Tasks) -> float:
    """Seconds of the bare loop over batches already made."""
    _, _, costs, learning, batch_size = CASES[case]
    model = network(case, train).train()
    charged = {"transport": costs.get("transport", 0), "proximity": costs.get("proximity", 0)}
    rates = {"lr": learning["lr"], "weight_decay": learning.get("weight_decay", 0.0), "position_lr": None}
    options = {name: value for name, value in learning.items() if name == "momentum"}
    groups = parameter_groups(model, **rates, **charged)
    optimizer = getattr(torch.optim, learning["optimizer"])(groups, fused=True, **options)
    objective = Objective(model, train.classes, **costs)
    batches = list(train.batches(train.training_order(seed=0, epoch=1), batch_size))
    synchronize(train.device.type)
    began = time.perf_counter()
    for inputs, labels in batches:
        optimizer.zero_grad()
        objective(inputs, labels)[0].backward()
        optimizer.step()
    synchronize(train.device.type)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))} (known: {', '.join(CASES)})")
    torch.manual_seed(0)
    both = [images(60_000), images(60_000)]
    rows = []
    for case in options.cases or list(CASES)[:4]:
        sets, input = (both, case) if case in INPUTS else (both, "mix") if case == "plain" else (both[:1], "mix")
        train = Tasks(sets, input, options.device)
        few = [each._replace(images=each.images[:100], labels=each.labels[:100]) for each in sets]
        test = Tasks(few, input, options.device)
        pairs = [(whole_epoch(case, train, test), bare_epoch(case, train)) for _ in range(REPEATS + 1)][1:]
        whole, bare = (median(column) for column in zip(*pairs, strict=True))
        rows.append({"case": case, "epoch": whole, "bare loop": bare, "ratio": whole / bare})
    report("epoch", rows, options.device)


if __name__ == "__main__":
    main()
