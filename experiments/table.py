"""A Markdown table of runs: accuracy before the cut and after it by every split method.

python experiments/table.py RUN...      from each run's scores.csv; percent, mean ± standard deviation over its seeds
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from spatial.errors import UserError
from spatial.runs import Run, read_json
from spatial.scoring import spread


def rows(folder: str) -> list[list[str]]:
    """A row per task and one of their mean."""
    accuracy = read_json(Run(Path(folder)).metrics)["accuracy"]
    return [
        [
            Path(folder).name,
            task,
            *(spread(accuracy[method][task], 100) if method in accuracy else "" for method in METHODS),
        ]
        for task in accuracy["whole"]
    ]


METHODS = ("whole", "greedy", "balanced", "random")


def main(folders: list[str]) -> int:
    if not folders:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    table = [["network", "task", "before the cut", *METHODS[1:]]]
    try:
        for folder in folders:
            table += rows(folder)
    except UserError as error:
        print(f"table.py: error: {error}", file=sys.stderr)
        return 2
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for index, row in enumerate(table):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
