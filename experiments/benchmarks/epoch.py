"""One training epoch against a bare loop over batches already made, as a ratio.

python experiments/benchmarks/epoch.py [CASE...]     mix, concatenate, sequential, lenet, lenet-plane; default mix

The bare loop is forward, loss, backward and optimizer step of the same network, by the same fused optimizer, over the
same batches made beforehand. Both run in turn, in one process; the medians' ratio is what counts. mix, concatenate and
sequential: a regular 300-300 network on two tasks, batch 256, Adam; lenet and lenet-plane (with the prior): one task,
batch 64, SGD. Random images of MNIST's size and number stand for the data: the values do not matter for the time.
"""

import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from spatial.data import ImageSet
from spatial.models import build
from spatial.tasks import INPUTS, Tasks, task_loss
from spatial.training import fit

REPEATS = 5
Learning = dict[str, Any]  # batch_size, optimizer, and what torch's optimizer takes

MLP: Learning = {"batch_size": 256, "optimizer": "Adam", "lr": 5e-3}
LENET: Learning = {"batch_size": 64, "optimizer": "SGD", "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4}
CASES: dict[str, tuple[str, dict[str, Any], Learning]] = {
    "mix": ("mlp", {"layers": (300, 300)}, MLP),
    "concatenate": ("mlp", {"layers": (300, 300)}, MLP),
    "sequential": ("mlp", {"layers": (300, 300)}, MLP),
    "lenet": ("lenet", {}, LENET),
    "lenet-plane": ("lenet", {"prior": {"topology": "plane"}}, LENET),
}


def images(count: int) -> ImageSet:
    """Random images and labels, of MNIST's kind."""
    return ImageSet(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (count,)), 10)


def network(case: str, train: Tasks) -> torch.nn.Module:
    name, arguments, _ = CASES[case]
    shape = (2 if case == "concatenate" else 1, 28, 28)
    return build(name, {"shape": shape, "classes": train.classes, **arguments}, seed=0)


def whole_epoch(case: str, train: Tasks, test: Tasks) -> float:
    """Seconds of one epoch of ``fit``, scoring left out."""
    epoch, _ = next(fit(network(case, train), train, test, seed=0, epochs=1, **CASES[case][2]))
    return epoch.seconds[0]


def bare_epoch(case: str, train: Tasks) -> float:
    """Seconds of the bare loop over batches already made."""
    model, learning = network(case, train).train(), dict(CASES[case][2])
    batch_size, name = learning.pop("batch_size"), learning.pop("optimizer")
    weights = [p for name, p in model.named_parameters() if not name.endswith("positions")]
    optimizer = getattr(torch.optim, name)(weights, fused=True, **learning)
    batches = list(train.batches(train.training_order(seed=0, epoch=1), batch_size))
    began = time.perf_counter()
    for inputs, labels in batches:
        loss = task_loss(model(inputs), labels, train.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def main(cases: list[str]) -> int:
    if unknown := set(cases) - set(CASES):
        print(f"epoch.py: error: unknown case {', '.join(unknown)} (known: {', '.join(CASES)})", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    both = [images(60_000), images(60_000)]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    print(f"medians of {REPEATS} interleaved repeats, seconds")
    print("case         epoch   bare  ratio")
    for case in cases or ["mix"]:
        sets, input = (both, case) if case in INPUTS else (both[:1], "mix")
        train = Tasks(sets, input)
        test = Tasks([each._replace(images=each.images[:100], labels=each.labels[:100]) for each in sets], input)
        pairs = [(whole_epoch(case, train, test), bare_epoch(case, train)) for _ in range(REPEATS)]
        whole, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{case:11}  {whole:5.2f}  {bare:5.2f}  {whole / bare:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
