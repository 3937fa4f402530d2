"""The networks. Each states its placed layers' connections, and where its units' activity can be read."""

import inspect
import math
import reprlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatial import graph
from spatial.errors import UserError
from spatial.layers import Placed, SpatialConv2d, SpatialLinear
from spatial.locality import LocalityPriorLinear
from spatial.positions import output_places, pixel_grid
from spatial.seeds import generator, seeded

ACTIVATIONS = {"ReLU": nn.ReLU, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "GELU": nn.GELU}
INPUT_POSITIONS = {"grid": pixel_grid}


class MLP(nn.Module):
    """Fully connected network with one placed layer per hidden layer and one for all heads together.

    Args:
        shape: of one input, ``(channels, height, width)``.
        layers: widths of the hidden layers.
        classes: number of classes of each task.
        activation: after every hidden layer, torch's class name.
        dim: dimensions of the space.
        input_positions: ``grid`` gives the input's pixels places (:func:`spatial.positions.pixel_grid`).
        prior: arguments of :class:`spatial.locality.LocalityPriorLinear`: every hidden layer as wide as the one before
            it is such a layer, and both lie on its sheet. None: plain layers.

    Attributes:
        connections: pairs of names (source layer, target layer).
        activity: by hidden layer's name, the module whose output is the layer's activation.
        input_places: ``[pixels, dim]``, None without ``input_positions``.
    """

    input_places: Tensor | None

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[int],
        classes: Sequence[int],
        activation: str = "ReLU",
        dim: int = 2,
        input_positions: str | None = None,
        prior: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.shape, self.layers, self.classes = tuple(shape), tuple(layers), tuple(classes)
        self.activation, self.dim, self.input_positions, self.prior = activation, dim, input_positions, prior
        widths = [int(torch.Size(self.shape).numel()), *self.layers, sum(self.classes)]
        local = layers_as_wide_as_before(self.layers) if prior is not None else []
        if prior is not None and not local:
            raise ValueError(f"a prior needs a hidden layer as wide as the one before it, got {list(self.layers)}")
        if prior is not None and dim != 2:
            raise ValueError(f"a prior's sheets have 2 dimensions, got {dim}")
        self.linear = nn.ModuleList(
            [
                dense(before, after, dim=dim, prior=prior if index in local else None)
                for index, (before, after) in enumerate(pairwise(widths))
            ]
        )
        for index in local:
            below: Placed = self.linear[index - 1]  # type: ignore[assignment]
            below.place_on_sheet(self.linear[index].topology, self.layers[index])  # type: ignore[arg-type]
        self.active = nn.ModuleList([ACTIVATIONS[activation]() for _ in self.layers])
        self.connections = list(pairwise(f"linear.{index}" for index in range(len(self.linear))))
        grid = None if input_positions is None else INPUT_POSITIONS[input_positions](self.shape, dim)
        self.register_buffer("input_places", grid, persistent=False)
        if grid is not None:
            self.connections.insert(0, (graph.INPUT, "linear.0"))
        self.activity = {f"linear.{index}": f"active.{index}" for index in range(len(self.active))}

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the logits of all tasks, ``[batch, sum of classes]``."""
        x = images.flatten(1)
        for linear, active in zip(self.linear, self.active, strict=False):
            x = active(linear(x))
        return self.linear[-1](x)


class Conv(nn.Module):
    """Convolutional network: blocks, the maximum over the map, and one placed layer for all heads together.

    A block is a 5 x 5 convolution with stride 2 (placed; a channel is a unit), batch norm and activation.

    Args:
        shape: of one input, ``(channels, height, width)``.
        layers: channels of each block.
        classes: number of classes of each task.
        activation: torch's class name.
        dim: dimensions of the space.

    Attributes:
        connections: pairs of names (source layer, target layer).
        norms: by placed layer's name, the batch norm behind it.
        activity: by placed hidden layer's name, the module whose output is the layer's activation.
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[int],
        classes: Sequence[int],
        activation: str = "ReLU",
        dim: int = 2,
    ):
        super().__init__()
        self.shape, self.layers, self.classes = tuple(shape), tuple(layers), tuple(classes)
        self.activation, self.dim = activation, dim
        blocks = range(len(self.layers))
        channels = [self.shape[0], *self.layers]
        self.conv = nn.ModuleList(
            [SpatialConv2d(channels[i], channels[i + 1], 5, 2, 2, bias=False, dim=dim) for i in blocks]
        )
        self.norm = nn.ModuleList([nn.BatchNorm2d(units) for units in self.layers])
        self.active = nn.ModuleList([ACTIVATIONS[activation]() for _ in blocks])
        self.linear = SpatialLinear(channels[-1], sum(self.classes), dim=dim)
        placed = [f"conv.{i}" for i in blocks]
        self.connections = list(pairwise([*placed, "linear"]))
        self.norms = {name: f"norm.{i}" for i, name in enumerate(placed)}
        self.activity = {name: f"active.{i}" for i, name in enumerate(placed)}

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the logits of all tasks, ``[batch, sum of classes]``."""
        x = images
        for conv, norm, active in zip(self.conv, self.norm, self.active, strict=True):
            x = active(norm(conv(x)))  # [batch, units, height, width]
        return self.linear(x.amax((2, 3)))


class DenseEnd(nn.Module):
    """What LeNet and AlexNet end in: two hidden dense layers, each behind dropout, and the heads; see there."""

    linear: nn.ModuleList
    dropout: nn.Dropout

    def build_end(
        self, features: int, layers: Sequence[int], classes: Sequence[int], *, dim: int = 2,
        prior: dict[str, Any] | None = None, batch_norm: bool = True,
    ) -> None:  # fmt: skip
        """Make the layers; the second hidden one has the prior, and the batch norm behind it."""
        before, after = layers
        self.linear = nn.ModuleList(
            [
                SpatialLinear(features, before, dim=dim),
                dense(before, after, dim=dim, prior=prior),
                SpatialLinear(after, sum(classes), dim=dim),
            ]
        )
        self.norm = nn.BatchNorm1d(after) if batch_norm else nn.Identity()
        self.active = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.connections = list(pairwise(f"linear.{index}" for index in range(3)))
        self.norms = {"linear.1": "norm"} if batch_norm else {}
        self.activity = {f"linear.{index}": f"active.{index}" for index in range(2)}

    def end(self, features: Tensor) -> Tensor:
        """``[batch, features]`` to the logits of all tasks, ``[batch, sum of classes]``."""
        x = self.active[0](self.linear[0](self.dropout(features)))
        x = self.active[1](self.norm(self.linear[1](self.dropout(x))))
        return self.linear[2](x)


class LeNet(DenseEnd):
    """LeNet with one more dense layer, on whose sheet activity is looked at: that layer has a locality prior, or not.

    Two blocks of 5 x 5 convolution (10 and 20 channels), 2 x 2 maximum and ReLU, the second with channel dropout
    before the maximum; dropout, dense layer, ReLU; dropout, the dense layer in question, batch norm, ReLU; one placed
    layer for all heads. Every dropout is of 1/2. Both hidden dense layers lie on a sheet, with the prior or (of 49
    units each) without; convolutions have no places. Images in [0, 1] are normalised here, ``(x - 0.1307) / 0.3081``.

    Args:
        shape: of one input, ``(channels, height, width)``, 16 x 16 pixels or more.
        classes: number of classes of each task.
        layers: widths of the two hidden dense layers.
        prior: arguments of :class:`spatial.locality.LocalityPriorLinear` for the second of them; None: a plain layer.
        batch_norm: whether there is one behind it.

    Attributes:
        connections: pairs of names (source layer, target layer).
        norms: by placed layer's name, the batch norm behind it.
        activity: by hidden dense layer's name, the module whose output is the layer's activation.

    Source: Sax, Locality-Prior (2017), README, "MNIST", and its code for what that leaves open.
    """

    MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels
    WIDTHS = (49, 49)

    def __init__(
        self,
        shape: Sequence[int],
        classes: Sequence[int],
        layers: Sequence[int] = WIDTHS,
        prior: dict[str, Any] | None = None,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.shape, self.layers, self.classes = tuple(shape), tuple(layers), tuple(classes)
        self.prior, self.batch_norm = prior, batch_norm
        channels, *size = self.shape
        if min(size) < SMALLEST["lenet"]:
            raise ValueError(f"images must have {SMALLEST['lenet']} x {SMALLEST['lenet']} pixels or more, got {size}")
        height, width = (((side - 4) // 2 - 4) // 2 for side in size)
        self.conv = nn.ModuleList([nn.Conv2d(channels, 10, 5), nn.Conv2d(10, 20, 5)])
        self.dropout2d, self.dropout = nn.Dropout2d(), nn.Dropout()
        self.build_end(20 * height * width, self.layers, self.classes, prior=prior, batch_norm=batch_norm)
        topology = "plane" if prior is None else self.linear[1].topology
        for layer, units, other in zip(self.linear, self.layers, reversed(self.layers), strict=False):
            if prior is not None or self.layers == self.WIDTHS:  # what was extracted keeps some places of its sheet
                layer.place_on_sheet(topology, units, other)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` in [0, 1] to the logits of all tasks, ``[batch, sum of classes]``."""
        x = (images - self.MEAN) / self.DEVIATION
        x = F.relu(F.max_pool2d(self.conv[0](x), 2))
        x = F.relu(F.max_pool2d(self.dropout2d(self.conv[1](x)), 2))  # [batch, 20, height, width]
        return self.end(x.flatten(1))


