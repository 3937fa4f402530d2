"""What is in the weights of finished networks, whatever was charged and wherever their outputs started.

python experiments/two_task/afterwards.py RUN...     the runs, trained; writes two files a run, see `beside`

relaxed.csv: measures after relaxing with the weights frozen (:func:`spatial.costs.relax_from`), all neurons from random
places, the outputs too (``random``) or held around their tasks' places (``held``); owners are those of ``balanced``.
groups.csv: accuracy (``kind`` score) and measures when the network is cut into the groups of ``--outputs arbitrary``,
which mix the tasks (:func:`spatial.scoring.group_rows`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spatial import process, storing

process.settle()

from spatial.costs import relax_from
from spatial.errors import UserError
from spatial.runs import Run
from spatial.scoring import group_rows, measure_rows
from spatial.splitting import balanced


def beside(runs: Path, run: str) -> Path:
    """Where both files of a run in the folder ``runs`` are: not in its own, where `train` must know every file."""
    return runs.parent / "afterwards" / run


def afterwards(run: Run) -> None:
    """Write both files of a run."""
    folder = beside(run.folder.resolve().parent, run.name)
    names, tasks = run.options()["datasets"], run.tasks("test")
    relaxed, groups = [], []
    for seed in run.seeds():
        network = run.network(seed)
        owners = balanced(network, seed).owners
        for start in ("random", "held"):
            moved = relax_from(network, start, seed)
            found = measure_rows(seed, "balanced", moved, owners, names)
            relaxed += [{"start": start, **row} for row in found]
        groups.append(group_rows(seed, network, tasks, names))
    storing.save_table(folder / "relaxed.csv", relaxed)
    empty = dict.fromkeys(name for rows in groups[0] for name in rows[0])
    rows = [("score", row) for scores, _ in groups for row in scores]
    rows += [("measure", row) for _, measures in groups for row in measures]
    storing.save_table(folder / "groups.csv", [{"kind": kind, **empty, **row} for kind, row in rows])


def main(words: list[str]) -> int:
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for run in map(Run, map(Path, words)):
            afterwards(run)
    except UserError as error:
        print(f"afterwards.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
