"""Train a network with placed neurons on one or more tasks.

examples:
  python main.py train runs/regular                 (no cost is charged: a regular network)
  python main.py train runs/mine --layers 300 300 --norm l1 --transport 3 --transport-per neuron --proximity 3 \\
      --outputs task --position-lr 0.015 --schedule linear --epochs 8 --seeds 3
  python main.py train runs/conv --model conv --layers 32 64 --datasets MNIST FashionMNIST MNIST@permuted \\
      --input sequential --norm l1 --transport 3 --transport-per neuron --proximity 3 --outputs task
"""

import argparse
from pathlib import Path
from typing import Any

from spatial.commands.types import number, whole
from spatial.errors import UserError

INPUTS = ("mix", "concatenate", "sequential")
ORDERS = ("random", "blocked")
MODELS = ("mlp", "conv")
INPUT_POSITIONS = ("grid",)
NORMED = ("conv",)  # have batch norms
LAYERS = {"mlp": [128, 128], "conv": [16, 32]}  # where --layers is not given
ACTIVATIONS = ("ReLU", "Sigmoid", "Tanh", "GELU")
NORMS = ("l1", "l2")
PER = ("connection", "neuron")
POSITIONS = ("learned", "frozen", "shuffled")
OUTPUTS = ("free", "task", "held", "arbitrary")
OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop")
MOMENTUM = ("SGD", "RMSprop")
SCHEDULES = ("constant", "linear", "step", "cosine")
DEVICES = ("auto", "cpu", "cuda", "mps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("tasks")
    data.add_argument(
        "--datasets",
        nargs="+",
        default=["MNIST", "FashionMNIST"],
        metavar="NAME",
        help="one data set per task: MNIST, FashionMNIST, KMNIST, QMNIST, EMNIST (balanced), CIFAR10; NAME@permuted is "
        "NAME, its pixels permuted in one fixed way",
    )
    data.add_argument(
        "--root", default="data", metavar="FOLDER", help="where the data sets are kept; fetched if they are not there"
    )
    data.add_argument(
        "--holdout",
        type=whole(0),
        default=0,
        metavar="N",
        help="keep N training images of each task out of training and score on them, not on test images: for choosing "
        "settings",
    )
    data.add_argument(
        "--resize", type=whole(1), metavar="N", help="make all images N x N pixels (default: leave them as they are)"
    )
    data.add_argument(
        "--input",
        choices=INPUTS,
        default="mix",
        help="how tasks meet: images added pixel by pixel, stacked along channels, or one image at a time, "
        "which asks its own head only",
    )
    data.add_argument(
        "--order",
        choices=ORDERS,
        help="--input sequential: all tasks' images shuffled together, or in every epoch task after task "
        "(default: random)",
    )

    model = parser.add_argument_group("network")
    model.add_argument(
        "--model",
        choices=MODELS,
        default="mlp",
        help="mlp: fully connected; conv: 5x5 convolutions with stride 2, batch norm, maximum over the map",
    )
    model.add_argument(
        "--layers",
        type=whole(1),
        nargs="+",
        metavar="N",
        help="units of the hidden layers, channels of conv's (default: 128 128, of conv 16 32)",
    )
    model.add_argument("--activation", choices=ACTIVATIONS, default="ReLU", help="after every hidden layer")

    space = parser.add_argument_group(
        "space",
        "The loss is task + transport * T + proximity * P + weight-penalty * W.\n"
        "  T, P and W are measured in every run, charged or not.",
    )
    space.add_argument("--transport", type=number(0), default=0.0, metavar="STRENGTH", help="charge for long wires")
    space.add_argument(
        "--transport-per",
        choices=PER,
        default="connection",
        help="T: mean over connections of distance times |w| (l1) or w^2 (l2), or mean wire length of a neuron, "
        "which no shrinking of weights can cheat",
    )
    space.add_argument(
        "--proximity",
        type=number(0),
        default=0.0,
        metavar="STRENGTH",
        help="charge for crowding: P is the mean over pairs of a layer's neurons of exp(-distance)",
    )
    space.add_argument("--norm", choices=NORMS, default="l2", help="of a weight in T: |w| or w^2")
    space.add_argument(
        "--where",
        type=whole(0),
        nargs="+",
        metavar="LAYER",
        help="placed layers to charge, 0 is the first hidden layer and the last is the output layer; "
        "T counts the connections into them (default: all)",
    )
    space.add_argument("--dim", type=whole(1), default=2, metavar="N", help="dimensions of the space")
    space.add_argument(
        "--positions",
        choices=POSITIONS,
        default="learned",
        help="controls of the transport cost: frozen at their random start; or permuted among each layer's units at "
        "every epoch's start, not learned (both need --transport)",
    )
    space.add_argument(
        "--outputs",
        choices=OUTPUTS,
        default="free",
        help="output neurons start like all others; or each task's around a place of its own (task: learned, held: "
        "they stay there); or, a control, around places whose groups mix the tasks (arbitrary)",
    )
    space.add_argument(
        "--input-positions",
        choices=INPUT_POSITIONS,
        help="give the input's pixels places too, the image's grid with standard deviation 1 (mlp only; default: none)",
    )
    space.add_argument(
        "--weight-penalty",
        type=number(0),
        default=0.0,
        metavar="STRENGTH",
        help="control without space: charge T per connection with every distance 1",
    )
    space.add_argument(
        "--position-lr",
        type=number(0, above=True),
        metavar="RATE",
        help="learning rate of the positions (default: the weights')",
    )

    learning = parser.add_argument_group("learning")
    learning.add_argument("--epochs", type=whole(1), default=10, metavar="N", help="passes over the images")
    learning.add_argument("--batch-size", type=whole(1), default=256, metavar="N", help="inputs a step")
    learning.add_argument("--optimizer", choices=OPTIMIZERS, default="Adam", help="torch's class name")
    learning.add_argument("--lr", type=number(0, above=True), default=5e-3, metavar="RATE", help="learning rate")
    learning.add_argument("--momentum", type=number(0), metavar="M", help="of SGD and RMSprop (default: 0)")
    learning.add_argument(
        "--weight-decay", type=number(0), default=0.0, metavar="D", help="of the weights; positions are never decayed"
    )
    learning.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="constant",
        help="of the learning rates; linear: constant, then to 0 over the second half; step: a tenth every 30 epochs",
    )

    running = parser.add_argument_group("running")
    running.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of weights, positions and order of images"
    )
    running.add_argument(
        "--seeds",
        type=whole(1),
        default=1,
        metavar="N",
        help="train N networks, one after the other, with seeds SEED .. SEED+N-1",
    )
    running.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto takes an accelerator where there is one"
    )
    running.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run; with --overwrite: if nothing changed and it is unfinished, else start anew",
    )
    running.add_argument(
        "--overwrite",
        action="store_true",
        help="start a run anew, removing what train, record, split, score and plot made in its folder",
    )


