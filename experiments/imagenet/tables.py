"""The tables of this experiment's page, from its runs: accuracy and variance of every arm, and paired tests over seeds.

python experiments/imagenet/tables.py RUNS [PAGE]     RUNS/ARM are the runs, scored; ImageNet's or the small run's

Both tables go to standard output, or into PAGE, between its marks <!-- table: NAME --> and <!-- end -->: NAME is
arms or differences, of the small run small-arms or small-differences.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import pages
from experiments.locality_mnist.findings import differences, runs_of
from experiments.table import markdown, metrics_of
from spatial.errors import UserError
from spatial.scoring import spread


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


def main(runs: str, page: str | None = None) -> int:
    folder = Path(runs)
    try:
        before = "small-" if folder.resolve().parent.name == "small" else ""
        made = {"arms": arms(folder), "differences": differences(folder)}
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
