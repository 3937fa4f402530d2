"""The networks. Each states its placed layers' connections, and where its units' activity can be read."""

import inspect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from spatial import graph
from spatial.errors import UserError
from spatial.layers import SpatialLinear
from spatial.positions import output_places, random_places
from spatial.seeds import derive, generator

ACTIVATIONS = {"ReLU": nn.ReLU, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "GELU": nn.GELU}


class MLP(nn.Module):
    """Fully connected network with one placed layer per hidden layer and one for all heads together.

    Args:
        shape: of one input, ``(channels, height, width)``.
        layers: widths of the hidden layers.
        classes: number of classes of each task.
        activation: after every hidden layer, torch's class name.
        dim: dimensions of the space.

    Attributes:
        connections: pairs of names (source layer, target layer).
        activity: by hidden layer's name, the module whose output is the layer's activation.
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
        widths = [int(torch.Size(self.shape).numel()), *self.layers, sum(self.classes)]
        self.linear = nn.ModuleList([SpatialLinear(before, after, dim=dim) for before, after in pairwise(widths)])
        self.active = nn.ModuleList([ACTIVATIONS[activation]() for _ in self.layers])
        self.connections = list(pairwise(f"linear.{index}" for index in range(len(self.linear))))
        self.activity = {f"linear.{index}": f"active.{index}" for index in range(len(self.active))}

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the logits of all tasks, ``[batch, sum of classes]``."""
        x = images.flatten(1)
        for linear, active in zip(self.linear, self.active, strict=False):
            x = active(linear(x))
        return self.linear[-1](x)


MODELS: dict[str, type[nn.Module]] = {"mlp": MLP}


def heads(classes: Sequence[int]) -> list[slice]:
    """Each task's slice of the output layer, task-major."""
    ends = accumulate(classes, initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def output_tasks(classes: Sequence[int]) -> Tensor:
    """The task of every output unit, ``[sum of classes]``."""
    return torch.arange(len(classes)).repeat_interleave(torch.tensor(classes))


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
    places = list(graph.positions(model).values())
    with torch.no_grad():
        for layer in places:
            layer.copy_(random_places(len(layer), layer.shape[1], draws))
        places[-1].copy_(output_places(places[-1], arguments["classes"], outputs))
    return model


def pack(model: nn.Module, **extra: Any) -> dict[str, Any]:
    """What a weights file holds: plain values and tensors, enough to build the model again."""
    names = inspect.signature(type(model)).parameters
    kind = next(name for name, known in MODELS.items() if known is type(model))
    arguments = {name: getattr(model, name) for name in names}
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    return {"model": kind, "arguments": arguments, "state": state, **extra}


def unpack(content: Any, path: object) -> nn.Module:
    """The model of :func:`pack`, in evaluation mode.

    Raises:
        UserError: if ``content``, read from ``path``, is not what :func:`pack` makes.
    """
    try:
        model = MODELS[content["model"]](**content["arguments"])
        model.load_state_dict(content["state"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: not a network of this program ({type(error).__name__})") from error
    return model.eval()