def check(options: dict[str, Any]) -> None:
    """Refuse options that contradict each other or that nothing would read."""
    costs = options["transport"] or options["proximity"]
    if options["positions"] != "learned" and not options["transport"]:
        raise UserError(f"--positions {options['positions']} is a control of the transport cost: give --transport too")
    if options["positions"] != "learned" and options["proximity"]:
        raise UserError(f"--proximity is read only where positions are learned, got --positions {options['positions']}")
    if options["positions"] == "shuffled" and options["outputs"] == "held":
        raise UserError("--positions shuffled moves the outputs that --outputs held keeps in place: choose one")
    if options["input_positions"] and options["model"] != "mlp":
        raise UserError(f"--input-positions is read only by --model mlp, got {options['model']}")
    if options["input_positions"] and options["dim"] < 2:
        raise UserError("--input-positions grid needs --dim 2 or more, got 1")
    if options["model"] in NORMED and options["batch_size"] < 2:
        raise UserError(f"--batch-size 1: the batch norm of --model {options['model']} needs 2 images or more")
    if options["order"] is not None and options["input"] != "sequential":
        raise UserError(f"--order is read only with --input sequential, got --input {options['input']}")
    if options["momentum"] is not None and options["optimizer"] not in MOMENTUM:
        raise UserError(f"--momentum is read only by --optimizer {' or '.join(MOMENTUM)}, got {options['optimizer']}")
    if options["position_lr"] is not None and (not costs or options["positions"] != "learned"):
        raise UserError(
            "--position-lr is read only where positions are learned: give --transport or --proximity"
            + ("" if options["positions"] == "learned" else ", and --positions learned")
        )
    layers = len(options["layers"] or LAYERS[options["model"]]) + 1
    where = options["where"] or []
    if len(set(where)) < len(where):
        raise UserError(f"--where {' '.join(map(str, where))}: a layer is given twice")
    for index in where:
        if index >= layers:
            raise UserError(
                f"--where {index}: there is no such layer, give 0 to {layers - 1} ({layers - 1} is the output layer)"
            )
    if options["outputs"] == "held" and options["proximity"] and not options["transport"] and where == [layers - 1]:
        raise UserError(
            f"--proximity: --where {where[0]} is the output layer alone, which --outputs held keeps in place"
        )
    for name in ("transport", "weight_penalty"):
        if options[name] and where == [0] and not options["input_positions"]:
            raise UserError(
                f"--{name.replace('_', '-')}: no charged connection, the first layer reads no placed layer; "
                "add a later one to --where"
            )


def run(args: argparse.Namespace) -> int:
    not_options = {"run", "run_command", "parser", "resume", "overwrite"}
    options = {name: value for name, value in vars(args).items() if name not in not_options}
    options["layers"] = options["layers"] or LAYERS[options["model"]]
    check(options)

    from spatial.experiment import train  # torch is imported here, not for --help

    return train(Path(args.run), options, resume=args.resume, overwrite=args.overwrite)
