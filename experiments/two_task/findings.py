"""What the runs of this experiment say: its figures, and the tables of its pages and of the project's README.

python experiments/two_task/findings.py            from the CSV files of runs/: findings/comparisons.csv, and the marked
                                                   tables of README.md, TABLES.md and the project's README.md
python experiments/two_task/findings.py --figures  the figures too, which need the trained networks of seed 0

An input whose runs are not all scored yet is left out, and named.
"""

import math
import sys
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from experiments import pages
from experiments.table import markdown
from experiments.two_task.afterwards import beside
from experiments.two_task.arms import BESIDE, CUTS, EVERY, IMPOSED, INPUTS, LEARNED, TASKS, found_tasks, tasks_of
from spatial import drawing, storing
from spatial.comparing import holm, paired
from spatial.costs import relax_from
from spatial.errors import UserError
from spatial.metrics import interval, summary
from spatial.positions import output_groups
from spatial.runs import Run
from spatial.scoring import GROUPS, WHOLE, spread, with_mean
from spatial.splitting import METHODS, balanced, grouped

RUNS, OUT = HERE / "runs", HERE / "findings"
PAGES = (HERE / "README.md", HERE / "TABLES.md", ROOT / "README.md")
OWN, AFTERWARDS = ("scores.csv", "transfer.csv", "measures.csv"), ("relaxed.csv", "groups.csv")  # files of a run
COMMON = ("regular", "penalty", "frozen", "shuffled")  # controls of every learned arm
MATCHED = {"neuron": ("frozen_neuron", "shuffled_neuron")}  # those with the same transport per neuron
SHARED = ("probability", "rescale")  # let a unit serve both tasks; the other splits deal the units out
SIDES = ("regular", *chain(*((own, arm) for arm, own in IMPOSED.items())))  # tasks' own groups beside imposed ones
BEST = ("best cut", "best")  # an arm's own best split: of those that deal the units out, of all
KNOWN = {WHOLE, *METHODS, GROUPS}
AFTER = (*CUTS, *BEST)
HIDDEN = (0, 1)
ALPHA = 0.05
MEASURES = {"live": 0, "places": 0, "purity": 2, "kappa": 2, "silhouette": 2, "crossing": 2, "wire": 1}  # digits
Rows = list[dict[str, Any]]


class Table(NamedTuple):
    """All that was scored, by (arm, input), also of runs beside the table."""

    inputs: list[str]  # that are complete
    accuracy: dict[tuple[str, str], dict[str, list[float]]]  # method: a mean over tasks per seed, in percent
    files: dict[tuple[str, str], dict[str, Rows]]  # by file

    def lost(self, arm: str, given: str, method: str) -> list[float]:
        """Points lost by a cut, a value per seed."""
        found = self.accuracy[arm, given]
        return [before - after for before, after in zip(found[WHOLE], found[method], strict=True)]

    def split(self, arm: str, given: str, cut: str) -> str:
        """The split that a cut of ``AFTER`` is for an arm: of ``BEST``, the one after which it is best on average."""
        if cut not in BEST:
            return cut
        methods = [method for method in METHODS if cut == "best" or method not in SHARED]
        return max(methods, key=lambda method: fmean(self.accuracy[arm, given][method]))

    def rows(self, arm: str, given: str, file: str, **where: object) -> Rows:
        """The rows of a file in which columns have the values given."""
        return [row for row in self.files[arm, given][file] if all(row[name] == each for name, each in where.items())]

    def measured(self, arm: str, given: str, measure: str, layer: int, method: str = "balanced") -> list[str]:
        """A measure of every seed; empty where it is undefined."""
        return [row[measure] for row in self.rows(arm, given, "measures.csv", method=method, layer=str(layer))]

    def groups(self, arm: str, given: str) -> Rows:
        """The measures by the groups that mix the tasks."""
        return self.rows(arm, given, "groups.csv", kind="measure")