class AlexNet(DenseEnd):
    """torchvision's AlexNet, its second 4096-4096 dense layer with a locality prior or plain, a batch norm behind it.

    torchvision's convolutions and 6 x 6 average, then: dropout, dense layer, ReLU; dropout, the dense layer in
    question, batch norm, ReLU; one placed layer for all heads. Every dropout is of 1/2. Dense layers are placed: with a
    prior both hidden ones lie on its sheet, without they have places to learn. Convolutions have no places. Images in
    [0, 1] are normalised here, by ImageNet's mean and deviation (of other than 3 channels: their means over channels).

    Args:
        shape: of one input, ``(channels, height, width)``, 63 x 63 pixels or more.
        classes: number of classes of each task.
        layers: widths of the two hidden dense layers.
        dim: dimensions of the space.
        prior: arguments of :class:`spatial.locality.LocalityPriorLinear` for the second of them; None: a plain layer.
        batch_norm: whether there is one behind it.

    Attributes:
        connections: pairs of names (source layer, target layer).
        norms: by placed layer's name, the batch norm behind it.
        activity: by hidden dense layer's name, the module whose output is the layer's activation.

    Source: Krizhevsky, arXiv:1404.5997, as in torchvision; the replaced layer: Sax, Locality-Prior (2017), README,
    "ImageNet".
    """

    MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
    WIDTHS = (4096, 4096)

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        classes: Sequence[int],
        layers: Sequence[int] = WIDTHS,
        dim: int = 2,
        prior: dict[str, Any] | None = None,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.shape, self.layers, self.classes = tuple(shape), tuple(layers), tuple(classes)
        self.dim, self.prior, self.batch_norm = dim, prior, batch_norm
        channels, *size = self.shape
        if min(size) < SMALLEST["alexnet"]:
            raise ValueError(
                f"images must have {SMALLEST['alexnet']} x {SMALLEST['alexnet']} pixels or more, got {size}"
            )
        if prior is not None and dim != 2:
            raise ValueError(f"a prior's sheet has 2 dimensions, got {dim}")
        self.features, self.avgpool = _alexnet_features(channels)
        for name, values in (("mean", self.MEAN), ("deviation", self.DEVIATION)):
            each = torch.tensor(values if channels == len(values) else [sum(values) / len(values)] * channels)
            self.register_buffer(name, each.view(-1, 1, 1), persistent=False)
        self.dropout = nn.Dropout()
        self.build_end(256 * 6 * 6, self.layers, self.classes, dim=dim, prior=prior, batch_norm=batch_norm)
        if prior is not None:
            self.linear[0].place_on_sheet(self.linear[1].topology, *self.layers)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` in [0, 1] to the logits of all tasks, ``[batch, sum of classes]``."""
        x = (images - self.mean) / self.deviation
        return self.end(self.avgpool(self.features(x)).flatten(1))


def _alexnet_features(channels: int) -> tuple[nn.Module, nn.Module]:
    """torchvision's convolutions, on inputs of ``channels`` channels, and the average behind them."""
    from torchvision.models import AlexNet as Whole  # seconds to import

    with torch.device("meta"):  # its dense layers, nine tenths of it, are not asked for
        whole = Whole()
        if channels != whole.features[0].in_channels:
            whole.features[0] = nn.Conv2d(channels, 64, 11, 4, 2)
    features = whole.features.to_empty(device=torch.get_default_device())
    for module in features:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return features, whole.avgpool


MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "conv": Conv, "lenet": LeNet, "alexnet": AlexNet}
MOST_PLACED = 2**28  # numbers in the places of an input's pixels
NORMED = ("conv", "lenet", "alexnet")  # train with batch norms (unless told otherwise), which need 2 inputs a step
SMALLEST = {"lenet": 16, "alexnet": 63}  # pixels along each side of an image


def dense(before: int, after: int, *, dim: int = 2, prior: dict[str, Any] | None = None) -> Placed:
    """A placed dense layer: with a locality prior, or with places to learn."""
    return SpatialLinear(before, after, dim=dim) if prior is None else LocalityPriorLinear(before, after, **prior)


def layers_as_wide_as_before(layers: Sequence[int]) -> list[int]:
    """Indices of the hidden layers that are as wide as the one before them."""
    return [index for index, (before, after) in enumerate(pairwise(layers), 1) if before == after]


def heads(classes: Sequence[int]) -> list[slice]:
    """Each task's slice of the output layer, task-major."""
    ends = accumulate(classes, initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def parameter_count(model: nn.Module) -> int:
    """Weights, biases and batch-norm gains: what the function is made of; positions are not."""
    places = {id(place) for place in graph.positions(model).values()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in places)


def build(name: str, arguments: dict[str, Any], seed: int, outputs: str = "free") -> nn.Module:
    """A network in its start for ``seed``: weights and positions come from generators of their own.

    Args:
        name: one of ``MODELS``.
        arguments: of its constructor.
        seed: the run's seed.
        outputs: where the output units start, see :func:`spatial.positions.output_places`.
    """
    with torch.random.fork_rng(devices=[]):
        model = MODELS[name](**arguments)
    with seeded(seed, "weights"):  # again after building, which drew positions in between
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    draws = generator(seed, "positions")
    for layer in graph.placed(model).values():
        layer.reset_positions(draws)  # type: ignore[operator]
    with torch.no_grad():
        layer.positions.copy_(output_places(layer.positions, arguments["classes"], outputs))  # type: ignore[operator, arg-type]
    return model


def outline(name: str, arguments: dict[str, Any], without: Sequence[str] = ("prior",)) -> nn.Module:
    """A network of the same shapes that takes no memory, on torch's ``meta`` device; some of its arguments are None."""
    with torch.device("meta"):
        return MODELS[name](**{each: None if each in without else value for each, value in arguments.items()})


def constructor_arguments(
    name: str, options: dict[str, Any], *, shape: Sequence[int], classes: Sequence[int]
) -> dict[str, Any]:
    """Arguments of a network's constructor: those of ``options`` that it takes, by their own names."""
    prior = {
        "topology": options["locality"], "metric": options["metric"], "decay": options["decay"],
        "normalize": options["normalize"], "on": options["locality_on"],
    }  # fmt: skip
    given = options | {"shape": shape, "classes": classes, "prior": None if prior["topology"] == "none" else prior}
    read = {each: given[each] for each in inspect.signature(MODELS[name]).parameters}
    return {each: tuple(value) if isinstance(value, list) else value for each, value in read.items()}


def arguments_of(model: nn.Module) -> dict[str, Any]:
    """What the model was constructed with."""
    return {name: getattr(model, name) for name in inspect.signature(type(model)).parameters}


def pack(model: nn.Module, **extra: Any) -> dict[str, Any]:
    """What a weights file holds: plain values and tensors, enough to build the model again."""
    kind = next(name for name, known in MODELS.items() if known is type(model))
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    return {"model": kind, "arguments": arguments_of(model), "state": state, **extra}


def unpack(content: Any, path: object) -> nn.Module:
    """The model of :func:`pack`, in evaluation mode.

    Raises:
        UserError: if ``content``, read from ``path``, is not what :func:`pack` makes; memory is taken for no more than
            ``content`` holds.
    """
    try:
        kind, arguments, state = MODELS[content["model"]], content["arguments"], content["state"]
        sizes = [*arguments["shape"], *arguments["layers"], *arguments["classes"]]
        if len(sizes) > 10 + 2 * len(state) or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError("no sizes of a network with so many tensors")
        # what is made of other arguments is not saved
        wanted = outline(content["model"], arguments, without=("prior", "input_positions")).state_dict()
        if wrong := misfit(state, dict(wanted), "state"):
            raise UserError(f"{path}: not a network of this program: {wrong}")
        if arguments.get("input_positions") and math.prod(arguments["shape"]) * arguments["dim"] > MOST_PLACED:
            raise UserError(f"{path}: its pixels have too many places")
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise UserError(f"{path}: holds numbers that are not finite")
        model = kind(**arguments)
        model.load_state_dict(state)
        model.path = str(path)  # type: ignore[assignment]
    except UserError:
        raise
    except Exception as error:  # what is no network makes torch raise almost anything
        raise UserError(f"{path}: not a network of this program ({type(error).__name__})") from error
    return model.eval()


def endless(model: nn.Module, what: str) -> UserError:
    """A mistake of a network whose numbers are finite, and too large to compute with."""
    return UserError(f"{getattr(model, 'path', 'the network')}: {what} is not finite, its numbers are too large")


def misfit(found: Any, wanted: Any, name: str) -> str:
    """What of ``found`` has not the form of ``wanted``, in words; empty where all has.

    A tensor is of the same type and shape, without NaN; a float is finite, or NaN where that is wanted; dictionaries
    have the same keys, lists and tuples the same length; everything else is equal.
    """
    if type(found) is not type(wanted):
        return f"{name} should be of type {type(wanted).__name__}"
    if isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{name} should hold {reprlib.repr([*wanted])}"
        inner = ((found[key], each, f"{name} {key}") for key, each in wanted.items())
    elif isinstance(wanted, list | tuple):
        if len(found) != len(wanted):
            return f"{name} should hold {len(wanted):,}, got {len(found):,}"
        inner = ((one, each, f"{name} {index}") for index, (one, each) in enumerate(zip(found, wanted, strict=True)))
    elif isinstance(wanted, Tensor):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return f"{name} should be {wanted.dtype} of the shape {list(wanted.shape)}"
        return f"{name} holds NaN" if found.isnan().any() else ""
    elif isinstance(wanted, float):
        fits = math.isfinite(found) or (math.isnan(found) and math.isnan(wanted))
        return "" if fits else f"{name} should be a number, got {found}"
    else:
        return "" if found == wanted else f"{name} should be {wanted!r}"
    return next((words for each in inner if (words := misfit(*each))), "")
