"""A model's placed layers and the connections between them: all that costs, splits and figures read.

A layer is *placed* when it has ``positions``. A *connection* says that the units of one placed layer feed another.
Units are the rows of ``positions``; one unit may hold several features of the layer it feeds (a flattened channel).
"""

from typing import NamedTuple

from torch import Tensor, nn


class Connection(NamedTuple):
    """Names of two placed layers, as in ``model.named_modules()``."""

    source: str
    target: str


def placed(model: nn.Module) -> dict[str, nn.Module]:
    """The placed layers by name, from the input to the output layer, which is the last."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "positions")}


def positions(model: nn.Module) -> dict[str, Tensor]:
    """The places of every placed layer's units, ``[units, dim]``, by the layer's name."""
    return {name: layer.get_parameter("positions") for name, layer in placed(model).items()}


def connections(model: nn.Module) -> list[Connection]:
    """The connections between placed layers; the networks of ``spatial.models`` state their own."""
    return [Connection(*pair) for pair in model.connections]  # type: ignore[union-attr]


def weight(model: nn.Module, connection: Connection) -> Tensor:
    """The weights of a connection, ``[out units, in units, weights per pair]``."""
    layers = placed(model)
    matrix = layers[connection.target].get_parameter("weight")
    return matrix.unflatten(1, (len(layers[connection.source].get_parameter("positions")), -1))


def charged(model: nn.Module, where: list[int] | None = None) -> list[Connection]:
    """The connections into the placed layers whose indices are in ``where``; None means all."""
    names = list(placed(model))
    chosen = set(names if where is None else [names[index] for index in where])
    return [connection for connection in connections(model) if connection.target in chosen]


def outgoing(model: nn.Module) -> dict[str, Tensor]:
    """``sum |w|`` over all the weights that read a unit, ``[units]``, for every layer that feeds another."""
    sums: dict[str, Tensor] = {}
    for connection in connections(model):
        total = weight(model, connection).detach().abs().sum((0, 2))
        sums[connection.source] = sums.get(connection.source, 0) + total
    return sums
