"""Do outputs that start anywhere find the tasks? Ways to train, compared on held-out images, and the best on ten seeds.

python experiments/two_task/free.py [INPUT...]           train what free.csv has not yet: every way, two seeds,
                                                         held-out images
python experiments/two_task/free.py --final [INPUT...]   the ways chosen from it, ten other seeds, test images:
                                                         free-final.csv
python experiments/two_task/free.py --figure             trains the first of those networks anew, for free.png
The first writes its table into TABLES.md, the second into README.md; several may run side by side, each with inputs of
its own.

Outputs start like all other neurons. A way is a list of phases; between them, and at the end, the neurons may be laid
out anew or relaxed: only places move, the weights frozen. A network has *found* its tasks if after that the silhouette
of its live units is at least 0.5 in both hidden layers, owners by ``balanced``, and at most 1 point is lost by the
better of ``greedy`` and ``balanced``. Chosen for an input is the way that finds them most often, of equal ones that
with the largest silhouette (the smaller one of both layers) among those that lose at most 1 point, or else the one that
loses least.
"""

import math
import sys
from copy import deepcopy
from itertools import islice, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from spatial import process, storing

process.settle()

import scipy.linalg
import torch
from matplotlib.figure import Figure
from torch import nn

from experiments import pages
from experiments.table import markdown
from experiments.two_task.arms import CUTS, INPUTS, TASKS, found_tasks, inputs_of
from experiments.two_task.findings import last_hidden, shown
from spatial import costs, drawing, graph
from spatial.errors import UserError
from spatial.loading import input_shape, load_sets
from spatial.metrics import layer_measures, live_units, summary
from spatial.models import build
from spatial.scoring import score_part, spread
from spatial.seeds import generator
from spatial.splitting import METHODS, balanced, cut
from spatial.tasks import Tasks
from spatial.training import Point, fit

SEARCH, FINAL, FIGURE = HERE / "free.csv", HERE / "free-final.csv", HERE / "free.png"
HELD_OUT, FRESH = [110, 111], list(range(200, 210))
LAST = 10, 0  # epochs, and images held out, of the networks judged at the end
RELAXING: dict[str, Any] = {"norm": "l1", "per": "neuron", "transport": 3.0, "proximity": 3.0, "steps": 300}
KEY = ("way", "input", "seed", "epochs")
MEASURES = ("live", "places", "kappa", "silhouette")


class Phase(NamedTuple):
    """A stretch of training.

    Attributes:
        until: the share of all epochs at its end.
        options: of :func:`spatial.training.fit`.
        relax: how many random starts the neurons are relaxed from at its end, beside where they are, to take the one of
            the lowest cost; None: they are not relaxed.
        hall: whether they are laid out by :func:`hall` at its end.
    """

    until: float
    options: dict[str, Any]
    relax: int | None = None
    hall: bool = False


def charged(transport: float, proximity: float, position_lr: float = 0.05) -> dict[str, Any]:
    return {"transport": transport, "proximity": proximity, "position_lr": position_lr}


