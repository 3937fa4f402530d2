"""Record what every hidden unit does for each task: mean, mean |a| and variance of its activation.

Each task's images are shown alone: in mix and concatenate the other tasks' images are blank (all zero), so that a
task's own activity is seen.

example:
  python main.py record runs/spatial --subset test
"""

import argparse
from pathlib import Path

SUBSETS = ("train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subset", choices=SUBSETS, default="train", help="which images to show")
    parser.add_argument(
        "--root", metavar="FOLDER", help="where the data sets are kept (default: where train found them)"
    )


def run(args: argparse.Namespace) -> int:
    from spatial.experiment import load_tasks
    from spatial.recording import record_tasks
    from spatial.runs import Run, save_arrays

    made = Run(Path(args.run))
    options = made.options()
    if args.root is not None:
        options["root"] = args.root
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = load_tasks(options, args.subset)
    for seed, network in networks.items():
        path = made.activations(seed, args.subset)
        save_arrays(path, record_tasks(network, tasks))
        print(f"seed {seed}: {path}")
    return 0
