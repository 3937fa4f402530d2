"""The tables of this experiment's page, from its runs: accuracy and variance of every arm, paired tests, mean maps.

python experiments/imagenet/tables.py RUNS [PAGE]     RUNS/ARM are the runs, scored; ImageNet's or the small run's

They go to standard output, or into PAGE, between its marks <!-- table: NAME --> and <!-- end -->: NAME is arms,
differences or maps, of the small run small-arms, small-differences or small-maps.
"""

import sys
from math import isqrt
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import pages
from experiments.locality_mnist.findings import differences, runs_of
from experiments.table import markdown
from spatial.errors import UserError
from spatial.maps import spatial_variance
from spatial.metrics import summary
from spatial.positions import plane
from spatial.scoring import metrics_of, spread


def arms(folder: Path) -> list[list[str]]:
    """A row per arm: accuracy, loss, spatial variance before and after the layer."""
    table = [["arm", "seeds", "accuracy, %", "top 5, %", "loss", "variance before", "after"]]
    for run in runs_of(folder):
        metrics = metrics_of(run)
        accuracies = (spread(metrics[name]["whole"]["mean"], 100) for name in ("accuracy", "top5"))
        spreads = (spread(metrics["variance"][f"layer-{layer}"]["plane"]) for layer in (0, 1))
        loss = spread(metrics["loss"]["whole"]["mean"], digits=3)
        table.append([run.name, str(len(run.seeds())), *accuracies, loss, *spreads])
    return table


def maps(folder: Path) -> list[list[str]]:
    """A row per arm: the spread of each layer's mean map over all test images, and the mean activity of its units
    within a quarter of the sheet's side from the centre and beyond half of it, over that of all units."""
    head = ["mean map before", "centre", "edge", "mean map after", "centre", "edge"]
    table = [["arm", *head]]
    for run in runs_of(folder):
        found: list[list[float]] = [[] for _ in head]
        for seed in run.seeds():
            recorded = run.recorded("label", "test", seed, run.network(seed))["mean_abs"]
            for layer, by_label in enumerate(recorded.values()):
                units, side = by_label.shape[1], isqrt(by_label.shape[1])
                mean, places = by_label.mean(0, keepdim=True), plane(units)
                away = (places - places.mean(0)).norm(dim=1)
                found[3 * layer].append(spatial_variance(mean, places).item())
                for column, where in enumerate((away < side / 4, away > side / 2), 1):
                    found[3 * layer + column].append((mean[0][where].mean() / mean.mean()).item())
        cells = (spread(summary(each), digits=2 if index % 3 else 1) for index, each in enumerate(found))
        table.append([run.name, *cells])
    return table


def main(runs: str, page: str | None = None) -> int:
    folder = Path(runs)
    try:
        before = "small-" if folder.resolve().parent.name == "small" else ""
        made = {"arms": arms(folder), "differences": differences(folder), "maps": maps(folder)}
        tables = {before + name: markdown(table) for name, table in made.items()}
        if page is not None:
            pages.insert(Path(page), tables)
    except UserError as error:
        print(f"tables.py: error: {error}", file=sys.stderr)
        return 2
    if page is None:
        print("\n\n".join(tables.values()))
    return 0


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
