"""Figures, made from a run's files and never inside training."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import nn

from spatial import comparing, drawing, graph, heatmaps, runs, storing
from spatial.costs import RELAXING, STARTS, relax_from
from spatial.drawing import DARK, NOTE, SHADES, SMALL, TITLE, Movie, Sheets, colour, explain, layer_name
from spatial.errors import UserError, unknown
from spatial.locality import LocalityPriorLinear
from spatial.maps import maps_of, uniform_variance
from spatial.metrics import interval, live_units, silhouette
from spatial.runs import Run
from spatial.scoring import GROUPS, WHOLE, methods_of, read_rows

FRAMES = 60  # that `trajectory` has at most
MANY = 20  # labels from which only the last hidden layer's maps are drawn
# Tol's muted palette: a method has one colour in every picture, and none is a task's
METHODS = {
    WHOLE: DARK, "greedy": "#332288", "balanced": "#88CCEE", "probability": "#44AA99", "rescale": "#117733",
    "activations": "#DDCC77", "clusters": "#CC6677", "random": "#BBBBBB",
}  # fmt: skip


class Drawn(NamedTuple):
    """What :func:`plot` wrote, and why it did not draw the other kinds."""

    paths: list[Path]
    left_out: dict[str, str]


class Figures(NamedTuple):
    """What :func:`draw` made, by the files' stems, why it did not make the others, and what of the run it shows."""

    made: dict[str, Figure | Movie]
    left_out: dict[str, str]
    method: str
    seed: int


class Asked(NamedTuple):
    """Which figures, and how.

    Attributes:
        kinds: of ``KINDS``; None draws all that the run's files allow, or with ``relax`` none.
        method: the split whose owners colour the neurons; None takes ``greedy``, else the first there is.
        seed: the network to draw; None takes the run's first.
        relax: one of ``STARTS``: draws :func:`relaxed` too.
        against: a control to draw beside this run, which the kinds of ``BESIDE`` allow; None draws the run alone.
        format: one of ``drawing.FORMATS``, of all but movies; None is ``png``.
    """

    kinds: Sequence[str] | None = None
    method: str | None = None
    seed: int | None = None
    relax: str | None = None
    against: Run | None = None
    format: str | None = None


def plot(run: Run, *asked: Any, **named: Any) -> Drawn:
    """Draw figures of a run.

    Args:
        run: a trained run.
        asked, named: what :class:`Asked` holds, in its order or by name.

    Raises:
        UserError: if a figure was asked for whose files are missing, before any is written.
    """
    which = Asked(*asked, **named)
    figures = draw(run, which)
    if not figures.made:
        raise UserError(f"there is nothing to draw: {'; '.join(dict.fromkeys(figures.left_out.values()))}")
    return Drawn(write(run, render(figures, which.format)), figures.left_out)


def draw(run: Run, asked: Asked, report: bool = False) -> Figures:
    """What :func:`plot` is going to write; with ``report`` something else reads ``method`` and ``seed`` too."""
    kinds, method, seed, relax, against, format = asked
    chosen = kinds if kinds is not None else BESIDE if against is not None else () if relax else KINDS
    stills = KINDS.keys() - MOVIES
    if not report:
        for name, given, readers in (("method", method, OWNED), ("seed", seed, KINDS.keys() - OVER_SEEDS)):
            if given is not None and not relax and not {*readers} & {*chosen}:
                raise UserError(f"--{name} {given} is not read by --kind {' '.join(chosen)}")
    if format is not None and not relax and not stills & {*chosen}:
        raise UserError(f"--format {format} is not read by --kind {' '.join(chosen)}: an animation is a GIF")
    seeds = run.seeds()
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UserError(f"--seed {seed}: {run.folder} has the seeds {', '.join(map(str, seeds))}")
    methods = methods_of(run)
    if method is None:
        method = "greedy" if "greedy" in methods or not methods else methods[0]
    elif method not in methods:
        raise unknown("split of this run", method, methods) if methods else missing(run, "split")
    run.network(seed)  # says what is missing of an untrained run
    drawing_of: dict[str, Callable[[Run, str, int], Figure | Movie]] = {kind: KINDS[kind] for kind in chosen}
    if against is not None:
        if alone := [kind for kind in chosen if kind not in BESIDE]:
            raise UserError(f"--against is read only by --kind {' '.join(BESIDE)}, got {alone[0]}")
        _check_beside(run, against, seed)
        drawing_of = {f"{kind}-against-{against.name}": partial(BESIDE[kind], other=against) for kind in chosen}
    if relax:
        drawing_of[f"relaxed-{relax}"] = partial(relaxed, start=relax)
    made, left_out = possible(run, drawing_of, method, seed)
    if wanted := [kind for kind in left_out if kinds is not None or kind.startswith("relaxed")]:
        raise UserError(left_out[wanted[0]])
    return Figures(made, left_out, method, seed)


