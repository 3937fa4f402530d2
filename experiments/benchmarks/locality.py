"""A locality prior's forward pass against a plain linear layer's plus one elementwise product, as a ratio.

python experiments/benchmarks/locality.py [WIDTH...]     square numbers; default 49 1024 4096

Training: the layer against `nn.Linear` of the same size and, apart from it, one product of two matrices of the
weight's size, gradients recorded in both. Evaluation: the layer, its product kept, against `nn.Linear` alone. All run
in turn, in one process, on a batch of 64; the medians' ratio is what counts.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from spatial import LocalityPriorLinear
from spatial.positions import is_square

BATCH = 64


def medians(calls: list[Callable[[], object]], repeats: int, inner: int) -> list[float]:
    """Median seconds of each call, interleaved; a repeat is ``inner`` calls in a row."""
    taken: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, own in zip(calls, taken, strict=True):
            began = time.perf_counter()
            for _ in range(inner):
                call()
            if repeat:  # the first warms up
                own.append((time.perf_counter() - began) / inner)
    return [statistics.median(own) for own in taken]


def linear_and_product(plain: nn.Linear, layer: LocalityPriorLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """A plain layer's forward pass, and one product that has nothing to do with it."""
    return plain(x), layer.prior * layer.weight


def main(words: list[str]) -> int:
    widths = [int(word) for word in words if word.isdigit()] or ([] if words else [49, 1024, 4096])
    if len(widths) < len(words) or not widths or not all(map(is_square, widths)):
        print(f"locality.py: error: widths are square numbers, got {' '.join(words)}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    print("width  training: layer  Linear + product  ratio   evaluation: layer  Linear  ratio   (milliseconds)")
    for width in widths:
        layer, plain, x = LocalityPriorLinear(width, width), nn.Linear(width, width), torch.randn(BATCH, width)

        both = partial(linear_and_product, plain, layer, x)
        repeats, inner = (30, 200) if width < 500 else (30, 10) if width < 2000 else (30, 1)
        trained, floor = medians([partial(layer, x), both], repeats, inner)
        layer.eval()
        with torch.inference_mode():
            scored, alone = medians([partial(layer, x), partial(plain, x)], repeats, inner)
        print(
            f"{width:5}  {1000 * trained:15.3f}  {1000 * floor:16.3f}  {trained / floor:5.2f}   "
            f"{1000 * scored:17.3f}  {1000 * alone:6.3f}  {scored / alone:5.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
