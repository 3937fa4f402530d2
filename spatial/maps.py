"""Activation maps: what a layer does at once, seen on the sheet that its units lie on, and how far that spreads."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spatial import graph
from spatial.metrics import plain
from spatial.positions import SHEETS, is_square
from spatial.recording import watching
from spatial.tasks import Tasks


def spatial_variance(maps: Tensor, places: Tensor) -> Tensor:
    """How far an activation map spreads over its sheet: ``sum_u a_u |p_u - m|^2 / (1 - sum_u a_u^2)``.

    ``a`` is the map divided by its sum, ``m`` its centre of mass. It is half the mean squared distance of two units
    drawn from the map, one after the other, that are not the same.

    Args:
        maps: activations >= 0, ``[images, units]``.
        places: of the units, ``[units, dim]``, in units of the sheet's spacing.

    Returns:
        ``[images]``, float64, >= 0, in squared units of length: 0 for a map of one unit, NaN for an all-zero map, 8.167
        for a uniform map of 7 x 7.

    Raises:
        ValueError: if the shapes do not fit or an activation is negative.

    Source: the variance of Sax, Locality-Prior (2017), README, "Analysis", over distinct units.

    >>> spatial_variance(torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([2.], dtype=torch.float64)
    """
    if maps.ndim != 2 or places.ndim != 2 or maps.shape[1] != len(places):
        raise ValueError(
            f"maps must be [images, units], places [units, dim], got {list(maps.shape)}, {list(places.shape)}"
        )
    if (maps < 0).any():
        raise ValueError("a map must not be negative")
    return shuffled_variance(maps, places, torch.arange(len(places))[None])[:, 0]


def shuffled_variance(maps: Tensor, places: Tensor, orders: Tensor) -> Tensor:
    """:func:`spatial_variance` of every map after its units have changed places: what a map would have by chance.

    Args:
        maps, places: as there.
        orders: permutations of the units, ``[shuffles, units]``: unit u sits at ``places[orders[k, u]]``.

    Returns:
        ``[images, shuffles]``.
    """
    a, p = plain(maps), plain(places)
    a = a / a.sum(1, keepdim=True)  # NaN for an empty map
    sheets = (p - p.mean(0))[orders.cpu()]  # [shuffles, units, dim]
    squares = a @ sheets.square().sum(2).T  # [images, shuffles]
    spread = squares - sum((a @ coordinate.T).square() for coordinate in sheets.unbind(2))
    apart = (a * (1 - a)).sum(1, keepdim=True)
    return torch.where(apart == 0, 0.0, spread.clamp(min=0) / apart)


def uniform_variance(units: int, sheet: str) -> float:
    """The spatial variance of a map that is the same everywhere: 8.167 on a plane of 49."""
    return spatial_variance(torch.ones(1, units), SHEETS[sheet].places(units, None)).item()


def maps_of(model: nn.Module, charged: bool = False) -> list[str]:
    """The hidden layers whose activation is a map on a sheet.

    They are those that lie on one; else, in a network without any cost, whose places nothing has read, the dense ones
    whose width is a square number: their units can be laid out in their order, as the control of those.
    """
    widths = {layer: len(place) for layer, place in list(graph.positions(model).items())[:-1]}
    fixed = [layer for layer in graph.on_sheet(model) if layer in widths]
    if fixed or charged:
        return fixed
    dense = [layer for layer in widths if isinstance(model.get_submodule(layer), nn.Linear)]
    return [layer for layer in dense if widths[layer] > 1 and is_square(widths[layer])]


def variances(model: nn.Module, tasks: Tasks, layers: Sequence[str], batch_size: int = 500) -> dict[str, np.ndarray]:
    """:func:`spatial_variance` of every input's map of |activation|, in the order of scoring.

    Args:
        layers: hidden layers' names, see :func:`maps_of`.

    Returns:
        ``layer-l/plane``, where the width is a square number, and ``layer-l/line``, ``[inputs]`` each, NaN for an empty
        map: a unit's place is its index's on a sheet of unit spacing.
    """
    sheets: dict[str, dict[str, Tensor]] = {}  # by layer and array: places
    for index, (layer, own) in enumerate(graph.positions(model).items()):
        kinds = [kind for kind in SHEETS if kind == "line" or is_square(len(own))] if layer in layers else []
        sheets[layer] = {f"layer-{index}/{kind}": SHEETS[kind].places(len(own), None) for kind in kinds}
    found: dict[str, list[Tensor]] = {name: [] for places in sheets.values() for name in places}

    def receive(layer: str, activation: Tensor) -> None:
        for name, places in sheets[layer].items():
            found[name].append(spatial_variance(activation.abs(), places))

    model.to(tasks.device).eval()
    with watching(model, receive), torch.inference_mode():
        for batch in tasks.batches(tasks.scoring_order(), batch_size):
            model(batch.images)
    return {name: torch.cat(each).numpy() for name, each in found.items()}
