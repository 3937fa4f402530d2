"""Score the whole network and every split there is, each part on each task, on the test images.

example:
  python main.py score runs/mine
"""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where the data sets are kept; fetched if they are not there (default: where train found them)",
    )


def run(args: argparse.Namespace) -> int:
    from spatial import runs, scoring
    from spatial.tasks import load_tasks

    made = runs.Run(Path(args.run))
    options = made.options()
    names = options["datasets"]
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = load_tasks(names, args.root or options["root"], options["input"], "test")
    rows: list[dict[str, Any]] = []
    transfers: list[dict[str, Any]] = []
    for seed, network in networks.items():
        accuracies, units = scoring.score_part(network, tasks), scoring.hidden_units(network)
        rows += scoring.score_rows(seed, scoring.WHOLE, names, [accuracies] * len(names), [units] * len(names))
        transfers += scoring.transfer_rows(seed, scoring.WHOLE, [scoring.WHOLE], names, [accuracies])
        for method in made.methods():
            kept = scoring.kept_units(made.layer_owners(method, seed, network), len(names))
            transfer = [scoring.score_part(runs.load(made.part(method, seed, name)), tasks) for name in names]
            rows += scoring.score_rows(seed, method, names, transfer, kept)
            transfers += scoring.transfer_rows(seed, method, names, names, transfer)
    metrics = scoring.summarise(rows)
    runs.save_table(made.scores, rows)
    runs.save_table(made.transfer, transfers)
    runs.save_json(made.metrics, metrics)
    print(scoring.table(metrics, names))
    for method in made.methods(complete=False):
        print(f"{method}: left out, it is unfinished: python main.py split {made.folder} --method {method}")
    if not made.methods():
        print(f"no split yet: python main.py split {made.folder}")
    return 0
