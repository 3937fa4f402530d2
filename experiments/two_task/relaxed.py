"""What is in the weights of finished networks: measures of their neurons after relaxing, the weights frozen.

python experiments/two_task/relaxed.py RUN...     the runs, trained; writes RUN/relaxed.csv

All neurons begin at random places, the outputs too (``random``) or held around their tasks' places (``held``):
:func:`spatial.costs.relax_from`. Owners are those of ``balanced``, so the weights' own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spatial import process

process.settle()

from spatial import runs
from spatial.costs import relax_from
from spatial.errors import UserError
from spatial.runs import Run
from spatial.scoring import measure_rows
from spatial.splitting import balanced


def main(words: list[str]) -> int:
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for run in map(Run, map(Path, words)):
            names, rows = run.options()["datasets"], []
            for seed in run.seeds():
                network = run.network(seed)
                owners = balanced(network, seed).owners
                for start in ("random", "held"):
                    moved = relax_from(network, start, seed)
                    found = measure_rows(seed, "balanced", moved, owners, names)
                    rows += [{"start": start, **row} for row in found]
            runs.save_table(run.folder / "relaxed.csv", rows)
    except UserError as error:
        print(f"relaxed.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
