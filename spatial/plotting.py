"""Figures, made from a run's files and never inside training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spatial import graph, runs
from spatial.errors import UserError, unknown
from spatial.metrics import live
from spatial.runs import Run

# Okabe and Ito's palette, told apart by colour-blind readers too; a marker for each task says it twice
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
NOBODY = "#888888"
PANEL = 3.2  # inches


def plot(
    run: Run, kinds: Sequence[str] | None = None, method: str | None = None, seed: int | None = None
) -> list[Path]:
    """Draw figures of a run and return their paths.

    Args:
        run: a trained run.
        kinds: of ``KINDS``; None draws all that the run's files allow.
        method: the split whose owners colour the neurons; None takes ``greedy``, else the first there is.
        seed: the network to draw; None takes the run's first.

    Raises:
        UserError: if a figure was asked for whose files are missing.
    """
    seeds = run.seeds()
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UserError(f"--seed {seed}: {run.folder} has the seeds {', '.join(map(str, seeds))}")
    methods = run.methods()
    if method is None:
        method = "greedy" if "greedy" in methods or not methods else methods[0]
    elif method not in methods:
        raise unknown("split of this run", method, methods) if methods else _missing(run, "split")
    run.network(seed)  # says what is missing of an untrained run
    paths = []
    for kind in KINDS if kinds is None else dict.fromkeys(kinds):
        try:
            figure = KINDS[kind](run, method, seed)
        except Missing as error:
            if kinds is not None:
                raise UserError(str(error)) from None
            print(f"{kind} left out: {error}")
            continue
        paths.append(run.figures / f"{kind}.png")
        with runs.replacing(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return paths


class Missing(UserError):
    """Files that a figure needs and another command makes."""


def _missing(run: Run, command: str) -> Missing:
    return Missing(f"{run.folder}: nothing to draw this from yet; first run: python main.py {command} {run.folder}")


def positions(run: Run, method: str, seed: int) -> Figure:
    """Every layer's neurons at their places, coloured by the task that owns them; silent ones faint."""
    if method not in run.methods():
        raise _missing(run, "split")
    network = run.network(seed)
    owners = run.layer_owners(method, seed, network)
    names = run.options()["datasets"]
    outgoing = graph.outgoing(network)
    places = {name: place.detach().numpy() for name, place in graph.positions(network).items()}
    alive = {
        name: live(outgoing[name]).numpy() if name in outgoing else np.ones(len(places[name]), bool) for name in places
    }
    figure, axes = _panels(1, len(places))
    limits = _limits([places[name][alive[name]] for name in places])
    for index, (axis, name, owner) in enumerate(zip(axes[0], places, owners, strict=True)):
        for kind, alpha in ((~alive[name], 0.25), (alive[name], 0.9)):
            for task in [-1, *range(len(names))]:
                heaps = _heaps(places[name][(owner == task) & kind], limits[1])
                _bubbles(axis, heaps, color=_colour(task), marker=_marker(task), alpha=alpha)
        title = _layer_name(index, len(places)) + (
            _census(places[name], alive[name], limits) if name in outgoing else ""
        )
        _dress(axis, places[name].shape[1], title, limits, first=index == 0)
    handles = [_handle(task, name) for task, name in enumerate(names)]
    if any((owner == -1).any() for owner in owners[:-1]):
        handles.append(_handle(-1, "no task"))
    if any((~each).any() for each in alive.values()):
        handles.append(Line2D([], [], linestyle="", marker="o", color=NOBODY, alpha=0.3, label="silent (faint)"))
    note = f"owner by the {method} split; area and, from 20 up, number: neurons at one place"
    _legend(figure, handles, note + _hidden_dimensions(places[name].shape[1]))
    return figure


def _census(places: np.ndarray, alive: np.ndarray, limits: tuple[float, float]) -> str:
    """How many neurons are live and silent, and how many of the silent ones lie outside the panel."""
    outside = int((np.abs(places[~alive, :2]).max(1, initial=0) > limits[1]).sum())
    return f"\n{alive.sum()} live, {(~alive).sum()} silent" + (f" ({outside} outside)" if outside else "")


