"""Train a network with placed neurons on one or more tasks.

An interrupted training goes on when the same command is typed again with --resume. Files of the run: see README.md.

examples:
  # a regular network: nothing is charged
  python main.py train runs/regular
  # a spatial one: three networks of two tasks, as in the README
  python main.py train runs/mine --layers 300 300 --norm l1 --transport 3 --transport-per neuron --proximity 3 \\
      --outputs task --position-lr 0.015 --schedule linear --epochs 8 --seeds 3
  # convolutional, three tasks, one image at a time
  python main.py train runs/conv --model conv --layers 32 64 --datasets MNIST FashionMNIST MNIST@permuted \\
      --input sequential --norm l1 --transport 3 --transport-per neuron --proximity 3 --outputs task
  # settings are chosen on images held out, not on test images
  python main.py train runs/tried --transport 10 --holdout 5000
  # the locality prior and its control
  python main.py train runs/local --model lenet --locality plane --seeds 3
  python main.py train runs/control --model lenet --seeds 3
  # another run's options, a further seed
  python main.py train runs/again --like runs/mine --seed 3 --seeds 1
  # to watch and to compare runs: tensorboard --logdir curves
  python main.py train runs/watched --tensorboard curves
  # a folder of images of your own, on four GPUs
  torchrun --nproc-per-node 4 main.py train runs/alexnet --model alexnet --root /data/imagenet --locality plane \\
      --precision bf16 --save-every 1000
"""

import argparse
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import Any

from spatial import process
from spatial.commands.types import DEVICES, add_workers, folder, number, whole
from spatial.errors import UserError, unknown

INPUTS = ("mix", "concatenate", "sequential")
ORDERS = ("random", "blocked")
MODELS = ("mlp", "conv", "lenet", "alexnet")
INPUT_POSITIONS = ("grid",)
LOCALITIES = ("none", "line", "plane")
METRICS = ("euclidean", "cityblock", "chebyshev")
DECAYS = ("linear", "sqrt", "square")
LOCALITY_ON = ("connections", "activations")
NORMED = ("conv", "lenet", "alexnet")  # have batch norms
DROPPING = ("lenet", "alexnet")  # have dropout
DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", "CIFAR10")
FOLDER = "ImageNet"  # the data set whose images stay in files
ACTIVATIONS = ("ReLU", "Sigmoid", "Tanh", "GELU")
NORMS = ("l1", "l2")
PER = ("connection", "neuron")
POSITIONS = ("learned", "frozen", "shuffled")
OUTPUTS = ("free", "task", "held", "arbitrary")
OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop")
MOMENTUM = ("SGD", "RMSprop")
SCHEDULES = ("constant", "linear", "step", "cosine")
REPLICAS = ("auto", "together", "sequential")
PRECISIONS = ("fp32", "bf16")
NOT_OPTIONS = ("help", "run", "run_command", "parser", "shared", "resume", "overwrite", "like", "data")
# what an option is where it is not given; None: nothing reads it
MLP_DEFAULTS = {
    "datasets": ["MNIST", "FashionMNIST"], "layers": [128, 128], "activation": "ReLU", "dim": 2, "epochs": 10,
    "batch_size": 256, "optimizer": "Adam", "lr": 5e-3, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant",
    "batch_norm": None,
}  # fmt: skip
DEFAULTS = {
    "mlp": MLP_DEFAULTS,
    "conv": MLP_DEFAULTS | {"layers": [16, 32]},
    "lenet": {
        "datasets": ["MNIST"], "layers": [49, 49], "activation": None, "dim": None, "epochs": 10,
        "batch_size": 64, "optimizer": "SGD", "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4,
        "schedule": "constant", "batch_norm": True,
    },
    "alexnet": {
        "datasets": [FOLDER], "layers": [4096, 4096], "activation": None, "dim": 2, "epochs": 90,
        "batch_size": 256, "optimizer": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4,
        "schedule": "step", "batch_norm": True,
    },
}  # fmt: skip
LOCALITY_DEFAULTS = {"metric": "euclidean", "decay": "linear", "normalize": False, "locality_on": "connections"}
READ_BY = {  # options that not every model reads
    "layers": ("mlp", "conv"), "activation": ("mlp", "conv"), "dim": ("mlp", "conv", "alexnet"),
    "input_positions": ("mlp",), "locality": ("mlp", "lenet", "alexnet"), "batch_norm": ("lenet", "alexnet"),
}  # fmt: skip