def read(folder: Path) -> Table:
    """The scored runs in ``folder``.

    Raises:
        UserError: if a run lacks a split, or seeds that the others have.
    """

    def files_of(arm: str, given: str) -> dict[str, Path]:
        run = f"{arm}-{given}"
        after = beside(folder, run)
        return {file: folder / run / file for file in OWN} | {file: after / file for file in AFTERWARDS}

    def is_scored(arm: str, given: str) -> bool:
        return all(path.is_file() for path in files_of(arm, given).values())

    inputs = [given for given in INPUTS if all(is_scored(arm, given) for arm in EVERY)]
    accuracy, files = {}, {}
    for keys in (product(EVERY, inputs), filter(lambda key: is_scored(*key), chain(*BESIDE.values()))):
        seeds = None  # of the table, and of the runs beside it
        for arm, given in keys:
            found = {file: storing.read_table(path) for file, path in files_of(arm, given).items()}
            # `score` has groups for some arms, groups.csv for all
            scores = [row for row in found["scores.csv"] if row["method"] != GROUPS]
            scores += [row for row in found["groups.csv"] if row["kind"] == "score"]
            scores = [row | {"accuracy": 100 * float(row["accuracy"])} for row in scores if row["method"] in KNOWN]
            accuracy[arm, given] = {method: each["mean"] for method, each in with_mean(scores, "accuracy").items()}
            seeds = seeds or {row["seed"] for row in scores}
            files[arm, given] = found
            every = sorted(product(seeds, KNOWN, tasks_of(arm)))
            if sorted((row["seed"], row["method"], row["task"]) for row in scores) != every or any(
                {row["seed"] for row in rows} != seeds for rows in found.values()
            ):
                raise UserError(
                    f"{folder / f'{arm}-{given}'}: lacks a split, or seeds of the other runs; score it again"
                )
    return Table(inputs, accuracy, files)


# Tables.


def shown(values: Sequence[str | float], digits: int = 1) -> str:
    """Mean and deviation over seeds; of how many, where it is not defined for all."""
    known = [float(value) for value in values if value != ""]
    if not known:
        return ""
    missing = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return spread(summary(known), digits=digits) + missing


def accuracies(table: Table, wanted: Sequence[tuple[str, str]]) -> list[list[str]]:
    """A row per run: accuracy before the cut, and the points that every split loses."""
    lines = [["arm", "before the cut", *METHODS]]
    for arm, given in wanted:
        lost = (shown(table.lost(arm, given, method)) for method in METHODS)
        lines.append([arm, shown(table.accuracy[arm, given][WHOLE]), *lost])
    return lines


def controls_of(arm: str) -> tuple[str, ...]:
    """What a learned arm is compared with."""
    return (*COMMON, *MATCHED.get(arm.partition("_")[0], ()))


def comparisons(table: Table) -> list[dict[str, Any]]:
    """Every comparison of the table: before the cut each network with the regular one; after it learned with control.

    ``what``: before, or a cut of ``AFTER``; ``cut_arm``, ``cut_against``: by which split; ``p_holm``: over all of them.
    """
    found = []
    for given in table.inputs:
        pairs = [(WHOLE, arm, "regular") for arm in EVERY if arm != "regular"]
        pairs += [(cut, arm, control) for cut, arm in product(AFTER, LEARNED) for control in controls_of(arm)]
        for what, arm, against in pairs:
            cuts = [table.split(each, given, what) for each in (arm, against)]
            own, other = (
                table.accuracy[each, given][cut] for each, cut in zip((arm, against), cuts, strict=True)
            )  # fmt: skip
            found.append(
                {
                    "input": given, "arm": arm, "against": against, "what": "before" if what == WHOLE else what,
                    "cut_arm": cuts[0], "cut_against": cuts[1], **paired(own, other),
                }
            )  # fmt: skip
    corrected = holm([1.0 if row["p"] is None else row["p"] for row in found])  # no test: nothing found
    return [row | {"p_holm": p} for row, p in zip(found, corrected, strict=True)]


