"""What the runs of this experiment say: the tables and the figure of its README.

python experiments/locality_mnist/findings.py RUNS     RUNS/ARM are the runs, scored; writes RUNS/../findings/

Tables, on standard output: every arm's accuracy, loss and spatial variance, and its difference from its control, paired
over seeds; the one-run test of the authors, repeated for every seed; where the variation lies; a permutation null: the
layer's units change places on the sheet 1,000 times, the same way for every image, and a map is more local than chance
if its variance is below that of its own shuffles; and what the prior does to the layer's weights.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from matplotlib.figure import Figure

from experiments.table import markdown
from spatial import drawing, graph, runs, seeds
from spatial.comparing import p_value, paired
from spatial.errors import UserError
from spatial.maps import maps_of, shuffled_variance, spatial_variance, uniform_variance
from spatial.metrics import summary
from spatial.positions import distance, plane
from spatial.recording import watching
from spatial.runs import Run
from spatial.scoring import spread

CONTROL, LOCAL = "control", "plane_linear"
SHUFFLES = 1000
LAYERS = {"layer-0": "before the layer", "layer-1": "after the layer"}


def arms(folder: Path) -> list[list[str]]:
    """A row per arm: accuracy, loss, spatial variance before and after the layer."""
    table = [["arm", "seeds", "accuracy, %", "loss", "variance before", "after", "sheet", "uniform map"]]
    for run in runs_of(folder):
        metrics = runs.read_json(run.metrics)
        (sheet,) = run.sheets()
        cells = [spread(metrics["variance"][layer][sheet], digits=3) for layer in LAYERS]
        accuracy = spread(metrics["accuracy"]["whole"]["mean"], 100, digits=2)
        loss = spread(metrics["loss"]["whole"]["mean"], digits=4)
        table.append(
            [run.name, str(len(run.seeds())), accuracy, loss, *cells, sheet, f"{uniform_variance(49, sheet):.3f}"]
        )
    return table


def differences(folder: Path) -> list[list[str]]:
    """A row per arm and measure: its difference from what it was compared with, over seeds."""
    table = [["arm", "against", "what", "difference", "95 % interval", "t", "df", "p", "Wilcoxon p", "d"]]
    for run in runs_of(folder):
        for path in sorted((run.folder / "against").glob("*.json")):
            found = runs.read_json(path)
            accuracy, loss = (found[value]["whole"]["mean"] for value in ("accuracy", "loss"))
            tests = {"accuracy, points": (100, accuracy), "loss": (1, loss)}
            (sheet,) = run.sheets()
            for layer, where in LAYERS.items():
                tests[f"variance {where}"] = 1, found["variance"][layer][sheet]["seeds"]
            table += [[run.name, found["other"], what, *cells(test, factor)] for what, (factor, test) in tests.items()]
    return table


def cells(test: dict[str, Any], factor: float = 1) -> list[str]:
    """A test of :func:`spatial.comparing.paired` as cells."""
    if test["t"] is None:
        return [f"{factor * test['difference']:+.4g}", "", "", "", "", "", ""]
    interval = f"{factor * test['low']:+.3g} to {factor * test['high']:+.3g}"
    return [
        f"{factor * test['difference']:+.3g}", interval, f"{test['t']:.2f}", str(test["df"]),
        *(p_value(test[name]).removeprefix("= ") for name in ("p", "p_wilcoxon")), f"{test['effect']:.2f}",
    ]  # fmt: skip


def one_run(folder: Path, images: int = 1000) -> list[list[str]]:
    """The authors' test, one run against one run over its first 1,000 images, for every pair of runs of one seed."""
    _, own = Run(folder / LOCAL).map_variances()
    _, control = Run(folder / CONTROL).map_variances()
    table = [["seed", "local", "control", "difference", "t, 1,000 images", "p", "t, 10,000 images", "p"]]
    for seed, values in own["layer-1/plane"].items():
        other = control["layer-1/plane"][seed]
        few, all_of_them = paired(values[:images], other[:images]), paired(values, other)
        means = (f"{few[name]:.3f}" for name in ("a", "b"))
        tests = (
            cell for test in (few, all_of_them) for cell in (f"{test['t']:.1f}", p_value(test["p"]).removeprefix("= "))
        )
        table.append([str(seed), *means, f"{few['difference']:+.3f}", *tests])
    return table


def variation(folder: Path) -> list[list[str]]:
    """Where the variation of the difference between local and control lies."""
    found = runs.read_json(Run(folder / LOCAL).against(Run(folder / CONTROL)))["variance"]
    table = [["maps", "between seeds", "between images", "what is left", "mean difference"]]
    for layer, where in LAYERS.items():
        part, mean = found[layer]["plane"]["components"], found[layer]["plane"]["seeds"]["difference"]
        table.append([where, *(f"{part[name] ** 0.5:.3f}" for name in ("seeds", "images", "rest")), f"{mean:+.3f}"])
    return table


def null(run: Run) -> dict[str, list[dict[str, float]]]:
    """Every seed's maps against their own shuffles, by layer.

    Returns:
        ``variance``: the mean over images; ``shuffled``, ``deviation``: mean and standard deviation of that mean over
        shuffles; ``share``: the mean over images of the share of shuffles that are less local than the map.
    """
    found: dict[str, list[dict[str, float]]] = {layer: [] for layer in LAYERS}
    draws = seeds.generator(0, "shuffles")
    orders = torch.stack([torch.randperm(49, generator=draws) for _ in range(SHUFFLES)])
    tasks = run.tasks("test")
    for seed in run.seeds():
        network = run.network(seed)
        maps: dict[str, list[torch.Tensor]] = {layer: [] for layer in maps_of(network)}
        keep = partial(_keep, maps)
        with watching(network, keep), torch.inference_mode():
            for batch in tasks.batches(tasks.scoring_order(), 1000):
                network(batch.images)
        for layer, parts in zip(LAYERS, maps.values(), strict=True):
            own = spatial_variance(torch.cat(parts), plane(49))
            chance = shuffled_variance(torch.cat(parts), plane(49), orders)
            known = ~own.isnan()
            means = chance[known].mean(0)
            found[layer].append(
                {
                    "variance": own[known].mean().item(), "shuffled": means.mean().item(),
                    "deviation": means.std().item(), "share": (chance > own[:, None])[known].double().mean().item(),
                }
            )  # fmt: skip
    return found


