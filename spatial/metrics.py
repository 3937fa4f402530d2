"""Accuracy per task, live units, measures of clustering and wiring, statistics of results."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spatial import graph
from spatial.distributed import SOLO, World
from spatial.models import heads
from spatial.positions import distance
from spatial.tasks import UNLABELLED, Batch, task_losses

NEIGHBOURS = 10
TIE = 1e-6  # relative: equal distances between float32 places differ by about as much


class Evaluation(NamedTuple):
    """How well a network does.

    Attributes:
        loss: the mean over tasks.
        accuracy: of each task, 0 to 1.
        losses: of :func:`evaluate`: of each task.
        top: accuracy of each task where a label counts that is among the best guesses; empty if they are not counted.
    """

    loss: float
    accuracy: list[float]
    losses: Sequence[float] = ()
    top: Sequence[float] = ()

    @property
    def mean_top(self) -> float | None:
        """The mean of :attr:`top` over tasks, None if there is none."""
        return sum(self.top) / len(self.top) if self.top else None

    @property
    def mean(self) -> float:
        """The mean accuracy over tasks."""
        return sum(self.accuracy) / len(self.accuracy)


class Tally:
    """Sums up batches on their device, without a synchronisation until the result is read.

    Args:
        classes: number of classes of each task.
        top: how many best guesses are counted as well; None: the best alone.
    """

    def __init__(self, classes: Sequence[int], top: int | None = None):
        self.heads, self.top = heads(classes), top
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.asked: Tensor | int = 0
        self.within: Tensor | int = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss, ``[batch, sum of classes]`` and ``[batch, tasks]`` (-1: nothing asked).

        All may have replicas first, and be summed up apart.
        """
        labelled = labels != UNLABELLED
        guesses = torch.stack([logits[..., own].argmax(-1) for own in self.heads], -1)  # [..., batch, tasks]
        self.loss = self.loss + loss.detach() * labelled.sum((-1, -2))
        self.correct = self.correct + (guesses == labels).sum(-2)
        self.asked = self.asked + labelled.sum(-2)
        if self.top is not None:
            best = [logits[..., own].topk(min(self.top, own.stop - own.start)).indices for own in self.heads]
            found = [(each == labels[..., task, None]).any(-1) for task, each in enumerate(best)]
            self.within = self.within + torch.stack(found, -1).sum(-2)

    def state(self) -> dict[str, Any]:
        """The sums so far, on the CPU."""
        sums = {name: getattr(self, name) for name in SUMS}
        return {name: each.cpu() if isinstance(each, Tensor) else each for name, each in sums.items()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a :meth:`state`."""
        for name in SUMS:
            setattr(self, name, state[name].to(device) if isinstance(state[name], Tensor) else state[name])

    def results(self, world: World = SOLO) -> list[Evaluation]:
        """Every replica's mean loss and accuracies; NaN for a task of which nothing was asked.

        Args:
            world: the processes whose sums are added.
        """
        columns = {"loss": 1, "correct": len(self.heads), "asked": len(self.heads), "within": len(self.heads)}
        sums = {
            name: world.sum(torch.as_tensor(getattr(self, name))).view(-1, size).tolist()
            for name, size in columns.items()
            if name != "within" or self.top is not None
        }
        found = []
        for replica, asked in enumerate(sums["asked"]):
            correct, within = (
                [each / n if n else math.nan for each, n in zip(sums[name][replica], asked, strict=True)]
                if name in sums
                else []
                for name in ("correct", "within")
            )
            found.append(Evaluation(sums["loss"][replica][0] / sum(asked), correct, top=within))
        return found


SUMS = ("loss", "correct", "asked", "within")


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], classes: Sequence[int], top: int | None = None, world: World = SOLO
) -> Evaluation:
    """Loss and accuracies of ``model``, in evaluation mode, over ``batches``.

    Args:
        classes, top: see :class:`Tally`.
        world: the processes that evaluate a share each: the result is all shares'.
    """
    was_training = model.training
    model.eval()
    tally, sums = Tally(classes, top), []
    for images, labels in batches:
        logits = model(images)
        losses = task_losses(logits, labels, classes)
        tally.add(sum(losses) / (labels != UNLABELLED).sum(), logits, labels)
        sums.append(torch.stack(losses))
    model.train(was_training)
    losses_of_all = world.sum(torch.stack(sums).cpu().double().sum(0))
    asked = world.sum(torch.as_tensor(tally.asked)).cpu()
    return tally.results(world)[0]._replace(losses=(losses_of_all / asked).tolist())


def live(outgoing: Tensor) -> Tensor:
    """Which units of a layer are live: ``sum |w|`` over a unit's outgoing weights exceeds 0.1 of the layer's mean.

    Args:
        outgoing: those sums, ``[units]``.
    """
    return outgoing > 0.1 * outgoing.mean()


def live_units(model: nn.Module) -> dict[str, Tensor]:
    """Which units are :func:`live`, ``[units]`` by placed layer's name; the outputs, which nothing reads, all are."""
    alive = {layer: place.new_ones(len(place), dtype=torch.bool) for layer, place in graph.positions(model).items()}
    return alive | {layer: live(sums) for layer, sums in graph.outgoing(model).items()}


# Measures of clustering and wiring. All are computed in float64 on the CPU and return plain numbers; None is undefined.
# scipy and scikit-learn, 0.2 and 0.8 s to import, are imported where they are used.


def distinct_places(positions: Tensor, tolerance: float = 0.01) -> int:
    """Number of groups of units that are chained by distances ``<= tolerance`` (single linkage).

    Args:
        positions: ``[n, dim]``, in deviations of the start.
        tolerance: of the same unit, >= 0; 0 counts the places that differ at all.

    Returns:
        1 to n; 0 for no units.

    Raises:
        ValueError: if ``positions`` is not ``[n, dim]``.

    >>> distinct_places(torch.tensor([[0.0, 0.0], [0.0, 0.009], [0.0, 0.018], [1.0, 0.0]]))
    2
    """
    _check(positions)
    if len(positions) == 0:
        return 0
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    places = plain(positions)
    near = distance(places, places) <= tolerance
    return int(connected_components(csr_array(near.numpy()), directed=False, return_labels=False))


def purity(positions: Tensor, owners: Tensor, neighbours: int = NEIGHBOURS) -> float | None:
    """Mean over units of the share of their ``k = min(neighbours, n - 1)`` nearest neighbours with the same owner.

    A unit is not its own neighbour. Neighbours tied at the last distance (within 1e-6 of it) share the places that are
    left equally, which is the mean over all ways of choosing among them: the order of the units does not matter.

    Args:
        positions: ``[n, dim]``.
        owners: ``[n]``, any integers; -1 is one like the others.
        neighbours: at least 1.

    Returns:
        0 to 1; None for fewer than 3 units.

    Raises:
        ValueError: if the shapes do not fit or ``neighbours`` is below 1.

    >>> purity(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1]), neighbours=1)
    0.6666666666666666
    """
    _check(positions, owners)
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    n = len(positions)
    if n < 3:
        return None
    k = min(neighbours, n - 1)
    places, own = plain(positions), owners.cpu()
    d = distance(places, places).fill_diagonal_(torch.inf)
    last = d.kthvalue(k, dim=1, keepdim=True).values
    nearer = d < last * (1 - TIE)
    tied = ~nearer & (d <= last * (1 + TIE))
    same = own[:, None] == own
    left = k - nearer.sum(1)  # places for the tied
    alike = (nearer & same).sum(1) + left * ((tied & same).sum(1).double() / tied.sum(1))
    return (alike / k).mean().item()


def kappa(positions: Tensor, owners: Tensor, neighbours: int = NEIGHBOURS) -> float | None:
    """Purity beyond chance: ``(purity - c) / (1 - c)``, ``c`` the sum of the owners' squared shares of the units.

    Args:
        positions: ``[n, dim]``.
        owners: ``[n]``, any integers.
        neighbours: see :func:`purity`.

    Returns:
        1 where all neighbours have one owner, about 0 where owners are mixed at random, negative where like units avoid
        each other; None for one owner only or fewer than 3 units.

    Raises:
        ValueError: as :func:`purity`.

    Source: the form of Cohen's kappa (1960), agreement beyond chance.

    >>> kappa(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]), neighbours=1)
    1.0
    """
    found = purity(positions, owners, neighbours)
    counts = owners.unique(return_counts=True)[1].double()
    if found is None or len(counts) < 2:
        return None
    chance = (counts / len(owners)).square().sum().item()
    return (found - chance) / (1 - chance)


def silhouette(positions: Tensor, owners: Tensor) -> float | None:
    """Mean over units of ``(b - a) / max(a, b)``.

    ``a`` is a unit's mean distance to the others of its owner, ``b`` the smallest, over the other owners, of its mean
    distance to theirs. A unit that is its owner's only one, or with ``a = b = 0``, contributes 0.

    Args:
        positions: ``[n, dim]``.
        owners: ``[n]``, any integers.

    Returns:
        -1 to 1; None for one owner only, as many owners as units, or fewer than 3 units.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Rousseeuw 1987, by scikit-learn.
    """
    _check(positions, owners)
    n = len(positions)
    if n < 3 or not 1 < len(owners.unique()) < n:
        return None
    from sklearn.metrics import silhouette_score

    places = plain(positions)
    exact = distance(places, places)  # scikit-learn's own is a matrix product
    return float(silhouette_score(exact.numpy(), owners.cpu().numpy(), metric="precomputed"))


def crossing(weight: Tensor, target_owners: Tensor, source_owners: Tensor) -> float | None:
    """Share of ``|w|`` that joins units of different tasks, over the pairs whose both units have an owner.

    Args:
        weight: ``[out, in, ...]``; further axes are the weights that join the same two units.
        target_owners: the tasks of the units that read, ``[out]``, -1 for none.
        source_owners: the tasks of the units that are read, ``[in]``, -1 for none.

    Returns:
        0 to 1; None where those pairs' ``|w|`` sum to 0.

    Raises:
        ValueError: if the shapes do not fit.

    >>> crossing(torch.tensor([[3.0, -1.0]]), torch.tensor([0]), torch.tensor([0, 1]))
    0.25
    """
    _check_weight(weight, target_owners, source_owners)
    target, source = target_owners.cpu()[:, None], source_owners.cpu()
    size = _size(weight)
    owned = (target >= 0) & (source >= 0)
    total = size[owned].sum().item()
    return size[owned & (target != source)].sum().item() / total if total > 0 else None


def wire_length(weight: Tensor, target: Tensor, source: Tensor) -> float:
    """``sum |w| d`` over all weights of a connection, ``d`` the distance of the two units that a weight joins.

    Args:
        weight: ``[out, in, ...]``; further axes are the weights that join the same two units.
        target: places of the units that read, ``[out, dim]``.
        source: places of the units that are read, ``[in, dim]``.

    Returns:
        >= 0, in units of length times weight; 0 for no weights.

    Raises:
        ValueError: if the shapes do not fit.

    >>> wire_length(torch.tensor([[3.0, -1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0]]))
    5.0
    """
    _check(target)
    _check(source)
    if target.shape[1] != source.shape[1]:
        raise ValueError(
            f"places must have as many dimensions as each other, got {target.shape[1]} and {source.shape[1]}"
        )
    _check_weight(weight, target, source)
    return (_size(weight) * distance(plain(target), plain(source))).sum().item()


def adjusted_rand(a: Tensor, b: Tensor) -> float | None:
    """Agreement of two labellings of the same units, up to names of labels: ``(R - E) / (M - E)``.

    ``R`` is the number of pairs of units that are together in both, ``A`` and ``B`` in either, of ``N`` pairs;
    ``E = A B / N`` is what chance gives, ``M = (A + B) / 2``. 1 where ``M = E``: both are then one and the same.

    Args:
        a, b: ``[n]``, any integers.

    Returns:
        1 for equal partitions, about 0 for unrelated ones, at least -0.5; None for fewer than 2 units.

    Raises:
        ValueError: if the shapes are not ``[n]`` and ``[n]``.

    Source: Hubert and Arabie 1985, by scikit-learn.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"labels must be [n] and [n], got {list(a.shape)} and {list(b.shape)}")
    if len(a) < 2:
        return None
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a.cpu().numpy(), b.cpu().numpy()))


def layer_measures(
    *,
    positions: Tensor,
    owners: Tensor,
    alive: Tensor,
    tasks: int,
    weight: Tensor | None = None,
    source: Tensor | None = None,
    source_owners: Tensor | None = None,
) -> dict[str, float | int | None]:
    """One layer's measures by name.

    Args:
        positions: of the layer's units, ``[n, dim]``.
        owners: their tasks, ``[n]``, -1 for none.
        alive: which units are live, ``[n]``, see :func:`live`.
        tasks: number of tasks.
        weight: of the connection into the layer, ``[n, in, ...]``; None where it has none.
        source: places of the units that it reads, ``[in, dim]``; None where they have none.
        source_owners: tasks of those, ``[in]``; None where they serve none in particular, as placed inputs.

    Returns:
        In this order: ``units``; ``live``, their number; ``live_0``, ``live_1``, ...: the fraction of the live units
        that each task owns (None if none is live); ``places``: :func:`distinct_places` of the live units; ``purity``,
        ``kappa`` and ``silhouette`` over the live units that have an owner; ``crossing`` and ``wire`` over the
        connection, silent units too (None where an argument that they need is None).

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(positions, owners, alive)
    owners, alive = owners.cpu(), alive.cpu().bool()
    places = plain(positions)
    count = int(alive.sum())
    chosen = alive & (owners >= 0)
    mine, whose = places[chosen], owners[chosen]
    return {
        "units": len(places),
        "live": count,
        **{f"live_{task}": int((owners[alive] == task).sum()) / count if count else None for task in range(tasks)},
        "places": distinct_places(places[alive]),
        "purity": purity(mine, whose),
        "kappa": kappa(mine, whose),
        "silhouette": silhouette(mine, whose),
        "crossing": None if weight is None or source_owners is None else crossing(weight, owners, source_owners),
        "wire": None if weight is None or source is None else wire_length(weight, places, source),
    }


def plain(x: Tensor) -> Tensor:
    """float64, on the CPU, without gradients."""
    return x.detach().cpu().double()


def _size(weight: Tensor) -> Tensor:
    """``|w|`` summed over the weights that join the same two units, ``[out, in]``."""
    size = plain(weight).abs()
    return size.flatten(2).sum(2) if size.ndim > 2 else size


def _check(positions: Tensor, *labels: Tensor) -> None:
    if positions.ndim != 2:
        raise ValueError(f"positions must be [n, dim], got {list(positions.shape)}")
    if wrong := [list(each.shape) for each in labels if each.shape != positions.shape[:1]]:
        raise ValueError(f"one value per unit is needed, [{len(positions)}], got {wrong[0]}")


def _check_weight(weight: Tensor, target: Tensor, source: Tensor) -> None:
    if weight.ndim < 2 or weight.shape[:2] != (len(target), len(source)):
        raise ValueError(
            f"weight must be [out, in, ...] = [{len(target)}, {len(source)}, ...], got {list(weight.shape)}"
        )


# Statistics.


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (None for a single value) over seeds."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return {"mean": numbers.mean().item(), "std": numbers.std().item() if len(values) > 1 else None}


def interval(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the t-interval of a mean; ``values`` are at least two."""
    from scipy.stats import t

    deviation = torch.tensor(values, dtype=torch.float64).std().item()
    return float(t.ppf((1 + level) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
