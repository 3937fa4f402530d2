"""The only training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from tqdm import tqdm

from spatial import graph
from spatial.costs import ModelCosts, model_costs, model_weight_penalty
from spatial.errors import UserError
from spatial.kernels import Compute
from spatial.metrics import Evaluation, Tally, evaluate
from spatial.seeds import generator, seeded
from spatial.tasks import Tasks, task_loss

OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("Adam", "AdamW", "SGD", "RMSprop")}
FUSED = ("Adam", "AdamW", "SGD")
MOMENTUM = ("SGD", "RMSprop")

SCHEDULES: dict[
    str, Callable[[float, int], float]
] = {  # (epochs done, a fraction; all epochs) -> factor of the learning rate
    "constant": lambda done, epochs: 1.0,
    "linear": lambda done, epochs: min(1.0, 2 - 2 * done / epochs),
    "step": lambda done, epochs: 0.1 ** int(done // 30),
    "cosine": lambda done, epochs: (1 + math.cos(math.pi * done / epochs)) / 2,
}
OPEN_ENDED = ("constant", "step")  # do not depend on the number of epochs, which may grow
POSITIONS = ("learned", "frozen", "shuffled")


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: 1 for the first.
        train: loss and accuracies of the batches, as they were met.
        test: loss and accuracies of the scored subset after the epoch.
        transport: ``T`` after the epoch, whether or not it is charged.
        proximity: ``P`` after the epoch, likewise.
        weight_penalty: ``T`` per connection with every distance 1, likewise.
        seconds: of training (of replicas side by side, its share) and of scoring.
    """

    number: int
    train: Evaluation
    test: Evaluation
    transport: float
    proximity: float
    weight_penalty: float
    seconds: tuple[float, float]


REPLICAS = ("auto", "together", "sequential")
WIDEST_TOGETHER = 1000  # units of a layer, on a CPU; measured by experiments/benchmarks/seeds.py


class Diverged(UserError):
    """A loss that is not finite."""


def device(name: str) -> torch.device:
    """The device of ``--device``: ``auto`` is the accelerator where there is one.

    Raises:
        UserError: if it is not on this machine.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise UserError(
            f"--device {name}: there is none here; use --device {' or '.join(k for k, v in available.items() if v)}"
        )
    return torch.device(name)


def replicas(choice: str, model: nn.Module, here: torch.device, seeds: int) -> str:
    """How the seeds of a run are trained, ``together`` or ``sequential``.

    ``auto`` is what was measured to be faster: together on an accelerator, and on a CPU where layers are dense and at
    most ``WIDEST_TOGETHER`` wide. With dropout a network is trained alone: its draws are its own.

    Raises:
        UserError: if they are to be trained together and cannot be.
    """
    alone = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    if choice == "together" and alone:
        raise UserError("--replicas together: the network has dropout, which every seed must draw by itself")
    if choice != "auto":
        return choice
    widest = max(len(place) for place in graph.positions(model).values())
    dense = not any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    quicker = here.type != "cpu" or (dense and widest <= WIDEST_TOGETHER)
    return "together" if seeds > 1 and quicker and not alone else "sequential"


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
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[int], *, transport: float = 0.0, proximity: float = 0.0,
        weight_penalty: float = 0.0, where: list[int] | None = None, norm: str = "l2", per: str = "connection",
        compute: Compute | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model, self.classes = model, tuple(classes)
        self.transport, self.proximity, self.weight_penalty = transport, proximity, weight_penalty
        self.where, self.norm = where, norm
        charged = {"transport": transport > 0, "proximity": proximity > 0}
        self.costs = ModelCosts(model, where, norm, per, compute=compute, **charged)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the tasks' part of it, and the logits."""
        logits = self.model(images)
        loss = task = task_loss(logits, labels, self.classes)
        if self.transport or self.proximity:
            wires, crowd = self.costs()
            loss = loss + self.transport * wires + self.proximity * crowd
        if self.weight_penalty:
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

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses ``[replicas]``, the tasks' parts of them, and logits ``[replicas, batch, sum of classes]``."""

        def one(own: Any, images: Tensor, labels: Tensor) -> Any:
            return functional_call(self.objective[0], own, (images, labels))

        return vmap(one)(self.own, images, labels)


