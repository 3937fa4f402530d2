"""Give every hidden unit to the tasks it serves, and cut one network per task.

A method returns ``k``, by placed layer's name ``[tasks, units]``: 1 where unit j stays in task t's part, else 0.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from spatial import graph
from spatial.models import output_tasks
from spatial.seeds import generator


def scores(model: nn.Module, layer: str, k: dict[str, Tensor]) -> Tensor:
    """``score(t, j) = sum over units i of the next layers of k(t, i) |w_ij|``, ``[tasks, units]``."""
    readers = [edge for edge in graph.connections(model) if edge.source == layer]
    return torch.stack([k[edge.target] @ graph.weight(model, edge).detach().abs().sum(2) for edge in readers]).sum(0)


def largest(score: Tensor) -> Tensor:
    """1 for the task of the largest score (ties: the lower index), 0 for the others and where every score is 0."""
    tasks = torch.arange(len(score), device=score.device)
    first = (score == score.amax(0)).int().argmax(0)  # the first of equal ones
    return ((tasks[:, None] == first) & (score.amax(0) > 0)).to(score)


def shares(score: Tensor) -> Tensor:
    """Every task's scores divided by their sum over the layer; all 0 where that is 0."""
    total = score.sum(1, keepdim=True)
    return score / total.masked_fill(total == 0, 1)


def greedy(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Backwards from the heads, every unit to the task of the largest score (arXiv:1910.02776, section 3)."""
    return _backwards(model, largest)


def balanced(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """As ``greedy``, each task's scores first divided by their sum over the layer: larger weights alone win nothing."""
    return _backwards(model, lambda score: largest(shares(score)))


def random(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Every hidden unit to a task drawn evenly: the floor that a method must beat."""
    k = _heads(model)
    tasks = len(model.classes)  # type: ignore[arg-type]
    draws = generator(seed, "split", "random")
    for layer, place in reversed(graph.positions(model).items()):
        if layer not in k:
            owner = torch.randint(tasks, (len(place),), generator=draws)
            k[layer] = (torch.arange(tasks)[:, None] == owner).to(place)
    return {layer: k[layer] for layer in graph.placed(model)}


METHODS = {"greedy": greedy, "balanced": balanced, "random": random}


def owners(k: dict[str, Tensor]) -> dict[str, Tensor]:
    """The task of each unit, ``[units]`` by layer: the one with the largest ``k``; -1 where all are 0."""
    return {layer: torch.where(each.amax(0) > 0, largest(each).argmax(0), -1) for layer, each in k.items()}


def cut(model: nn.Module, k: dict[str, Tensor], task: int) -> nn.Module:
    """One task's part: a copy of ``model`` without the hidden units whose ``k`` is 0 for ``task``.

    A removed unit's weights, its bias and the weights that read it become 0. Outputs are never removed: the part
    returns ``[batch, sum of classes]``, the other tasks' outputs reading the units that are left.
    """
    part = deepcopy(model)
    layers = graph.placed(part)
    sources = {edge.source for edge in graph.connections(part)}
    gone = {name: k[name][task] == 0 for name in layers if name in sources}
    with torch.no_grad():
        for name, removed in gone.items():
            layers[name].get_parameter("weight")[removed] = 0
            layers[name].get_parameter("bias")[removed] = 0
        for edge in graph.connections(part):
            graph.weight(part, edge)[:, gone[edge.source]] = 0  # a view of the layer's own weight
    return part.eval()


def _heads(model: nn.Module) -> dict[str, Tensor]:
    """``k`` of the output layer: 1 for each task's own outputs."""
    output, place = list(graph.positions(model).items())[-1]
    classes: tuple[int, ...] = model.classes  # type: ignore[assignment]
    return {output: (torch.arange(len(classes))[:, None] == output_tasks(classes)).to(place)}


def _backwards(model: nn.Module, choose: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    k = _heads(model)
    for layer in reversed(graph.placed(model)):
        if layer not in k:
            k[layer] = choose(scores(model, layer, k))
    return {layer: k[layer] for layer in graph.placed(model)}
