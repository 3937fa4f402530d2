"""Record what every hidden unit does for each task: mean, mean |a| and variance of its activation.

Each task's images are shown alone: in mix and concatenate the other tasks' images are blank (all zero), so that a
task's own activity is seen.

example:
  python main.py record runs/mine --subset test
"""

import argparse
from pathlib import Path

SUBSETS = ("train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subset", choices=SUBSETS, default="train", help="which images to show")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where the data sets are kept; fetched if they are not there (default: where train found them)",
    )


def run(args: argparse.Namespace) -> int:
    from spatial.recording import record_tasks
    from spatial.runs import Run, save_arrays
    from spatial.tasks import load_tasks

    made = Run(Path(args.run))
    options = made.options()
    names = options["datasets"]
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = load_tasks(names, args.root or options["root"], options["input"], args.subset)
    for seed, network in networks.items():
        path = made.activations(seed, args.subset)
        save_arrays(path, record_tasks(network, tasks))
        print(f"seed {seed}: {path}")
    return 0
