"""One training epoch against a bare loop over batches already made, as a ratio.

python experiments/benchmarks/epoch.py [INPUT...]     mix, concatenate, sequential; default mix

The bare loop is forward, loss, backward and optimizer step of the same regular 300-300 network, by the same fused Adam,
over the same batches made beforehand. Both run in turn, in one process; the medians' ratio is what counts.
Two tasks of random images of MNIST's size and number stand for the data: the values do not matter for the time.
"""

import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from spatial.data import ImageSet
from spatial.models import build
from spatial.tasks import INPUTS, Tasks, task_loss
from spatial.training import fit

REPEATS = 5
BATCH = 256


def images(count: int) -> ImageSet:
    """Random images and labels, of MNIST's kind."""
    return ImageSet(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (count,)), 10)


def network(input: str) -> torch.nn.Module:
    shape = (2 if input == "concatenate" else 1, 28, 28)
    return build("mlp", {"shape": shape, "layers": (300, 300), "classes": (10, 10)}, seed=0)


def whole_epoch(input: str, train: Tasks, test: Tasks) -> float:
    """Seconds of one epoch of ``fit``, scoring left out."""
    epoch, _ = next(fit(network(input), train, test, seed=0, epochs=1, batch_size=BATCH))
    return epoch.seconds[0]


def bare_epoch(input: str, train: Tasks) -> float:
    """Seconds of the bare loop over batches already made."""
    model = network(input)
    weights = [p for name, p in model.named_parameters() if not name.endswith("positions")]
    optimizer = torch.optim.Adam(weights, lr=5e-3, fused=True)
    batches = list(train.batches(train.training_order(seed=0, epoch=1), BATCH))
    began = time.perf_counter()
    for inputs, labels in batches:
        loss = task_loss(model(inputs), labels, train.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def main(inputs: list[str]) -> int:
    if unknown := set(inputs) - set(INPUTS):
        print(f"epoch.py: error: unknown input {', '.join(unknown)} (known: {', '.join(INPUTS)})", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    sets = [images(60_000), images(60_000)]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    print(f"medians of {REPEATS} interleaved repeats, seconds")
    print("input        epoch   bare  ratio")
    for input in inputs or ["mix"]:
        train = Tasks(sets, input)
        test = Tasks([each._replace(images=each.images[:100], labels=each.labels[:100]) for each in sets], input)
        pairs = [(whole_epoch(input, train, test), bare_epoch(input, train)) for _ in range(REPEATS)]
        whole, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{input:11}  {whole:5.2f}  {bare:5.2f}  {whole / bare:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
