"""What places cost: long wires (transport) and crowded neurons (proximity).

Worked example: two neurons at (0, 0) and (0, 2) read one neuron at (0, 1) by the weights 3 and -1. Both wires have
length 1, so the transport cost with norm ``l1`` is (3 * 1 + 1 * 1) / 2 = 2; the two readers crowd each other with
exp(-2) = 0.1353.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spatial import graph, kernels
from spatial.kernels import Plan, Wire
from spatial.positions import output_places, random_places
from spatial.progress import shown
from spatial.seeds import generator

NORMS = kernels.PHI
PER = kernels.PER
RELAXING: dict[str, Any] = {"norm": "l1", "per": "neuron", "transport": 3.0, "proximity": 10.0, "steps": 300}
STARTS = {  # of `relax_from`
    "place": "relaxed from where training left them",
    "random": "relaxed from a random start",
    "held": "relaxed from a random start, the outputs held at their tasks' places",
}


class Costs(NamedTuple):
    """What the places of a model cost: scalars, 0 where nothing is charged."""

    transport: Tensor
    proximity: Tensor


def transport(weight: Tensor, target: Tensor, source: Tensor, norm: str = "l2", per: str = "connection") -> Tensor:
    """Wiring of one connection: long wires with large weights are expensive.

    With ``phi(w) = |w|`` (``l1``) or ``w^2`` (``l2``), ``phi_ji`` its sum over the weights that join unit i to unit j,
    and ``d_ji`` their distance,

    * ``per="connection"``: ``T = mean over (j, i) of d_ji phi_ji``;
    * ``per="neuron"``:
      ``T = 1/2 [mean_j (sum_i phi_ji d_ji / sum_i phi_ji) + mean_i (sum_j phi_ji d_ji / sum_j phi_ji)]``,
      the mean wire length of a neuron, which does not change when all weights shrink; a unit whose weights are all
      zero contributes 0.

    Args:
        weight: ``[out, in, ...]``; further axes are the weights that join the same two units (a kernel's taps).
        target: places of the units that read, ``[out, dim]``.
        source: places of the units that are read, ``[in, dim]``.
        norm: ``l1`` or ``l2``.
        per: ``connection`` or ``neuron``.

    Returns:
        Scalar >= 0, computed in float32 or wider; in units of length times ``phi`` (``connection``) or of length
        (``neuron``).

    Raises:
        ValueError: if the shapes do not fit or a name is unknown.

    Source: arXiv:1910.02776, transport cost (``connection``, ``l2`` in its code); ``neuron`` is this program's.

    >>> reader, read = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    >>> transport(torch.tensor([[3.0], [-1.0]]), reader, read, norm="l1").item()
    2.0
    """
    if norm not in NORMS or per not in PER:
        raise ValueError(
            f"norm must be one of {', '.join(NORMS)} and per of {', '.join(PER)}, got {norm!r} and {per!r}"
        )
    shapes_fit = weight.ndim >= 2 and target.ndim == source.ndim == 2 and target.shape[1] == source.shape[1]
    if not shapes_fit or weight.shape[:2] != (len(target), len(source)):
        raise ValueError(
            f"weight must be [out, in, ...] with target [out, dim] and source [in, dim], "
            f"got {list(weight.shape)}, {list(target.shape)} and {list(source.shape)}"
        )
    if weight.numel() == 0:
        return weight.sum() * 0.0
    part = 1 / (len(target) * len(source)) if per == "connection" else 1.0
    tensors = [weight.flatten(2) if weight.ndim > 3 else weight, target, source]
    return _apply(Plan((Wire(part, 0, 1, 2),), (), norm, per), tensors).transport


def proximity(positions: Tensor) -> Tensor:
    """Crowding of one layer: ``P = mean over pairs j != k of exp(-d(p_j, p_k))``.

    Args:
        positions: one row per neuron, ``[n, dim]``; standard normal at the start, so lengths are in its deviations.

    Returns:
        Scalar in [0, 1], in float32 or wider: 1 where all neurons coincide, towards 0 as they spread; 0 for a single
        neuron.

    Raises:
        ValueError: if ``positions`` is not ``[n, dim]``.

    Source: arXiv:1910.02776, proximity cost. The seed's code averages over j == k too: ``(n-1)/n P + 1/n``.

    >>> round(proximity(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).item(), 4)
    0.0067
    """
    if positions.ndim != 2:
        raise ValueError(f"positions must be [n, dim], got {list(positions.shape)}")
    if len(positions) < 2:
        return positions.sum() * 0.0
    return _apply(Plan((), (0,)), [positions]).proximity


class ModelCosts:
    """``T`` and ``P`` of a model, both of all layers in one call: what :func:`model_costs` computes, step after step.

    Args:
        model, where, norm, per, transport, proximity: as :func:`model_costs`'s.
        compute: stands in for :func:`spatial.kernels.compute`; see :func:`spatial.kernels.compiled`.
    """

    def __init__(
        self,
        model: nn.Module,
        where: list[int] | None = None,
        norm: str = "l2",
        per: str = "connection",
        *,
        transport: bool = True,
        proximity: bool = True,
        compute: kernels.Compute | None = None,
    ):
        self.model = model
        edges = graph.charged(model, where) if transport else []
        layers = list(graph.positions(model))
        crowds = [] if not proximity else layers if where is None else [layers[index] for index in where]
        read = {name for edge in edges for name in edge} | set(crowds)
        self.weights = [graph.reader(model, edge) for edge in edges]
        self.layers = [layer for name, layer in graph.placed(model).items() if name in read]
        self.pixels = graph.INPUT in read
        at = {name: index for index, name in enumerate([each for each in [*layers, graph.INPUT] if each in read])}
        units = {name: len(place) for name, place in graph.places(model).items()}
        parts = [
            1 / (units[edge.target] * units[edge.source] * graph.density(model, edge)) if per == "connection" else 1.0
            for edge in edges
        ]
        self.plan = Plan(
            tuple(
                Wire(part / len(edges), index, len(edges) + at[edge.target], len(edges) + at[edge.source])
                for index, (part, edge) in enumerate(zip(parts, edges, strict=True))
            ),
            tuple(len(edges) + at[name] for name in crowds),
            norm,
            per,
            compute,
        )

    def __call__(self) -> Costs:
        weights = [read() for read in self.weights]
        places = [layer.positions for layer in self.layers]
        if self.pixels:
            places.append(self.model.input_places)
        return _apply(self.plan, [*weights, *places])  # type: ignore[list-item]


def model_costs(
    model: nn.Module,
    where: list[int] | None = None,
    norm: str = "l2",
    per: str = "connection",
) -> Costs:
    """``T`` and ``P`` of a model.

    ``T`` is the mean of :func:`transport` over the connections into the layers of ``where`` (None: all), ``P`` the mean
    of :func:`proximity` over those layers. Weights are folded into the batch norm behind them; per connection the mean
    is over the pairs that can be joined (within a group, for grouped convolutions). To autograd the gradients are
    constants: a gradient of a gradient is 0.
    """
    return ModelCosts(model, where, norm, per)()


def _apply(plan: Plan, tensors: Sequence[Tensor]) -> Costs:
    """The plan's costs in the tensors' widest type, float32 or wider: sums lose too much in half precision."""
    if not plan.wires and not plan.crowds:
        return Costs(torch.zeros(()), torch.zeros(()))
    wide = reduce(torch.promote_types, {tensor.dtype for tensor in tensors}, torch.float32)
    needs = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors)
    return Costs(*kernels.OnePass.apply(plan, False, needs, *(tensor.to(wide) for tensor in tensors))[:2])


def model_weight_penalty(model: nn.Module, where: list[int] | None = None, norm: str = "l2") -> Tensor:
    """``W``: ``T`` per connection with every distance 1, ``mean over (j, i) of phi_ji``: the control without space."""
    terms = []
    for edge in graph.charged(model, where):
        weight = graph.weight(model, edge)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        terms.append(kernels.sizes(wide, norm).mean() / graph.density(model, edge))
    return torch.stack(terms).mean() if terms else torch.zeros(())


def scattered(model: nn.Module, draws: torch.Generator) -> nn.Module:
    """A copy of ``model``, its neurons at random places (:func:`spatial.positions.random_places`) unless on a sheet."""
    copy = deepcopy(model)
    fixed = graph.on_sheet(copy)
    with torch.no_grad():
        for layer, place in graph.positions(copy).items():
            drawn = random_places(len(place), place.shape[1], draws)
            if layer not in fixed:
                place.copy_(drawn)
    return copy


def relax_from(model: nn.Module, start: str, seed: int) -> nn.Module:
    """:func:`relax` with ``RELAXING``, the same for every network, so that networks can be compared.

    Args:
        model: a network of :mod:`spatial.models`.
        start: one of ``STARTS``. ``place``: where the neurons are; ``random``: drawn anew, the outputs too; ``held``:
            drawn anew, and every task's outputs stay around a place of its own.
        seed: of the draw.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    if start == "place":
        return relax(model, **RELAXING)
    moved = scattered(model, generator(seed, "relax"))
    if start == "random":
        return relax(moved, **RELAXING)
    output, place = list(graph.positions(moved).items())[-1]
    with torch.no_grad():
        place.copy_(output_places(place, model.classes, start))  # type: ignore[arg-type]
    return relax(moved, held=[output], **RELAXING)


def relax(
    model: nn.Module,
    *,
    transport: float = 1.0,
    proximity: float = 1.0,
    norm: str = "l2",
    per: str = "connection",
    where: list[int] | None = None,
    held: Sequence[str] = (),
    steps: int = 300,
    lr: float = 0.05,
) -> nn.Module:
    """A copy of ``model`` whose neurons have moved: ``transport * T + proximity * P`` lowered, the weights frozen.

    Layers on a sheet stay where they are. It shows what is in the weights, also of a network trained without costs.

    Args:
        model: with placed layers; positions start where they are.
        transport: strength of :func:`model_costs`'s ``T``.
        proximity: strength of its ``P``; a large one unstacks neurons that share a place.
        norm: ``l1`` or ``l2``.
        per: ``connection`` or ``neuron``.
        where: indices of the layers to charge; None means all.
        held: names of placed layers that stay where they are.
        steps: of Adam.
        lr: its learning rate, falling linearly to 0 over the second half.
    """
    relaxed = deepcopy(model).requires_grad_(False)
    trained = [weight for weight in graph.network(relaxed).parameters() if weight.requires_grad]  # beside a sheet
    for weight in trained:
        weight.requires_grad_(False)
    fixed = graph.on_sheet(relaxed)
    moving = [place.requires_grad_() for name, place in graph.positions(relaxed).items() if name not in {*held, *fixed}]
    costs = ModelCosts(relaxed, where, norm, per)
    adam = torch.optim.Adam([{"params": moving}], lr=lr)
    slower = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, 2 - 2 * step / max(steps, 1)))
    with torch.enable_grad():
        for _ in shown("relaxing", iterable=range(steps)):
            adam.zero_grad()
            wires, crowd = costs()
            cost = transport * wires + proximity * crowd
            if not cost.requires_grad:  # nothing that is charged can move
                break
            cost.backward()
            adam.step()
            slower.step()
    on_sheet = {id(place) for name, place in graph.positions(relaxed).items() if name in fixed}
    for parameter in (*relaxed.parameters(), *trained):
        parameter.requires_grad_(id(parameter) not in on_sheet)
    return relaxed
