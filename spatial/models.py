"""The networks. Each states its placed layers' connections, and where its units' activity can be read."""

import inspect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from spatial import graph
from spatial.errors import UserError
from spatial.layers import SpatialConv2d, SpatialLinear
from spatial.positions import output_places, pixel_grid
from spatial.seeds import derive, generator

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
    ):
        super().__init__()
        self.shape, self.layers, self.classes = tuple(shape), tuple(layers), tuple(classes)
        self.activation, self.dim, self.input_positions = activation, dim, input_positions
        widths = [int(torch.Size(self.shape).numel()), *self.layers, sum(self.classes)]
        self.linear = nn.ModuleList([SpatialLinear(before, after, dim=dim) for before, after in pairwise(widths)])
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


MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "conv": Conv}
NORMED = ("conv",)  # train with batch norms, which need 2 inputs a step


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
        torch.manual_seed(derive(seed, "weights"))  # again after building, which drew positions in between
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    draws = generator(seed, "positions")
    for layer in graph.placed(model).values():
        layer.reset_positions(draws)  # type: ignore[operator]
    with torch.no_grad():
        layer.positions.copy_(output_places(layer.positions, arguments["classes"], outputs))  # type: ignore[operator, arg-type]
    return model


def constructor_arguments(
    name: str, options: dict[str, Any], *, shape: Sequence[int], classes: Sequence[int]
) -> dict[str, Any]:
    """Arguments of a network's constructor: those of ``options`` that it takes, by their own names."""
    given = options | {"shape": shape, "classes": classes}
    read = {each: given[each] for each in inspect.signature(MODELS[name]).parameters}
    return {each: tuple(value) if isinstance(value, list) else value for each, value in read.items()}


def arguments_of(model: nn.Module) -> dict[str, Any]:
    """What the model was constructed with."""
    return {name: getattr(model, name) for name in inspect.signature(type(model)).parameters}


def pack(model: nn.Module, **extra: Any) -> dict[str, Any]:
    """What a weights file holds: plain values and tensors, enough to build the model again."""
    kind = next(name for name, known in MODELS.items() if known is type(model))
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    return {"model": kind, "arguments": arguments_of(model), "state": state, **extra}


def unpack(content: Any, path: object) -> nn.Module:
    """The model of :func:`pack`, in evaluation mode.

    Raises:
        UserError: if ``content``, read from ``path``, is not what :func:`pack` makes.
    """
    try:
        model = MODELS[content["model"]](**content["arguments"])
        model.load_state_dict(content["state"])
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: not a network of this program ({type(error).__name__})") from error
    return model.eval()
