"""Places for the units of anybody's network: what they cost, where they move, which task they serve, a picture.

Worked example, in a training script of one's own::

    sheet = spatial.place(model, images, transport=1.0, proximity=1.0)
    adam = torch.optim.Adam([*model.parameters(), *sheet.parameters()])
    ...
    loss = criterion(model(images), labels) + sheet.cost()
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spatial import costs, graph, splitting
from spatial.errors import UserError, unknown
from spatial.graph import Connection
from spatial.positions import random_places
from spatial.seeds import generator
from spatial.tracing import Layer, Skipped, trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("greedy", "balanced", "probability", "clusters", "random")  # of `Sheet.split`
Head = str | tuple[str, slice]


class Parts(NamedTuple):
    """What :meth:`Sheet.split` makes.

    Attributes:
        networks: by task, a copy of the network without the units that do not serve it.
        owners: by layer, the task of each unit as an index into ``networks``, ``[units]``; -1 for none.
    """

    networks: dict[str, nn.Module]
    owners: dict[str, Tensor]


class Places(nn.Module):
    """The places of one layer's units, ``positions`` ``[units, dim]``, and a view of the layer that they belong to."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer: Any = None  # of the network's: its parameters are not this module's

    def belong(self, layer: Layer, drawn: Tensor) -> None:
        """Be the places of ``layer``: those it has, if it was born with places, else ``drawn``."""
        self.__dict__["layer"] = layer
        own = getattr(layer.module, "positions", None)
        if own is None:
            self.positions = nn.Parameter(drawn)
        else:
            self.__dict__["positions"] = own

    def _rows(self, name: str) -> Tensor:
        return getattr(self.layer.module, name)[self.layer.first : self.layer.first + self.layer.units]

    @property
    def weight(self) -> Tensor:
        """The rows of the layer's weight, ``[units, in, ...]``: writing into them writes into the layer."""
        return self._rows(self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self._rows(self.layer.bias)

    @property
    def groups(self) -> int:
        return getattr(self.layer.module, "groups", 1)

    @property
    def on_sheet(self) -> bool:
        """Whether the units lie where a locality prior has them."""
        return getattr(self.layer.module, "on_sheet", False)

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, a locality prior multiplied in."""
        if callable(own := getattr(self.layer.module, "effective", None)):
            return own()
        return self.weight, self.bias


class Sheet(nn.Module):
    """The places of a network's units, beside the network: made by :func:`place`, which see.

    Its parameters are the places alone. Where the network goes, to another device, the sheet has to be moved as well.

    Attributes:
        network: whose units have places.
        transport, proximity: strengths, see :meth:`cost`; they may be changed between steps.
        skipped: what has no places, and where paths end that lead from one layer to another.
        wiring: by connection, which unit of the source each feature is that the target reads.
        norms: the batch norm that each layer's weights are folded into, by layer's name.
    """

    network: nn.Module
    wiring: dict[Connection, Tensor]
    norms: dict[str, str]
    heads: dict[str, Tensor] | None = None
    skipped: list[Skipped]

    def __init__(
        self, network: nn.Module, layers: Mapping[str, Layer], places: Mapping[str, Tensor],
        wiring: Mapping[Connection, Tensor], norms: Mapping[str, str], skipped: Sequence[Skipped], *,
        where: Sequence[str] | None, norm: str, per: str, transport: float, proximity: float,
    ):  # fmt: skip
        super().__init__()
        self.__dict__["network"] = network  # beside it: its parameters stay its own
        self.wiring, self.norms, self.skipped = dict(wiring), dict(norms), list(skipped)
        self.norm, self.per, self.transport, self.proximity = norm, per, transport, proximity
        self.where = None if where is None else [list(layers).index(name) for name in where]
        self.places = Places()
        self._names = list(layers)
        for name, layer in layers.items():
            self._at(name, make=True).belong(layer, places[name])

    def _at(self, name: str, make: bool = False) -> Places:
        at = self.places
        for part in name.split(".") if name else ():
            if make and part not in at._modules:
                at.add_module(part, Places())
            at = at._modules[part]  # type: ignore[assignment]
        return at

    @property
    def layers_by_name(self) -> dict[str, Places]:
        """What :mod:`spatial.graph` reads in place of the network's own modules, in the order of the forward pass."""
        return {name: self._at(name) for name in self._names}

    @property
    def connections(self) -> list[Connection]:
        """Which layer feeds which: pairs of names, the source first."""
        return list(self.wiring)

    @property
    def positions(self) -> dict[str, Tensor]:
        """The places of every layer's units, ``[units, dim]``, by the layer's name."""
        return graph.positions(self)

    def costs(self) -> dict[str, Tensor]:
        """What the places cost, without the strengths: ``transport`` (T) and ``proximity`` (P), scalars.

        See :func:`spatial.transport` and :func:`spatial.proximity`; T is the mean over the connections into the layers
        of ``where``, P over these layers. Weights in front of a batch norm are read with its gain folded in.
        """
        if "_costs" not in self.__dict__:
            self.__dict__["_costs"] = costs.ModelCosts(self, self.where, self.norm, self.per)
        self._check_device()
        return self.__dict__["_costs"]()._asdict()

    def cost(self) -> Tensor:
        """``transport * T + proximity * P``, a scalar to add to the loss."""
        own = self.costs()
        return self.transport * own["transport"] + self.proximity * own["proximity"]

    def relax(self, **options: Any) -> "Sheet":
        """A sheet of a copy of the network whose neurons have moved to where they cost least, the weights frozen.

        Args:
            options: of :func:`spatial.relax`; ``norm``, ``per``, ``where`` and the strengths are this sheet's unless
                given.
        """
        if isinstance(where := options.get("where"), Sequence):
            options["where"] = [self._names.index(name) if isinstance(name, str) else name for name in where]
        known = {name: getattr(self, name) for name in ("norm", "per", "where", "transport", "proximity")}
        return costs.relax(self, **known | options)  # type: ignore[return-value]

    def split(self, heads: Mapping[str, Head], method: str = "balanced", seed: int = 0) -> Parts:
        """Give every unit to the task that it serves, and cut one network per task.

        Backwards from the heads, a unit's score for a task is the sum of |w| over the units that read it and serve the
        task (``python main.py split --help`` has the methods). In a task's network the units of others give nothing:
        their weights, bias and batch-norm entries are 0, and so are the weights that read them where nothing else does.

        Args:
            heads: by task, the name of the layer that answers for it, or that and a slice of its outputs.
            method: one of ``METHODS``.
            seed: of the methods that draw.

        Raises:
            UserError: if a head or the method is unknown, two heads are the same outputs, or a weight is parametrised.
        """
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        whole = copy.deepcopy(self)
        whole.heads = self._heads(heads)
        for name, layer in self.layers_by_name.items():
            if layer.layer.weight not in layer.layer.module._parameters:
                raise UserError(
                    f"{name}: its weight is computed anew in each pass, so that nothing can be cut out of it: make it "
                    "lasting first, by torch.nn.utils.parametrize.remove_parametrizations or prune.remove"
                )
        with torch.no_grad():
            k, owners = splitting.METHODS[method](whole, seed, None)
            parts = {task: splitting.cut(whole, k, index) for index, task in enumerate(heads)}
        return Parts({task: part.network for task, part in parts.items()}, owners)  # type: ignore[misc]

    def plot(self, path: Any = None, owners: Mapping[str, Tensor] | None = None, names: Sequence[str] = ()) -> "Figure":
        """Every layer's neurons at their places; silent ones, that almost nothing reads, are faint.

        Args:
            path: a file to write, its kind by its ending (png, pdf, svg); None writes none.
            owners: by layer, the task of each unit (:class:`Parts`), which colours it.
            names: of the tasks.
        """
        from spatial import drawing

        alone = {layer: torch.full((len(place),), -1) for layer, place in self.positions.items()}
        figure = drawing.neurons(drawing.sheets_of(self, {**alone, **(owners or {})}, names, named=True), "")
        figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr, call-arg]
        if path is not None:
            figure.savefig(path)
        return figure

    def _heads(self, heads: Mapping[str, Head]) -> dict[str, Tensor]:
        if len(heads) < 2:
            raise UserError(
                "heads: name at least two tasks, such as {'digits': 'digits_head', 'clothes': ('fc', slice(10, 20))}"
            )
        found: dict[str, Tensor] = {}
        for task, head in enumerate(heads.values()):
            name, own = (head, slice(None)) if isinstance(head, str) else _part(head)
            if name not in self._names:
                raise unknown("head", name, self._names)
            groups = found.setdefault(name, torch.full((len(self.positions[name]),), -1))
            if (groups[own] >= 0).any() or not len(groups[own]):
                raise UserError(f"heads: {list(heads)[task]!r} has no outputs of its own in {name}")
            groups[own] = task
        return found

    def _check_device(self) -> None:
        name, layer = next(iter(self.layers_by_name.items()))
        here, there = layer.positions.device, layer.weight.device
        if here != there:
            raise UserError(
                f"{name}: the network is on {there}, its places on {here}: move the sheet as well, "
                f"sheet.to({str(there)!r})"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_costs"}  # which reads this network

    def __repr__(self) -> str:
        units = sum(map(len, self.positions.values()))
        return f"Sheet({units} units of {len(self._names)} layers, {len(self.wiring)} connections)"


def place(
    model: nn.Module, example: Any, *, dim: int = 2, where: Sequence[str] | None = None, norm: str = "l2",
    per: str = "connection", transport: float = 1.0, proximity: float = 1.0, seed: int = 0,
    connections: Sequence[tuple[str, str]] = (),
) -> Sheet:  # fmt: skip
    """Give the units of any network places, without changing the network.

    Every ``Linear`` and ``Conv2d`` gets places, a neuron or a channel each, and so do the query, key and value
    projections of a ``MultiheadAttention``. Which of them feeds which is found by following units through one forward
    pass of ``example`` in evaluation mode: through elementwise operations, norms, pooling, sums, flattening,
    concatenation and attention's values. What ends a path is in the sheet's ``skipped``.

    The loss to minimise is ``task + sheet.cost()``, ``cost = transport * T + proximity * P``
    (:func:`spatial.transport`, :func:`spatial.proximity`).

    Args:
        model: the network.
        example: one input batch, on the model's device; a tuple of several arguments, a dictionary of named ones. Two
            inputs are enough.
        dim: dimensions of the space.
        where: names of the layers that are charged; None means all.
        norm: ``l1`` or ``l2``: what a connection weighs, |w| or w^2.
        per: ``connection``, or ``neuron``: the mean wire length of a neuron, which no shrinking of weights can cheat.
        transport, proximity: strengths.
        seed: of the places, standard normal; the random numbers of nobody else are touched.
        connections: pairs of names, the source first, that are added by hand: of layers between which the features are
            the source's, each unit's side by side.

    Raises:
        UserError: if nothing can have places, a name is unknown, or the transport is charged on no connection.

    Source: arXiv:1910.02776, whose dense layers this extends to the layers of any network.
    """
    if isinstance(where, str) or not all(isinstance(name, str) for name in where or ()):
        raise UserError(f"where: give a list of layers' names, such as ['fc'], got {where!r}")
    for kind, name, known in (("norm", norm, costs.NORMS), ("per", per, costs.PER)):
        if name not in known:
            raise unknown(kind, name, known)
    if dim < 1:
        raise UserError(f"dim must be at least 1, got {dim}")
    for strength, value in (("transport", transport), ("proximity", proximity)):
        if not 0 <= value < float("inf"):
            raise UserError(f"{strength} must be a number from 0 up, got {value}")
    found = trace(model, example)
    if not found.layers:
        raise UserError(
            "no Linear, Conv2d or MultiheadAttention is used in the example's forward pass: nothing to place"
        )
    wiring = dict(found.features)
    for pair in connections:
        wiring[Connection(*pair)] = _by_hand(found.layers, *pair)
    for name in where or ():
        if name not in found.layers:
            why = [str(each) for each in found.skipped if each.source == name and each.target is None]
            raise UserError(f"where: {why[0]}") if why else unknown("layer", name, found.layers)
    _check_charged(transport, where, found.layers, wiring, found.skipped)
    draws = generator(seed, "positions")
    places = {
        name: random_places(layer.units, dim, draws).to(getattr(layer.module, layer.weight))
        for name, layer in found.layers.items()
    }
    return Sheet(
        model, found.layers, places, wiring, found.norms, found.skipped, where=where, norm=norm, per=per,
        transport=transport, proximity=proximity,
    )  # fmt: skip


def _part(head: Any) -> tuple[str, slice]:
    """A layer's name and a slice of its outputs."""
    if isinstance(head, tuple) and len(head) == 2 and isinstance(head[0], str) and isinstance(head[1], slice):
        return head
    raise UserError(f"heads: give a layer's name, or ('fc', slice(0, 10)) for some of its outputs, got {head!r}")


def _by_hand(layers: Mapping[str, Layer], source: str, target: str) -> Tensor:
    """The features of a connection that is given by hand: each unit's side by side."""
    for name in (source, target):
        if name not in layers:
            raise unknown("layer", name, layers)
    layer = layers[target]
    weight = getattr(layer.module, layer.weight)
    features, units = weight.shape[1] * getattr(layer.module, "groups", 1), layers[source].units
    if features % units:
        raise UserError(
            f"connections: {target} reads {features} features, which are no multiple of the {units} units of {source}"
        )
    return torch.arange(units).repeat_interleave(features // units)


def _check_charged(
    transport: float, where: Sequence[str] | None, layers: Mapping[str, Layer], wiring: Mapping[Connection, Tensor],
    skipped: Sequence[Skipped],
) -> None:  # fmt: skip
    """UserError if the transport is charged and there is no connection into the layers of ``where``."""
    into = set(layers if where is None else where)
    if not transport or any(edge.target in into for edge in wiring):
        return
    ended = [str(each) for each in skipped if each.target in (*into, None)]
    why = f" ({'; '.join(ended[:3])})" if ended else ""
    names = ", ".join(sorted(into)[:3]) or "the network itself"
    raise UserError(
        f"transport {transport:g}, but nothing that has places feeds {names}{why}: name the source by hand, "
        "connections=[(source, target)], choose another where, or set transport=0"
    )
