"""Score the whole network and every split there is, each part on each task, on the test images, and measure the space.

Of a run with --holdout the images held out are scored, never test images.

measures, in measures.csv for every layer, printed for the hidden ones:
  live          units whose outgoing sum of |w| exceeds 0.1 of the layer's mean; live_TASK: a task's share of them
  places        distinct places of the live units, to 0.01
  purity        share of a unit's 10 nearest neighbours that have its owner; kappa: the same above chance, 1 at most,
                about 0 or less where a layer has hardly more than 10 live units: then everybody is a neighbour
  silhouette    of the owners, from their places; high where they share a few places
  crossing      share of |w| into the layer that joins units of different tasks
  wire          sum of |w| times length into the layer (neither for the first, whose inputs have no tasks)
  ari_METHOD    of clusters: adjusted Rand index with that method's owners
  parameters    of a part that split --extract made; timing.json has its time over the whole network's

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
    from spatial.models import parameter_count
    from spatial.splitting import METHODS

    made = runs.Run(Path(args.run))
    options = made.options()
    names = options["datasets"]
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = made.tasks("test", args.root)
    methods, unfinished = scoring.methods_of(made), made.methods(complete=False)
    rows: list[dict[str, Any]] = []
    transfers: list[dict[str, Any]] = []
    measures: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    for seed, network in networks.items():
        accuracies, units = scoring.score_part(network, tasks), scoring.hidden_units(network)
        sizes: list[int | None] = [parameter_count(network)] * len(names)
        whole = [accuracies] * len(names)
        rows += scoring.score_rows(seed, scoring.WHOLE, names, whole, [units] * len(names), sizes)
        transfers += scoring.transfer_rows(seed, scoring.WHOLE, [scoring.WHOLE], names, [accuracies])
        for method in methods:
            k, owners = made.split(method, seed, network)
            transfer = [scoring.score_part(part, tasks) for part in made.part_networks(method, seed, network)]
            extracted = made.extracted_networks(method, seed, network)
            sizes = [parameter_count(extracted[name]) if name in extracted else None for name in names]
            rows += scoring.score_rows(seed, method, names, transfer, scoring.kept_units(k), sizes)
            transfers += scoring.transfer_rows(seed, method, names, names, transfer)
            measures += scoring.measure_rows(seed, method, network, owners, names)
            times += scoring.time_rows(seed, method, network, extracted, tasks)
    metrics = scoring.summarise(rows, measures)
    runs.save_table(made.scores, rows)
    runs.save_table(made.transfer, transfers)
    runs.save_table(made.measures, measures)
    runs.save_json(made.metrics, metrics)
    runs.save_json(made.timing, {"inference": times})
    if options["holdout"]:
        print(f"scored on {options['holdout']} held-out training images of each task")
    print(scoring.table(metrics, names))
    if measures:
        print(scoring.measure_table(metrics))
    if times:
        print(scoring.extracted_table(metrics, times, names))
    for method in (method for method in METHODS if method in unfinished):
        print(f"{method}: left out, it is unfinished: python main.py split {made.folder} --method {method}")
    if not methods:
        print(f"no split yet: python main.py split {made.folder}")
    return 0
