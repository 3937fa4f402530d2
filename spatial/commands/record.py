"""Record what every hidden unit does for each task, or each label: mean, mean |a| and variance of its activation.

Each task's images are shown alone: in mix and concatenate the other tasks' images are blank (all zero), so that a
task's own activity is seen. Of a run with --holdout, test are the images held out.

examples:
  python main.py record runs/mine
  python main.py record runs/mine --by label --subset test
"""

import argparse
from pathlib import Path

BY = ("task", "label")
SUBSETS = ("train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=BY, default="task", help="one row per task, or per task and label")
    parser.add_argument("--subset", choices=SUBSETS, default="train", help="which images to show")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where the data sets are kept; fetched if they are not there (default: where train found them)",
    )


def run(args: argparse.Namespace) -> int:
    from spatial.recording import record_groups
    from spatial.runs import Run, save_arrays

    made = Run(Path(args.run))
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = made.tasks(args.subset, args.root)
    for seed, network in networks.items():
        path = made.activations(seed, args.by, args.subset)
        save_arrays(path, record_groups(network, tasks, args.by))
        print(f"seed {seed}: {path}")
    return 0