def prices(found: Rows, inputs: list[str]) -> list[list[str]]:
    """A row per network, a column per input: accuracy before the cut over the regular one's."""
    lines = [["arm", *inputs]]
    for arm in EVERY:
        if arm != "regular":
            mine = (one(found, input=given, arm=arm, what="before") for given in inputs)
            lines.append([arm, *(f"{difference(row, 2)}{between(row)}" for row in mine)])
    return lines


def one(found: Rows, **where: str) -> dict[str, Any]:
    """The one comparison in which columns have the values given."""
    (row,) = (row for row in found if all(row[name] == each for name, each in where.items()))
    return row


def difference(row: dict[str, Any], digits: int) -> str:
    """In points; a star where it is not chance after the correction."""
    return f"{row['difference']:+z.{digits}f}" + ("*" if row["p_holm"] < ALPHA else "")


def between(row: dict[str, Any]) -> str:
    """The interval of a difference, 95 %; nothing where all are the same."""
    return "" if row["low"] is None else f" ({row['low']:+z.2f} to {row['high']:+z.2f})"


def ends(row: dict[str, Any]) -> list[float]:
    """Of that interval; the difference itself where all are the same."""
    return [row["difference"]] if row["low"] is None else [row["low"], row["high"]]


def against_controls(found: Rows, given: str) -> list[list[str]]:
    """A row per learned arm and cut, a column per control: accuracy after the cut over the control's."""
    controls = tuple(dict.fromkeys(control for arm in LEARNED for control in controls_of(arm)))
    lines = [["arm", "cut", *controls]]
    for arm, cut in product(LEARNED, AFTER):
        cells = (
            difference(one(found, input=given, arm=arm, what=cut, against=control), 1)
            if control in controls_of(arm)
            else ""
            for control in controls
        )
        lines.append([arm if cut == AFTER[0] else "", cut, *cells])
    return lines


def best_splits(table: Table) -> list[list[str]]:
    """A row per arm, columns per input: which split is best for it."""
    columns = list(product(table.inputs, BEST))
    lines = [["arm", *(f"{given}, {cut}" for given, cut in columns)]]
    return lines + [[arm, *(table.split(arm, given, cut) for given, cut in columns)] for arm in EVERY]


def parts(table: Table, given: str) -> list[list[str]]:
    """A row per arm: the accuracy of either part of ``balanced`` on either task."""
    lines = [["arm", *(f"{part}'s part on {task}" for part, task in product(TASKS, TASKS))]]
    return lines + [[arm, *map(shown, transfer(table, arm, given).values())] for arm in EVERY]


def transfer(table: Table, arm: str, given: str) -> dict[tuple[str, str], list[float]]:
    """Accuracies in percent by (part, task), a value per seed."""
    return {
        (part, task): [
            100 * float(row["accuracy"])
            for row in table.rows(arm, given, "transfer.csv", method="balanced", part=part, task=task)
        ]
        for part, task in product(TASKS, TASKS)
    }


def measures(table: Table, given: str) -> list[list[str]]:
    """A row per arm and layer: the measures of the owners of ``balanced``; of the outputs what comes into them."""
    lines = [["arm", "layer", *(f"live, {task}" for task in TASKS), *MEASURES]]
    for arm, layer in product(EVERY, (*HIDDEN, 2)):
        names = {f"live_{task}": 2 for task in TASKS} | MEASURES
        cells = (
            shown(table.measured(arm, given, name, layer), digits)
            if layer in HIDDEN or name in ("crossing", "wire")
            else ""
            for name, digits in names.items()
        )
        lines.append([arm if layer == 0 else "", str(layer + 1) if layer in HIDDEN else "outputs", *cells])
    return lines


def apart(table: Table, wanted: Sequence[tuple[str, str]]) -> list[list[str]]:
    """A row per run: some measures of its hidden layers."""
    names = ("live", "places", "kappa", "silhouette")
    lines = [["arm", *names]]
    for arm, given in wanted:
        hidden = range(len({row["layer"] for row in table.files[arm, given]["measures.csv"]}) - 1)
        cells = (
            ", ".join(shown(table.measured(arm, given, name, layer), MEASURES[name]) for layer in hidden)
            for name in names
        )
        lines.append([arm, *cells])
    return lines