def by_model(option: str) -> str:
    """What an option is where it is not given, in words."""
    plain = DEFAULTS["mlp"][option]
    others: dict[str, list[str]] = {}
    for model, each in DEFAULTS.items():
        if each[option] not in (plain, None):
            others.setdefault(_typed(each[option]), []).append(model)
    return ", ".join(
        [f"default: {_typed(plain)}", *(f"of {' and '.join(models)} {value}" for value, models in others.items())]
    )


def _typed(value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    return " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data and tasks")
    data.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        help="one data set per task: MNIST, FashionMNIST, KMNIST, QMNIST, EMNIST (balanced), CIFAR10; NAME@permuted is "
        "NAME, its pixels permuted in one fixed way; or ImageNet alone: a folder of your own, see --root "
        f"({by_model('datasets')})",
    )
    data.add_argument(
        "--root",
        type=folder,
        default="data",
        metavar="FOLDER",
        help="where the data sets are kept; fetched if they are not there. Of ImageNet the folder that holds train/ "
        "and val/, in each a folder of images per class: any such folder will do",
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
        "--resize",
        type=whole(1, 10_000),
        metavar="N",
        help="make all images N x N pixels (default: leave them as they are; ImageNet's 224). ImageNet's are, to "
        "train, random parts, mirrored half of the times; to score, the middle of the image resized to 256/224 N",
    )
    data.add_argument(
        "--input",
        choices=INPUTS,
        default="mix",
        help="how tasks meet; mix: their images added pixel by pixel; concatenate: stacked along channels; "
        "sequential: one image at a time, which asks its own head only",
    )
    data.add_argument(
        "--order",
        choices=ORDERS,
        help="of --input sequential; random: all tasks' images shuffled together; blocked: in every epoch task after "
        "task (default: random)",
    )

    data.add_argument(
        "--trust-images",
        action="store_true",
        help="of ImageNet: do not decode every image once before training, which finds those that cannot be read",
    )
    add_workers(data)

    model = parser.add_argument_group("network")
    model.add_argument(
        "--model",
        choices=MODELS,
        default="mlp",
        help="mlp: fully connected; conv: 5x5 convolutions with stride 2, batch norm, maximum over the map; lenet: two "
        "convolutions, two dense layers of 49 units on a 7 x 7 sheet, the second followed by a batch norm; alexnet: "
        "torchvision's, its dense layers of 4096 units have places, the second is followed by a batch norm; images "
        "from 63 x 63 pixels, any number of classes",
    )
    model.add_argument(
        "--layers",
        type=whole(1, 1_000_000),
        nargs="+",
        metavar="N",
        help="units of the hidden layers, channels of conv's (default: 128 128, of conv 16 32; lenet's are 49 49, "
        "alexnet's 4096 4096)",
    )
    model.add_argument(
        "--activation", choices=ACTIVATIONS, help="after every hidden layer of mlp and conv (default: ReLU)"
    )
    model.add_argument(
        "--batch-norm",
        action=argparse.BooleanOptionalAction,
        help="of lenet and alexnet: whether there is one behind the second dense layer (default: yes)",
    )

    space = parser.add_argument_group(
        "places and costs",
        "The loss is task + transport * T + proximity * P + weight-penalty * W.\n"
        "T, P and W are measured in every run, charged or not.",
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
    space.add_argument("--norm", choices=NORMS, default="l2", help="how a weight counts in T; l1: |w|; l2: w^2")
    space.add_argument(
        "--where",
        type=whole(0),
        nargs="+",
        metavar="LAYER",
        help="placed layers to charge, 0 is the first hidden layer and the last is the output layer; "
        "T counts the connections into them (default: all)",
    )
    space.add_argument("--dim", type=whole(1, 10_000), metavar="N", help="dimensions of the space (default: 2)")
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

    locality = parser.add_argument_group(
        "locality prior",
        "A fixed factor P_ji = 1 / f(d + 1) on the connection of unit i to unit j, d their distance on a sheet, in "
        "units of its spacing: of lenet's and alexnet's second dense layer, of mlp's hidden layers as wide as the "
        "one before them.",
    )
    locality.add_argument(
        "--locality",
        choices=LOCALITIES,
        default="none",
        help="the sheet: units in a row, or on a square; none is the control",
    )
    locality.add_argument(
        "--metric",
        choices=METRICS,
        help="the distance d on a plane: the straight line, the sum of both coordinates' differences, or the larger "
        "(default: euclidean)",
    )
    locality.add_argument("--decay", choices=DECAYS, help="f(x): x, its square root, or its square (default: linear)")
    locality.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="rescale every unit's incoming P to mean 1 (default: no; a batch norm right behind cancels it)",
    )
    locality.add_argument(
        "--locality-on",
        choices=LOCALITY_ON,
        help="connections: A_j = sum_i P_ji W_ji x_i + b_j; activations: A_j = g_j (sum_i W_ji x_i + b_j), g_j the "
        "mean over i of P_ji, which a batch norm right behind cancels (default: connections)",
    )

    learning = parser.add_argument_group("training")
    learning.add_argument("--epochs", type=whole(1), metavar="N", help=f"passes over the images ({by_model('epochs')})")
    learning.add_argument(
        "--batch-size",
        type=whole(1),
        metavar="N",
        help=f"inputs a step, of all processes together ({by_model('batch_size')})",
    )
    learning.add_argument(
        "--accumulate",
        type=whole(1),
        default=1,
        metavar="N",
        help="compute a step's batch in N parts, one after the other, for want of memory; a batch norm sees a part",
    )
    learning.add_argument("--optimizer", choices=OPTIMIZERS, help=f"torch's class name ({by_model('optimizer')})")
    learning.add_argument("--lr", type=number(0, above=True), metavar="RATE", help=f"learning rate ({by_model('lr')})")
    learning.add_argument(
        "--momentum",
        type=number(0, 1),
        metavar="M",
        help=f"of SGD and RMSprop ({by_model('momentum')}, whichever of the two)",
    )
    learning.add_argument(
        "--weight-decay",
        type=number(0),
        metavar="D",
        help=f"of the weights; positions are never decayed ({by_model('weight_decay')})",
    )
    learning.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rates; linear: constant, then to 0 over the second half; step: a tenth every 30 epochs; "
        f"cosine: half a period, to 0 ({by_model('schedule')})",
    )
    learning.add_argument(
        "--warmup",
        type=number(0),
        default=0.0,
        metavar="EPOCHS",
        help="the learning rates of the schedule rise from 0, linearly, over the first EPOCHS",
    )

    running = parser.add_argument_group("running")
    running.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of weights, positions and order of images"
    )
    running.add_argument(
        "--seeds",
        type=whole(1, 10_000),
        default=1,
        metavar="N",
        help="train N networks, with seeds SEED .. SEED+N-1",
    )
    running.add_argument(
        "--replicas",
        choices=REPLICAS,
        default="auto",
        help="the networks of --seeds side by side, one step for all (not lenet, alexnet, ImageNet), or one after the "
        "other; auto: the faster, that is together, but for conv and for layers of more than 1000 units on a CPU",
    )
    running.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compute the network, if it trains alone, and the costs through torch.compile: seconds to minutes at the "
        "start, faster steps; without a C++ compiler it warns and goes on",
    )
    running.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16: products in bfloat16 (autocast) in training; weights, costs, losses and scoring stay float32",
    )
    running.add_argument(
        "--save-every",
        type=whole(1),
        metavar="STEPS",
        help="also write the checkpoint every STEPS of an epoch, for long epochs (default: after every epoch)",
    )
    running.add_argument(
        "--tensorboard",
        type=folder,
        metavar="FOLDER",
        help="also write losses, accuracies and costs of every epoch for TensorBoard, into FOLDER/NAME/seed-N, NAME "
        "that of the run's folder (needs: python -m pip install tensorboard)",
    )
    running.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto takes an accelerator where there is one; torchrun --nproc-per-node N main.py train ... shares each "
        "batch among N processes, a GPU each",
    )
    running.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="of a GPU: the same numbers twice, as far as torch can, which names what cannot; slower. A CPU's are the "
        "same anyway, for as many threads",
    )
    again = parser.add_argument_group("the run's folder", "One that holds a run is not touched, unless it is said how.")
    again.add_argument(
        "--like",
        type=folder,
        metavar="OLD",
        help="repeat the run OLD: take from its config.json every option that is not given here; the data must be the "
        "same",
    )
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run; with --overwrite: if nothing changed and it is unfinished, else start anew",
    )
    again.add_argument(
        "--overwrite",
        action="store_true",
        help="start a run anew, removing what train, record, split, score and plot made in its folder",
    )


