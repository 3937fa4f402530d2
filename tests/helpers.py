"""Small networks, image sets whose pixels tell their labels, and the command line in process."""

import shutil
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from generated import register
from torch import nn

import main
from spatial import commands, graph, models, objective, runs, splitting, storing
from spatial.data import ImageSet
from spatial.layers import SpatialConv2d, SpatialLinear
from spatial.runs import Run
from spatial.tasks import Tasks
from spatial.training import fit

NAMES = ("Alpha", "Beta", "Gamma")  # data sets that conftest registers
CLASSES = (4, 3, 5)
PLANE, LINE = {"topology": "plane"}, {"topology": "line", "decay": "sqrt"}  # arguments of a locality prior


def mlp(shape=(1, 4, 4), layers=(6, 5), classes=(3, 2), activation="ReLU", dim=2, seed=0, outputs="free", prior=None):
    arguments = {"shape": shape, "layers": layers, "classes": classes, "activation": activation, "dim": dim}
    return models.build("mlp", arguments | {"prior": prior}, seed, outputs)


def conv(shape=(1, 6, 6), layers=(6, 5), classes=(3, 2), activation="ReLU", dim=2, seed=0, outputs="free"):
    """A convolutional network whose batch norms have seen something: gains, offsets and statistics from a draw."""
    arguments = {"shape": shape, "layers": layers, "classes": classes, "activation": activation, "dim": dim}
    model = models.build("conv", arguments, seed, outputs)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.norm:
            norm.weight.normal_(generator=random)
            norm.bias.normal_(generator=random)
            norm.running_mean.normal_(generator=random)
            norm.running_var.uniform_(0.5, 2, generator=random)
    return model.eval()


def lenet(shape=(1, 16, 16), layers=(49, 49), classes=(3, 2), seed=0, outputs="free", prior=None, batch_norm=True):
    """LeNet, on small images, whose batch norm has seen something."""
    arguments = {"shape": shape, "layers": layers, "classes": classes, "prior": prior, "batch_norm": batch_norm}
    model = models.build("lenet", arguments, seed, outputs)
    if batch_norm:
        experience(model.norm, seed)
    return model.eval()


def alexnet(
    shape=(1, 63, 63), layers=(9, 9), classes=(3, 2), dim=2, seed=0, outputs="free", prior=None, batch_norm=True
):
    """AlexNet with small dense layers, on its smallest images, whose batch norm has seen something."""
    arguments = {"shape": shape, "layers": layers, "classes": classes, "dim": dim}
    model = models.build("alexnet", arguments | {"prior": prior, "batch_norm": batch_norm}, seed, outputs)
    if batch_norm:
        experience(model.norm, seed)
    return model.eval()


def local(layers=(4, 9, 9), **options):
    """A fully connected network whose equally wide neighbours have a prior between them."""
    return mlp(layers=layers, **{"prior": PLANE, **options})


# networks with layers on a sheet
SHEETED = {
    "local": local,
    "lenet": lambda **options: lenet(prior=LINE, **options),
    "control": lenet,
    "alexnet": lambda **options: alexnet(prior=PLANE, **options),
}