def scored_beside(table: Table) -> dict[str, list[tuple[str, str]]]:
    """The runs beside the table that are scored, by what they are for."""
    found = {words: [run for run in group if run in table.files] for words, group in BESIDE.items()}
    return {words: group for words, group in found.items() if group}


def imposed(table: Table, wanted: Sequence[str]) -> list[list[str]]:
    """A row per input and arm: cut by the tasks and by groups that mix them."""
    head = ["input", "arm", "lost by groups", "lost by tasks", "silhouette of groups", "of tasks", "kappa of groups"]
    lines = [head]
    for given, arm in product(table.inputs, wanted):
        by_groups, by_tasks = (
            [
                [row[measure] for row in rows if row["layer"] == str(layer)]
                for measure in ("silhouette", "kappa")
                for layer in HIDDEN
            ]
            for rows in (table.groups(arm, given), table.rows(arm, given, "measures.csv", method="balanced"))
        )
        lost = (shown(table.lost(arm, given, method)) for method in (GROUPS, "balanced"))
        cells = (", ".join(shown(each, 2) for each in pair) for pair in (by_groups[:2], by_tasks[:2], by_groups[2:]))
        lines.append([given if arm == wanted[0] else "", arm, *lost, *cells])
    return lines


def relaxations(table: Table, given: str) -> list[list[str]]:
    """A row per network: silhouette and kappa of both hidden layers as trained, relaxed free, relaxed held."""
    kinds = "as trained", "relaxed, free", "relaxed, outputs held"
    lines = [["arm", *(f"{measure}, {kind}" for measure, kind in product(("silhouette", "kappa"), kinds))]]
    for arm in EVERY:
        states = (
            table.rows(arm, given, "measures.csv", method="balanced"),
            table.rows(arm, given, "relaxed.csv", start="random"),
            table.rows(arm, given, "relaxed.csv", start="held"),
        )
        cells = (
            ", ".join(shown([row[measure] for row in rows if row["layer"] == str(layer)], 2) for layer in HIDDEN)
            for measure, rows in product(("silhouette", "kappa"), states)
        )
        lines.append([arm, *cells])
    return lines


def passing(table: Table) -> list[list[str]]:
    """A row per arm: how many networks pass for having found their tasks, as trained and relaxed with nothing held."""
    states = {"trained": ("measures.csv", {"method": "balanced"}), "relaxed": ("relaxed.csv", {"start": "random"})}
    lines = [["arm", *(f"{given}, {state}" for given, state in product(table.inputs, states))]]
    for arm in EVERY:
        cells = []
        for given, (file, where) in product(table.inputs, states.values()):
            cuts = (table.lost(arm, given, cut) for cut in CUTS)
            layers = (
                [float(row["silhouette"] or "nan") for row in table.rows(arm, given, file, layer=str(layer), **where)]
                for layer in HIDDEN
            )
            passed = [
                found_tasks(silhouettes, min(lost))
                for silhouettes, lost in zip(zip(*layers, strict=True), zip(*cuts, strict=True), strict=True)
            ]
            cells.append(f"{sum(passed)} of {len(passed)}")
        lines.append([arm, *cells])
    return lines


NAMES = {
    "regular": "regular", "penalty": "weights charged, without space", "frozen": "places frozen",
    "shuffled": "places shuffled", "connection_task": "spatial, per connection", "neuron_task": "spatial, per neuron",
}  # fmt: skip


def short(table: Table) -> list[list[str]]:
    """The project's README: some arms, before the cut and after ``balanced``, in every input."""
    lines = [["network", *(head for given in table.inputs for head in (f"{given}: before", "after"))]]
    for arm, name in (NAMES | {"frozen_neuron": "places frozen, per neuron"}).items():
        columns = product(table.inputs, (WHOLE, "balanced"))
        lines.append([name, *(shown(table.accuracy[arm, given][method]) for given, method in columns)])
    return lines


