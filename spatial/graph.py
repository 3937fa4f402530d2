"""A model's placed layers and the connections between them: all that costs, splits and figures read.

A layer is *placed* when it has ``positions``. A *connection* says that the units of one placed layer feed another.
Units are the rows of ``positions``, a channel of a convolution is one; one unit may hold several features of the layer
it feeds (a flattened channel). Where a batch norm follows a layer (the model's ``norms`` says so), everything reads the
*folded* weight ``w gamma / sqrt(running_var + eps)``: the function does not change when ``w`` shrinks, nor may a cost.
So too with a locality prior: ``P w`` is what joins two units.

The networks of ``spatial.models`` state their ``connections`` and ``norms``; of any other a
:class:`spatial.sheet.Sheet` knows them, and stands here in the network's place.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spatial.positions import output_groups

INPUT = "input"  # the network's input as a source, where its pixels have places


class Connection(NamedTuple):
    """Names of two placed layers, as in ``model.named_modules()``; the source may be ``INPUT``."""

    source: str
    target: str


def placed(model: nn.Module) -> dict[str, nn.Module]:
    """The placed layers by name, from the first to the output layer, which is the last."""
    if isinstance(sheet := getattr(model, "layers_by_name", None), dict):
        return sheet
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


def network(model: nn.Module) -> nn.Module:
    """The network whose layers have places: that which a sheet lies beside, or the model itself."""
    return getattr(model, "network", model)


def norm(model: nn.Module, layer: str) -> nn.Module | None:
    """The batch norm right behind a placed layer, if there is one."""
    name = getattr(model, "norms", {}).get(layer)
    return None if name is None else network(model).get_submodule(name)


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
    layer, after = placed(model)[connection.target], norm(model, connection.target)
    groups = _groups(layer)
    units = len(places(model)[connection.source])
    held = features(model, connection)
    columns = None if held is None or _side_by_side(held, units) else _columns(held, units)

    def read() -> Tensor:
        matrix = effective(layer)[0]
        if after is not None:
            gamma = 1.0 if after.weight is None else after.weight
            gain = gamma / torch.sqrt(after.running_var + after.eps)  # type: ignore[operator, arg-type]
            matrix = matrix * gain.view(-1, *[1] * (matrix.ndim - 1))
        if matrix.ndim == 2 and matrix.shape[1] == units and columns is None:
            return matrix
        matrix = matrix.flatten(2) if matrix.ndim > 2 else matrix.unsqueeze(2)  # [out, features of a group, taps]
        if groups > 1:
            own = torch.eye(groups, device=matrix.device, dtype=matrix.dtype)
            blocks = matrix.unflatten(0, (groups, -1)).unsqueeze(2)  # [groups, out, 1, features, taps]
            matrix = (own[:, None, :, None, None] * blocks).flatten(2, 3).flatten(0, 1)
        if columns is not None:
            nothing = matrix.new_zeros(len(matrix), 1, matrix.shape[2])  # what a unit's missing features point to
            matrix = torch.cat([matrix, nothing], 1)[:, columns.to(matrix.device)]
        return matrix.reshape(len(matrix), units, -1)

    return read


def effective(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the plain layer that computes the same as a layer with a locality prior, or as itself."""
    if callable(own := getattr(layer, "effective", None)):
        return own()
    return layer.weight, layer.bias  # type: ignore[return-value]


def features(model: nn.Module, connection: Connection) -> Tensor | None:
    """Which unit of the source each feature is that the target reads, ``[features]``, -1 for those of other sources.

    None where they are the source's alone, each unit's side by side.
    """
    return getattr(model, "wiring", {}).get(connection)


def density(model: nn.Module, connection: Connection) -> float:
    """The share of a connection's pairs of units that can be joined: 1, or 1 / groups of a grouped convolution.

    Less where the target does not read all units of the source.
    """
    groups, held = _groups(placed(model)[connection.target]), features(model, connection)
    if held is None:
        return 1 / groups
    joined = [len(group[group >= 0].unique()) for group in held.view(groups, -1)]
    return sum(joined) / (groups * len(places(model)[connection.source]))


def outputs(model: nn.Module) -> dict[str, Tensor]:
    """The task of every output, ``[units]``, by the name of the layer that it is in: the last, unless it is stated."""
    stated = getattr(model, "heads", None)
    if isinstance(stated, dict):
        return stated
    return {list(placed(model))[-1]: output_groups(model.classes)}  # type: ignore[arg-type]


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
    module, after = placed(model)[layer], norm(model, layer)
    for owner in (module, after):
        for name in ("weight", "bias"):
            if (values := getattr(owner, name, None)) is not None:
                values[gone] = 0
    if after is not None:
        after.get_buffer("running_mean")[gone] = 0
        after.get_buffer("running_var")[gone] = 1


@torch.no_grad()
def scale(model: nn.Module, connection: Connection, factors: Tensor) -> None:
    """Multiply, in place, the weights that read each source unit by its factor (``[units]``).

    Features that other sources feed as well stay as they are.
    """
    layer = placed(model)[connection.target]
    matrix, groups = cast(Tensor, layer.weight), _groups(layer)
    held = features(model, connection)
    if held is None:
        each = spread(factors, matrix.shape[1] * groups)
    else:
        own = (held >= 0) & ~shared(model, connection)
        each = torch.where(own.to(factors.device), factors[held.clamp(min=0)], 1)
    each = each.view(groups, 1, -1)
    matrix.unflatten(0, (groups, -1)).mul_(each.view(*each.shape, *[1] * (matrix.ndim - 2)))


def shared(model: nn.Module, connection: Connection) -> Tensor:
    """Which features of a connection, ``[features]``, other connections feed as well (after a sum of two layers)."""
    others = [
        held >= 0
        for edge in connections(model)
        if edge.target == connection.target and edge != connection and (held := features(model, edge)) is not None
    ]
    held = features(model, connection)
    return torch.stack([torch.zeros(0 if held is None else len(held), dtype=torch.bool), *others]).any(0)


def spread(values: Tensor, features: int) -> Tensor:
    """Values of units as values of the features that hold them: a flattened channel's are side by side."""
    return values.repeat_interleave(features // len(values))


def _side_by_side(held: Tensor, units: int) -> bool:
    """Whether every unit has as many features, one after the other: they need not be gathered."""
    return len(held) % units == 0 and torch.equal(held, spread(torch.arange(units), len(held)))


def _columns(held: Tensor, units: int) -> Tensor:
    """The features of every unit, ``[units, most]``; where a unit has fewer, the number of all."""
    own = [(held == unit).nonzero().flatten() for unit in range(units)]
    filled = held.new_full((units, max(map(len, own))), len(held))
    for unit, each in enumerate(own):
        filled[unit, : len(each)] = each
    return filled


def _groups(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)
