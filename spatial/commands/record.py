"""Record what every hidden unit does for each task, or each label: mean, mean |a| and variance of its activation.

Each task's images are shown alone: in mix and concatenate the other tasks' images are blank (all zero), so that a
task's own activity is seen. Of a run with --holdout, test are the images held out.

examples:
  # for split --method activations, and for plot's activations
  python main.py record runs/mine
  # for plot's labels and maps
  python main.py record runs/mine --by label
  # on test images, the data having moved
  python main.py record runs/mine --by label --subset test --root /data/images
"""

import argparse
from pathlib import Path

from spatial.commands.types import add_reading

BY = ("task", "label")
SUBSETS = ("train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recorded = parser.add_argument_group("what is recorded")
    recorded.add_argument("--by", choices=BY, default="task", help="one row per task, or per task and label")
    recorded.add_argument("--subset", choices=SUBSETS, default="train", help="which images to show")
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    from spatial.distributed import device
    from spatial.following import following
    from spatial.recording import record_groups
    from spatial.runs import Run
    from spatial.storing import save_arrays

    here = device(args.device)
    made = Run(Path(args.run))
    networks = {seed: made.network(seed) for seed in made.seeds()}
    tasks = made.tasks(args.subset, args.root, here, args.workers, networks)
    with made.locked():
        for seed, network in networks.items():
            path = made.activations(seed, args.by, args.subset)
            save_arrays(path, record_groups(network, tasks, args.by))
            print(f"seed {seed}: {path}", flush=True)
    print(following(made))
    return 0
