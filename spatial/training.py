"""The only training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spatial import graph
from spatial.costs import model_costs, model_weight_penalty
from spatial.distributed import SOLO, World, apart
from spatial.errors import UserError
from spatial.kernels import Compute
from spatial.metrics import Evaluation, Tally, evaluate
from spatial.objective import Objective, Together, parameter_groups
from spatial.progress import Watch, over
from spatial.seeds import generator, seeded
from spatial.tasks import Tasks

OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("Adam", "AdamW", "SGD", "RMSprop")}
FUSED = ("Adam", "AdamW", "SGD")
MOMENTUM = ("SGD", "RMSprop")
STATES = {"Adam": 2, "AdamW": 2, "SGD": 0, "RMSprop": 1}  # that are kept of a weight, beside momentum's

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
PRECISIONS = ("fp32", "bf16")


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


def memory_needed(
    model: nn.Module, optimizer: str, momentum: float = 0.0, *, replicas: int = 1, rows: int = 0, scored: int = 0,
    checkpoint: bool = False,
) -> int:  # fmt: skip
    """Bytes that training takes, at the least.

    Weights, gradients and the optimizer's state; a checkpoint, where it is made in the same memory; a step's inputs and
    what layers with weights make of them, or what one of them reads and makes in scoring.

    Args:
        model: like those to be trained; torch's ``meta`` device will do.
        replicas: that are trained side by side.
        rows, scored: inputs that are computed at once, in training and in scoring.
        checkpoint: whether one is made in the same memory.
    """
    weights = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    states = STATES[optimizer] + (momentum > 0)
    copies = 2 + states + (2 + states if checkpoint else 0)
    inputs = torch.empty(1, *model.shape, device=next(model.parameters()).device)  # type: ignore[misc]
    sizes = [inputs.numel()]
    handles = [
        module.register_forward_hook(lambda module, given, made: sizes.append(made.numel()))
        for module in model.modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    model.eval()(inputs)
    for handle in handles:
        handle.remove()
    step = replicas * rows * (sum(sizes) + max(sizes[1:]))  # the gradient by the largest is made beside them all
    ahead = max(step, scored * max(map(sum, pairwise(sizes)))) if rows else 0
    return 4 * (replicas * copies * weights + ahead)


class Point(NamedTuple):
    """Where training stands.

    Attributes:
        epoch: epochs that are finished.
        step: steps of the next one that are done.
        optimizer: its parameters' state; None: as it begins.
        processes: in the midst of an epoch what each process needs to go on, see :meth:`Sums.state`; plain values.
        results: of the epoch that has just ended, one of each replica; none in its midst.
    """

    epoch: int
    step: int
    optimizer: dict[str, Any] | None
    processes: list[dict[str, Any]]
    results: list[Epoch] = []  # noqa: RUF012


class Sums:
    """What an epoch's steps come to so far.

    Args:
        tally: of the batches as they are met.
        device: where the network computes.
        state: of :meth:`state`, from which to go on.
    """

    def __init__(self, tally: Tally, device: torch.device, state: dict[str, Any] | None = None):
        self.tally, self.device = tally, device
        self.losses: list[Tensor] = []  # of the steps since the last look at them
        self.seen, self.seconds, self.began = 0, 0.0, time.perf_counter()
        self.saved = 0  # the step of the last checkpoint, 0: there is none of this epoch
        if state is not None:
            self.saved = state["step"]
            self.seen, self.seconds = state["step"], state["seconds"]
            tally.restore(state["tally"], device)
            torch.set_rng_state(state["random"])
            if device.type != "cpu":
                torch.get_device_module(device).set_rng_state(state["random of the device"])

    def state(self) -> dict[str, Any]:
        """Sums, clock and the generators of dropout, as they are between two steps."""
        other = None if self.device.type == "cpu" else torch.get_device_module(self.device).get_rng_state()
        return {
            "step": self.seen, "seconds": self.elapsed(), "tally": self.tally.state(), "random": torch.get_rng_state(),
            "random of the device": other,
        }  # fmt: skip

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.began

    def check(self, world: World, seeds: Sequence[int], epoch: int, steps: int) -> None:
        """Diverged, in every process, if a step's loss was not finite; reading them waits for the device."""
        if not self.losses:
            return
        finite = torch.isfinite(torch.stack(self.losses, -1)).view(len(seeds), -1).tolist()
        for seed, each in zip(seeds, finite, strict=True):
            first = world.minimum(len(each) if all(each) else each.index(False))
            if first < len(each):
                raise _diverged(seed, epoch, self.seen + first + 1, steps, self.saved)
        self.seen += len(self.losses)
        self.losses = []


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
    warmup: float = 0.0,
    accumulate: int = 1,
    precision: str = "fp32",
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
    network: Callable[[Tensor], Tensor] | None = None,
    save_every: int | None = None,
    start: Point | None = None,
    world: World = SOLO,
    watch: Watch | None = None,
) -> Iterator[Point]:
    """Train ``models`` in place, side by side, each as if it were alone; yields every epoch. See :class:`Objective`.

    With a batch norm in the network, or several processes, the last, incomplete batch of an epoch is dropped, unless it
    is the only one.

    Args:
        models: replicas of one network on the device of ``train`` and ``test``; several have no dropout.
        train: what to learn.
        test: what to score after every epoch.
        seeds: of the order of images, one for each.
        epochs: the last epoch's number.
        batch_size: inputs a step and replica, of all processes; the last batch may be smaller.
        warmup: epochs over which the learning rates of ``schedule`` rise from 0, linearly.
        accumulate: parts in which a step's batch is computed, one after the other.
        precision: ``fp32``, or ``bf16``: training steps in autocast, the costs and scoring excepted.
        positions: ``learned``, ``frozen`` where they start, or ``shuffled``: permuted among each layer's units at the
            start of every epoch, and not learned.
        hold_outputs: whether the output units stay where they start.
        compute: what computes the costs, see :func:`spatial.kernels.compiled`.
        network: what computes the logits of a single model in its place, likewise.
        save_every: yields after so many steps of an epoch, too.
        start: an earlier yield; then ``models`` are as they were then.
        world: the processes that share the work; models and results are equal in all of them.
        watch: what shows the progress, also of other calls; None: one for this call.

    Yields:
        Where training stands.

    Raises:
        Diverged: if a loss is not finite, naming seed, epoch and step.
    """
    if batch_size % (accumulate * world.count):
        raise ValueError(f"batch_size {batch_size} does not divide by {world.count} processes and {accumulate} parts")
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    device = train.device
    groups = parameter_groups(
        models[0],
        lr=lr,
        weight_decay=weight_decay,
        position_lr=position_lr,
        transport=transport,
        proximity=proximity,
        where=where,
        held=_held(models[0], positions, hold_outputs),
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
        network=network,
    )
    objective: nn.Module = charged
    if len(models) > 1:
        own = {id(parameter): name for name, parameter in charged.named_parameters()}
        objective = together = Together(charged, models)
        for group in groups:
            group["params"] = [together.own[own[id(parameter)]] for parameter in group["params"]]
    objective = world.shared(objective, device)
    updates = _updates(groups, optimizer, momentum, fused=optimizer in FUSED)
    full_rates = [group["lr"] for group in updates.param_groups]
    if start is not None and start.optimizer is not None:
        updates.load_state_dict({**updates.state_dict(), "state": start.optimizer})
    norms = norms_of(models[0])
    # a batch norm that sees its own process's images alone has statistics of its own: the first's are everybody's
    statistics = [each for norm in norms if not isinstance(norm, nn.SyncBatchNorm) for each in norm.buffers()]
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")

    epoch, done = (0, 0) if start is None else (start.epoch, start.step)
    watch = watch or Watch(epochs - epoch)
    for number in range(epoch + 1, epochs + 1):
        for model, seed in zip(models, seeds, strict=True):
            model.train()
            if positions == "shuffled" and not done:
                shuffle(model, seed, number)
        index = torch.stack([train.training_order(seed, number, order) for seed in seeds])  # [replicas, n, tasks]
        steps = steps_of(index.shape[1], batch_size, bool(norms), world.count)
        if norms and index.shape[1] > batch_size:
            index = index[:, : index.shape[1] // batch_size * batch_size]
        index, size = world.split(index, batch_size)
        n, part = index.shape[1], _part(index.shape[1], size, accumulate)
        index = (index[0] if len(models) == 1 else index)[..., done * size :, :]
        with (
            seeded(seeds[0], "dropout", number, *world.mark, device=device),
            watch.steps(seeds, f"{number}/{epochs}", done, steps) as numbers,
        ):
            state = start.processes[world.number] if start is not None and done else None
            sums = Sums(Tally(train.classes, train.top), device, state)
            batches = iter(train.training_batches(index, part, seeds[0], number))
            for step in numbers:
                for group, full in zip(updates.param_groups, full_rates, strict=True):
                    group["lr"] = full * rate(schedule, warmup, number - 1, step, steps, epochs)
                world.copy(statistics)
                updates.zero_grad()  # before the costs keep gradients of their own
                rows = min(size, n - step * size)
                parts = -(-rows // part)
                losses = []
                for each in range(parts):
                    images, labels = next(batches)
                    last = each == parts - 1
                    with apart(objective, not last):
                        with autocast():
                            loss, task, logits = objective(images, labels, labels.shape[-2] / rows, last)
                        loss.sum().backward()  # a replica's loss reads nothing of another's
                    losses.append(loss.detach())
                    sums.tally.add(task, logits, labels)
                updates.step()
                sums.losses.append(sum(losses))
                if watch.due():  # on a terminal, now and then: it waits for the device
                    _show(watch, models, sums.tally, charged)
                if save_every and (step + 1) % save_every == 0 and step + 1 < steps:
                    sums.check(world, seeds, number, steps)
                    sums.saved = step + 1
                    yield Point(number - 1, step + 1, updates.state_dict()["state"], world.gathered(sums.state()))
            # read once an epoch: reading every step would wait for the device
            sums.check(world, seeds, number, steps)
        done = 0
        world.copy(statistics)
        trained = sums.elapsed() / len(models)
        results = []
        for model, seed, learned in zip(models, seeds, sums.tally.results(world), strict=True):
            began = time.perf_counter()
            asked = world.part(test.scoring_order())
            scoring = over(test.batches(asked, 2000), "scoring", -(-len(asked) // min(2000, test.most)))
            scored = evaluate(model, scoring, test.classes, test.top, world)
            with torch.no_grad():
                wires, crowd = (cost.item() for cost in model_costs(model, where, norm, per))
                penalty = model_weight_penalty(model, where, norm).item()
            # after the last step, whose own loss was finite
            if not all(map(math.isfinite, (scored.loss, wires, crowd, penalty))):
                raise _diverged(seed, number, steps, steps, sums.saved)
            seconds = (trained, time.perf_counter() - began)
            results.append(Epoch(number, learned, scored, wires, crowd, penalty, seconds))
        yield Point(number, 0, updates.state_dict()["state"], [], results)


@torch.no_grad()
def _show(watch: Watch, models: Sequence[nn.Module], tally: Tally, charged: Objective) -> None:
    """Beside the bar: what the epoch's batches came to so far and the costs as they are, the mean over networks."""
    began = time.perf_counter()
    found = tally.results()
    costs = [model_costs(model, charged.where, charged.norm, charged.per) for model in models]
    T, P = (sum(float(each[index]) for each in costs) / len(costs) for index in range(2))
    shown = {"T": T, "P": P}
    if charged.weight_penalty:
        each = [float(model_weight_penalty(model, charged.where, charged.norm)) for model in models]
        shown["W"] = sum(each) / len(each)
    accuracies = [sum(each) / len(each) for each in zip(*(one.accuracy for one in found), strict=True)]
    watch.show(sum(one.loss for one in found) / len(found), accuracies, shown, began)


def blank(
    model: nn.Module, train: Tasks, replicas: int, processes: int, epoch: int, step: int, *, optimizer: str,
    momentum: float, transport: float, proximity: float, where: list[int] | None, positions: str, hold_outputs: bool,
) -> Point:  # fmt: skip
    """A :class:`Point` of the form of :func:`fit`'s with these arguments: what one of a file is held against."""
    held = _held(model, positions, hold_outputs)
    groups = parameter_groups(
        model,
        lr=1.0,
        weight_decay=0.0,
        position_lr=None,
        transport=transport,
        proximity=proximity,
        where=where,
        held=held,
    )
    own = (replicas,) if replicas > 1 else ()
    for group in groups:
        group["params"] = [nn.Parameter(torch.empty(own + each.shape, device="meta")) for each in group["params"]]
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    updates = _updates(groups, optimizer, momentum, fused=False)
    updates.step()
    tally, tasks = Tally(train.classes, train.top), len(train.classes)
    tally.add(
        torch.zeros(own), torch.zeros(*own, 1, sum(train.classes)), torch.zeros(*own, 1, tasks, dtype=torch.int64)
    )
    sums = Sums(tally, train.device).state() | {"step": step}
    return Point(epoch, step, updates.state_dict()["state"], [sums] * processes if step else [])


def _held(model: nn.Module, positions: str, hold_outputs: bool) -> list[str]:
    """The placed layers whose positions are not learned, whatever reads them."""
    names = list(graph.placed(model))
    return names if positions != "learned" else names[-1:] if hold_outputs else []


def _updates(groups: list[dict[str, Any]], optimizer: str, momentum: float, fused: bool) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"momentum": momentum} if optimizer in MOMENTUM else {}
    return OPTIMIZERS[optimizer](groups, **options, **({"fused": True} if fused else {}))


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def steps_of(inputs: int, batch_size: int, normed: bool, processes: int) -> int:
    """How many steps an epoch has, of so many inputs; see :func:`fit` for what is dropped."""
    if inputs <= batch_size:
        return 1
    return inputs // batch_size if normed or processes > 1 else -(-inputs // batch_size)


def _part(n: int, size: int, accumulate: int) -> int:
    """Inputs that are computed at once, of steps of ``size`` of ``n`` inputs."""
    return -(-min(n, size) // accumulate)


def smallest_part(inputs: int, batch_size: int, accumulate: int, processes: int) -> int:
    """The fewest inputs that a batch norm sees at once, see :func:`fit`."""
    size = min(batch_size, inputs) // processes
    part = _part(size, size, accumulate)
    return size - (-(-size // part) - 1) * part if part else 0


def rate(schedule: str, warmup: float, epoch: int, step: int, steps: int, epochs: int) -> float:
    """The factor of the learning rates in a step: the schedule's, times ``min(1, epochs done with it / warmup)``."""
    factor = SCHEDULES[schedule](epoch + step / steps, epochs)
    return factor * min(1.0, (epoch + (step + 1) / steps) / warmup) if warmup else factor


def _diverged(seed: int, epoch: int, step: int, steps: int, saved: int) -> Diverged:
    last = f"epoch {epoch}, step {saved}," if saved else f"epoch {epoch - 1}" if epoch > 1 else ""
    kept = f"; the checkpoint of {last} is kept" if last else ""
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


def trajectory(model: nn.Module, before: list[Tensor] | None = None) -> list[Tensor]:
    """Every placed layer's positions over time, ``[moments, units, dim]``: those ``before``, then those of now."""
    now = [place[None] for place in snapshot(model)]
    return now if before is None else [torch.cat(both) for both in zip(before, now, strict=True)]
