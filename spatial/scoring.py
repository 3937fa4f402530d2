"""Score the whole network, and every part on every task."""

import math
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatial import graph, storing
from spatial.errors import UserError
from spatial.maps import uniform_variance
from spatial.metrics import Evaluation, evaluate, layer_measures, live_units, summary
from spatial.models import endless
from spatial.positions import output_groups
from spatial.progress import over
from spatial.runs import GROUPS, WHOLE, Run
from spatial.splitting import METHODS, Joined, agreement, cut, extract, grouped
from spatial.tasks import Tasks


def methods_of(run: Run) -> list[str]:
    """The splits that there are for every seed, in the order of ``METHODS``."""
    made = run.methods()
    return [method for method in METHODS if method in made]


def score_part(part: nn.Module, tasks: Tasks, batch_size: int = 2000) -> Evaluation:
    """A network's accuracy and loss on every task, over every image of each; it goes where they are.

    Raises:
        UserError: if a loss is not finite.
    """
    part = part.to(tasks.device)
    order = tasks.scoring_order()
    batches = over(tasks.batches(order, batch_size), "one network", -(-len(order) // min(batch_size, tasks.most)))
    found = evaluate(part, batches, tasks.classes, tasks.top)
    if not all(map(math.isfinite, found.losses)):
        raise endless(part, "its loss")
    return found


def score_rows(
    seed: int,
    method: str,
    names: Sequence[str],
    parts: Sequence[Evaluation],
    units: Sequence[int],
    parameters: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Rows of scores.csv: each task's accuracy and mean cross-entropy (nats) by its own part.

    Args:
        parts: what :func:`score_part` says of each.
        units: hidden units that each part keeps.
        parameters: of each part's extracted network, None where it was not extracted.
    """
    return [
        {
            "seed": seed, "method": method, "task": name, "accuracy": parts[task].accuracy[task], "units": units[task],
            "parameters": parameters[task], "loss": parts[task].losses[task],
            **({"top5": parts[task].top[task]} if parts[task].top else {}),
        }
        for task, name in enumerate(names)
    ]  # fmt: skip


def transfer_rows(
    seed: int, method: str, parts: Sequence[str], names: Sequence[str], transfer: Sequence[Evaluation]
) -> Iterator[dict[str, Any]]:
    """Rows of transfer.csv: the accuracy of every part (named in ``parts``, judged in ``transfer``) on every task."""
    for part, evaluation in zip(parts, transfer, strict=True):
        for task, accuracy in zip(names, evaluation.accuracy, strict=True):
            yield {"seed": seed, "method": method, "part": part, "task": task, "accuracy": accuracy}


def group_rows(
    seed: int, network: nn.Module, tasks: Tasks, names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of scores.csv and measures.csv of the groups in which the outputs of ``--outputs arbitrary`` started.

    The network is cut into one part per group (:func:`spatial.splitting.grouped`), every output read from its own.
    """
    belongs = output_groups(tasks.classes, "arbitrary")
    k, owners = grouped(network, belongs)
    parts = [cut(network, k, group) for group in range(len(names))]
    found = score_part(Joined(parts, belongs), tasks)
    units = [sum(kept_units(k))] * len(names)
    rows = score_rows(seed, GROUPS, names, [found] * len(names), units, [None] * len(names))
    return rows, measure_rows(seed, GROUPS, network, owners, names)


def kept_units(k: dict[str, Tensor]) -> list[int]:
    """How many hidden units each task's part keeps; the output layer, the last, is never cut."""
    return sum((layer > 0).sum(1) for layer in list(k.values())[:-1]).tolist()  # type: ignore[union-attr]


def parts_of(
    run: Run, method: str, seed: int, network: nn.Module, k: dict[str, Tensor]
) -> tuple[list[nn.Module], dict[str, nn.Module]]:
    """The parts of a split, task by task, and the extracted ones that there are, by task.

    Raises:
        UserError: if a file holds another network than the split (``k``) makes of ``network``.
    """
    parts = run.part_networks(method, seed, network)
    extracted = run.extracted_networks(method, seed, network)
    for task, name in enumerate(run.options()["datasets"]):
        made = [(run.part(method, seed, name), parts[task], cut)]
        if name in extracted:
            made.append((run.extracted(method, seed, name), extracted[name], extract))
        for path, part, make in made:
            found, wanted = part.state_dict(), make(network, k, task).state_dict()
            same = found.keys() == wanted.keys() and all(torch.equal(found[each], wanted[each]) for each in wanted)
            if not same:
                again = f"make it again with: {run.command('split', '--method', method)}"
                raise UserError(f"{path}: is not what the split makes of {run.weights(seed)}; {again}")
    return parts, extracted


def read_rows(run: Run, path: Path, *keys: str, numbers: Sequence[str] = ("accuracy",)) -> list[dict[str, Any]]:
    """The rows of a table of :func:`score_rows` or :func:`transfer_rows`, by seed.

    Args:
        run: whose table it is.
        path: of the table.
        keys: the columns that tell a seed's rows apart, the task's the last.
        numbers: columns of numbers.

    Raises:
        UserError: if the table cannot be read, or is not of every seed and every task of the run.
    """
    rows = storing.read_table(path, ["seed", *numbers])
    if rows and {*keys} <= {*rows[0]}:
        found = [(row["seed"], *(row[key] for key in keys)) for row in rows]
        groups = dict.fromkeys(key[1:-1] for key in found)
        names = run.options()["datasets"]
        wanted = {(seed, *group, name) for seed in run.seeds() for group in groups for name in names}
        if len(found) == len(wanted) and {*found} == wanted and all(0 <= row["accuracy"] <= 1 for row in rows):
            return sorted(rows, key=lambda row: row["seed"])
    raise UserError(
        f"{path}: does not hold every task's accuracy for every seed; make it again with: {run.command('score')}"
    )


def empty_layers(k: dict[str, Tensor], task: int) -> str:
    """The hidden layers of which a task's part keeps nothing, in words; empty where there is none."""
    empty = [str(index) for index, layer in enumerate(list(k.values())[:-1]) if not layer[task].any()]
    return f"layer {', '.join(empty)}" if empty else ""


def measure_rows(
    seed: int, method: str, network: nn.Module, owners: dict[str, Tensor], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of measures.csv, one per placed layer: :func:`spatial.metrics.layer_measures` of the owners of a split.

    ``live_TASK`` is the task's share of the live units; ``crossing`` and ``wire`` are of the connection into the layer;
    ``ari_greedy`` and ``ari_balanced`` are of ``clusters`` alone (:func:`spatial.splitting.agreement`). The owners of
    ``GROUPS`` are groups, of which tasks have no shares.
    """
    places, alive = graph.places(network), live_units(network)
    into = {edge.target: edge for edge in graph.connections(network)}
    agreed = agreement(network, seed) if method == "clusters" else {}
    rows = []
    for index, (layer, own) in enumerate(owners.items()):
        edge = into.get(layer)
        found = layer_measures(
            positions=places[layer],
            owners=own,
            alive=alive[layer],
            tasks=len(names),
            weight=graph.weight(network, edge) if edge else None,
            source=places[edge.source] if edge else None,
            source_owners=owners.get(edge.source) if edge else None,
        )
        renamed = {f"live_{task}": f"live_{name}" for task, name in enumerate(names)}
        if method == GROUPS:
            found |= dict.fromkeys(renamed)
        ari = {f"ari_{other}": agreed.get(layer, {}).get(other) for other in ("greedy", "balanced")}
        row = {renamed.get(name, name): value for name, value in found.items()} | ari
        rows.append({"seed": seed, "method": method, "layer": index, **row})
    return rows


def variance_rows(seed: int, network: nn.Module, found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of variance.csv: the mean over a network's maps of their spatial variance, empty ones left out.

    Args:
        found: what :func:`spatial.maps.variances` measured.
    """
    widths = [len(place) for place in graph.positions(network).values()]
    rows = []
    for name, values in found.items():
        layer, sheet = name.removeprefix("layer-").split("/")
        known = values[~np.isnan(values)]
        rows.append(
            {
                "seed": seed, "layer": int(layer), "sheet": sheet, "inputs": len(values),
                "empty": len(values) - len(known), "variance": float(known.mean()) if len(known) else None,
                "uniform": uniform_variance(widths[int(layer)], sheet),
            }
        )  # fmt: skip
    return rows


@torch.inference_mode()
def inference_seconds(networks: Sequence[nn.Module], images: Tensor, repeats: int = 9) -> list[float]:
    """Median seconds of a forward pass on ``images``, of each network; their repeats are interleaved."""
    taken: list[list[float]] = [[] for _ in networks]
    for repeat in range(repeats + 1):
        for each, own in zip(networks, taken, strict=True):
            began = time.perf_counter()
            each(images)
            if images.device.type != "cpu":
                torch.accelerator.synchronize()
            if repeat:  # the first warms up
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in taken]


def hidden_units(model: nn.Module) -> int:
    """How many units the placed layers have, the output layer left out."""
    return sum(map(len, list(graph.positions(model).values())[:-1]))


def time_rows(
    seed: int, method: str, network: nn.Module, extracted: dict[str, nn.Module], tasks: Tasks, images: int = 1000
) -> list[dict[str, Any]]:
    """What timing.json holds of each extracted part: its inference time and its ratio to the whole network's."""
    if not extracted:
        return []
    batch = tasks.batch(tasks.scoring_order()[: min(images, tasks.most)]).images
    whole, *parts = inference_seconds([each.to(batch.device) for each in (network, *extracted.values())], batch)
    return [
        {
            "seed": seed, "method": method, "part": name, "images": len(batch), "threads": torch.get_num_threads(),
            "device": str(batch.device),
            "whole_seconds": whole, "part_seconds": part, "ratio": part / whole,
        }
        for name, part in zip(extracted, parts, strict=True)
    ]  # fmt: skip


def summarise(
    rows: Sequence[dict[str, Any]], measures: Sequence[dict[str, Any]] = (), variances: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What metrics.json holds: means and standard deviations over seeds.

    Args:
        rows: of scores.csv.
        measures: rows of measures.csv.
        variances: rows of variance.csv.

    Returns:
        ``accuracy``: method, then task (and ``mean``, over tasks), 0 to 1; ``top5``, of images from files: the same
        among five guesses; ``loss``: the same, in nats; ``lost``: the same for every split, in percentage points lost
        by the cut; ``parameters``: the same for what was extracted; ``measures``: method, then ``layer-l``, then
        measure, None where it is undefined for every seed; ``variance``: ``layer-l``, then sheet.
    """
    accuracy, loss = (with_mean(rows, value) for value in ("accuracy", "loss"))
    lost = {
        method: {
            task: [100 * (before - after) for before, after in zip(accuracy[WHOLE][task], values, strict=True)]
            for task, values in tasks.items()
        }
        for method, tasks in accuracy.items()
        if method != WHOLE
    }
    parameters = _collect((row["method"], row["task"], row["parameters"]) for row in rows)
    layers = {
        method: {f"layer-{layer}": _collect_columns(of_layer) for layer, of_layer in each.items()}
        for method, each in _collect((row["method"], row["layer"], row) for row in measures).items()
    }
    spreads = _collect((f"layer-{row['layer']}", row["sheet"], row["variance"]) for row in variances)
    top = {"top5": _summaries(with_mean(rows, "top5"))} if rows and "top5" in rows[0] else {}
    return {
        "accuracy": _summaries(accuracy), **top, "lost": _summaries(lost), "parameters": _summaries(parameters),
        "measures": {method: _summaries(each) for method, each in layers.items()}, "loss": _summaries(loss),
        "variance": _summaries(spreads),
    }  # fmt: skip


def with_mean(rows: Sequence[dict[str, Any]], value: str) -> dict[str, dict[str, list[Any]]]:
    """A column of scores.csv by method, then task (and ``mean``, over tasks): a value per seed."""
    found = _collect((row["method"], row["task"], row[value]) for row in rows)
    for method, seeds in _collect((row["method"], row["seed"], row[value]) for row in rows).items():
        found[method]["mean"] = [sum(values) / len(values) for values in seeds.values()]
    return found


def _collect(triples: Iterable[tuple[Any, Any, Any]]) -> dict[Any, dict[Any, list[Any]]]:
    """Values by two keys, in the order of their coming."""
    found: dict[Any, dict[Any, list[Any]]] = {}
    for outer, inner, value in triples:
        found.setdefault(outer, {}).setdefault(inner, []).append(value)
    return found


def _collect_columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The measures of some rows of measures.csv, column by column."""
    return {name: [row[name] for row in rows] for name in rows[0] if name not in ("seed", "method", "layer")}


def _summaries(values: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, Any]]:
    """Mean and deviation over the seeds for which there is a value; nothing where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for outer, each in values.items():
        for inner, numbers in each.items():
            defined = [number for number in numbers if number is not None]
            found.setdefault(outer, {})[inner] = summary(defined) if defined else {"mean": None, "std": None}
    return found


SHOWN = {  # digits of a measure
    "live": 1, "places": 1, "kappa": 2, "silhouette": 2, "crossing": 2, "wire": 2, "ari_greedy": 2, "ari_balanced": 2,
}  # fmt: skip


def table(metrics: dict[str, Any], names: Sequence[str]) -> str:
    """Accuracy before and after each cut, and the mean loss, for a terminal: mean ± deviation over seeds."""
    columns = [*names, "mean"] if len(names) > 1 else [*names]
    top = metrics.get("top5", {})
    rows = [["accuracy, %", *columns, *(["top 5"] if top else []), "points lost", "loss"]]
    for method, tasks in metrics["accuracy"].items():
        lost, loss = metrics["lost"].get(method), spread(metrics["loss"][method]["mean"], digits=3)
        accuracies = [spread(tasks[name], 100) for name in columns]
        if top:
            accuracies.append(spread(top[method]["mean"], 100))
        rows.append([method, *accuracies, spread(lost["mean"]) if lost else "", loss])
    return aligned(rows)


def extracted_table(metrics: dict[str, Any], times: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Size and inference time of the extracted parts for a terminal: means over seeds, time over the whole network's.

    Args:
        metrics: of :func:`summarise`.
        times: of :func:`time_rows`.
        names: of the tasks.
    """
    ratios = _collect((row["method"], row["part"], row["ratio"]) for row in times)
    rows = [["extracted", *chain.from_iterable((f"{name}, parameters", "time") for name in names)]]
    for method in (WHOLE, *ratios):
        row = [method]
        for name in names:
            size, taken = metrics["parameters"][method][name]["mean"], ratios.get(method, {}).get(name)
            shown = "1.00" if method == WHOLE else spread(summary(taken), digits=2) if taken else "-"
            row += ["-" if size is None else f"{size:,.0f}", shown]
        rows.append(row)
    return aligned(rows)


def variance_table(metrics: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The spatial variance of the maps for a terminal, mean ± deviation over seeds, beside the uniform map's.

    Args:
        metrics: of :func:`summarise`.
        rows: of variance.csv.
    """
    lines = [["activation maps", "layer", "spatial variance", "uniform map", "empty maps"]]
    for (layer, sheet), each in groupby(sorted(rows, key=_map), key=_map):
        same = list(each)
        empty, inputs = (sum(row[count] for row in same) for count in ("empty", "inputs"))
        value = metrics["variance"][f"layer-{layer}"][sheet]
        shown = [sheet, str(layer), spread(value, digits=3), f"{same[0]['uniform']:.3f}", f"{empty:,} of {inputs:,}"]
        lines.append(shown)
    return aligned(lines)


def _map(row: dict[str, Any]) -> tuple[int, str]:
    return row["layer"], row["sheet"]


def metrics_of(run: Run) -> dict[str, Any]:
    """What is in a run's metrics.json.

    Raises:
        UserError: if there is none, or it is not of this version.
    """
    if not run.metrics.is_file():
        raise UserError(f"{run.metrics}: no such file; make it with: {run.command('score')}")
    metrics = storing.read_json(run.metrics)
    whole = isinstance(metrics, dict) and all(
        isinstance(each, dict)
        and set(each) >= {"mean", "std"}
        and {*map(type, each.values())} <= {float, int, NoneType}
        for name, depth in (("accuracy", 2), ("measures", 3))
        for each in _leaves(metrics.get(name), depth)
    )
    if whole:
        accuracy = metrics["accuracy"]
        whole = WHOLE in accuracy and all(each.keys() == accuracy[WHOLE].keys() for each in accuracy.values())
        layers = {layer: each for method in metrics["measures"].values() for layer, each in method.items()}
        whole = whole and all(re.fullmatch(r"layer-\d{1,4}", layer) for layer in layers)
        whole = whole and all(SHOWN.keys() <= each.keys() for each in _leaves(metrics["measures"], 2))
    if not whole:
        raise UserError(f"{run.metrics}: not of this version; make it again with: {run.command('score')}")
    return metrics


def _leaves(tree: Any, depth: int) -> list[Any]:
    """What lies so deep in dictionaries; something else than dictionaries where it does not lie so deep."""
    if depth == 0 or not isinstance(tree, dict):
        return [tree]
    return [leaf for each in tree.values() for leaf in _leaves(each, depth - 1)]


def accuracy_cells(metrics: dict[str, dict[str, Any]], mean: bool = False) -> list[list[str]]:
    """Accuracy in percent before the cut and after each, mean ± deviation over seeds, for a table of several runs.

    Args:
        metrics: of :func:`summarise`, by the run's name.
        mean: leave out the tasks, but for their mean.

    Returns:
        The heads of the columns, then a row per run and task, the mean of the tasks the last.
    """
    methods = [method for method in (WHOLE, *METHODS) if any(method in each["accuracy"] for each in metrics.values())]
    rows = [["network", *([] if mean else ["task"]), "before the cut", *methods[1:]]]
    for name, each in metrics.items():
        accuracy = each["accuracy"]
        for task in ["mean"] if mean else accuracy[WHOLE]:
            cells = (spread(accuracy[method][task], 100) if method in accuracy else "" for method in methods)
            rows.append([name, *([] if mean else [task]), *cells])
    return rows


def measure_table(metrics: dict[str, Any]) -> str:
    """The measures of each split's hidden layers for a terminal, mean ± deviation over seeds; - is undefined."""
    return aligned(measure_cells(metrics))


def measure_cells(metrics: dict[str, Any]) -> list[list[str]]:
    """The rows of :func:`measure_table`, the heads of the columns first."""
    measures = metrics["measures"]
    defined = {
        name
        for layers in measures.values()
        for layer in list(layers.values())[:-1]
        for name, value in layer.items()
        if value["mean"] is not None
    }
    shown = [name for name in SHOWN if name in defined]
    rows = [["measures", "layer", *shown]]
    for method, layers in measures.items():
        for layer, found in list(layers.items())[:-1]:
            cells = (spread(found[name], digits=SHOWN[name]) for name in shown)
            rows.append([method, layer.removeprefix("layer-"), *cells])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def spread(value: dict[str, float | None], factor: float = 1, digits: int = 1, undefined: str = "-") -> str:
    """``mean ± standard deviation``, the mean alone where there is one seed; ``undefined`` where there is no mean."""
    mean, std = value["mean"], value["std"]
    if mean is None:
        return undefined
    return f"{factor * mean:z.{digits}f}" + ("" if std is None else f" ± {factor * std:.{digits}f}")