def wiring(folder: Path) -> list[list[str]]:
    """A row per arm: how far the layer's weights reach, and how much of them joins units at the same place."""
    table = [["arm", "mean length of a connection", "share of |w| at the same place", "length with equal weights"]]
    for run in runs_of(folder):
        lengths, shares = [], []
        for seed in run.seeds():
            network = run.network(seed)
            edge = graph.connections(network)[0]
            size, places = graph.weight(network, edge).detach().abs().sum(2), graph.places(network)
            d = distance(places[edge.target], places[edge.source])
            lengths.append((size * d).sum().item() / size.sum().item())
            shares.append(size.trace().item() / size.sum().item())
        cells = spread(summary(lengths), digits=2), spread(summary(shares), 100, digits=1) + " %"
        table.append([run.name, *cells, f"{d.mean().item():.2f}"])
    return table


def _keep(maps: dict[str, list[torch.Tensor]], layer: str, activation: torch.Tensor) -> None:
    maps[layer].append(activation)


def null_table(nulls: dict[str, dict[str, list[dict[str, float]]]]) -> list[list[str]]:
    """A row per layer and arm, then their difference, over seeds."""
    table = [["maps", "arm", "variance", "its shuffles", "variance - shuffles", "t", "df", "p", "shuffles less local"]]
    for layer, where in LAYERS.items():
        gaps, shares = {}, {}
        for arm, found in nulls.items():
            columns = {name: [each[name] for each in found[layer]] for name in found[layer][0]}
            gaps[arm] = [a - b for a, b in zip(columns["variance"], columns["shuffled"], strict=True)]
            shares[arm] = columns["share"]
            test = paired(columns["variance"], columns["shuffled"])
            shown = [spread(summary(columns[name]), digits=3) for name in ("variance", "shuffled")]
            table.append(
                [
                    where,
                    arm,
                    *shown,
                    f"{test['difference']:+.3f}",
                    *cells(test)[2:5],
                    spread(summary(shares[arm]), 100) + " %",
                ]
            )
        test, share = paired(gaps[LOCAL], gaps[CONTROL]), paired(shares[LOCAL], shares[CONTROL])
        table.append(
            [where, "difference", "", "", f"{test['difference']:+.3f}", *cells(test)[2:5],
             f"{100 * share['difference']:+.1f} points, p = {share['p']:.2g}"]
        )  # fmt: skip
    return table


def null_figure(nulls: dict[str, dict[str, list[dict[str, float]]]]) -> Figure:
    """Every seed's mean variance beside the middle 95 % of its shuffles."""
    figure, axes = drawing.panels(1, 2, height=1.15 * drawing.PANEL, margin=0.6)
    colours = {CONTROL: drawing.DARK, LOCAL: "#CC6677"}
    for axis, (layer, where) in zip(axes[0], LAYERS.items(), strict=True):
        for number, (arm, found) in enumerate(nulls.items()):
            for seed, each in enumerate(found[layer]):
                x = seed + 0.36 * (number - 0.5)
                axis.bar(x, 4 * each["deviation"], 0.3, each["shuffled"] - 2 * each["deviation"], color="#DDDDDD")
                axis.plot(x, each["variance"], "o", color=colours[arm], markersize=5, label="" if seed else arm)
        axis.use_sticky_edges = False
        axis.axhline(uniform_variance(49, "plane"), color="black", linestyle="dotted", linewidth=1)
        axis.set_title(where, fontsize=10)
        axis.set_xlabel("seed")
        axis.set_xticks(range(len(found[layer])))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("mean spatial variance (squared spacings)")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    note = f"grey: mean ± 2 deviations over {SHUFFLES:,} shuffles of the units; dotted: the uniform map"
    drawing.explain(figure, handles, note)
    return figure


def runs_of(folder: Path) -> list[Run]:
    """The runs, in the order of params.yaml: the control first."""
    found = [Run(path.parent) for path in sorted(folder.glob("*/metrics.json"))]
    return sorted(found, key=lambda run: (run.name.count("_bare"), "control" not in run.name, run.name))


def main(words: list[str]) -> int:
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(words[0])
    try:
        nulls = {arm: null(Run(folder / arm)) for arm in (CONTROL, LOCAL)}
        tables = {
            "Arms": arms(folder), "Differences, paired over seeds": differences(folder),
            "One run against one run": one_run(folder), "Standard deviations of the difference": variation(folder),
            "Shuffled sheets": null_table(nulls), "The layer's weights": wiring(folder),
        }  # fmt: skip
    except UserError as error:
        print(f"findings.py: error: {error}", file=sys.stderr)
        return 2
    out = folder.parent / "findings"
    with runs.replacing(out / "shuffles.png") as file:
        drawing.write_png(null_figure(nulls), file)
    text = "\n\n".join(f"{title}:\n\n{markdown(table)}" for title, table in tables.items())
    with runs.replacing(out / "tables.md") as file:
        file.write(f"{text}\n".encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
