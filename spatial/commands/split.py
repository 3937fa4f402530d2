"""Give every hidden unit to a task, and cut the network into one network per task.

methods:
  greedy    backwards from the heads, a unit goes to the task that it feeds with the largest sum of |w|
  balanced  the same after dividing each task's sums by their total over the layer, so that a task with larger weights
            does not take everything
  random    owners drawn evenly: the floor that a method must beat

example:
  python main.py split runs/mine --method balanced
"""

import argparse
from pathlib import Path

METHODS = ("greedy", "balanced", "random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=METHODS, default="greedy", help="how a unit finds its task, see below")


def run(args: argparse.Namespace) -> int:
    from spatial import models, runs, splitting
    from spatial.scoring import kept_units

    made = runs.Run(Path(args.run))
    names = made.options()["datasets"]
    networks = {seed: made.network(seed) for seed in made.seeds()}
    for seed, network in networks.items():
        k = splitting.METHODS[args.method](network, seed)
        owners = [layer.numpy() for layer in splitting.owners(k).values()]
        for task, name in enumerate(names):
            part = splitting.cut(network, k, task)
            runs.save(made.part(args.method, seed, name), models.pack(part, task=name))
        # last: its presence says that the split is complete
        runs.save_arrays(
            made.owners(args.method, seed), {f"layer-{index}": layer for index, layer in enumerate(owners)}
        )
        hidden = sum(map(len, owners[:-1]))
        kept = kept_units(owners, len(names))
        shares = ", ".join(f"{name} {units}" for name, units in zip(names, kept, strict=True))
        print(f"seed {seed}: of {hidden} hidden units {shares}, no task {hidden - sum(kept)}")
        for name, units in zip(names, kept, strict=True):
            if units == 0:
                print(f"seed {seed}: {name} owns no unit, the output of its part is a constant")
    print(f"parts: {made.parts / args.method}")
    return 0
