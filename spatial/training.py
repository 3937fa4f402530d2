"""The only training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spatial import graph
from spatial.costs import model_proximity, model_transport, model_weight_penalty
from spatial.errors import UserError
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
        seconds: of training and of scoring.
    """

    number: int
    train: Evaluation
    test: Evaluation
    transport: float
    proximity: float
    weight_penalty: float
    seconds: tuple[float, float]


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


def fit(
    model: nn.Module,
    train: Tasks,
    test: Tasks,
    *,
    seed: int,
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
    start: int = 0,
    optimizer_state: dict[str, Any] | None = None,
) -> Iterator[tuple[Epoch, dict[str, Any]]]:
    """Train ``model`` in place by ``task + transport * T + proximity * P + weight_penalty * W``; yields every epoch.

    ``W`` is ``T`` per connection with every distance 1. With a batch norm in the network the last, incomplete batch of
    an epoch is dropped, unless it is the only one.

    Args:
        model: on the device of ``train`` and ``test``.
        train: what to learn.
        test: what to score after every epoch.
        seed: of the order of images.
        epochs: the last epoch's number.
        batch_size: inputs a step; the last batch may be smaller.
        positions: ``learned``, ``frozen`` where they start, or ``shuffled``: permuted among each layer's units at the
            start of every epoch, and not learned.
        hold_outputs: whether the output units stay where they start.
        start: epochs done already; then ``model`` and ``optimizer_state`` are as after that epoch.
        optimizer_state: from an earlier yield.

    Yields:
        The epoch's results and the optimizer's state.

    Raises:
        Diverged: if a loss is not finite, naming epoch and step.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    names = list(graph.placed(model))
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        position_lr=position_lr,
        transport=transport,
        proximity=proximity,
        where=where,
        held=names if positions != "learned" else names[-1:] if hold_outputs else (),
    )
    options: dict[str, Any] = {"momentum": momentum} if optimizer in MOMENTUM else {}
    if optimizer in FUSED:
        options["fused"] = True
    updates = OPTIMIZERS[optimizer](groups, **options)
    full_rates = [group["lr"] for group in updates.param_groups]
    if optimizer_state is not None:
        updates.load_state_dict(optimizer_state)
    here = train.images[0].device
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())

    for number in range(start + 1, epochs + 1):
        began = time.perf_counter()
        model.train()
        if positions == "shuffled":
            shuffle(model, seed, number)
        index = train.training_order(seed, number, order)
        if normed and len(index) > batch_size:
            index = index[: len(index) // batch_size * batch_size]
        steps = -(-len(index) // batch_size)
        losses = torch.empty(steps, device=here)
        tally = Tally(train.classes)
        bar = tqdm(
            train.batches(index, batch_size), total=steps, desc=f"epoch {number}/{epochs}", leave=False, disable=None
        )
        with seeded(seed, "dropout", number, device=here):
            for step, (images, labels) in enumerate(bar):
                for group, full in zip(updates.param_groups, full_rates, strict=True):
                    group["lr"] = full * SCHEDULES[schedule](number - 1 + step / steps, epochs)
                logits = model(images)
                loss = task = task_loss(logits, labels, train.classes)
                if transport:
                    loss = loss + transport * model_transport(model, where, norm, per)
                if proximity:
                    loss = loss + proximity * model_proximity(model, where)
                if weight_penalty:
                    loss = loss + weight_penalty * model_weight_penalty(model, where, norm)
                updates.zero_grad()
                loss.backward()
                updates.step()
                losses[step] = loss.detach()
                tally.add(task, logits, labels)
        finite = torch.isfinite(losses).tolist()  # read once an epoch: reading every step would wait for the device
        if not all(finite):
            raise _diverged(number, finite.index(False) + 1, steps)
        trained = time.perf_counter()
        result = evaluate(model, test.batches(test.scoring_order(), 2000), test.classes)
        with torch.no_grad():
            wires, crowd = model_transport(model, where, norm, per).item(), model_proximity(model, where).item()
            size = model_weight_penalty(model, where, norm).item()
        # after the last step, whose own loss was finite
        if not all(map(math.isfinite, (result.loss, wires, crowd, size))):
            raise _diverged(number, steps, steps)
        seconds = (trained - began, time.perf_counter() - trained)
        yield Epoch(number, tally.result(), result, wires, crowd, size, seconds), updates.state_dict()


def _diverged(epoch: int, step: int, steps: int) -> Diverged:
    kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
    hint = "smaller learning rates or strengths may help"
    return Diverged(f"the loss is not finite at epoch {epoch}, step {step} of {steps}{kept}; {hint}")


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