NEURON = {
    "per": "neuron",
    "transport": 3.0,
    "proximity": 3.0,
    "position_lr": 0.015,
}  # separates other groups than the tasks too
PENALTY = Phase(0.2, {"weight_penalty": 10.0}, relax=0)
GENTLE = Phase(0.2, {"weight_penalty": 1.0}, hall=True)
WAYS = {
    "plain, 10": [Phase(1.0, charged(10, 1), relax=0)],
    "plain, 100": [Phase(1.0, charged(100, 3), relax=0)],
    "annealed, 1 to 100": [
        Phase((1 + index) / 5, charged(strength, strength / 10), relax=0 if index == 4 else None)
        for index, strength in enumerate((1, 3, 10, 30, 100))
    ],
    "relaxed between, 30": [Phase(share, charged(30, 3), relax=0) for share in (0.2, 0.4, 0.6, 0.8, 1.0)],
    "penalty first, 10": [PENALTY, Phase(1.0, charged(10, 1, 0.02), relax=0)],
    "penalty first, 30": [PENALTY, Phase(1.0, charged(30, 3, 0.02), relax=0)],
    "penalty first, 100": [PENALTY, Phase(1.0, charged(100, 10, 0.02), relax=0)],
    "penalty first, 30, restarts": [PENALTY._replace(relax=5), Phase(1.0, charged(30, 3, 0.02), relax=5)],
    "penalty first, neuron": [PENALTY, Phase(1.0, NEURON, relax=0)],
    "penalty first, neuron, restarts": [PENALTY._replace(relax=5), Phase(1.0, NEURON, relax=5)],
    "penalty longer, neuron, restarts": [PENALTY._replace(until=0.4, relax=5), Phase(1.0, NEURON, relax=5)],
    "connection first, neuron, restarts": [Phase(0.4, charged(30, 3), relax=5), Phase(1.0, NEURON, relax=5)],
    "Hall once, neuron": [GENTLE, Phase(1.0, NEURON, relax=0)],
    "Hall twice, connection, neuron": [
        GENTLE,
        Phase(0.4, charged(10, 1, 0.02), hall=True),
        Phase(1.0, NEURON, relax=0),
    ],
    **{
        f"Hall thrice, penalty and connection {strength}, neuron": [
            GENTLE,
            *(Phase(share, GENTLE.options | charged(strength, strength / 10, 0.02), hall=True) for share in (0.4, 0.6)),
            Phase(1.0, NEURON, relax=0),
        ]
        for strength in (3, 10)
    },
}


def hall(model: nn.Module) -> nn.Module:
    """A copy whose neurons are laid out by the least sum of squared wire lengths, ``sum over wires of a_ji d_ji^2``.

    ``a_ji = 1/2 [|w_ji| / (n_out sum_i |w_ji|) + |w_ji| / (n_in sum_j |w_ji|)]``, the weights of the transport cost per
    neuron. With A the matrix of all a and D the diagonal of its sums, the axes are those x that have the least
    ``x^T (D - A) x`` among all with ``x^T D x = 1``, D-orthogonal to each other and to the constant one: generalized
    eigenvectors of (D - A, D), all but the first. Each is then scaled to deviation 1. No start matters.

    Source: Hall, An r-dimensional quadratic placement algorithm, Management Science 17, 1970; normalized as in Shi and
    Malik, Normalized cuts and image segmentation, 2000.
    """
    copy = deepcopy(model)
    places = graph.positions(copy)
    ends = torch.tensor([0, *(len(place) for place in places.values())]).cumsum(0).tolist()
    units = {layer: slice(*pair) for layer, pair in zip(places, pairwise(ends), strict=True)}
    near = torch.zeros(ends[-1], ends[-1], dtype=torch.float64)
    for edge in graph.charged(copy, None):
        size = graph.weight(copy, edge).detach().abs().sum(2).double()  # [out, in]
        per_reader, per_read = (size / size.sum(axis, keepdim=True).clamp_min(1e-30) for axis in (1, 0))
        near[units[edge.target], units[edge.source]] = (per_reader / len(size) + per_read / size.shape[1]) / 2
    near = near + near.T
    degree = torch.diag(near.sum(1).clamp_min(1e-12))  # of a unit that nothing joins too
    dim = next(iter(places.values())).shape[1]
    _, axes = scipy.linalg.eigh((degree - near).numpy(), degree.numpy(), subset_by_index=[1, dim])
    with torch.no_grad():
        for layer, place in places.items():
            place.copy_(torch.from_numpy(axes / axes.std(0))[units[layer]])
    return copy


def relaxed(model: nn.Module, starts: int, seed: int) -> nn.Module:
    """The network relaxed from where its neurons are and from random starts: that of the lowest cost."""
    found = [costs.relax(model, **RELAXING)]
    draws = generator(seed, "restarts")
    found += [costs.relax(costs.scattered(model, draws), **RELAXING) for _ in range(starts)]
    return min(found, key=cost)


