"""What the runs of this experiment say: the tables and the figure of its README.

python experiments/locality_mnist/findings.py RUNS     RUNS/ARM are the runs, scored; writes RUNS/../findings/

Tables, on standard output: every arm's accuracy, loss and spatial variance, and its difference from its control, paired
over seeds; the one-run test of the author, repeated for every seed; where the variation lies; a permutation null: the
layer's units change places on the sheet 1,000 times, the same way for every image, and a map is more local than chance
if its variance is below that of its own shuffles; and what the prior does to the layer's weights, and so to its units.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from matplotlib.figure import Figure

from experiments.table import markdown
from spatial import drawing, graph, seeds, storing
from spatial.comparing import checksum, p_value, paired
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
        metrics = storing.read_json(run.metrics)
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
            found = storing.read_json(path)
            control = Run(folder / found["other"])
            if found["checksums"] != [checksum(run), checksum(control)]:
                raise UserError(
                    f"{path}: of other scores; make it again: {run.command('score', '--against', str(control.folder))}"
                )
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
    """The author's test, one run against one run over its first 1,000 images, for every pair of runs of one seed."""
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
    found = storing.read_json(Run(folder / LOCAL).against(Run(folder / CONTROL)))["variance"]
    table = [["maps", "between seeds", "between images", "what is left", "mean difference"]]
    for layer, where in LAYERS.items():
        part, mean = found[layer]["plane"]["components"], found[layer]["plane"]["seeds"]["difference"]
        table.append([where, *(f"{part[name] ** 0.5:.3f}" for name in ("seeds", "images", "rest")), f"{mean:+.3f}"])
    return table


def null(run: Run) -> dict[str, list[dict[str, float]]]:
    """Every seed's maps against their own shuffles, by layer.

    Over all shuffles the mean variance of any map is exactly the uniform map's: it is half the mean squared distance of
    two places. What shuffling adds is how far it varies.

    Returns:
        ``variance``: the mean over images; ``low``, ``high``: that mean lies between them for the middle 95 % of the
        shuffles; ``share``: the mean over images of the share of shuffles that are less local than the map. And of the
        layer ``same``, ``other``: the mean correlation over images of a unit behind it and the one before it at its
        place, or at another.
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
        both = torch.cat([torch.cat(parts) for parts in maps.values()], 1).T.double()
        within = torch.corrcoef(both)[49:, :49].nan_to_num()  # [after, before]; a silent unit resembles none
        same = within.trace().item() / 49
        other = (within.sum().item() - 49 * same) / (49 * 48)
        for layer, parts in zip(LAYERS, maps.values(), strict=True):
            own = spatial_variance(torch.cat(parts), plane(49))
            chance = shuffled_variance(torch.cat(parts), plane(49), orders)
            known = ~own.isnan()
            low, high = chance[known].mean(0).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            share = (chance > own[:, None])[known].double().mean().item()
            each = {"variance": own[known].mean().item(), "low": low, "high": high, "share": share}
            found[layer].append(each | {"same": same, "other": other})
    return found


def wiring(folder: Path) -> list[list[str]]:
    """A row per arm: how far the layer's weights reach, and how much of them joins units at the same place."""
    table = [["arm", "mean length of a connection", "share of weight at the same place", "length with equal weights"]]
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
    """A row per layer and arm: is the variance below chance, and how many seeds are outside 95 % of their shuffles?"""
    chance = uniform_variance(49, "plane")
    head = ["variance", "by chance", "difference", "95 % interval", "t", "df", "p", "seeds below, above", "less local"]
    table = [["maps", "arm", *head]]
    for layer, where in LAYERS.items():
        shares = {arm: [each["share"] for each in found[layer]] for arm, found in nulls.items()}
        for arm, found in nulls.items():
            own = [each["variance"] for each in found[layer]]
            below = sum(each["variance"] < each["low"] for each in found[layer])
            above = sum(each["variance"] > each["high"] for each in found[layer])
            test = cells(paired(own, [chance] * len(own)))[:5]
            seeds_outside = f"{below}, {above} of {len(own)}"
            share = spread(summary(shares[arm]), 100) + " %"
            table.append([where, arm, spread(summary(own), digits=3), f"{chance:.3f}", *test, seeds_outside, share])
        more = paired(shares[LOCAL], shares[CONTROL])
        words = f"{100 * more['difference']:+.1f} points, p = {more['p']:.2g}"
        table.append([where, f"{LOCAL} - {CONTROL}", *[""] * 8, words])
    return table


def resemblance(nulls: dict[str, dict[str, list[dict[str, float]]]]) -> list[list[str]]:
    """How far a unit after the layer does what the one at its place before the layer does."""
    table = [["arm", "correlation with the unit at its place", "at another place"]]
    for arm, found in nulls.items():
        both = (summary([each[name] for each in found["layer-1"]]) for name in ("same", "other"))
        table.append([arm, *(spread(each, digits=3) for each in both)])
    return table


def null_figure(nulls: dict[str, dict[str, list[dict[str, float]]]]) -> Figure:
    """Every seed's mean variance on the middle 95 % of its shuffles."""
    figure, axes = drawing.panels(1, 2, height=1.15 * drawing.PANEL, margin=0.6)
    colours = {CONTROL: drawing.DARK, LOCAL: "#CC6677"}
    for axis, (layer, where) in zip(axes[0], LAYERS.items(), strict=True):
        for number, (arm, found) in enumerate(nulls.items()):
            for seed, each in enumerate(found[layer]):
                x = seed + 0.36 * (number - 0.5)
                axis.bar(x, each["high"] - each["low"], 0.3, each["low"], color="#DDDDDD")
                axis.plot(x, each["variance"], "o", color=colours[arm], markersize=5, label="" if seed else arm)
        axis.use_sticky_edges = False
        axis.axhline(uniform_variance(49, "plane"), color="black", linestyle="dotted", linewidth=1)
        axis.set_title(where, fontsize=10)
        axis.set_xlabel("seed")
        axis.set_xticks(range(len(found[layer])))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("mean spatial variance (squared spacings)")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    note = f"grey: the middle 95 % of {SHUFFLES:,} shuffles; dotted: the uniform map, the mean of all shuffles"
    drawing.explain(figure, handles, note)
    return figure


def runs_of(folder: Path) -> list[Run]:
    """The runs, the controls first, those without a batch norm last."""
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
            "Before and after the layer": resemblance(nulls),
        }  # fmt: skip
    except UserError as error:
        print(f"findings.py: error: {error}", file=sys.stderr)
        return 2
    out = folder.parent / "findings"
    with storing.replacing(out / "shuffles.png") as file:
        drawing.write_png(null_figure(nulls), file)
    text = "\n\n".join(f"{title}:\n\n{markdown(table)}" for title, table in tables.items())
    with storing.replacing(out / "tables.md") as file:
        file.write(f"{text}\n".encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
