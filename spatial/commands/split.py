"""Cut the network into one network per task: every hidden unit is given to a task.

methods:
  greedy       backwards from the heads, a unit goes to the task that it feeds with the largest sum of |w|
  balanced     the same after dividing each task's sums by their total over the layer, so that a task with larger
               weights does not take everything
  probability  a unit serves each task by chance, in proportion to those sums; it may serve several
  rescale      nothing is removed, a unit's output is multiplied by its sum for the task over the largest
  activations  the task whose training images move the unit most (needs: main.py record RUN); a unit that none of
               them moves belongs to no task
  clusters     k-means on the places, a cluster goes to the task that it feeds most; prints how far it agrees
  random       owners drawn evenly: the floor that a method must beat

examples:
  # the paper's, the fairer one, and the floor; then: python main.py score runs/mine
  python main.py split runs/mine --method greedy balanced random
  # by what the units do
  python main.py record runs/mine
  python main.py split runs/mine --method activations
  # smaller networks, one per task, for use elsewhere
  python main.py split runs/mine --method balanced --extract --onnx
"""

import argparse
from pathlib import Path
from typing import Any

METHODS = ("greedy", "balanced", "probability", "rescale", "activations", "clusters", "random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        choices=METHODS,
        nargs="+",
        default=["greedy"],
        help="how a unit finds its task, see below; one or more",
    )
    parser.add_argument(
        "--extract",
        action="store_true",
        help="also save each part as a smaller dense network, TASK-extracted.pt, without the removed units and the "
        "other tasks' outputs",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also export the extracted parts to TASK-extracted.onnx; needs --extract, and python -m pip install onnx "
        "onnxscript",
    )


def run(args: argparse.Namespace) -> int:
    from spatial import runs, splitting
    from spatial.errors import UserError
    from spatial.following import following

    if args.onnx and not args.extract:
        raise UserError("--onnx exports the extracted parts: give --extract too")
    if args.onnx:
        splitting.check_onnx()
    made = runs.Run(Path(args.run))
    networks = {seed: made.network(seed) for seed in made.seeds()}
    methods = list(dict.fromkeys(args.method))
    needed = {
        seed: made.recorded("task", "train", seed, network)["mean_abs"]
        for seed, network in networks.items()
        if set(methods) & set(splitting.RECORDED)
    }
    with made.locked():
        for method in methods:
            for seed, network in networks.items():
                split = splitting.METHODS[method](network, seed, needed.get(seed))
                _save(made, method, seed, network, split, args.extract, args.onnx)
                if method == "clusters":
                    _print_agreement(seed, splitting.agreement(network, seed))
            print(f"parts: {made.parts / method}")
    print(following(made))
    return 0


def _save(made: Any, method: str, seed: int, network: Any, split: Any, extract: bool, onnx: bool) -> None:
    """Cut a network into its parts, write them and say what they keep."""
    from spatial import models, scoring, splitting, storing

    names = made.options()["datasets"]
    made.clear_split(method, seed)
    for task, name in enumerate(names):
        storing.save(made.part(method, seed, name), models.pack(splitting.cut(network, split.k, task), task=name))
        if extract:
            small = splitting.extract(network, split.k, task)
            path = made.extracted(method, seed, name)
            storing.save(path, models.pack(small, task=name))
            print(
                f"{method}, seed {seed}: {name} extracted, {models.parameter_count(small):,} of "
                f"{models.parameter_count(network):,} parameters"
            )
            if onnx:
                with storing.replacing(path.with_suffix(".onnx")) as file:
                    file.write(splitting.to_onnx(small))
    made.save_split(method, seed, *split)  # last: its presence says that the split is complete
    kept = scoring.kept_units(split.k)
    shares = ", ".join(f"{name} {units}" for name, units in zip(names, kept, strict=True))
    nobody = sum(int((owner == -1).sum()) for owner in split.owners.values())
    print(f"{method}, seed {seed}: of {scoring.hidden_units(network)} hidden units {shares}, no task {nobody}")
    for task, name in enumerate(names):
        if empty := scoring.empty_layers(split.k, task):
            print(f"{method}, seed {seed}: {name} owns no unit of {empty}, the output of its part is a constant")


def _print_agreement(seed: int, agreement: dict[str, dict[str, float | None]]) -> None:
    for index, found in enumerate(agreement.values()):
        words = ", ".join(f"{method} {'-' if ari is None else f'{ari:.2f}'}" for method, ari in found.items())
        print(f"clusters, seed {seed}, layer {index}: adjusted Rand index with {words}")