def fit(
    models: Sequence[nn.Module],
    train: Tasks,
    test: Tasks,
    *,
    seeds: Sequence[int],
    epochs: int,
    batch_size: int,
    optimizer: str = "Adam",
    lr: float = 5e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    order: str = "random",
    transport: float = 0.0,
    proximity: float = 0.0,
    where: list[int] | None = None,
    norm: str = "l2",
    per: str = "connection",
    weight_penalty: float = 0.0,
    positions: str = "learned",
    hold_outputs: bool = False,
    position_lr: float | None = None,
    compute: Compute | None = None,
    start: int = 0,
    optimizer_state: dict[str, Any] | None = None,
) -> Iterator[tuple[list[Epoch], dict[str, Any]]]:
    """Train ``models`` in place, side by side, each as if it were alone; yields every epoch. See :class:`Objective`.

    With a batch norm in the network the last, incomplete batch of an epoch is dropped, unless it is the only one.

    Args:
        models: replicas of one network on the device of ``train`` and ``test``; several have no dropout.
        train: what to learn.
        test: what to score after every epoch.
        seeds: of the order of images, one for each.
        epochs: the last epoch's number.
        batch_size: inputs a step and replica; the last batch may be smaller.
        positions: ``learned``, ``frozen`` where they start, or ``shuffled``: permuted among each layer's units at the
            start of every epoch, and not learned.
        hold_outputs: whether the output units stay where they start.
        compute: what computes the costs, see :func:`spatial.kernels.compiled`.
        start: epochs done already; then ``models`` and ``optimizer_state`` are as after that epoch.
        optimizer_state: from an earlier yield.

    Yields:
        The epoch's results of every replica, and the optimizer's state.

    Raises:
        Diverged: if a loss is not finite, naming seed, epoch and step.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    names = list(graph.placed(models[0]))
    groups = parameter_groups(
        models[0],
        lr=lr,
        weight_decay=weight_decay,
        position_lr=position_lr,
        transport=transport,
        proximity=proximity,
        where=where,
        held=names if positions != "learned" else names[-1:] if hold_outputs else (),
    )
    charged = Objective(
        models[0],
        train.classes,
        transport=transport,
        proximity=proximity,
        weight_penalty=weight_penalty,
        where=where,
        norm=norm,
        per=per,
        compute=compute,
    )
    objective: nn.Module = charged
    if len(models) > 1:
        own = {id(parameter): name for name, parameter in charged.named_parameters()}
        objective = together = Together(charged, models)
        for group in groups:
            group["params"] = [together.own[own[id(parameter)]] for parameter in group["params"]]
    options: dict[str, Any] = {"momentum": momentum} if optimizer in MOMENTUM else {}
    if optimizer in FUSED:
        options["fused"] = True
    updates = OPTIMIZERS[optimizer](groups, **options)
    full_rates = [group["lr"] for group in updates.param_groups]
    if optimizer_state is not None:
        updates.load_state_dict(optimizer_state)
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in models[0].modules())

    for number in range(start + 1, epochs + 1):
        began = time.perf_counter()
        for model, seed in zip(models, seeds, strict=True):
            model.train()
            if positions == "shuffled":
                shuffle(model, seed, number)
        index = torch.stack([train.training_order(seed, number, order) for seed in seeds])  # [replicas, n, tasks]
        if normed and index.shape[1] > batch_size:
            index = index[:, : index.shape[1] // batch_size * batch_size]
        steps = -(-index.shape[1] // batch_size)
        if len(models) == 1:
            index = index[0]
        losses = []
        tally = Tally(train.classes)
        bar = tqdm(
            train.batches(index, batch_size), total=steps, desc=f"epoch {number}/{epochs}", leave=False, disable=None
        )
        with seeded(seeds[0], "dropout", number, device=train.device):
            for step, (images, labels) in enumerate(bar):
                for group, full in zip(updates.param_groups, full_rates, strict=True):
                    group["lr"] = full * SCHEDULES[schedule](number - 1 + step / steps, epochs)
                updates.zero_grad()  # before the costs keep gradients of their own
                loss, task, logits = objective(images, labels)
                loss.sum().backward()  # a replica's loss reads nothing of another's
                updates.step()
                losses.append(loss.detach())
                tally.add(task, logits, labels)
        # read once an epoch: reading every step would wait for the device
        for seed, finite in zip(
            seeds, torch.isfinite(torch.stack(losses, -1)).view(len(models), -1).tolist(), strict=True
        ):
            if not all(finite):
                raise _diverged(seed, number, finite.index(False) + 1, steps)
        trained = (time.perf_counter() - began) / len(models)
        results = []
        for model, seed, learned in zip(models, seeds, tally.results(), strict=True):
            began = time.perf_counter()
            scored = evaluate(model, test.batches(test.scoring_order(), 2000), test.classes)
            with torch.no_grad():
                wires, crowd = (cost.item() for cost in model_costs(model, where, norm, per))
                size = model_weight_penalty(model, where, norm).item()
            # after the last step, whose own loss was finite
            if not all(map(math.isfinite, (scored.loss, wires, crowd, size))):
                raise _diverged(seed, number, steps, steps)
            seconds = (trained, time.perf_counter() - began)
            results.append(Epoch(number, learned, scored, wires, crowd, size, seconds))
        yield results, updates.state_dict()


def _diverged(seed: int, epoch: int, step: int, steps: int) -> Diverged:
    kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
    hint = "smaller learning rates or strengths may help"
    return Diverged(f"the loss of seed {seed} is not finite at epoch {epoch}, step {step} of {steps}{kept}; {hint}")


@torch.no_grad()
def shuffle(model: nn.Module, seed: int, epoch: int) -> None:
    """Permute the positions among the units of each placed layer, in place, by generators for this seed and epoch.

    Layers on a sheet stay as they are.
    """
    fixed = graph.on_sheet(model)
    for layer, place in graph.positions(model).items():
        if layer not in fixed:
            place.copy_(place[torch.randperm(len(place), generator=generator(seed, "shuffle", epoch, layer))])


def snapshot(model: nn.Module) -> list[Tensor]:
    """A copy of every placed layer's positions, on the CPU."""
    return [place.detach().cpu().clone() for place in graph.positions(model).values()]
