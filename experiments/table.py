"""Markdown tables of runs, from each run's metrics.json: mean ± standard deviation over its seeds.

python experiments/table.py RUN...                      accuracy in percent, before the cut and after it by every split
python experiments/table.py --mean RUN...               the same, the mean over tasks alone
python experiments/table.py --measures balanced RUN...  each hidden layer's measures, of the owners of one split
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spatial.errors import UserError, unknown
from spatial.runs import Run
from spatial.scoring import SHOWN, accuracy_cells, metrics_of, spread

MEASURES = ("live", "places", "kappa", "silhouette", "crossing")


def measures(runs: dict[str, dict[str, Any]], method: str) -> list[list[str]]:
    """A row per run and hidden layer."""
    table = [["network", "layer", *MEASURES]]
    for name, metrics in runs.items():
        if method not in metrics["measures"]:
            raise unknown(f"split of {name}", method, metrics["measures"])
        for layer, found in list(metrics["measures"][method].items())[:-1]:
            cells = (spread(found[each], digits=SHOWN[each], undefined="") for each in MEASURES)
            table.append([name, layer.removeprefix("layer-"), *cells])
    return table


def markdown(table: list[list[str]]) -> str:
    """Rows of cells, the first of them the heads of the columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *rows = table
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def named(folder: str, folders: list[str]) -> str:
    """A run's name: its folder's, or the whole path where another's has that too."""
    name = Path(folder).name
    return name if sum(Path(other).name == name for other in folders) == 1 else folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--mean", action="store_true")
    parser.add_argument("--measures", metavar="METHOD")
    args = parser.parse_args()
    try:
        runs = {named(folder, args.runs): metrics_of(Run(Path(folder))) for folder in args.runs}
        table = measures(runs, args.measures) if args.measures else accuracy_cells(runs, args.mean)
    except UserError as error:
        print(f"table.py: error: {error}", file=sys.stderr)
        return 2
    print(markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
