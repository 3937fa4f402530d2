"""Draw a run's figures: places of neurons by owner, wires, activity, training, and what a cut costs.

figures, in RUN/figures, and what they are drawn from:
  positions    each layer's neurons at their places, by owner                        (split)
  wiring       the layers' sheets stacked, the strongest connections between them    (split)
  activations  each task's mean |activation| on the sheet                            (record)
  labels       each label's mean |activation| on the sheet                           (record --by label)
               both over training images; over test images where only those were recorded
  curves       loss, accuracy and costs over epochs                                  (train)
  trajectory   the neurons moving from their start, an animated GIF                  (split)
  scores       accuracy before and after every cut                                   (score)
  transfer     accuracy of every part on every task                                  (score)
  relaxed-...  as positions, after --relax                                           (split)
of layers on a sheet (--model lenet, train --locality):
  prior        what the prior leaves of a unit's connections                         (train)
  maps         each label's mean activation map, --against OTHER's above it          (record --by label)
  variance     spatial variance of the maps, by label and as a histogram             (score)
  filters      what every unit of the layer reads, at the unit's place               (train)

A silent neuron, drawn faint, is one that almost nothing reads: its outgoing sum of |w| is at most 0.1 of the layer's
mean. Figures of another --seed or --method take the place of earlier ones.

--relax moves the neurons and freezes the weights: it shows what is in the weights, also of a network trained without
costs. Its setting is the same for every network, so that pictures can be compared: norm l1, per neuron, transport 3,
proximity 10, 300 steps. The silhouette of the owners is given as trained and relaxed. It cannot find clusters that are
not in the weights, but held can impose some: show it beside the others.

--report also writes RUN/figures/report.html, one page that needs nothing beside it: the run's options, tables and
figures, and its neurons as they move.

examples:
  python main.py plot runs/mine
  python main.py plot runs/mine --kind positions wiring --method balanced
  python main.py plot runs/mine --relax random
  python main.py plot runs/local --against runs/control
  python main.py plot runs/mine --report
"""

import argparse
from pathlib import Path
from typing import Any

from spatial.commands.types import folder, whole

KINDS = (
    "positions",
    "wiring",
    "activations",
    "labels",
    "curves",
    "trajectory",
    "scores",
    "transfer",
    "prior",
    "maps",
    "variance",
    "filters",
)
STARTS = ("place", "random", "held")
FORMATS = ("png", "pdf", "svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind", choices=KINDS, nargs="+", help="which figures (default: all that the run's files allow)"
    )
    parser.add_argument(
        "--relax",
        choices=STARTS,
        help="draw relaxed-START.png, and nothing else unless --kind or --against is given: from where the neurons "
        "are, from a random start, or from a random start with each task's outputs held around a place of its own",
    )
    parser.add_argument(
        "--method",
        metavar="METHOD",
        help="the split whose owners colour the neurons of positions, wiring, trajectory and --relax (default: greedy, "
        "else the first there is)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        metavar="N",
        help="the network to draw, of a run with several seeds (default: the first); curves, scores, transfer and "
        "variance are of all",
    )
    parser.add_argument(
        "--against",
        type=folder,
        metavar="OTHER",
        help="another run, the control: draw maps, variance and filters of both, as KIND-against-OTHER.png",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of the figures' files (default: png); trajectory is a GIF whatever it is"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write figures/report.html: options, tables, every figure and the moving neurons on one page",
    )


def run(args: argparse.Namespace) -> int:
    from spatial import plotting, reporting
    from spatial.runs import Run

    made, against = Run(Path(args.run)), None if args.against is None else Run(Path(args.against))
    asked = plotting.Asked(args.kind, args.method, args.seed, args.relax, against, args.format)
    if args.report:
        drawn = reporting.report(made, asked, _usual(made.options()))
    else:
        drawn = plotting.plot(made, **asked._asdict())
    for path in drawn.paths:
        print(path)
    for kind, why in drawn.left_out.items():
        print(f"{kind} left out: {why}")
    return 0


def _usual(options: dict[str, Any]) -> dict[str, Any]:
    """The options that ``train`` takes by default for the same kind of network."""
    from spatial import commands

    words = ["train", "RUN", "--model", options["model"]]
    return commands.train.filled(commands.train.options_of(commands.parse(words)))