class Flattened(nn.Module):
    """A stranger's network: a convolution with a bias, a grouped one with a batch norm, flattened into all heads.

    Images are 3 x 2 pixels, so a channel of the grouped convolution holds 6 of the features that the heads read.
    """

    def __init__(self, classes=(3, 2), activation="ReLU"):
        super().__init__()
        self.classes, self.shape = tuple(classes), (1, 3, 2)
        self.first = SpatialConv2d(1, 4, 3, padding=1)
        self.grouped = SpatialConv2d(4, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.active = nn.ModuleList([models.ACTIVATIONS[activation](), models.ACTIVATIONS[activation]()])
        self.output = SpatialLinear(36, sum(classes))
        self.connections = [("first", "grouped"), ("grouped", "output")]
        self.norms = {"grouped": "norm"}
        self.activity = {"first": "active.0", "grouped": "active.1"}
        experience(self.norm)
        self.eval()

    def forward(self, images):
        x = self.active[0](self.first(images))
        return self.output(self.active[1](self.norm(self.grouped(x))).flatten(1))


@torch.no_grad()
def experience(norm, seed=0):
    """Gains, offsets and statistics of a batch norm from a draw."""
    random = torch.Generator().manual_seed(seed)
    norm.weight.normal_(generator=random)
    norm.bias.normal_(generator=random)
    norm.running_mean.normal_(generator=random)
    norm.running_var.uniform_(0.5, 2, generator=random)


@torch.no_grad()
def shrink(model, factor=0.1):
    """A copy with smaller weights before its batch norms, whose statistics shrink with them: the same function."""
    small = deepcopy(model)
    for layer, name in model.norms.items():
        norm = small.get_submodule(name)
        for value in (small.get_submodule(layer).weight, small.get_submodule(layer).bias):
            if value is not None:
                value.mul_(factor)
        norm.running_mean.mul_(factor)
        norm.running_var.mul_(factor**2)
        norm.eps *= factor**2
    return small


def same_state(a, b):
    """Whether two networks hold equal values under equal names."""
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def hand_made(weights, classes, activation="ReLU"):
    """An MLP on 1 x 1 x (inputs) images with the given weights, biases from a fixed draw."""
    matrices = [torch.tensor(weight, dtype=torch.float32) for weight in weights]
    model = mlp((1, 1, matrices[0].shape[1]), [len(each) for each in matrices[:-1]], classes, activation)
    with torch.no_grad():
        for layer, matrix in zip(graph.placed(model).values(), matrices, strict=True):
            layer.weight.copy_(matrix)
            layer.bias.copy_(torch.randn(len(matrix)))
    return model


def parameters(model):
    """Weights and biases as nested lists, for the oracles."""
    layers = graph.placed(model).values()
    return [layer.weight.tolist() for layer in layers], [layer.bias.tolist() for layer in layers]


def recordings(model, seed=0):
    """Random mean |activation| per task of every hidden layer, as ``record`` measures them."""
    random = torch.Generator().manual_seed(seed)
    layers = list(graph.positions(model).items())[:-1]
    return {name: torch.rand(len(model.classes), len(place), generator=random) for name, place in layers}


def split(model, method, seed=0):
    return splitting.METHODS[method](model, seed, recordings(model))


def owner_lists(model, method, seed=0):
    return [each.tolist() for each in split(model, method, seed).owners.values()]


def coded_sets(sizes, classes, size=2):
    """One image set per task: image i of task t is black but for pixel t, which has the value i + 1.

    So a sum of images, one per task, tells which images it was made of; 0 is the blank one.
    """
    sets = []
    for task, (count, labels) in enumerate(zip(sizes, classes, strict=True)):
        images = torch.zeros(count, 1, size * size, dtype=torch.uint8)
        images[:, 0, task] = torch.arange(1, count + 1)
        sets.append(ImageSet(images.view(count, 1, size, size), torch.randint(labels, (count,)), labels))
    return sets


def codes(images, tasks):
    """Which image of each task an input of :func:`coded_sets` was made of, ``[batch, tasks]``; -1: the blank one."""
    return (images.sum(1).flatten(1)[:, :tasks] * 255).round().long() - 1


class PerfectPredictor(nn.Module):
    """Reads which images an input was made of, and says their labels."""

    def __init__(self, sets):
        super().__init__()
        self.sets = sets

    def forward(self, images):
        found = codes(images, len(self.sets))
        answers = []
        for task, each in enumerate(self.sets):
            certain = torch.eye(each.classes)[each.labels[found[:, task].clamp(min=0)]]
            answers.append(certain * (found[:, task] >= 0)[:, None])
        return 20 * torch.cat(answers, 1)


def noise_tasks(input="mix", sizes=(24, 24), classes=(3, 2), size=4, seed=0):
    """Tasks of random images with random labels."""
    random = torch.Generator().manual_seed(seed)
    sets = [
        ImageSet(
            torch.randint(256, (count, 1, size, size), dtype=torch.uint8, generator=random),
            torch.randint(labels, (count,), generator=random),
            labels,
        )
        for count, labels in zip(sizes, classes, strict=True)
    ]
    return Tasks(sets, input)


def train_options(root, *words, names=NAMES[:2]):
    """The options of ``train`` by name, as its command line gives them: a small network, two epochs, on the CPU."""
    args = vars(commands.parse(["train", "RUN", *small(root, *words, names=names)]))
    with narrow():
        return commands.train.filled({name: args[name] for name in args if name not in commands.train.NOT_OPTIONS})


@contextmanager
def narrow():
    """Within it the command line's AlexNet has dense layers of 49 units: 4096 take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands.train.DEFAULTS["alexnet"], "layers", [49, 49])
        yield


def small(root, *words, names=NAMES[:2]):
    """Words of a command line that trains a small network for two epochs; later ones win.

    Layers of LeNet and AlexNet are given.
    """
    fixed = [
        "--datasets",
        *names,
        "--root",
        str(root),
        *([] if {"lenet", "alexnet"} & set(words) else ["--layers", "12", "8"]),
        "--epochs",
        "2",
        "--batch-size",
        "32",
        "--device",
        "cpu",
    ]
    return [*fixed, *words]


def command(*words):
    """Runs ``python main.py WORDS`` in this process and returns the exit status."""
    try:
        return main.main([str(word) for word in words])
    except SystemExit as end:
        return end.code


def tree(folder):
    """Every path under a folder and every file's content."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


class Interruption:
    """Counts training steps (of seeds side by side, those of all as one) and interrupts at one of them."""

    def __init__(self, monkeypatch, at=None):
        self.steps, self.at = 0, at
        self.loss = objective.task_loss
        monkeypatch.setattr(objective, "task_loss", self)

    def __call__(self, *given):
        self.steps += 1
        if self.steps == self.at:
            raise KeyboardInterrupt
        return self.loss(*given)


def history(run):
    """The rows of history.csv, times left out."""
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in storing.read_table(run.history)
    ]