@torch.no_grad()
def cost(model: nn.Module) -> float:
    """What relaxing lowers."""
    wires, crowd = costs.model_costs(model, None, "l1", "neuron")
    return RELAXING["transport"] * wires.item() + RELAXING["proximity"] * crowd.item()


def train(way: list[Phase], given: str, seed: int, epochs: int, holdout: int) -> tuple[nn.Module, nn.Module, Tasks]:
    """A network as trained, the same relaxed, and the images to score."""
    sets = load_sets(TASKS, str(HERE.parents[1] / "data"), given, holdout=holdout)
    train_tasks, test_tasks = (Tasks([getattr(each, name) for each in sets], given) for name in ("train", "test"))
    shape, classes = input_shape(sets, given), tuple(each.train.classes for each in sets)
    model = build("mlp", {"shape": shape, "layers": (300, 300), "classes": classes}, seed)
    done, before, read = 0, model, set[str]()
    state: dict[str, Any] | None = None
    for phase in way:
        last = round(phase.until * epochs)
        if set(phase.options) != read:  # other parameters learn: the optimizer begins anew
            state, read = None, set(phase.options)
        learning = fit(
            [model], train_tasks, test_tasks, seeds=[seed], epochs=epochs, batch_size=256, schedule="linear", norm="l1",
            start=Point(done, 0, state, []), **phase.options,
        )  # fmt: skip
        *_, point = islice(learning, last - done)
        state = point.optimizer
        done, before = last, model
        if phase.hall:
            model = hall(model)
        if phase.relax is not None:
            model = relaxed(model, phase.relax, seed)
    return before, model, test_tasks


def rows_of(name: str, given: str, seed: int, epochs: int, holdout: int) -> dict[str, Any]:
    """Train one network; what it came to."""
    before, after, tasks = train(WAYS[name], given, seed, epochs, holdout)
    row: dict[str, Any] = {"way": name, "input": given, "seed": seed, "epochs": epochs}
    row["whole"] = fmean(score_part(after, tasks).accuracy)
    for method in CUTS:
        k = METHODS[method](after, seed, None).k
        row[method] = fmean(score_part(cut(after, k, task), tasks).accuracy[task] for task in range(len(TASKS)))
    owners = balanced(after).owners
    for state, network in (("trained", before), ("relaxed", after)):
        places, alive = graph.places(network), live_units(network)
        for index, layer in enumerate(list(owners)[:-1]):
            found = layer_measures(positions=places[layer], owners=owners[layer], alive=alive[layer], tasks=len(TASKS))
            row |= {f"{each}_{state}_{index + 1}": found[each] for each in MEASURES}
    return row


def has_found(row: dict[str, Any], state: str = "relaxed") -> bool:
    """Whether a network has found its tasks, as ``trained`` or ``relaxed``."""
    return found_tasks([row[f"silhouette_{state}_{layer}"] for layer in (1, 2)], lost(row))


def apart(row: dict[str, Any]) -> float:
    """The silhouette after relaxing, of the layer where it is smaller; -1 where it is undefined."""
    found = [row[f"silhouette_relaxed_{layer}"] for layer in (1, 2)]
    return -1.0 if any(math.isnan(each) for each in found) else min(found)


def lost(row: dict[str, Any]) -> float:
    """Points lost by the better cut."""
    return 100 * (row["whole"] - max(row[method] for method in CUTS))


