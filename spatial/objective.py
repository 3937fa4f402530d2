"""What is minimised: a network's task and what it is charged, alone or of several networks side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spatial import graph
from spatial.costs import ModelCosts, model_weight_penalty
from spatial.kernels import Compute
from spatial.tasks import task_loss


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, position_lr: float | None, transport: float, proximity: float,
    where: list[int] | None = None, held: Sequence[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Weights, and the positions that a cost reads: these are never decayed and have a learning rate of their own.

    The gradients of the others, of the layers ``held`` and of those on a sheet are switched off.
    """
    places = graph.positions(model)
    names = list(places)
    read: set[str] = set()
    if transport > 0:
        read |= {name for edge in graph.charged(model, where) for name in edge}
    if proximity > 0:
        read |= set(names if where is None else [names[index] for index in where])
    read &= set(names).difference(held, graph.on_sheet(model))
    for name in names:
        places[name].requires_grad_(name in read)
    placed = {id(place) for place in places.values()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in placed], "lr": lr, "weight_decay": weight_decay}
    ]
    if read:
        lr = lr if position_lr is None else position_lr
        groups.append({"params": [places[name] for name in names if name in read], "lr": lr, "weight_decay": 0.0})
    return groups


class Objective(nn.Module):
    """A network and what it is charged: ``task + transport * T + proximity * P + weight_penalty * W``.

    ``W`` is ``T`` per connection with every distance 1.

    Args:
        model: with placed layers.
        classes: number of classes of each task.
        transport, proximity, weight_penalty: strengths.
        where, norm, per: see :func:`spatial.costs.model_costs`.
        compute: see :class:`spatial.costs.ModelCosts`.
        network: what computes the model's logits in its place, see :func:`spatial.compiling.compiled_network`.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[int], *, transport: float = 0.0, proximity: float = 0.0,
        weight_penalty: float = 0.0, where: list[int] | None = None, norm: str = "l2", per: str = "connection",
        compute: Compute | None = None, network: Callable[[Tensor], Tensor] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model, self.classes, self.network = model, tuple(classes), network
        self.transport, self.proximity, self.weight_penalty = transport, proximity, weight_penalty
        self.where, self.norm, self.per = where, norm, per
        charged = {"transport": transport > 0, "proximity": proximity > 0}
        self.costs = ModelCosts(model, where, norm, per, compute=compute, **charged)

    def forward(
        self, images: Tensor, labels: Tensor, share: float = 1.0, charged: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the tasks' part of it, and the logits.

        Of a step in several parts each part's loss is its ``share`` of the task, and one part is ``charged``.
        """
        logits = (self.network or self.model)(images)
        task = task_loss(logits, labels, self.classes)
        loss = task if share == 1 else share * task
        if charged and (self.transport or self.proximity):
            wires, crowd = self.costs()
            loss = loss + self.transport * wires + self.proximity * crowd
        if charged and self.weight_penalty:
            loss = loss + self.weight_penalty * model_weight_penalty(self.model, self.where, self.norm)
        return loss, task, logits


class Together(nn.Module):
    """Objectives of one shape, computed side by side: parameters stacked, ``[replicas, ...]``, one call for all.

    The networks' own parameters and buffers become views of the stacked ones, and so are always up to date.

    Args:
        objective: of the first model.
        models: without dropout.
    """

    def __init__(self, objective: Objective, models: Sequence[nn.Module]):
        super().__init__()
        self.objective = [objective]  # in a list: its parameters are not this module's
        self.own: dict[str, Tensor] = {}
        for named in zip(*(((*model.named_parameters(), *model.named_buffers())) for model in models), strict=True):
            name, first = named[0]
            stacked = torch.stack([tensor.detach() for _, tensor in named])
            for replica, (_, tensor) in enumerate(named):
                tensor.data = stacked[replica]
            self.own[f"model.{name}"] = stacked.requires_grad_(first.requires_grad)

    def forward(
        self, images: Tensor, labels: Tensor, share: float = 1.0, charged: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses ``[replicas]``, the tasks' parts of them, and logits ``[replicas, batch, sum of classes]``."""

        def one(own: Any, images: Tensor, labels: Tensor) -> Any:
            return functional_call(self.objective[0], own, (images, labels, share, charged))

        return vmap(one)(self.own, images, labels)