# What was hoped for.


def hopes(table: Table, found: Rows) -> list[list[str]]:
    """A row per hope of the prototypes and input: what was measured, and whether it holds.

    Of a mean with its 95 % interval: yes or no where all of it is on one side of the limit.
    """
    lines = [["hope", "input", "measured", "holds"]]

    def say(hope: str, given: str, measured: str, *holds: bool) -> None:
        """It holds at both ends of an interval, at neither, or at one."""
        lines.append([hope, given, measured, "yes" if all(holds) else "undecided" if any(holds) else "**no**"])

    for (arm, most, price), given in product((("neuron_task", 0.3, 0.5), ("connection_task", 0.5, 1.0)), table.inputs):
        cut = min(CUTS, key=lambda method: fmean(table.lost(arm, given, method)))
        own = table.lost(arm, given, cut)
        low, high = bounds_of(own)
        measured = f"{fmean(own):z.2f} ({low:z.2f} to {high:z.2f}, {cut})"
        say(f"{arm}: at most {most} points lost", given, measured, low <= most, high <= most)
        row = one(found, input=given, arm=arm, what="before")
        hope = f"{arm}: within {price} points of regular, before the cut"
        say(hope, given, f"{difference(row, 2)}{between(row)}", *(end >= -price for end in ends(row)))
    for arm in ("neuron_task", "connection_task"):
        if "sequential" in table.inputs:
            ahead = [
                row
                for row in found
                if (row["arm"], row["input"]) == (arm, "sequential") and row["what"] not in ("before", "best")
            ]
            won = sum(row["difference"] > 0 and row["p_holm"] < ALPHA for row in ahead)
            words = f"{won} of {len(ahead)} comparisons (greedy, balanced, best cut)"
            say(f"{arm}: ahead of every control after the correction", "sequential", words, won == len(ahead))
    for arm, given in product(("neuron_task", "connection_task"), table.inputs):
        apart = [table.measured(arm, given, "silhouette", layer) for layer in HIDDEN]
        hope = f"{arm}: silhouette of live units at least 0.7 in both layers"
        bounds = zip(*map(bounds_of, apart), strict=True)  # the low ends of both layers, the high ones
        words = ", ".join(shown(each, 2) for each in apart)
        say(hope, given, words, *(all(bound >= 0.7 for bound in layers) for layers in bounds))
    for arm, hoped in (("neuron_imposed", True), ("connection_imposed", False)):
        hope = f"{arm}: groups that mix the tasks are {'' if hoped else 'not '}cut as cheaply as the tasks, within 0.3"
        for given in table.inputs:
            own, tasks = table.lost(arm, given, GROUPS), table.lost(IMPOSED[arm], given, "balanced")
            row = paired(own, tasks)
            measured = f"{shown(own)} against {shown(tasks)} lost{between(row)}"
            say(hope, given, measured, *((end <= 0.3) is hoped for end in ends(row)))
    return lines


def bounds_of(values: Sequence[str | float]) -> tuple[float, float]:
    """The ends of a mean's 95 % interval; below everything where a value is undefined."""
    if "" in values:
        return -math.inf, -math.inf
    numbers = list(map(float, values))
    half = interval(numbers)
    return fmean(numbers) - half, fmean(numbers) + half


# Figures.