def choice(rows: list[dict[str, Any]], given: str) -> str:
    """The way for an input, of what ``free.csv`` says.

    Raises:
        UserError: if a way was not trained with every seed, once.
    """
    for name in WAYS:
        if sorted(row["seed"] for row in rows if (row["way"], row["input"]) == (name, given)) != HELD_OUT:
            raise UserError(f"{name}, {given}: not finished; run: python experiments/two_task/free.py")

    def merit(name: str) -> tuple[float, ...]:
        mine = [row for row in rows if (row["way"], row["input"]) == (name, given)]
        cheap = fmean(map(lost, mine)) <= 1
        return (sum(map(has_found, mine)), cheap, fmean(map(apart, mine)) if cheap else -fmean(map(lost, mine)))

    return max(WAYS, key=merit)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    states = [f"{each}_{state}_{layer}" for each, state, layer in product(MEASURES, ("trained", "relaxed"), (1, 2))]
    return storing.read_table(path, ["seed", "epochs", "whole", *CUTS], states)


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A row per input and way."""
    columns = (
        ("silhouette", "relaxed", 2),
        ("silhouette", "trained", 2),
        ("kappa", "relaxed", 2),
        ("places", "relaxed", 0),
    )
    head = ["input", "way", "found, relaxed", "found, trained", "before the cut", "lost"]
    lines = [[*head, *(f"{measure}, {state}" for measure, state, _ in columns)]]
    for given, name in product(INPUTS, WAYS):
        mine = [row for row in rows if (row["way"], row["input"]) == (name, given)]
        if mine:
            whole, points = spread(summary([row["whole"] for row in mine]), 100), spread(summary(list(map(lost, mine))))
            counts = (
                f"{sum(has_found(row, state) for row in mine)} of {len(mine)}" for state in ("relaxed", "trained")
            )
            layers = (
                ", ".join(_shown([row[f"{measure}_{state}_{layer}"] for row in mine], digits) for layer in (1, 2))
                for measure, state, digits in columns
            )
            lines.append([given, name, *counts, whole, points, *layers])
    return lines


def _shown(values: list[float], digits: int) -> str:
    return shown(["" if math.isnan(value) else value for value in values], digits) or "-"


def figure() -> Figure:
    """The last hidden layer of the first network of every input, as trained and relaxed."""
    drawn, axes = drawing.panels(2, len(INPUTS))
    for column, given in enumerate(INPUTS):
        way = choice(read(SEARCH), given)
        networks = train(WAYS[way], given, FRESH[0], *LAST)[:2]
        for axis, network, words in zip(axes[:, column], networks, ("as trained", "relaxed"), strict=True):
            last_hidden(axis, network, balanced(network).owners)
            axis.set_title(f"{given}, {words}", fontsize=10)
    note = f"last hidden layer, silent neurons faint, and outputs (white rims), which started anywhere; seed {FRESH[0]}"
    drawing.explain(drawn, [drawing.handle(task, name) for task, name in enumerate(TASKS)], note)
    return drawn


def main(words: list[str]) -> int:
    final = words[:1] == ["--final"]
    path = FINAL if final else SEARCH
    if words != ["--figure"] and any(word.startswith("-") for word in words[final:]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if words == ["--figure"]:
            with storing.replacing(FIGURE) as file:
                drawing.write_png(figure(), file)
            return 0
        inputs = inputs_of(words[final:])
        if final:
            wanted = [(choice(read(SEARCH), given), given, seed, *LAST) for given, seed in product(inputs, FRESH)]
        else:
            wanted = [(name, given, seed, 5, 10_000) for given, name, seed in product(inputs, WAYS, HELD_OUT)]
        kept = {(row["way"], row["input"]) for row in read(path) if row["input"] in inputs}
        if others := kept - {each[:2] for each in wanted}:
            name, given = sorted(others)[0]
            raise UserError(f"{path}: holds {name!r} for {given}, which is not what is wanted now; remove these rows")
        for name, given, seed, epochs, holdout in wanted:
            if (name, given, seed, epochs) not in {tuple(row[each] for each in KEY) for row in read(path)}:
                storing.append_table(path, [rows_of(name, given, seed, epochs, holdout)])
        pages.insert(HERE / ("README.md" if final else "TABLES.md"), {path.stem: markdown(table(read(path)))})
    except UserError as error:
        print(f"free.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
