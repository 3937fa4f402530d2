"""Pictures of what lies on a sheet: priors, activation maps, filters, and how far maps spread. Knows no runs.

A map of a plane is drawn as its image, unit 0 at the top left; of a line as one row.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spatial.drawing import DARK, LEAST, NOTE, PANEL, SHADES, TITLE, explain, name_row, width_of
from spatial.metrics import interval

SIGNED = "RdBu_r"  # from negative to positive
BESIDE = "#CC6677"  # the run, beside its control in DARK
WRAP = 10  # labels side by side
MOST = 60  # labels of a task that a figure shows; of more than these about FEW, evenly chosen
FEW = 40
FILTERS = 10  # side by side, at most
BEYOND = 0.001  # share of the weights of many units that their scale leaves out


class Group(NamedTuple):
    """Labels drawn side by side."""

    name: str
    labels: range
    rows: slice  # of what was recorded label by label


def groups_of(names: Sequence[str], classes: Sequence[int]) -> list[Group]:
    """Each task's labels, ``WRAP`` at a time; of more than ``MOST`` one in so many (see :func:`left_out`)."""
    found = []
    for task, (name, number) in enumerate(zip(names, classes, strict=True)):
        before, step = sum(classes[:task]), _step(number)
        every = range(0, number, step)
        for start in range(0, len(every), WRAP):
            labels = every[start : start + WRAP]
            span = f" {labels[0]} to {labels[-1]}" if len(every) > WRAP else ""
            rows = slice(before + labels[0], before + labels[-1] + 1, step if step > 1 else None)
            found.append(Group(name + span, labels, rows))
    return found


def left_out(names: Sequence[str], classes: Sequence[int]) -> str:
    """Which labels :func:`groups_of` leaves out, in words; empty where there are few."""
    many = zip(names, classes, strict=True)
    return ", ".join(f"{name}: one label in {_step(number)}" for name, number in many if _step(number) > 1)


