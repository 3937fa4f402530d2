"""Score the whole network and all its parts: each part on each task, on the test images; and measure the space.

Of a run with --holdout the images held out are scored, never test images. loss is the mean cross-entropy in nats.

measures, in measures.csv for every layer, printed for the hidden ones:
  live          units whose outgoing sum of |w| exceeds 0.1 of the layer's mean; live_TASK: a task's share of them
  places        distinct places of the live units, to 0.01
  purity        share of a unit's 10 nearest neighbours that have its owner; kappa: the same above chance, 1 at most,
                about 0 or less where a layer has hardly more than 10 live units: then everybody is a neighbour
  silhouette    of the owners, from their places; high where they share a few places
  crossing      share of |w| into the layer that joins units of different tasks
  wire          sum of |w| times length into the layer (neither for the first, whose inputs have no tasks)
  ari_METHOD    of clusters: adjusted Rand index with that method's owners
  groups        of --outputs arbitrary, beside the splits: the network cut like balanced into the groups in which the
                outputs started, every output reading its own group's part; the measures are of these groups
  parameters    of a part that split --extract made; timing.json has its time over the whole network's

spatial variance, in variance.csv, of hidden layers on a sheet (lenet, --locality; or a control's of square widths):
  sum_u a_u |p_u - m|^2 / (1 - sum_u a_u^2) of each image's activation map, a the map divided by its sum, m its centre
  of mass, unit spacing: half the mean squared distance of two units drawn from the map; 8.167 for a uniform 7 x 7 map.
  variance.npz has every image's, NaN where the map is all zero; these are counted and left out.

--against OTHER, a run scored before: what RUN has more than OTHER, in RUN/against/OTHER.json, by paired tests. Over
  seeds: accuracy, loss and mean spatial variance, a pair per seed that both have. Over images, seed by seed: spatial
  variance; that tests these two networks, not the method. t is Student's, beside it Wilcoxon's signed ranks; d is
  Cohen's effect size, the mean difference over its standard deviation. Where scoring comes to other scores than
  before, comparisons of the earlier ones are removed.

examples:
  # the whole network, and all parts that split has made
  python main.py score runs/mine
  # a comparison by paired tests; the control is scored first
  python main.py score runs/control
  python main.py score runs/local --against runs/control
"""

import argparse
from pathlib import Path
from typing import Any

from spatial.commands.types import add_reading, folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    comparison = parser.add_argument_group("comparison")
    comparison.add_argument(
        "--against",
        type=folder,
        metavar="OTHER",
        help="another run, the control, scored before: compare this one with it",
    )
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    from spatial import comparing, runs
    from spatial.distributed import device

    here = device(args.device)
    made = runs.Run(Path(args.run))
    other = None if args.against is None else runs.Run(Path(args.against))
    if other is not None:
        comparing.check(made, other)
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = made.tasks("test", args.root, here, args.workers, networks)
    labels = tasks.asked(tasks.scoring_order().to(here)).cpu().numpy()
    if other is not None:
        comparing.check_scored(other, labels)
    with made.locked():
        _score(made, networks, tasks, labels, other)
    return 0


def _score(made: Any, networks: dict[int, Any], tasks: Any, labels: Any, other: Any) -> None:
    """Score and measure the networks and their parts, write what came of it and print it."""
    from spatial import comparing, scoring, storing
    from spatial.following import following
    from spatial.maps import maps_of, variances
    from spatial.models import parameter_count
    from spatial.progress import counting
    from spatial.splitting import METHODS

    options = made.options()
    names = options["datasets"]
    methods, unfinished = scoring.methods_of(made), made.methods(complete=False)
    rows: list[dict[str, Any]] = []
    transfers: list[dict[str, Any]] = []
    measures: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    spreads: list[dict[str, Any]] = []
    maps: dict[str, Any] = {}
    with counting("scoring", len(networks) * (1 + len(methods)), "network") as count:
        for seed, network in networks.items():
            whole, units = scoring.score_part(network, tasks), scoring.hidden_units(network)
            sizes: list[int | None] = [parameter_count(network)] * len(names)
            rows += scoring.score_rows(seed, scoring.WHOLE, names, [whole] * len(names), [units] * len(names), sizes)
            transfers += scoring.transfer_rows(seed, scoring.WHOLE, [scoring.WHOLE], names, [whole])
            if layers := maps_of(network, made.charged()):
                found = variances(network, tasks, layers)
                maps |= {f"seed-{seed}/{name}": values for name, values in found.items()}
                spreads += scoring.variance_rows(seed, network, found)
            network.cpu()  # where its weights and places are measured
            count.update()
            for method in methods:
                k, owners = made.split(method, seed, network)
                parts, extracted = scoring.parts_of(made, method, seed, network, k)
                transfer = [scoring.score_part(part, tasks) for part in parts]
                sizes = [parameter_count(extracted[name]) if name in extracted else None for name in names]
                rows += scoring.score_rows(seed, method, names, transfer, scoring.kept_units(k), sizes)
                transfers += scoring.transfer_rows(seed, method, names, names, transfer)
                measures += scoring.measure_rows(seed, method, network, owners, names)
                times += scoring.time_rows(seed, method, network, extracted, tasks)
                network.cpu()
                count.update()
            if options["outputs"] == "arbitrary":
                found_rows, found_measures = scoring.group_rows(seed, network, tasks, names)
                rows += found_rows
                measures += found_measures
    metrics = scoring.summarise(rows, measures, spreads)
    storing.save_table(made.scores, rows)
    storing.save_table(made.transfer, transfers)
    storing.save_table(made.measures, measures)
    storing.save_json(made.metrics, metrics)
    if maps:
        storing.save_table(made.variance, spreads)
        storing.save_arrays(made.variances, {**maps, "labels": labels})
    storing.save_json(made.timing, {"inference": times})
    comparing.forget(made)
    if options["holdout"]:
        print(f"scored on {options['holdout']} held-out training images of each task")
    print(scoring.table(metrics, names))
    if measures:
        print(scoring.measure_table(metrics))
    if spreads:
        print(scoring.variance_table(metrics, [row for row in spreads if row["sheet"] in made.sheets()]))
    if times:
        print(scoring.extracted_table(metrics, times, names))
    for method in (method for method in METHODS if method in unfinished):
        print(f"{method}: left out, it is unfinished: {made.command('split', '--method', method)}")
    if other is not None:
        compared = comparing.compare(made, other)
        storing.save_json(made.against(other), compared)
        print(comparing.report(compared, made.sheets(other)))
    print(following(made))
