"""A training step with spatial costs against the same network's plain step.

python experiments/benchmarks/step.py [--device cpu|cuda] [--compile] [--naive] [--memory WIDTH] [WIDTH...]
    default: cpu, eager, widths 100 300 1000 2048 4096 8192

The network: 784 - WIDTH - WIDTH - 20, batch 256, ReLU. The floor is its plain step, forward, loss, backward and a
fused Adam; the others add the proximity cost of all layers and one reading of the transport cost of all connections
(norm l1). `naive` is what autograd makes of the formulas. Repeats are interleaved, medians count. --memory measures how
much more memory the peak of three steps takes, in MiB, each form in a process of its own.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import HERE, interleaved, report
from torch import Tensor, nn

from spatial import graph, kernels
from spatial.costs import ModelCosts
from spatial.models import build
from spatial.tasks import task_loss

WIDTHS = [100, 300, 1000, 2048, 4096, 8192]
NAIVE = 1000  # up to this width: it takes 11 arrays of the weights' size
FLOOR = "floor"


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1).clamp_min(1e-30).sqrt()


def naive(model: nn.Module, per: str) -> Tensor:
    """``T + P``, norm l1, by the formulas as they are written."""
    places, wires, crowds = graph.positions(model), [], []
    for edge in graph.connections(model):
        phi = graph.weight(model, edge).squeeze(2).abs()
        wire = phi * distance(places[edge.target], places[edge.source])
        reaching, reached = ((wire.sum(axis) / phi.sum(axis)).mean() for axis in (0, 1))
        wires.append(wire.mean() if per == "connection" else (reaching + reached) / 2)
    for place in places.values():
        n = len(place)
        crowds.append((torch.exp(-distance(place, place)).sum() - n) / (n * (n - 1)))
    return torch.stack(wires).mean() + torch.stack(crowds).mean()


def stepper(form: str, width: int, device: str) -> Callable[[], None]:
    """One training step of a network of its own."""
    how, _, per = form.partition(" ")
    model = build("mlp", {"shape": (1, 28, 28), "classes": (10, 10), "layers": (width, width)}, seed=0).to(device)
    learned = [p for name, p in model.named_parameters() if form != FLOOR or not name.endswith("positions")]
    adam = torch.optim.Adam(learned, lr=1e-3, fused=True)
    images = torch.rand(256, 1, 28, 28, device=device)
    labels = torch.randint(10, (256, 2), device=device)
    compute = kernels.compiled(lambda words: print(words, file=sys.stderr)) if how == "compiled" else None
    costs = ModelCosts(model, None, "l1", per or "connection", compute=compute)

    def step() -> None:
        adam.zero_grad()
        loss = task_loss(model(images), labels, (10, 10))
        if how == "naive":
            loss = loss + naive(model, per)
        elif form != FLOOR:
            wires, crowd = costs()
            loss = loss + wires + crowd
        loss.backward()
        adam.step()

    return step


def peak(form: str, width: int, device: str) -> float:
    """MiB at the highest moment of three steps; on a CPU of this process, which must have done nothing else."""
    step = stepper(form, width, device)
    for _ in range(3):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def growth(rows: list[dict], form: str, of: str) -> float | None:
    """The exponent of the width in a column, fitted where the width is 1000 or more."""
    points = [(math.log(r["width"]), math.log(r[of])) for r in rows if r["form"] == form and r["width"] >= 1000]
    if len(points) < 2:
        return None
    x, y = (sum(each) / len(points) for each in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def draw(rows: list[dict], device: str) -> None:
    """The ratio against the width, a line a form."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="width of both hidden layers", ylabel="step over plain step")
    for form in dict.fromkeys(row["form"] for row in rows if row["form"] != FLOOR):
        own = [row for row in rows if row["form"] == form]
        axes.plot([row["width"] for row in own], [row["ratio"] for row in own], marker="o", label=form)
    axes.axhline(1, color="0.7", linewidth=1)
    widths = sorted({row["width"] for row in rows})
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(HERE / "results" / f"step-{device}.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--memory", type=int, metavar="WIDTH")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.peak:
        print(json.dumps(peak(options.peak, options.widths[0], options.device)))
        return
    hows = ["eager"] + ["compiled"] * options.compile + ["naive"] * options.naive
    forms = [FLOOR, *(f"{how} {per}" for how in hows for per in kernels.PER)]
    rows: list[dict] = []
    for width in options.widths:
        chosen = [form for form in forms if width <= NAIVE or not form.startswith("naive")]
        steps = {form: stepper(form, width, options.device) for form in chosen}
        repeats = max(5, min(200, int(4e7 / width**2)))
        seconds = interleaved(steps, repeats, options.device)
        for form, taken in seconds.items():
            extra = taken - seconds[FLOOR]
            rows.append(
                {
                    "width": width, "form": form, "milliseconds": 1000 * taken, "ratio": taken / seconds[FLOOR],
                    "extra": 1000 * extra if form != FLOOR else None,
                }
            )  # fmt: skip
    report("step", rows, options.device)
    draw(rows, options.device)
    for form in forms:
        if (exponent := growth(rows, form, "milliseconds" if form == FLOOR else "extra")) is not None:
            subject = "the plain step" if form == FLOOR else f"what {form} adds"
            print(f"from width 1000 on, {subject} grows as width^{exponent:.2f}")
    if options.memory:
        width = options.memory
        command = [sys.executable, __file__, str(width), "--device", options.device, "--peak"]
        peaks = {
            form: json.loads(subprocess.run([*command, form], capture_output=True, check=True).stdout)
            for form in forms
            if not form.startswith("naive")
        }
        rows = [{"width": width, "form": form, "peak": mib, "extra": mib - peaks[FLOOR]} for form, mib in peaks.items()]
        report("memory", rows, options.device)


if __name__ == "__main__":
    main()