def last_hidden(axis: Axes, network: nn.Module, owners: dict[str, torch.Tensor], *, outputs: bool = True) -> None:
    """The neurons of the last hidden layer, silent ones faint, and the outputs."""
    sheets = drawing.sheets_of(network, owners, TASKS)
    *_, hidden, output = sheets.places
    drawn = [hidden, output] if outputs else [hidden]
    limits = drawing.limits_of([sheets.places[layer][sheets.alive[layer]] for layer in drawn])
    for layer in drawn:
        drawing.layer_bubbles(axis, sheets, layer, limits[1], size=0.6)
    drawing.frame(axis, limits)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def convincing(table: Table) -> Figure:
    """Neurons of seed 0 arm beside arm, as trained and relaxed, and what every seed keeps after the cut."""
    first, width = table.inputs[0], 2.0
    rows = len(table.inputs)
    figure = Figure(figsize=(width * len(NAMES) + 0.6, 2 * width + 1.7 * rows + 1.0), layout="constrained")
    grid = figure.add_gridspec(2 + rows, len(NAMES), height_ratios=[width, width] + [1.7] * rows)
    for column, (arm, name) in enumerate(NAMES.items()):
        network = Run(RUNS / f"{arm}-{first}").network(0)
        owners = balanced(network).owners
        for row, each in enumerate((network, relax_from(network, "held", 0))):
            axis = figure.add_subplot(grid[row, column])
            last_hidden(axis, each, owners)
            if row == 0:
                axis.set_title(name.replace(", ", ",\n"), fontsize=10)
            if column == 0:
                axis.set_ylabel(("as trained", "relaxed, outputs held\nat their tasks' places")[row], fontsize=9)
    marks = {
        WHOLE: ("o", "none", "before the cut"), "greedy": ("x", drawing.DARK, "after greedy"),
        "balanced": ("o", drawing.DARK, "after balanced"),
    }  # fmt: skip
    for row, given in enumerate(table.inputs, 2):
        axis = figure.add_subplot(grid[row, :])
        for (place, arm), (offset, method) in product(enumerate(NAMES), zip((-0.25, 0, 0.25), marks, strict=True)):
            values, (mark, fill, _) = table.accuracy[arm, given][method], marks[method]
            x = [place + offset + 0.012 * (seed - len(values) / 2) for seed in range(len(values))]
            axis.plot(x, values, mark, color=drawing.DARK, markerfacecolor=fill, markersize=4, linestyle="")
        axis.set_xlim(-0.5, len(NAMES) - 0.5)
        axis.set_xticks([])
        axis.set_ylabel(f"{given}\naccuracy, %", fontsize=9)
        axis.grid(axis="y", linewidth=0.4)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [drawing.handle(task, name) for task, name in enumerate(TASKS)]
    for mark, fill, label in marks.values():
        handles.append(Line2D([], [], linestyle="", marker=mark, color=drawing.DARK, markerfacecolor=fill, label=label))
    note = (
        f"above: neurons of the last hidden layer (silent ones faint) and outputs, {first}, seed 0, coloured by the "
        "owners of the balanced split, first where training left them (regular: nothing ever moves them), then relaxed "
        "all alike, the weights frozen; below: every seed's mean accuracy of both tasks"
    )
    drawing.explain(figure, handles, note)
    return figure


def grouping(table: Table) -> Figure:
    """The last hidden layer of the networks with imposed groups, coloured by group and by task."""
    first = table.inputs[0]
    figure, axes = drawing.panels(len(IMPOSED), 2)
    for row, arm in enumerate(IMPOSED):
        network = Run(RUNS / f"{arm}-{first}").network(0)
        by_group = grouped(network, output_groups(network.classes, "arbitrary")).owners  # type: ignore[arg-type]
        for column, (owners, words) in enumerate(((by_group, "groups"), (balanced(network).owners, "tasks"))):
            last_hidden(axes[row, column], network, owners, outputs=False)
            axes[row, column].set_title(f"{arm}\nby {words}", fontsize=10)
    handles = [drawing.handle(owner, f"{name}, or group {owner + 1}") for owner, name in enumerate(TASKS)]
    drawing.explain(figure, handles, f"last hidden layer, {first}, seed 0; silent neurons faint")
    return figure