def _step(labels: int) -> int:
    return -(-labels // FEW) if labels > MOST else 1


def image(values: np.ndarray, sheet: str) -> np.ndarray:
    """A map, ``[units]``, as rows and columns."""
    if sheet == "line":
        return values[None]
    side = isqrt(len(values))
    return values.reshape(side, side)


def prior(layers: Mapping[str, tuple[np.ndarray, np.ndarray | None]], sheet: str, note: str) -> Figure:
    """What a prior leaves of a unit's connections.

    Args:
        layers: by title, ``P`` ``[out, in]`` and, where it acts on activations, the gains ``[out]``.
        sheet: ``plane``: as seen from the unit in the centre and from the one at the top left; ``line``: the matrix.
        note: what is said below.
    """
    columns = 1 + (sheet == "plane") + any(gain is not None for _, gain in layers.values())
    figure, axes = _grid(len(layers), columns, PANEL)
    for row, (title, (matrix, gain)) in zip(axes, layers.items(), strict=True):
        shown = [("every unit (row) and what it reads (column)", matrix)]
        if sheet == "plane":
            side = isqrt(len(matrix))
            centre = side // 2 * side + side // 2
            views = {"seen from the centre": centre, "from the top left": 0}
            shown = [(what, image(matrix[unit], sheet)) for what, unit in views.items()]
        scale = Normalize(0, float(matrix.max()))
        for axis, (what, values) in zip(row, shown, strict=False):
            _show(axis, values, scale, f"{title}\n{what}" if axis is row[0] else what)
        figure.colorbar(ScalarMappable(scale, SHADES), ax=list(row[: len(shown)]), label="P", shrink=0.8)
        if gain is not None:
            own = Normalize(float(gain.min()), float(gain.max()))
            _show(row[-1], image(gain, sheet), own, "gain of every unit")
            figure.colorbar(ScalarMappable(own, SHADES), ax=row[-1], label="mean P", shrink=0.8)
    explain(figure, [], note)
    return figure


def _show(axis: Axes, values: np.ndarray, scale: Normalize, title: str) -> None:
    axis.imshow(values, cmap=SHADES, norm=scale, aspect="auto" if len(values) == 1 else "equal")
    axis.set_title(title, fontsize=TITLE)
    _count(axis, len(values) > 1)


def maps(runs: Mapping[str, Mapping[str, np.ndarray]], groups: Sequence[Group], sheet: str, note: str) -> Figure:
    """Each label's mean map, a block per layer, in it a row per run and group of labels; one scale per layer.

    On a ``line`` a row is one panel, the labels' maps one below another.

    Args:
        runs: by name, then layer's title: ``[labels of all tasks, units]``, NaN for a label that no image has.
        groups: of labels.
        sheet: ``plane`` or ``line``.
        note: what is said below.
    """
    layers = list(next(iter(runs.values())))
    width = max(len(group.labels) for group in groups)
    rows = [(layer, name, group) for layer in layers for group in groups for name in runs]
    names = [*layers, *(runs if len(runs) > 1 else []), *(group.name for group in groups)]
    figure = Figure(figsize=(0.8 * width + width_of(names) + 1.5, 0.97 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), 1 if sheet == "line" else width, squeeze=False)
    for layer in layers:
        every = np.concatenate([own[layer] for own in runs.values()])
        scale = Normalize(0, max(float(np.nanmax(every, initial=0)), 1e-12))
        kept: list[Axes] = []
        for axes, (own, name, group) in zip(grid, rows, strict=True):
            if own == layer:
                draw = _lines if sheet == "line" else _squares
                kept += draw(axes, group, runs[name][layer][group.rows], scale)
                name_row(axes[0], layer, *([name] if len(runs) > 1 else []), group.name)
        aspect = 15 * len(rows) / len(layers)
        figure.colorbar(ScalarMappable(scale, SHADES), ax=kept, label="mean |activation|", aspect=aspect)
    explain(figure, [], note)
    return figure


def _squares(axes: np.ndarray, group: Group, values: np.ndarray, scale: Normalize) -> list[Axes]:
    """A panel per label."""
    for axis in axes[len(group.labels) :]:
        axis.remove()
    for axis, label, each in zip(axes, group.labels, values, strict=False):
        axis.imshow(image(each, "plane"), cmap=SHADES, norm=scale)
        axis.set_title(str(label), fontsize=NOTE, pad=2)
        axis.set(xticks=[], yticks=[])
    return list(axes[: len(group.labels)])


def _lines(axes: np.ndarray, group: Group, values: np.ndarray, scale: Normalize) -> list[Axes]:
    """One panel, a row per label."""
    axes[0].imshow(values, cmap=SHADES, norm=scale, aspect="auto", interpolation="nearest")
    axes[0].set_yticks(range(len(group.labels)), [str(label) for label in group.labels], fontsize=LEAST)
    axes[0].set_xticks([])
    return list(axes)


class Spread(NamedTuple):
    """Spatial variances of one layer's maps.

    Attributes:
        values: by run, ``[seeds, inputs]``, NaN for an empty map.
        uniform: of the uniform map.
    """

    values: Mapping[str, np.ndarray]
    uniform: float


def variance(layers: Mapping[str, Spread], labels: np.ndarray, groups: Sequence[Group], note: str) -> Figure:
    """Spatial variance: its mean per label as bars, and a histogram over all maps; the uniform map's value is marked.

    Args:
        layers: by title.
        labels: ``[inputs, labels of all tasks]``, whether an input has a label.
        groups: of labels.
        note: what is said below.
    """
    names = list(next(iter(layers.values())).values)
    colours = dict(zip(reversed(names), (BESIDE, DARK), strict=False))
    ticks = [
        (row, label)
        for group in groups
        for label, row in zip(group.labels, range(labels.shape[1])[group.rows], strict=True)
    ]
    width = max(4.6, min(0.3 * len(ticks), 7.5), 0.19 * len(ticks))
    figure = Figure(figsize=(width + 4.6, 3.1 * len(layers) + 0.7), layout="constrained")
    axes = figure.subplots(len(layers), 2, squeeze=False, width_ratios=[width, 4])
    thickness = 0.8 / len(names)
    for (bars, histogram), (title, layer) in zip(axes, layers.items(), strict=True):
        every = np.concatenate([values[~np.isnan(values)] for values in layer.values.values()])
        edges = np.histogram_bin_edges(every, 60)
        for index, name in enumerate(names):
            values = layer.values[name]
            means = np.stack([_means(values[:, labels[:, row]]) for row, _ in ticks])  # [labels, seeds]
            place = np.arange(len(ticks)) + (index - (len(names) - 1) / 2) * thickness
            middle = _means(means)
            bars.bar(place, middle, 0.92 * thickness, color=colours[name])
            several = [each[~np.isnan(each)].tolist() for each in means]
            reach = np.array([interval(each) if len(each) > 1 else np.nan for each in several])
            if not np.isnan(reach).all():
                reaches = [np.minimum(reach, middle), reach]  # no variance is below 0
                bars.errorbar(place, middle, reaches, fmt="none", color="#999999", linewidth=0.9, capsize=1.5)
            known = values[~np.isnan(values)]
            if len(known):
                histogram.hist(known, edges, density=True, histtype="step", linewidth=1.4, color=colours[name])
        bars.axhline(layer.uniform, color="black", linestyle="dotted", linewidth=1)
        histogram.axvline(layer.uniform, color="black", linestyle="dotted", linewidth=1)
        bars.set_xticks(range(len(ticks)), [str(label) for _, label in ticks], fontsize=NOTE)
        if len(groups) > 1:
            bars.set_xlabel("labels of " + ", then ".join(group.name for group in groups), fontsize=NOTE)
        bars.set_title(f"{title}, by label", fontsize=TITLE)
        bars.set_ylabel("mean spatial variance\n(squared spacings)", fontsize=NOTE)
        histogram.set_title("all maps", fontsize=TITLE)
        histogram.set_xlabel("spatial variance (squared spacings)", fontsize=NOTE)
        histogram.set_ylabel("density", fontsize=NOTE)
        for axis in (bars, histogram):
            axis.spines[["top", "right"]].set_visible(False)
    uniform = ", ".join(dict.fromkeys(f"{layer.uniform:.3f}" for layer in layers.values()))
    handles: list[Any] = [Patch(color=colours[name], label=name) for name in names]
    handles.append(Line2D([], [], color="black", linestyle="dotted", label=f"uniform map: {uniform}"))
    explain(figure, handles, note)
    return figure


def filters(runs: Mapping[str, np.ndarray], sheet: str, note: str) -> Figure:
    """What every unit of a layer reads: its incoming weights as an image, at the unit's own place; a scale per run.

    Args:
        runs: by name, the weights ``[out, in]``.
        sheet: ``plane``; of a ``line`` the matrix is drawn.
        note: what is said below.
    """
    figure, axes = _grid(1, len(runs), 1.7 * PANEL)
    left_out = ""
    for axis, (name, weight) in zip(axes[0], runs.items(), strict=True):
        many = sheet == "plane" and isqrt(len(weight)) > FILTERS  # of so many a few would leave the others pale
        reach = float(np.quantile(np.abs(weight), 1 - BEYOND if many else 1)) or 1.0
        scale = Normalize(-reach, reach)
        if sheet == "line":
            axis.imshow(weight, cmap=SIGNED, norm=scale)
            axis.set(xlabel="unit that is read", ylabel="unit that reads")
            _count(axis, rows=True)
        else:
            mosaic, step = _mosaic(weight)
            axis.imshow(mosaic, cmap=SIGNED, norm=scale, interpolation="nearest")
            axis.axis("off")
            if many:
                left_out = f"one unit in {step} along each axis; {100 * BEYOND:g} % of the weights are beyond the scale"
        axis.set_title(name, fontsize=TITLE)
        extend = "both" if many else "neither"
        figure.colorbar(ScalarMappable(scale, SIGNED), ax=axis, label="weight", shrink=0.7, extend=extend)
    explain(figure, [], note, left_out)
    return figure


def _mosaic(weight: np.ndarray) -> tuple[np.ndarray, int]:
    """Units' images at their places, a line between them; and how many steps from one to the next."""
    out, source = isqrt(weight.shape[0]), isqrt(weight.shape[1])
    step = -(-out // FILTERS)
    images = weight.reshape(out, out, source, source)[::step, ::step]
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    rows, columns, height, width = framed.shape
    return framed.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)[:-1, :-1], step


def _means(values: np.ndarray) -> np.ndarray:
    """The mean of each row but for NaN, which it is where nothing else is there."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


def _grid(rows: int, columns: int, size: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(size * columns + 1.0, size * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _count(axis: Axes, rows: bool) -> None:
    """Axes that count units."""
    axis.locator_params(nbins=5, integer=True)
    if not rows:
        axis.set_yticks([])