def activations(run: Run, method: str, seed: int) -> Figure:
    """Each task's mean |activation| on the sheet: a row per hidden layer, a column per task, one scale per row."""
    subset = next((each for each in ("train", "test") if run.activations(seed, each).is_file()), None)
    if subset is None:
        raise _missing(run, "record")
    places = [place.detach().numpy() for place in graph.positions(run.network(seed)).values()][:-1]
    names = run.options()["datasets"]
    shapes = {f"layer-{index}/mean_abs": (len(names), len(place)) for index, place in enumerate(places)}
    recorded = runs.load_arrays(run.activations(seed, subset), shapes)
    figure, axes = _panels(len(places), len(names))
    for index, place in enumerate(places):
        strength = recorded[f"layer-{index}/mean_abs"]  # [tasks, units]
        limits = _limits([place])
        columns = [_heaps(place, limits[1], strength[task]) for task in range(len(names))]
        values = np.concatenate([heaps.values for heaps in columns])
        scale = Normalize(0, max(float(np.quantile(values, 0.98)), 1e-12))  # a few neurons are far above the others
        for axis, heaps, name in zip(axes[index], columns, names, strict=True):
            drawn = _bubbles(axis, heaps, c=heaps.values, cmap="cividis", norm=scale)
            _dress(
                axis,
                place.shape[1],
                f"{_layer_name(index, len(places) + 1)}, {name} alone",
                limits,
                first=name == names[0],
            )
        figure.colorbar(drawn, ax=list(axes[index]), label="mean |activation|", extend="max", shrink=0.8)
    note = f"over all {subset} images; area: neurons at one place, colour: their mean"
    _legend(figure, [], note + _hidden_dimensions(place.shape[1]))
    return figure


def curves(run: Run, method: str, seed: int) -> Figure:
    """Loss, accuracy per task and costs over epochs: the mean over seeds, shaded from the lowest to the highest."""
    names = run.options()["datasets"]
    numbers = ["seed", "epoch", "loss", *names, "transport", "proximity"]
    rows = runs.read_table(run.history, numbers) if run.history.is_file() else []
    if not rows:
        raise _missing(run, "train")
    columns = {name: np.array([row[name] for row in rows]) for name in numbers}
    subset = np.array([row["subset"] for row in rows])
    epochs = np.unique(columns["epoch"])
    figure, axes = _panels(1, 4, square=False)
    panels = {"loss": ["loss"], "accuracy, %": names, "transport T": ["transport"], "proximity P": ["proximity"]}
    for axis, (title, shown) in zip(axes[0], panels.items(), strict=True):
        cost = title[-1] in "TP"  # one value an epoch, whatever the subset
        for task, name in enumerate(shown):
            colour = _colour(task) if shown is names else "black"
            for part, line in (("test", "-"),) if cost else (("test", "-"), ("train", ":")):
                by_epoch = [columns[name][(subset == part) & (columns["epoch"] == epoch)] for epoch in epochs]
                values = [100 * each if shown is names else each for each in by_epoch]
                axis.plot(
                    epochs, [each.mean() for each in values], line, marker="." if part == "test" else "", color=colour
                )
                axis.fill_between(
                    epochs,
                    [each.min() for each in values],
                    [each.max() for each in values],
                    color=colour,
                    alpha=0.2,
                    linewidth=0,
                )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.spines[["top", "right"]].set_visible(False)
        if cost:
            axis.set_ylim(0, 1.08 * columns[shown[0]].max() or 1)
    handles = [Line2D([], [], color=_colour(task), label=name) for task, name in enumerate(names)]
    handles += [
        Line2D([], [], color="black", marker=".", label="test"),
        Line2D([], [], color="black", linestyle=":", label="train"),
    ]
    seeds = len(np.unique(columns["seed"]))
    _legend(figure, handles, f"mean of {seeds} seeds, shaded from the lowest to the highest" if seeds > 1 else None)
    return figure


