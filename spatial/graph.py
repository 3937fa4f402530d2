"""A model's placed layers and the connections between them: all that costs, splits and figures read.

A layer is *placed* when it has ``positions``. A *connection* says that the units of one placed layer feed another.
Units are the rows of ``positions``, a channel of a convolution is one; one unit may hold several features of the layer
it feeds (a flattened channel). Where a batch norm follows a layer (the model's ``norms`` says so), everything reads the
*folded* weight ``w gamma / sqrt(running_var + eps)``: the function does not change when ``w`` shrinks, nor may a cost.
So too with a locality prior: ``P w`` is what joins two units.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

INPUT = "input"  # the network's input as a source, where its pixels have places


class Connection(NamedTuple):
    """Names of two placed layers, as in ``model.named_modules()``; the source may be ``INPUT``."""

    source: str
    target: str


def placed(model: nn.Module) -> dict[str, nn.Module]:
    """The placed layers by name, from the first to the output layer, which is the last."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "positions")}


def positions(model: nn.Module) -> dict[str, Tensor]:
    """The places of every placed layer's units, ``[units, dim]``, by the layer's name."""
    return {name: layer.positions for name, layer in placed(model).items()}  # type: ignore[misc]


def on_sheet(model: nn.Module) -> list[str]:
    """The placed layers whose units lie on a line or a plane: their places are never learned."""
    return [name for name, layer in placed(model).items() if getattr(layer, "on_sheet", False)]


def places(model: nn.Module) -> dict[str, Tensor]:
    """:func:`positions`, and those of the input's pixels under ``INPUT`` where they have any."""
    pixels = getattr(model, "input_places", None)
    return positions(model) | ({} if pixels is None else {INPUT: pixels})


def connections(model: nn.Module) -> list[Connection]:
    """The connections between placed layers; the networks of ``spatial.models`` state their own."""
    return [Connection(*pair) for pair in model.connections]  # type: ignore[union-attr]


def norm(model: nn.Module, layer: str) -> nn.Module | None:
    """The batch norm right behind a placed layer, if there is one."""
    name = getattr(model, "norms", {}).get(layer)
    return None if name is None else model.get_submodule(name)


def weight(model: nn.Module, connection: Connection) -> Tensor:
    """The folded weights of a connection, ``[out units, in units, weights per pair]``.

    The variance is detached. A grouped convolution has zeros where its groups join nothing.
    """
    matrix = reader(model, connection)()
    return matrix.unsqueeze(2) if matrix.ndim == 2 else matrix


def reader(model: nn.Module, connection: Connection) -> Callable[[], Tensor]:
    """What gives a connection's :func:`weight` again and again, the model's parts looked up once.

    Where one weight joins every pair it is ``[out units, in units]``, the layer's own matrix if nothing is folded.
    """
    layer, after = model.get_submodule(connection.target), norm(model, connection.target)
    groups = _groups(layer)
    units = len(places(model)[connection.source])

    def read() -> Tensor:
        matrix = effective(layer)[0]
        if after is not None:
            gain = after.weight / torch.sqrt(after.running_var + after.eps)  # type: ignore[operator, arg-type]
            matrix = matrix * gain.view(-1, *[1] * (matrix.ndim - 1))
        if matrix.ndim == 2 and matrix.shape[1] == units:
            return matrix
        matrix = matrix.flatten(2) if matrix.ndim > 2 else matrix.unsqueeze(2)  # [out, features of a group, taps]
        if groups > 1:
            own = torch.eye(groups, device=matrix.device, dtype=matrix.dtype)
            blocks = matrix.unflatten(0, (groups, -1)).unsqueeze(2)  # [groups, out, 1, features, taps]
            matrix = (own[:, None, :, None, None] * blocks).flatten(2, 3).flatten(0, 1)
        return matrix.reshape(len(matrix), units, -1)

    return read


def effective(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the plain layer that computes the same as a layer with a locality prior, or as itself."""
    if callable(own := getattr(layer, "effective", None)):
        return own()
    return layer.weight, layer.bias  # type: ignore[return-value]


def density(model: nn.Module, connection: Connection) -> float:
    """The share of a connection's pairs of units that can be joined: 1, or 1 / groups of a grouped convolution."""
    return 1 / _groups(model.get_submodule(connection.target))


def charged(model: nn.Module, where: list[int] | None = None) -> list[Connection]:
    """The connections into the placed layers whose indices are in ``where``; None means all."""
    names = list(placed(model))
    chosen = set(names if where is None else [names[index] for index in where])
    return [connection for connection in connections(model) if connection.target in chosen]


def outgoing(model: nn.Module) -> dict[str, Tensor]:
    """``sum |w|`` over all the weights that read a unit, ``[units]``, for every placed layer that feeds another."""
    sums: dict[str, Tensor] = {}
    for connection in connections(model):
        if connection.source != INPUT:
            total = weight(model, connection).detach().abs().sum((0, 2))
            sums[connection.source] = sums.get(connection.source, 0) + total
    return sums


@torch.no_grad()
def remove(model: nn.Module, layer: str, gone: Tensor) -> None:
    """Zero, in place, what makes the units ``gone`` (``[units]``, bool): weights, bias and batch-norm entries."""
    module, after = model.get_submodule(layer), norm(model, layer)
    for owner in (module, after):
        for name in ("weight", "bias"):
            if (values := getattr(owner, name, None)) is not None:
                values[gone] = 0
    if after is not None:
        after.get_buffer("running_mean")[gone] = 0
        after.get_buffer("running_var")[gone] = 1


@torch.no_grad()
def scale(model: nn.Module, connection: Connection, factors: Tensor) -> None:
    """Multiply, in place, the weights that read each source unit by its factor (``[units]``)."""
    layer = model.get_submodule(connection.target)
    matrix, groups = layer.get_parameter("weight"), _groups(layer)
    features = spread(factors, matrix.shape[1] * groups).view(groups, 1, -1)
    matrix.unflatten(0, (groups, -1)).mul_(features.view(*features.shape, *[1] * (matrix.ndim - 2)))


def spread(values: Tensor, features: int) -> Tensor:
    """Values of units as values of the features that hold them: a flattened channel's are side by side."""
    return values.repeat_interleave(features // len(values))


def _groups(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)