def words_of(old: str, parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, Any]]:
    """The command line that the run ``old`` was trained with, but for defaults, and what its config.json holds.

    Raises:
        UserError: if that is no run.
    """
    from spatial.runs import Run

    run = Run(Path(old))
    config = run.config()
    actions = {action.dest: action for action in parser._actions}
    options = config["options"]
    defaults = {name: action.default for name, action in actions.items()} | LOCALITY_DEFAULTS
    defaults |= DEFAULTS.get(str(options.get("model")), {})
    if options["seeds"] == 1:
        defaults["replicas"] = options.get("replicas")  # what auto came to
    words: list[str] = []
    for name, value in options.items():
        if name not in actions or name in NOT_OPTIONS:
            raise UserError(f"{run.config_file}: {unknown('option', name, {*actions} - {*NOT_OPTIONS})}")
        flag = _flag(name)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | int | float | None) for each in values):
            raise UserError(f"{run.config_file}: {name} is neither a word nor a number, nor a list of them")
        if value == defaults[name]:  # also what is said of an option that nothing reads
            continue
        if isinstance(value, bool):
            no = isinstance(actions[name], argparse.BooleanOptionalAction)
            words += [flag] if value else [f"--no-{flag[2:]}"] if no else []
        elif isinstance(value, list):
            if any(str(each).startswith("-") for each in value):  # an option, which nobody has given
                raise UserError(f"{run.config_file}: {name} has {value}")
            words += [flag, *map(str, value)]
        elif value is not None:
            words.append(f"{flag}={value}")
    return words, config