def results(run):
    """The bytes of what training leaves for others to read, times left out."""
    files = [run.config_file, run.positions, *sorted((run.folder / "weights").iterdir())]
    return {path.relative_to(run.folder): path.read_bytes() for path in files}, history(run)


def register_sheets(patch, folder):
    """List two data sets of 16x16 pixels, which LeNet can read: Digits of 4 classes, Garments of 3."""
    register(patch, folder, "Digits", size=16, classes=4, train=48, test=24, seed=1)
    register(patch, folder, "Garments", size=16, classes=3, train=48, test=18, seed=2)


def sheet_run(root, folder, *words, names=("Digits",)):
    """A run on images of 16x16 pixels that is trained for an epoch, recorded by label and scored."""
    for line in (
        ["train", folder, *small(root, "--epochs", "1", *words, names=names)],
        ["record", folder, "--by", "label"],
        ["score", folder],
    ):
        assert command(*line) == 0
    return Run(folder)


def copied(run, folder, *without):
    """The same run in another folder, without its figures and some other files."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("figures", *without))
    return Run(folder)


def reoptioned(run, **options):
    """Change what ``train`` is said to have been told."""
    config = storing.read_json(run.config_file)
    storing.save_json(run.config_file, config | {"options": config["options"] | options})
    return run


def configured(run, **options):
    """A run that ``train`` was told to make: a small network on MNIST and FashionMNIST, but for ``options``."""
    every = train_options("data", names=("MNIST", "FashionMNIST")) | options
    storing.save_json(run.config_file, {"version": runs.VERSION, "options": every, "data": {}})
    return run


def text_of(figure):
    """Everything written on a figure, line breaks as spaces."""
    figure.draw_without_rendering()
    written = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    return " ".join(written.split())


def units(n, dim=2, tasks=3, draw="normal"):
    """Places and owners of n units: in general position, with many equal distances, or all at one place."""
    places = {
        "normal": torch.randn(n, dim),
        "grid": torch.randint(3, (n, dim)),
        "coincident": torch.full((n, dim), 0.3),
    }
    return places[draw].double(), torch.arange(n).remainder(tasks)[torch.randperm(n)]


def line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None]


def moved(*places):
    """The same rigid motion, with a reflection perhaps, of each tensor of places."""
    dim = places[0].shape[1]
    turn, shift = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q, torch.randn(dim, dtype=torch.float64)
    return [each @ turn + shift for each in places]


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def fit_alone(model, train, test, *, seed, **options):
    """:func:`spatial.training.fit` of one network: its epochs, and where training stands after each."""
    for point in fit([model], train, test, seeds=[seed], **options):
        (epoch,) = point.results
        yield epoch, point


def cells(text):
    """A page's tables as rows of cells, without their rules."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in ([cell.strip() for cell in line] for line in lines) if set("".join(row)) != {"-"}]


def last(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def places_of(network):
    return [place.tolist() for place in graph.positions(network).values()]
