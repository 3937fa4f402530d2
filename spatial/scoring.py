"""Score the whole network, and every part on every task."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from spatial import graph
from spatial.metrics import evaluate, summary
from spatial.tasks import Tasks

WHOLE = "whole"


def score_part(part: nn.Module, tasks: Tasks, batch_size: int = 2000) -> list[float]:
    """A network's accuracy on every task, over every image of each."""
    return evaluate(part, tasks.batches(tasks.scoring_order(), batch_size), tasks.classes).accuracy


def score_rows(
    seed: int, method: str, names: Sequence[str], transfer: Sequence[Sequence[float]], units: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of scores.csv: each task's accuracy by its own part.

    Args:
        transfer: accuracy of part p on task t, ``[parts][tasks]``.
        units: hidden units that each part keeps.
    """
    return [
        {"seed": seed, "method": method, "task": name, "accuracy": transfer[task][task], "units": units[task]}
        for task, name in enumerate(names)
    ]


def transfer_rows(
    seed: int, method: str, parts: Sequence[str], names: Sequence[str], transfer: Sequence[Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """Rows of transfer.csv: every part on every task; ``transfer`` is ``[parts][tasks]``."""
    for part, accuracies in zip(parts, transfer, strict=True):
        for task, accuracy in zip(names, accuracies, strict=True):
            yield {"seed": seed, "method": method, "part": part, "task": task, "accuracy": accuracy}


def kept_units(owners: Sequence[np.ndarray], tasks: int) -> list[int]:
    """How many hidden units each task's part keeps; the output layer, the last, is never cut."""
    return [int(sum((layer == task).sum() for layer in owners[:-1])) for task in range(tasks)]


def hidden_units(model: nn.Module) -> int:
    """How many units the placed layers have, the output layer left out."""
    return sum(map(len, list(graph.positions(model).values())[:-1]))


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What metrics.json holds: means and standard deviations over seeds.

    Returns:
        ``accuracy``: method, then task (and ``mean``, over tasks), 0 to 1; ``lost``: the same for every split, in
        percentage points lost by the cut.
    """
    accuracy: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_seed: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        accuracy[row["method"]][row["task"]].append(row["accuracy"])
        by_seed[row["method"], row["seed"]].append(row["accuracy"])
    for (method, _), values in by_seed.items():
        accuracy[method]["mean"].append(sum(values) / len(values))
    lost = {
        method: {
            task: summary([100 * (before - after) for before, after in zip(accuracy[WHOLE][task], values, strict=True)])
            for task, values in tasks.items()
        }
        for method, tasks in accuracy.items()
        if method != WHOLE
    }
    return {
        "accuracy": {
            method: {task: summary(values) for task, values in tasks.items()} for method, tasks in accuracy.items()
        },
        "lost": lost,
    }


def table(metrics: dict[str, Any], names: Sequence[str]) -> str:
    """``summarise``'s result for a terminal: percent and points lost by each cut, mean ± deviation over seeds."""
    columns = [*names, "mean"]
    rows = [["accuracy, %", *columns, "points lost"]]
    for method, tasks in metrics["accuracy"].items():
        lost = metrics["lost"].get(method)
        rows.append([method, *(spread(tasks[name], 100) for name in columns), spread(lost["mean"]) if lost else ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def spread(value: dict[str, float | None], factor: float = 1) -> str:
    """``mean ± standard deviation`` to one decimal, the mean alone where there is one seed."""
    mean, std = value["mean"], value["std"]
    return f"{factor * (mean or 0):.1f}" + ("" if std is None else f" ± {factor * std:.1f}")