def filled(options: dict[str, Any]) -> dict[str, Any]:
    """Every option with its value: what was not given is the model's default.

    Raises:
        UserError: if an option was given that nothing would read.
    """
    model, locality = options["model"], options["locality"]
    for name, models in READ_BY.items():
        if options[name] not in (None, "none") and model not in models:
            raise UserError(f"{_flag(name)} is read only by --model {' or '.join(models)}, got {model}")
    for name in LOCALITY_DEFAULTS:
        if options[name] not in (None, False) and locality == "none":
            raise UserError(f"{_flag(name)} is read only with --locality line or plane")
    if options["metric"] is not None and locality == "line":
        raise UserError("--metric is read only with --locality plane: on a line all metrics are the same")
    if options["normalize"] and options["locality_on"] == "activations":
        raise UserError(
            "--normalize makes every gain of --locality-on activations 1: nothing would be left of the prior"
        )
    optimizer = options["optimizer"] or DEFAULTS[model]["optimizer"]
    if options["momentum"] is not None and optimizer not in MOMENTUM:
        raise UserError(f"--momentum is read only by --optimizer {' or '.join(MOMENTUM)}, got {optimizer}")
    defaults: dict[str, Any] = DEFAULTS[model] | LOCALITY_DEFAULTS
    if optimizer not in MOMENTUM:
        defaults["momentum"] = None
    given = {name: options[name] for name in defaults if options[name] is not None}
    unread = dict.fromkeys(LOCALITY_DEFAULTS) if locality == "none" else {}
    return options | defaults | given | unread


def sheet_layers(options: dict[str, Any]) -> set[int]:
    """Indices of the placed layers that lie on a sheet, whose places are never learned."""
    if options["model"] == "lenet":
        return {0, 1}
    if options["locality"] == "none":
        return set()
    if options["model"] == "alexnet":
        return {0, 1}
    pairs = enumerate(pairwise(options["layers"]))
    return {layer for index, (before, after) in pairs if before == after for layer in (index, index + 1)}


def check(options: dict[str, Any]) -> None:
    """Refuse options, all :func:`filled`, that contradict each other or that nothing would read."""
    if options["positions"] != "learned" and not options["transport"]:
        raise UserError(f"--positions {options['positions']} is a control of the transport cost: give --transport too")
    if options["positions"] != "learned" and options["proximity"]:
        raise UserError(f"--proximity is read only where positions are learned, got --positions {options['positions']}")
    if options["positions"] == "shuffled" and options["outputs"] == "held":
        raise UserError("--positions shuffled moves the outputs that --outputs held keeps in place: choose one")
    if options["input_positions"] and options["dim"] < 2:
        raise UserError("--input-positions grid needs --dim 2 or more, got 1")
    if options["replicas"] != "auto" and options["seeds"] == 1:
        raise UserError(f"--replicas {options['replicas']} is read only with --seeds 2 or more")
    if options["compile"] and options["replicas"] == "together" and not (options["transport"] or options["proximity"]):
        raise UserError("--compile: nothing would read it, of --replicas together only --transport and --proximity are")
    if options["replicas"] == "together" and options["model"] in DROPPING:
        raise UserError(f"--replicas together: {options['model']} has dropout, which every seed must draw by itself")
    _check_steps(options)
    if options["order"] is not None and options["input"] != "sequential":
        raise UserError(f"--order is read only with --input sequential, got --input {options['input']}")
    if options["locality"] != "none":
        _check_sheets(options)
    _check_places(options)