def specialised(table: Table) -> Figure:
    """Every network's part x task matrix."""
    figure = Figure(figsize=(1.15 * len(EVERY) + 1.2, 1.3 * len(table.inputs) + 1.0), layout="constrained")
    axes = figure.subplots(len(table.inputs), len(EVERY), squeeze=False)
    for (row, given), (column, arm) in product(enumerate(table.inputs), enumerate(EVERY)):
        axis, found = axes[row, column], transfer(table, arm, given)
        values = torch.tensor([[fmean(found[part, task]) for task in TASKS] for part in TASKS])
        image = axis.imshow(values.numpy(), cmap="viridis", vmin=0, vmax=100)
        for y, x in product(range(len(TASKS)), repeat=2):
            ink = drawing.ink(image.to_rgba(values[y, x]))
            axis.text(x, y, f"{values[y, x]:.0f}", ha="center", va="center", color=ink, fontsize=9)
        axis.set_xticks([0, 1], ["M", "F"] if row == len(table.inputs) - 1 else [])
        axis.set_yticks([0, 1], ["M", "F"] if column == 0 else [])
        if row == 0:
            axis.set_title(arm.replace("_", "\n"), fontsize=8)
        if column == 0:
            axis.set_ylabel(f"{given}\npart", fontsize=9)
    figure.colorbar(image, ax=axes, label="accuracy, %")
    note = "rows: parts of the balanced split; columns: tasks (M: MNIST, F: FashionMNIST); means of all seeds"
    drawing.explain(figure, [], note)
    return figure


FIGURES = {"convincing": convincing, "grouping": grouping, "parts": specialised}
COLUMNS = (
    *("input", "arm", "against", "what", "cut_arm", "cut_against", "n", "difference", "low", "high", "effect"),
    *("t", "df", "p", "p_holm", "p_wilcoxon"),
)


def headed(tables: dict[str, list[list[str]]]) -> str:
    """Tables below one another, each under its heading."""
    return "\n\n".join(f"{heading}:\n\n{markdown(lines)}" for heading, lines in tables.items())


def tables(table: Table, found: Rows) -> dict[str, str]:
    """The blocks of the pages, by name."""

    def of_input(given: str) -> list[tuple[str, str]]:
        return [(arm, given) for arm in EVERY]

    made = {
        "hopes": hopes(table, found), "prices": prices(found, table.inputs), "best": best_splits(table),
        "groups": imposed(table, EVERY), "sides": imposed(table, SIDES),
        "found": passing(table), "short": short(table),
    }  # fmt: skip
    by_input = {
        "accuracy": lambda given: accuracies(table, of_input(given)), "parts": lambda given: parts(table, given),
        "measures": lambda given: measures(table, given), "relaxed": lambda given: relaxations(table, given),
        "controls": lambda given: against_controls(found, given),
        "apart": lambda given: apart(table, of_input(given)),
    }  # fmt: skip
    blocks = {name: markdown(lines) for name, lines in made.items()}
    for name, lines_of in by_input.items():
        blocks[name] = headed({f"`{given}`": lines_of(given) for given in table.inputs})
    for name, show in (("wider", accuracies), ("wider-apart", apart)):
        blocks[name] = headed(
            {f"{words}, `{group[0][1]}`": show(table, group) for words, group in scored_beside(table).items()}
        )
    blocks["number"] = f"{len(found)} comparisons, inputs {', '.join(table.inputs)}."
    return blocks


def main(words: list[str]) -> int:
    if words not in ([], ["--figures"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        table = read(RUNS)
        if not table.inputs:
            raise UserError(f"{RUNS}: no input's runs are all scored; run: dvc repro experiments/two_task/dvc.yaml")
        if missing := [given for given in INPUTS if given not in table.inputs]:
            print(f"not finished, left out: {', '.join(missing)}", file=sys.stderr)
        found = comparisons(table)
        blocks = tables(table, found)
        for page in PAGES:
            pages.check(page, blocks)
        figures = {name: draw(table) for name, draw in FIGURES.items()} if words else {}
        storing.save_table(OUT / "comparisons.csv", [{name: row[name] for name in COLUMNS} for row in found])
        for name, figure in figures.items():
            with storing.replacing(OUT / f"{name}.png") as file:
                drawing.write_png(figure, file)
        for page in PAGES:
            pages.insert(page, blocks)
    except UserError as error:
        print(f"findings.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