def possible(
    run: Run, kinds: Mapping[str, Callable[[Run, str, int], Figure | Movie]], method: str, seed: int
) -> tuple[dict[str, Figure | Movie], dict[str, str]]:
    """The figures that the run's files allow, and what the others lack, both by name."""
    made, left_out = {}, {}
    with rc_context(drawing.STYLE):
        for kind, make in kinds.items():
            try:
                made[kind] = make(run, method, seed)
            except Missing as error:
                left_out[kind] = str(error)
    return made, left_out


def render(figures: Figures, format: str | None = None) -> dict[str, bytes]:
    """The files' contents by their names."""
    files = {kind: drawing.rendered(made, format or "png") for kind, made in figures.made.items()}
    return {f"{kind}.{suffix}": content for kind, (suffix, content) in files.items()}


def write(run: Run, files: Mapping[str, bytes]) -> list[Path]:
    """Put files beside the run's other figures; returns their paths."""
    with run.drawing():
        for name, content in files.items():
            with storing.replacing(run.figures / name) as file:
                file.write(content)
    return [run.figures / name for name in files]


class Missing(UserError):
    """Files that a figure needs and another command makes."""


def missing(run: Run, command: str, *words: str) -> Missing:
    line = run.command(command, *words)
    return Missing(f"{run.folder}: nothing to draw this from yet; first run: {line}")


# Neurons on their sheets.


def _sheets(run: Run, method: str, seed: int) -> tuple[nn.Module, Sheets]:
    if method not in methods_of(run):
        raise missing(run, "split")
    network = run.network(seed)
    return network, drawing.sheets_of(network, run.split(method, seed, network)[1], run.options()["datasets"])


def positions(run: Run, method: str, seed: int) -> Figure:
    """Every layer's :func:`spatial.drawing.neurons` as training left them."""
    _, sheets = _sheets(run, method, seed)
    return drawing.neurons(sheets, _owned(method, seed))


def _owned(method: str, seed: int) -> str:
    return f"seed {seed}, owner by the {method} split"


def relaxed(run: Run, method: str, seed: int, start: str = "place") -> Figure:
    """The neurons after :func:`spatial.costs.relax_from`: what is in the weights, which stay as they are."""
    network, sheets = _sheets(run, method, seed)
    places = drawing.places_of(relax_from(network, start, seed))
    after = sheets._replace(places=places)
    remarks = {}
    for layer in list(places)[:-1]:
        before, now = (_clustered(each, layer) for each in (sheets, after))
        remarks[layer] = f"silhouette as trained {before}, relaxed {now}" if before else "silhouette undefined"
    setting = "{norm} per {per}, transport {transport:g}, proximity {proximity:g}, {steps} steps".format(**RELAXING)
    return drawing.neurons(after, f"{_owned(method, seed)}; {STARTS[start]}, weights frozen: {setting}", remarks)


def _clustered(sheets: Sheets, layer: str) -> str:
    """The silhouette of the owners over the live neurons that have one; nothing where it is undefined."""
    chosen = sheets.alive[layer] & (sheets.owners[layer] >= 0)
    found = silhouette(torch.from_numpy(sheets.places[layer][chosen]), torch.from_numpy(sheets.owners[layer][chosen]))
    return "" if found is None else f"{found:.2f}"


def wiring(run: Run, method: str, seed: int) -> Figure:
    """The sheets stacked, and the strongest connections between them: :func:`spatial.drawing.wires`."""
    return drawing.wires(*_sheets(run, method, seed), _owned(method, seed))