KINDS: dict[str, Callable[[Run, str, int], Figure]] = {
    "positions": positions,
    "activations": activations,
    "curves": curves,
}


class Heaps(NamedTuple):
    """Neurons that lie too close to be told apart, drawn as one."""

    places: np.ndarray  # [heaps, 2]
    counts: np.ndarray  # [heaps]
    values: np.ndarray  # [heaps], the mean of their values


def _heaps(places: np.ndarray, reach: float, values: np.ndarray | None = None) -> Heaps:
    """Group neurons by cells of 1/100 of the panel."""
    cells = np.round(places / (reach / 50))  # in all dimensions, not only the two that are drawn
    x, y = _sheet(places)
    _, member, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)

    def mean(each: np.ndarray) -> np.ndarray:
        return np.bincount(member.ravel(), each, len(counts)) / counts

    return Heaps(np.stack([mean(x), mean(y)], 1), counts, mean(np.ones(len(places)) if values is None else values))


def _bubbles(axis: Axes, heaps: Heaps, **style: Any) -> PathCollection:
    """Draw heaps with an area that grows with their neurons, the large ones with their number."""
    order = np.argsort(-heaps.counts)  # the small ones on top
    if "c" in style:
        style["c"] = style["c"][order]
    (x, y), area = heaps.places[order].T, 8 + 5 * heaps.counts[order]
    drawn = axis.scatter(x, y, s=area, linewidths=0.4, edgecolors="white", **style)
    if "color" in style:
        for place, count in zip(heaps.places, heaps.counts, strict=True):
            if count >= 20:
                axis.text(place[0], place[1], str(count), ha="center", va="center", fontsize=7)
    return drawn


def _panels(rows: int, columns: int, *, square: bool = True) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels, ``axes[row][column]``, with room for a legend below."""
    figure = Figure(
        figsize=(PANEL * columns + 0.6, PANEL * rows * (1.08 if square else 0.85) + (1.1 if square else 0.7)),
        layout="constrained",
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure: Figure, handles: list[Line2D], note: str | None) -> None:
    """One legend for all panels, below them, and a line of explanation."""
    if note:
        figure.supxlabel(note, fontsize=9, color="#444444")
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


def _dress(axis: Axes, dim: int, title: str, limits: tuple[float, float], *, first: bool) -> None:
    """Title, names of the axes, equal aspect."""
    axis.set_title(title, fontsize=10)
    axis.set_aspect("equal")
    axis.set_xlim(limits)
    axis.set_ylim(limits)
    axis.set_xlabel("x")
    if first:
        axis.set_ylabel("y" if dim > 1 else "(spread for sight)")
    axis.spines[["top", "right"]].set_visible(False)


def _sheet(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two coordinates; in one dimension the second is a fixed scatter, lest neurons hide each other."""
    if places.shape[1] > 1:
        return places[:, 0], places[:, 1]
    return places[:, 0], np.random.default_rng(0).uniform(-0.5, 0.5, len(places))


def _hidden_dimensions(dim: int) -> str:
    return f"; the first two of {dim} dimensions" if dim > 2 else ""


def _limits(places: Sequence[np.ndarray]) -> tuple[float, float]:
    """A square around the origin that holds all of ``places``, with a margin."""
    reach = float(np.abs(np.concatenate([each[:, :2].ravel() for each in places])).max()) * 1.1 + 0.1
    return -reach, reach


def _layer_name(index: int, layers: int) -> str:
    return "output layer" if index == layers - 1 else f"hidden layer {index + 1}"


def _colour(task: int) -> str:
    return NOBODY if task < 0 else COLOURS[task % len(COLOURS)]


def _marker(task: int) -> str:
    return "o" if task < 0 else MARKERS[task % len(MARKERS)]


def _handle(task: int, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=_marker(task), color=_colour(task), label=label)