def _check_steps(options: dict[str, Any]) -> None:
    """Refuse a way of taking steps that cannot be taken, or that nothing would read."""
    size, parts = options["batch_size"], options["accumulate"]
    if size % parts:
        near = " or ".join(str(each * parts) for each in (size // parts, size // parts + 1) if each)
        raise UserError(f"--accumulate {parts}: --batch-size {size} does not divide; give {near}, for example")
    if options["model"] in NORMED and options["batch_norm"] is not False and size < 2 * parts:
        given = f"--batch-size {size}" + (f" --accumulate {parts}" if parts > 1 else "")
        raise UserError(f"{given}: the batch norm of --model {options['model']} needs 2 images or more")
    if options["warmup"] > options["epochs"]:
        raise UserError(f"--warmup {options['warmup']:g} is longer than --epochs {options['epochs']}")
    if FOLDER in options["datasets"]:
        if options["replicas"] == "together":
            raise UserError(f"--replicas together: networks read {FOLDER}'s files one after the other")
        return
    for name in ("workers", "trust_images"):
        if options[name] is not None and options[name] is not False:
            raise UserError(f"{_flag(name)} is read only with --datasets {FOLDER}: other images are held in memory")


def _check_sheets(options: dict[str, Any]) -> None:
    """Refuse layers that the locality prior cannot be put on."""
    widths, sheets = options["layers"], sheet_layers(options)
    if not sheets:
        raise UserError(
            f"--locality {options['locality']} needs a hidden layer as wide as the one before it, got --layers "
            f"{_typed(widths)}"
        )
    odd = [width for layer, width in enumerate(widths) if layer in sheets and isqrt(width) ** 2 != width]
    if options["locality"] == "plane" and odd:
        raise UserError(
            f"--locality plane needs layers of square widths, got {odd[0]}; the nearest are {isqrt(odd[0]) ** 2} and "
            f"{(isqrt(odd[0]) + 1) ** 2}"
        )
    if options["dim"] not in (None, 2):
        raise UserError(f"--locality {options['locality']} needs --dim 2, got {options['dim']}")


def _check_places(options: dict[str, Any]) -> None:
    """Refuse costs and rates that no layer's places would read."""
    layers, where = len(options["layers"]) + 1, options["where"] or []
    if len(set(where)) < len(where):
        raise UserError(f"--where {' '.join(map(str, where))}: a layer is given twice")
    for index in where:
        if index >= layers:
            raise UserError(
                f"--where {index}: there is no such layer, give 0 to {layers - 1} ({layers - 1} is the output layer)"
            )
    for name in ("transport", "weight_penalty"):
        if options[name] and where == [0] and not options["input_positions"]:
            raise UserError(
                f"{_flag(name)}: no charged connection, the first layer reads no placed layer; "
                "add a later one to --where"
            )
    charged = set(where or range(layers))
    stay = sheet_layers(options) | ({layers - 1} if options["outputs"] == "held" else set())
    crowded = charged - stay if options["proximity"] else set()
    if options["proximity"] and not crowded:
        raise UserError(
            f"--proximity: nothing would read it, the places of --where {_typed(sorted(charged))} are never learned "
            "(on a sheet, or outputs held)"
        )
    joined = charged if options["input_positions"] else charged - {0}
    wired = (joined | {layer - 1 for layer in joined}) - stay - {-1} if options["transport"] else set()
    if options["positions"] != "learned" and not wired:
        raise UserError(
            f"--positions {options['positions']}: nothing would read it, the layers that --transport charges lie on "
            "sheets and are never learned"
        )
    if options["position_lr"] is not None and (options["positions"] != "learned" or not crowded | wired):
        raise UserError(
            "--position-lr is read only where positions are learned: give --transport or --proximity"
            + ("" if options["positions"] == "learned" else ", and --positions learned")
            + (" of a layer that is neither on a sheet nor held" if options["transport"] else "")
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of how to train."""
    return {name: value for name, value in vars(args).items() if name not in NOT_OPTIONS}


def run(args: argparse.Namespace) -> int:
    options = filled(options_of(args))
    check(options)
    where = "lies in the run's folder, which holds nothing but the run"
    if Path(options["root"]).resolve().is_relative_to(Path(args.run).resolve()):
        raise UserError(f"--root {options['root']}: {where}; keep the data elsewhere")
    if options["tensorboard"] is not None:
        at = Path(options["tensorboard"]).resolve()
        if any(each.is_relative_to(Path(args.run).resolve()) for each in (at, at / Path(args.run).resolve().name)):
            raise UserError(f"--tensorboard {options['tensorboard']}: what it writes {where}; give another folder")

    from spatial.experiment import train  # torch is imported here, not for --help
    from spatial.following import following
    from spatial.runs import Run

    status = train(Path(args.run), options, resume=args.resume, overwrite=args.overwrite, like=args.data)
    if process.NUMBER == 0:
        print(following(Run(Path(args.run))), flush=True)
    return status