def trajectory(run: Run, method: str, seed: int) -> Movie:
    """Every layer's neurons from the random start to the end of training."""
    _, sheets = _sheets(run, method, seed)
    epochs, moves = run.options()["epochs"], moves_of(run, seed, sheets.places)
    if epochs < FRAMES:
        moments = np.linspace(0, epochs, epochs * min(10, (FRAMES - 1) // epochs) + 1)
    else:
        moments = np.unique(np.linspace(0, epochs, FRAMES).round())
    limits = drawing.limits_of(moves[layer][:, sheets.alive[layer]] for layer in moves)
    figure, axes = drawing.wrapped(len(moves))
    dots = []
    for index, (axis, layer) in enumerate(zip(axes, moves, strict=True)):
        for task, alpha, which in drawing.by_owner(sheets, layer):
            start = drawing.heaps(moves[layer][0], limits[1], which=which)
            drawn = drawing.bubbles(axis, start, color=colour(task), marker=drawing.marker(task), alpha=alpha)
            dots.append((drawn, moves[layer], which))
        first = drawing.first_of_row(axis)
        drawing.dress(axis, sheets.dim, layer_name(index, len(axes)), limits, first=first, unit=sheets.unit)
    digits = 1 if len(moments) > epochs + 1 else 0

    def show(moment: float) -> None:
        before = min(int(moment), epochs - 1)
        share = moment - before
        for drawn, path, which in dots:
            heaped = drawing.heaps((1 - share) * path[before] + share * path[before + 1], limits[1], which=which)
            drawing.place_bubbles(drawn, heaped)
        figure.legends[0].set_title(f"epoch {moment:.{digits}f} of {epochs}")

    notes = _owned(method, seed), "between epochs along straight lines" if digits else ""
    explain(
        figure,
        drawing.owner_handles(sheets),
        *notes,
        drawing.hidden_dimensions(sheets.dim),
        title=f"epoch 0 of {epochs}",
    )
    return Movie(figure, moments.tolist(), show)


def moves_of(run: Run, seed: int, places: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where a network's neurons were at the start and after every epoch, ``[epochs + 1, units, dim]``, by layer.

    Args:
        run: whose they are.
        seed: of the network.
        places: of its neurons now, by layer's name.
    """
    if not run.positions.is_file():
        raise missing(run, "train", "...", "--resume")
    epochs = run.options()["epochs"]
    names = {layer: f"seed-{seed}/layer-{index}" for index, layer in enumerate(places)}
    stored = storing.load_arrays(
        run.positions, {names[each]: (epochs + 1, *place.shape) for each, place in places.items()}
    )
    moves = {layer: stored[name] for layer, name in names.items()}
    if not all(path.dtype.kind == "f" and np.isfinite(path).all() for path in moves.values()):
        raise UserError(f"{run.positions}: does not hold the places of seed {seed}'s network")
    return moves


# What the neurons do.


def activations(run: Run, method: str, seed: int) -> Figure:
    """Each task's mean |activation| on the sheet: a row per hidden layer, a column per task, one scale per row."""
    network, recorded, images = recorded_by(run, "task", seed)
    names = run.options()["datasets"]
    figure, axes = drawing.panels(len(recorded), len(names), height=0.96 * drawing.PANEL, margin=0.4)
    places, limits, unseen = _panels_of(network)
    apart = "\n" if max(map(len, names)) > 12 else " "  # a title is as wide as its panel
    for index, (layer, strength) in enumerate(recorded.items()):  # strength: [tasks, units]
        place = places[layer]
        columns = [drawing.heaps(place, limits[1], each) for each in strength]
        scale = drawing.shade(np.concatenate([heaped.values for heaped in columns]))
        for axis, heaped, name in zip(axes[index], columns, names, strict=True):
            drawing.bubbles(axis, heaped, scale=scale)
            title = f"{layer_name(index, len(recorded) + 1)},{apart}{name} alone"
            last = index == len(recorded) - 1
            first, unit = name == names[0], drawing.unit_of(network)
            drawing.dress(axis, place.shape[1], title, limits, first=first, last=last, unit=unit)
        drawing.shade_bar(figure, scale, axes[index], label="mean |activation|", shrink=0.8)
    note = f"seed {seed}, over all {images} images; area: neurons at one place, colour: their mean"
    explain(figure, [], note, unseen, drawing.hidden_dimensions(place.shape[1]))
    return figure


def labels(run: Run, method: str, seed: int) -> Figure:
    """Each label's mean |activation| on the sheet: small panels, a block per hidden layer, one scale per block."""
    network, recorded, images = recorded_by(run, "label", seed)
    names = run.options()["datasets"]
    classes: tuple[int, ...] = network.classes  # type: ignore[assignment]
    layers = list(recorded)
    shown = layers[-1:] if sum(classes) > MANY else layers
    rows = heatmaps.groups_of(names, classes)
    width = max(len(group.labels) for group in rows)
    beside = drawing.width_of([layer_name(0, 2), *(group.name for group in rows)])
    figure = Figure(figsize=(0.82 * width + beside + 1.4, 0.98 * len(rows) * len(shown) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows) * len(shown), width, squeeze=False)
    places, limits, unseen = _panels_of(network, shown)
    for block, layer in enumerate(shown):
        where, place = layer_name(layers.index(layer), len(layers) + 1), places[layer]
        columns = [[drawing.heaps(place, limits[1], each) for each in recorded[layer][group.rows]] for group in rows]
        scale = drawing.shade(np.concatenate([heaped.values for row in columns for heaped in row]))
        axes = grid[block * len(rows) : (block + 1) * len(rows)]
        for row, (name, own, _), heaps in zip(axes, rows, columns, strict=True):
            for axis in row[len(own) :]:
                axis.remove()
            for axis, label, heaped in zip(row, own, heaps, strict=False):
                if np.isfinite(heaped.values).all():
                    drawing.bubbles(axis, heaped, size=0.25, scale=scale)
                else:
                    axis.text(0, 0, "no image", ha="center", va="center", fontsize=SMALL)
                drawing.frame(axis, limits)
                axis.set(xticks=[], yticks=[])
                axis.set_title(str(label), fontsize=NOTE, pad=2)
                axis.spines[:].set_color("#BBBBBB")
            drawing.name_row(row[0], where, name)
        kept = [axis for axis in axes.flat if axis.figure]
        drawing.shade_bar(figure, scale, kept, label="mean |activation|", aspect=15 * len(rows))
    last_alone = f"more than {MANY} labels: the last hidden layer only" if len(shown) < len(layers) else ""
    alone = "" if run.options()["input"] == "sequential" or len(names) == 1 else ", every other task's image blank"
    note = f"seed {seed}, over all {images} images of each label{alone}"
    few = heatmaps.left_out(names, classes)
    explain(figure, [], note, last_alone, few, unseen, drawing.hidden_dimensions(place.shape[1]))
    return figure


def recorded_by(run: Run, by: str, seed: int) -> tuple[nn.Module, dict[str, np.ndarray], str]:
    """The network, its recorded mean |activation| by hidden layer, ``[rows, units]``, and which images it is over."""
    subset = next((each for each in ("train", "test") if run.activations(seed, by, each).is_file()), None)
    if subset is None:
        raise missing(run, "record", *([] if by == "task" else ["--by", by]))
    network = run.network(seed)
    found = run.recorded(by, subset, seed, network)["mean_abs"]
    images = "training" if subset == "train" else "held-out training" if run.options()["holdout"] else "test"
    return network, {layer: each.numpy() for layer, each in found.items()}, images


def _panels_of(
    network: nn.Module, shown: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], tuple[float, float], str]:
    """Every layer's places, the limits of ``positions``, and how many neurons of the layers ``shown`` (all hidden ones)
    they leave out, in words."""
    places, alive = drawing.places_of(network), live_units(network)
    limits = drawing.limits_of(places[layer][alive[layer].numpy()] for layer in places)
    unseen = []
    for index, (layer, place) in enumerate(list(places.items())[:-1]):
        number = int((~drawing.within(place, limits[1])).sum())
        if number and (shown is None or layer in shown):
            unseen.append(f"{number} of {layer_name(index, len(places))}")
    return places, limits, f"silent neurons outside the panels: {', '.join(unseen)}" if unseen else ""


# Sheets: what their neurons do beside each other, and beside those of a control.


def _check_beside(run: Run, other: Run, seed: int) -> None:
    """Refuse a control that cannot be drawn beside a run."""
    comparing.check(run, other)
    if seed not in other.seeds():
        raise UserError(f"--against {other.folder}: has no seed {seed}, but {', '.join(map(str, other.seeds()))}")
    widths = [
        {layer: len(place) for layer, place in graph.positions(each.network(seed)).items()} for each in (run, other)
    ]
    if widths[0] != widths[1]:
        raise UserError(f"--against {other.folder}: its network has other layers than that of {run.folder}")


def _beside(run: Run, other: Run | None) -> dict[str, Run]:
    """The runs of a figure by name, the control first."""
    if other is None:
        return {run.name: run}
    return {each.name if run.name != other.name else str(each.folder): each for each in (other, run)}


def _map_layers(*made: Run, seed: int) -> dict[str, str]:
    """Titles of the hidden layers whose activity is a map in every run, by the layer's name."""
    common: list[str] | None = None
    for each in made:
        network = each.network(seed)
        layers = list(graph.positions(network))
        own = maps_of(network, each.charged())
        common = [layer for layer in own if common is None or layer in common]
        if not common:
            raise Missing(f"{each.folder}: no hidden layer lies on a sheet (--model lenet, --locality)")
    return {layer: layer_name(layers.index(layer), len(layers)) for layer in common or []}


def _sheet(made: Iterable[Run]) -> str:
    """The kind of sheet that maps are drawn on."""
    first, *others = made
    return "line" if "line" in first.sheets(*others) else "plane"


def prior(run: Run, method: str, seed: int) -> Figure:
    """:func:`spatial.heatmaps.prior` of the layers that have one, of each width once."""
    network = run.network(seed)
    layers = list(graph.positions(network))
    local = {layer: network.get_submodule(layer) for layer in layers}
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    widths = set()
    for layer, module in local.items():
        if isinstance(module, LocalityPriorLinear) and module.prior.shape not in widths:
            widths.add(module.prior.shape)
            gain = None if module.gain is None else module.gain.numpy()
            found[layer_name(layers.index(layer), len(layers))] = module.prior.numpy(), gain
            last = module
    if not found:
        raise Missing(f"{run.folder}: has no locality prior (train --locality)")
    metric = f"{last.metric} distance d" if last.topology == "plane" else "d"
    rows = ", each row's mean 1" if last.normalize else ""
    falls = {"linear": "1 / (d + 1)", "sqrt": "1 / sqrt(d + 1)", "square": "1 / (d + 1)²"}[last.decay]
    return heatmaps.prior(found, last.topology, f"P = {falls}, {metric} on a {last.topology}, unit spacing{rows}")


def maps(run: Run, method: str, seed: int, other: Run | None = None) -> Figure:
    """:func:`spatial.heatmaps.maps` of what `record --by label` saw."""
    made, shown, images = _beside(run, other), {}, set()
    titles = _map_layers(*made.values(), seed=seed)
    for name, each in made.items():
        network, recorded, which = recorded_by(each, "label", seed)
        images.add(which)
        shown[name] = {title: recorded[layer] for layer, title in titles.items()}
    if len(images) > 1:
        both = ", ".join(str(each.folder) for each in made.values())
        raise UserError(f"{both}: recorded over different images: {', '.join(sorted(images))}")
    groups = heatmaps.groups_of(run.options()["datasets"], network.classes)  # type: ignore[arg-type]
    few = heatmaps.left_out(run.options()["datasets"], network.classes)  # type: ignore[arg-type]
    note = f"seed {seed}, over all {which} images of each label; one scale per layer{few and f'; {few}'}"
    return heatmaps.maps(shown, groups, _sheet(made.values()), note)


def variance(run: Run, method: str, seed: int, other: Run | None = None) -> Figure:
    """:func:`spatial.heatmaps.variance` of what `score` measured, over all seeds."""
    made, network = _beside(run, other), run.network(seed)
    sheet, titles = _sheet(made.values()), _map_layers(*made.values(), seed=seed)
    stored = {}
    for name, each in made.items():
        labels, stored[name] = each.map_variances()
        if not stored[name]:
            raise missing(each, "score")
    layers = {}
    for index, (layer, place) in enumerate(graph.positions(network).items()):
        if layer in titles:
            values = {}
            for name, each in made.items():
                found = stored[name]
                if f"layer-{index}/{sheet}" not in found:
                    raise Missing(f"{each.folder}: has no maps of {titles[layer]} on a {sheet}")
                values[name] = np.stack(list(found[f"layer-{index}/{sheet}"].values()))
            layers[titles[layer]] = heatmaps.Spread(values, uniform_variance(len(place), sheet))
    classes: tuple[int, ...] = network.classes  # type: ignore[assignment]
    asked = np.concatenate(
        [labels[:, [task]] == np.arange(number) for task, number in enumerate(classes)], 1
    )  # [inputs, labels of all tasks]
    seeds = {name: len(each.seeds()) for name, each in made.items()}
    many = ", ".join(f"{name}: {number} seeds" if number > 1 else f"{name}: one seed" for name, number in seeds.items())
    mean = "; bars: mean over seeds, 95 % t-interval over seeds" if max(seeds.values()) > 1 else ""
    groups = heatmaps.groups_of(run.options()["datasets"], classes)
    few = heatmaps.left_out(run.options()["datasets"], classes)
    note = f"every {_scored(run)} image's map on a {sheet}; {many}{mean}{few and f'; {few}'}"
    return heatmaps.variance(layers, asked, groups, note)


def filters(run: Run, method: str, seed: int, other: Run | None = None) -> Figure:
    """:func:`spatial.heatmaps.filters` of the first connection that joins two layers on a sheet."""
    made = _beside(run, other)
    titles = _map_layers(*made.values(), seed=seed)
    inner = [edge for edge in graph.connections(run.network(seed)) if {*edge} <= {*titles}]
    if not inner:
        raise Missing(f"{run.folder}: no connection joins two layers on a sheet")
    shown = {
        name: graph.effective(each.network(seed).get_submodule(inner[0].target))[0].detach().numpy()
        for name, each in made.items()
    }
    sheet = _sheet(made.values())
    what = "" if sheet == "line" else "; each small image is what the unit at its place reads"
    note = f"seed {seed}, weights into {titles[inner[0].target]}, P × W where there is a prior{what}"
    note += "; a scale for each run" if other is not None else ""
    return heatmaps.filters(shown, sheet, note)


# Numbers.


def curves(run: Run, method: str, seed: int) -> Figure:
    """Loss, accuracy per task and costs over epochs: the mean over seeds, shaded from the lowest to the highest."""
    options = run.options()
    names = options["datasets"]
    numbers = ["seed", "epoch", "loss", "transport", "proximity"]
    rows = storing.read_table(run.history, numbers, names) if run.history.is_file() else []
    if not rows:
        raise missing(run, "train", "...", "--resume")
    scored = [runs.scored_subset(options)]
    lengths = Counter(row["seed"] for row in rows if row.get("subset") == "train")
    numbered = [(seed, epoch) for seed, end in lengths.items() for epoch in range(1, end + 1)]
    wanted = {(*each, part) for each in numbered for part in ("train", *scored)}
    found = {(row["seed"], row["epoch"], row.get("subset")) for row in rows}
    right = all(0 <= row[name] <= 1 or np.isnan(row[name]) for row in rows for name in names)
    if found != wanted or len(rows) != len(wanted) or not {*lengths} <= {*run.seeds()} or not right:
        raise UserError(f"{run.history}: does not hold every epoch of its seeds, or an accuracy that is none")
    columns = {name: np.array([row[name] for row in rows]) for name in [*numbers, *names]}
    subset = np.array([row["subset"] for row in rows])
    epochs = np.unique(columns["epoch"])
    weights = {"l1": " × |w|", "l2": " × w²"}[options["norm"]] if options["transport_per"] == "connection" else ""
    panels = {
        "loss": ("mean cross-entropy, nats", ["loss"]), "accuracy": ("right answers, %", names),
        "transport T": (f"{drawing.unit_of(run.network(seed))}{weights}", ["transport"]),
        "proximity P": ("between 0 and 1", ["proximity"]),
    }  # fmt: skip
    figure, axes = drawing.panels(2, 2, height=0.7 * drawing.PANEL, margin=0.7)
    for axis, (title, (label, shown)) in zip(axes.flat, panels.items(), strict=True):
        cost = title[-1] in "TP"  # one value an epoch, whatever the subset
        for task, name in enumerate(shown):
            line, dot = (colour(task), drawing.marker(task)) if shown is names else ("black", "o")
            for part in scored if cost else (*scored, "train"):
                values = [columns[name][(subset == part) & (columns["epoch"] == epoch)] for epoch in epochs]
                low, mean, high = (
                    [(100 if shown is names else 1) * of(each) for each in values] for of in (np.min, np.mean, np.max)
                )
                style = {"linestyle": ":", "mfc": "white"} if part == "train" else {}
                axis.plot(epochs, mean, color=line, marker=dot, markersize=4, label=f"{name} {part}", **style)
                axis.fill_between(epochs, low, high, color=line, alpha=0.2, linewidth=0)
        axis.set_title(title, fontsize=TITLE)
        axis.set_xlabel("epoch" if axis in axes[-1] else "")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axis.spines[["top", "right"]].set_visible(False)
        if cost:
            axis.set_ylim(0, 1.08 * columns[shown[0]].max() or 1)
    handles = [
        Line2D([], [], color=colour(task), marker=drawing.marker(task), label=name) for task, name in enumerate(names)
    ]
    handles += [Line2D([], [], color="black", label=part) for part in scored]
    handles.append(Line2D([], [], color="black", linestyle=":", marker="o", mfc="white", markersize=4, label="train"))
    seeds = len(np.unique(columns["seed"]))
    explain(figure, handles, f"mean of {seeds} seeds, shaded from the lowest to the highest" if seeds > 1 else "")
    return figure


def scores(run: Run, method: str, seed: int) -> Figure:
    """Accuracy before and after every cut: a group of bars per task and for their mean."""
    names = run.options()["datasets"]
    found = _accuracies(run, run.scores, "method", "task")  # by (method, task): a value per seed
    methods = [WHOLE, *methods_of(run)]
    groups = [*names, "mean of tasks"] if len(names) > 1 else names
    for each in methods if len(names) > 1 else ():
        found[each, groups[-1]] = np.mean([found[each, name] for name in names], 0)
    classes: tuple[int, ...] = run.network(seed).classes  # type: ignore[assignment]
    chances = [100 / number for number in classes]
    width = 0.84 / len(methods)
    wide = 1.4 + max(0.31 * (len(methods) + 1), 0.085 * max(map(len, groups))) * len(groups)
    figure = Figure(figsize=(max(5.5, wide), 4.4), layout="constrained")
    axis = figure.subplots()
    seeds = len(found[methods[0], names[0]])
    for group, (name, chance) in enumerate(zip(groups, [*chances, float(np.mean(chances))], strict=False)):
        for index, each in enumerate(methods):
            values = found[each, name]
            x, mean = group + (index - (len(methods) - 1) / 2) * width, values.mean()
            fill = METHODS[each]
            axis.bar(x, mean, 0.92 * width, color=fill)
            axis.text(x, -1.5, f"{mean:.1f}", ha="center", va="top", fontsize=SMALL)
            if seeds > 1:
                reach = interval(values.tolist())
                reaches = [[min(reach, mean)], [min(reach, 100 - mean)]]  # no accuracy is outside 0 to 100
                axis.errorbar(x, mean, reaches, color="black", linewidth=1, capsize=2.5)
                spread = x + width * np.linspace(-0.25, 0.25, seeds)
                axis.scatter(spread, values, s=10, color="white", edgecolors="black", linewidths=0.6, zorder=3)
        axis.hlines(chance, group - 0.46, group + 0.46, color="black", linestyles="dotted", linewidth=1)
    axis.set_xticks(range(len(groups)), groups)
    axis.tick_params(axis="x", length=0, pad=16)
    axis.set_xlim(-0.55, len(groups) - 0.45)
    axis.set_ylim(0, 105)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel(f"accuracy on the {_scored(run)} images, %")
    axis.spines[["top", "right"]].set_visible(False)
    handles: list[Any] = [
        Patch(color=METHODS[each], label="whole network" if each == WHOLE else each) for each in methods
    ]
    handles.append(Line2D([], [], color="black", linestyle="dotted", label="chance"))
    interval_of = f"mean of {seeds} seeds (dots), 95 % t-interval over seeds, at most 0 to 100; "
    many = interval_of if seeds > 1 else "one seed; "
    explain(figure, handles, many + "after a split, named by its method, each task is answered by its own part")
    return figure


def transfer(run: Run, method: str, seed: int) -> Figure:
    """Accuracy of every part on every task: a matrix per split, the whole network in its first row."""
    names = run.options()["datasets"]
    found = _accuracies(run, run.transfer, "method", "part", "task")
    methods = methods_of(run) or [WHOLE]
    cell = min(1, 8 / len(names))  # inches
    rows_of_panels = -(-len(methods) // max(1, min(4, int(8 / (cell * len(names))))))
    columns = -(-len(methods) // rows_of_panels)
    figure = Figure(layout="constrained")
    figure.set_size_inches(
        cell * len(names) * columns + 2.4, (0.62 * cell * (len(names) + 1) + 1) * rows_of_panels + 0.4
    )
    grid = figure.subplots(rows_of_panels, columns, squeeze=False)
    for unused in grid.flat[len(methods) :]:
        unused.remove()
    axes = list(grid.flat[: len(methods)])
    scale, size = Normalize(0, 100), min(TITLE, 25 * cell)  # of the numbers, in points
    for axis, each in zip(axes, methods, strict=True):
        rows = [(WHOLE, WHOLE), *((each, name) for name in names if each != WHOLE)]
        values = np.array([[found[*row, name].mean() for name in names] for row in rows])
        image = axis.imshow(values, cmap=SHADES, norm=scale, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ink = drawing.ink(image.cmap(scale(value)))
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=size, color=ink)
        axis.axhline(0.5, color="white", linewidth=3)
        axis.set_title(f"{each} split" if each != WHOLE else "no split", fontsize=TITLE)
        slant: dict[str, Any] = (
            {} if max(map(len, names)) < 13 * cell else {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
        )
        axis.set_xticks(range(len(names)), names, fontsize=NOTE, **slant)
        axis.set_yticks(
            range(len(rows)),
            ["whole network", *names][: len(rows)] if drawing.first_of_row(axis) else [],
            fontsize=NOTE,
        )
        axis.set_xlabel("scored on")
        if drawing.first_of_row(axis):
            axis.set_ylabel("part")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=f"accuracy on the {_scored(run)} images, %")
    seeds = len(next(iter(found.values())))
    many = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    explain(figure, [], f"{many}; a specialised part fails at the tasks that are not its own")
    return figure


def _accuracies(run: Run, path: Path, *keys: str) -> dict[Any, np.ndarray]:
    """Accuracies in percent, a value per seed, by the columns ``keys`` of a table that ``score`` wrote."""
    if not path.is_file():
        raise missing(run, "score")
    found: dict[Any, list[float]] = {}
    for row in read_rows(run, path, *keys):
        found.setdefault(tuple(row[key] for key in keys), []).append(100 * row["accuracy"])
    names, methods = run.options()["datasets"], methods_of(run)
    found = {key: values for key, values in found.items() if key[0] != GROUPS}
    if {method for method, *_ in found} != {WHOLE, *methods}:
        raise Missing(f"{path}: is of other splits than there are now; make it again with: {run.command('score')}")
    parts = [(WHOLE, WHOLE), *((method, name) for method in methods for name in names)]
    if len(keys) == 3 and {key[:2] for key in found} != {*parts}:
        raise UserError(f"{path}: does not hold every part; make it again with: {run.command('score')}")
    return {key: np.array(values) for key, values in found.items()}


def _scored(run: Run) -> str:
    return "held-out training" if run.options()["holdout"] else "test"


KINDS: dict[str, Callable[[Run, str, int], Figure | Movie]] = {
    "positions": positions,
    "wiring": wiring,
    "activations": activations,
    "labels": labels,
    "curves": curves,
    "trajectory": trajectory,
    "scores": scores,
    "transfer": transfer,
    "prior": prior,
    "maps": maps,
    "variance": variance,
    "filters": filters,
}
MOVIES = {"trajectory"}  # are GIFs, whatever the format of the others
OWNED = ("positions", "wiring", "trajectory")  # are coloured by a split's owners
OVER_SEEDS = {"curves", "scores", "transfer", "variance"}  # show every seed
# can show a control beside the run
BESIDE: dict[str, Callable[..., Figure]] = {"maps": maps, "variance": variance, "filters": filters}
