"""A locality prior's forward pass against a plain linear layer's plus one elementwise product, as a ratio.

python experiments/benchmarks/locality.py [--device cpu|cuda] [WIDTH...]     square numbers; default 49 1024 4096

Training: the layer against `nn.Linear` of the same size and, apart from it, one product of two matrices of the
weight's size, gradients recorded in both. Evaluation: the layer, its product kept, against `nn.Linear` alone. All run
in turn, in one process, on a batch of 64; the medians' ratio is what counts.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measuring import interleaved, report
from torch import Tensor, nn

from spatial import LocalityPriorLinear
from spatial.positions import is_square

BATCH = 64


def linear_and_product(plain: nn.Linear, layer: LocalityPriorLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """A plain layer's forward pass, and one product that has nothing to do with it."""
    return plain(x), layer.prior * layer.weight


def again(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", type=int, nargs="*", default=[49, 1024, 4096])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if odd := [width for width in options.widths if not is_square(width)]:
        parser.error(f"widths are square numbers, got {odd[0]}")
    torch.manual_seed(0)
    rows = []
    for width in options.widths:
        layer, plain = LocalityPriorLinear(width, width).to(options.device), nn.Linear(width, width).to(options.device)
        x = torch.randn(BATCH, width, device=options.device)
        calls = {"layer": partial(layer, x), "Linear + product": partial(linear_and_product, plain, layer, x)}
        times = 200 if width < 500 else 10 if width < 2000 else 1
        trained = interleaved({name: partial(again, call, times) for name, call in calls.items()}, 30, options.device)
        layer.eval()
        calls = {"layer": partial(layer, x), "Linear": partial(plain, x)}
        with torch.inference_mode():
            scored = interleaved(
                {name: partial(again, call, times) for name, call in calls.items()}, 30, options.device
            )
        (ours, floor), (kept, alone) = ([1000 * each / times for each in taken.values()] for taken in (trained, scored))
        rows.append(
            {
                "width": width, "training": ours, "Linear + product": floor, "ratio": ours / floor,
                "evaluation": kept, "Linear": alone, "evaluation ratio": kept / alone,
            }
        )  # fmt: skip
    report("locality", rows, options.device)


if __name__ == "__main__":
    main()
