"""Draw a run's figures: places of neurons by owner, activity on the sheet, training curves.

example:
  python main.py plot runs/mine --kind positions --method balanced
"""

import argparse
from pathlib import Path

from spatial.commands.types import whole

KINDS = ("positions", "activations", "curves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind", choices=KINDS, nargs="+", help="which figures (default: all that the run's files allow)"
    )
    parser.add_argument(
        "--method",
        metavar="METHOD",
        help="the split whose owners colour the neurons (default: greedy, else the first there is)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        metavar="N",
        help="the network to draw, of a run with several seeds (default: the first)",
    )


def run(args: argparse.Namespace) -> int:
    from spatial import plotting
    from spatial.runs import Run

    for path in plotting.plot(Run(Path(args.run)), kinds=args.kind, method=args.method, seed=args.seed):
        print(path)
    return 0
