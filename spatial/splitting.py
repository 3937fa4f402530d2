"""Give every hidden unit to the tasks it serves, cut one network per task, and extract each as a smaller network."""

import io
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spatial import graph, models
from spatial.errors import UserError
from spatial.locality import LocalityPriorLinear
from spatial.metrics import adjusted_rand, live_units
from spatial.seeds import derive, generator

Recorded = dict[str, Tensor]  # mean |activation| by layer's name, [tasks, units]


class Split(NamedTuple):
    """What a method decides, by placed layer's name, the output layer last.

    Attributes:
        k: ``[tasks, units]``, the factor of unit j in task t's part: 0 removes it, 1 leaves it as it is.
        owners: ``[units]``, the one task that each unit belongs to; -1 for none.
    """

    k: dict[str, Tensor]
    owners: dict[str, Tensor]


# Scores.


def scores(model: nn.Module, layer: str, k: dict[str, Tensor]) -> Tensor:
    """``score(t, j) = sum over units i of the next layers of k(t, i) |w_ij|``, ``[tasks, units]``."""
    readers = [edge for edge in graph.connections(model) if edge.source == layer and edge.target in k]
    if not readers:  # what serves no output, such as an attention's queries
        return next(iter(k.values())).new_zeros(_tasks(model), len(graph.positions(model)[layer]))
    return torch.stack([k[edge.target] @ graph.weight(model, edge).detach().abs().sum(2) for edge in readers]).sum(0)


def largest(score: Tensor) -> Tensor:
    """1 for the task of the largest score (ties: the lower index), 0 for the others and where every score is 0."""
    tasks = torch.arange(len(score), device=score.device)
    first = (score == score.amax(0)).int().argmax(0)  # the first of equal ones
    return ((tasks[:, None] == first) & (score.amax(0) > 0)).to(score)


def shares(score: Tensor) -> Tensor:
    """Every task's scores divided by their sum over the layer; all 0 where that is 0."""
    return _divided(score, score.sum(1, keepdim=True))


def relative(score: Tensor) -> Tensor:
    """``r(t, j) = score(t, j) / max_s score(s, j)``; 0 where every score is 0."""
    return _divided(score, score.amax(0))


def owner(score: Tensor) -> Tensor:
    """The task of the largest score, ``[units]`` (ties: the lower index); -1 where every score is 0."""
    return torch.where(score.amax(0) > 0, largest(score).argmax(0), -1)


# Methods: (model, seed, recorded) -> Split. Only those that need a seed or recordings look at them.


def greedy(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """Backwards from the heads, every unit to the task of the largest score (arXiv:1910.02776, section 3)."""
    return _backwards(model, largest)


def balanced(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """As ``greedy``, each task's scores first divided by their sum over the layer: larger weights alone win nothing."""
    return _backwards(model, largest, shares)


def probability(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """``k(t, j)`` drawn once from Bernoulli(``r(t, j)``), :func:`relative`; a unit may serve several tasks.

    The task of the largest score has ``r = 1`` and always keeps the unit: it is the owner.
    """
    draws = generator(seed, "split", "probability")
    return _backwards(model, lambda score: torch.bernoulli(relative(score).cpu(), generator=draws).to(score))


def rescale(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """``k = r``, :func:`relative`: unit j's output is multiplied by ``r(t, j)`` for task t."""
    return _backwards(model, relative)


def activations(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """Every unit to the task with the larger mean |activation| on training images; to none if it is never active.

    Raises:
        ValueError: without ``recorded``.
    """
    if recorded is None:
        raise ValueError("activations needs what was recorded on training images")
    return _each_layer(model, lambda layer, place: owner(recorded[layer].to(place)))


def clusters(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """Clusters of places (:func:`partition`), each to the task with the larger sum of ``balanced`` scores."""
    k, cells = balanced(model).k, partition(model, seed)

    def owners(layer: str, place: Tensor) -> Tensor:
        member = torch.nn.functional.one_hot(cells[layer]).to(place)  # [units, clusters]
        return owner(shares(scores(model, layer, k)) @ member)[cells[layer]]

    return _each_layer(model, owners)


def random(model: nn.Module, seed: int = 0, recorded: Recorded | None = None) -> Split:
    """Every hidden unit to a task drawn evenly: the floor that a method must beat."""
    draws, tasks = generator(seed, "split", "random"), _tasks(model)
    return _each_layer(model, lambda layer, place: torch.randint(tasks, (len(place),), generator=draws))


METHODS: dict[str, Callable[[nn.Module, int, Recorded | None], Split]] = {
    "greedy": greedy, "balanced": balanced, "probability": probability, "rescale": rescale,
    "activations": activations, "clusters": clusters, "random": random,
}  # fmt: skip
RECORDED = ("activations",)  # need what `record` made


def grouped(model: nn.Module, belongs: Tensor) -> Split:
    """As ``balanced``, with groups of outputs in place of the tasks' own: which units serve each group.

    Args:
        belongs: ``[sum of classes]``, the group of every output; there are as many groups as tasks.
    """
    return _backwards(model, largest, shares, belongs)


class Joined(nn.Module):
    """One network of one part per group: every output is its own group's.

    Args:
        parts: of the groups (:func:`cut`).
        belongs: ``[sum of classes]``, the group of every output.
    """

    def __init__(self, parts: Iterable[nn.Module], belongs: Tensor):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("belongs", belongs)

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([part(images) for part in self.parts])
        return logits.gather(0, self.belongs.expand(1, *logits.shape[1:]))[0]  # type: ignore[operator]


def partition(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Each hidden layer's units in clusters by position alone, ``[units]``: it knows nothing of the tasks.

    Seeded k-means (as many clusters as tasks, 10 starts) over the live units; silent ones join the nearest centre. A
    layer with fewer distinct live places than tasks has as many clusters as places; one without live units counts all.
    """
    from sklearn.cluster import KMeans  # a second to import

    alive, cells = live_units(model), {}
    for layer, place in _hidden(model).items():
        points, lives = place.detach().cpu().double().numpy(), alive[layer].cpu().numpy()
        chosen = points[lives] if lives.any() else points
        number = min(_tasks(model), len(np.unique(chosen, axis=0)))
        random_state = derive(seed, "split", "clusters", layer) % 2**32
        means = KMeans(number, n_init=10, random_state=random_state).fit(chosen)
        cells[layer] = torch.from_numpy(means.predict(points)).long().to(place.device)
    return cells


def agreement(model: nn.Module, seed: int) -> dict[str, dict[str, float | None]]:
    """Adjusted Rand index between :func:`partition` and the owners of ``greedy`` and ``balanced``, over live units.

    Returns:
        By hidden layer's name, then method; None where it is undefined.
    """
    cells, alive = partition(model, seed), live_units(model)
    owned = {method: METHODS[method](model, seed, None).owners for method in ("greedy", "balanced")}
    return {
        layer: {method: adjusted_rand(cell[alive[layer]], of[layer][alive[layer]]) for method, of in owned.items()}
        for layer, cell in cells.items()
    }


# Parts.


def cut(model: nn.Module, k: dict[str, Tensor], task: int) -> nn.Module:
    """One task's part: a copy of ``model``, each hidden unit's output multiplied by its ``k`` for ``task``.

    The factor goes into the weights that read the unit. A unit with the factor 0 is removed: its weights, its bias, its
    batch-norm entries and the weights that read it are 0. Outputs are never removed: the part returns
    ``[batch, sum of classes]``, the other tasks' outputs reading the units that are left.
    """
    part = deepcopy(model)
    for edge in graph.connections(part):
        if edge.source in k:
            graph.scale(part, edge, k[edge.source][task])
    for layer in {edge.source for edge in graph.connections(part)} & set(k) - set(graph.outputs(part)):
        graph.remove(part, layer, k[layer][task] == 0)
    graph.network(part).eval()
    return part


def extract(model: nn.Module, k: dict[str, Tensor], task: int) -> nn.Module:
    """One task's part as a smaller dense network: without the removed units and the other tasks' outputs.

    Equal to :func:`cut` in evaluation mode up to rounding (1e-5 in float32); returns ``[batch, classes of the task]``.
    What has no places (LeNet's convolutions) is kept whole; a locality prior is multiplied into the weights.
    A layer of which the task keeps nothing has one unit left, its weights 0, since torch has no layers of no units: the
    output is a constant.
    """
    part = cut(model, k, task)
    kept = {layer: _kept(k[layer][task]) for layer in graph.placed(part)}
    *hidden, output = kept
    kept[output] = graph.outputs(model)[output] == task
    arguments = models.arguments_of(part) | {
        "layers": tuple(int(kept[layer].sum()) for layer in hidden),
        "classes": (int(kept[output].sum()),),
    }
    if "prior" in arguments:
        arguments["prior"] = None
    small = type(part)(**arguments).to(next(part.parameters()))
    norms = {layer: graph.norm(part, layer) for layer in kept}
    cut_down = {*map(part.get_submodule, kept), *norms.values()}
    for name, module in part.named_modules():
        if module not in cut_down and not any(module.children()):
            small.get_submodule(name).load_state_dict(module.state_dict())
    read = {edge.target: kept[edge.source] for edge in graph.connections(part) if edge.source in kept}
    for layer, own in kept.items():
        _copy(part.get_submodule(layer), small.get_submodule(layer), own, read.get(layer))
        if (norm := norms[layer]) is not None:
            _copy(norm, graph.norm(small, layer), own, None)  # type: ignore[arg-type]
    return small.eval()


def check_onnx() -> None:
    """UserError where the packages that :func:`to_onnx` needs are missing."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise UserError(f"--onnx needs {' and '.join(missing)}: python -m pip install {' '.join(missing)}")


def to_onnx(model: nn.Module) -> bytes:
    """The network as an ONNX file: ``images`` ``[batch, channels, height, width]`` to ``logits``."""
    example = torch.zeros(2, *model.shape)  # type: ignore[misc]
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings(action="ignore"):  # of torch's own making
        program = torch.onnx.export(
            model, (example,), input_names=["images"], output_names=["logits"], dynamic_shapes={"images": batch},
            dynamo=True, verbose=False,
        )  # fmt: skip
    buffer = io.BytesIO()
    program.save(buffer)  # type: ignore[union-attr, arg-type]
    return buffer.getvalue()


def _kept(factors: Tensor) -> Tensor:
    """Which units have a factor above 0, ``[units]``; if none has, the first, whose weights are 0."""
    kept = factors > 0
    kept[0] |= not kept.any()
    return kept


def _copy(large: nn.Module, small: nn.Module, own: Tensor, read: Tensor | None) -> None:
    """A layer's values for its units ``own``, of the weights those that read the source's units ``read`` (masks)."""
    state, whole = {}, large.state_dict()
    if isinstance(large, LocalityPriorLinear):
        whole["weight"], bias = large.effective()
        whole |= {} if bias is None else {"bias": bias}
    for name, value in whole.items():
        state[name] = value[own] if value.ndim else value
        if name == "weight" and read is not None:
            state[name] = state[name][:, graph.spread(read, value.shape[1])]
    small.load_state_dict(state)


# Shared by the methods.


def _tasks(model: nn.Module) -> int:
    return max(int(each.max()) for each in graph.outputs(model).values()) + 1


def _hidden(model: nn.Module) -> dict[str, Tensor]:
    """The places of the units that are no outputs, by layer's name."""
    outputs = graph.outputs(model)
    return {layer: place for layer, place in graph.positions(model).items() if layer not in outputs}


def _one_hot(owners: Tensor, tasks: int) -> Tensor:
    """``k`` of units that belong to one task each, or to none, ``[tasks, units]``."""
    return (torch.arange(tasks, device=owners.device)[:, None] == owners).to(torch.get_default_dtype())


def _backwards(
    model: nn.Module, choose: Callable[[Tensor], Tensor], weigh: Callable[[Tensor], Tensor] = lambda score: score,
    belongs: Tensor | None = None,
) -> Split:  # fmt: skip
    """Layer by layer from the heads: scores from the next layers' ``k``, weighed, then ``k`` chosen by them.

    The heads are the tasks' outputs, or the groups to which outputs ``belong``.
    """
    layers, owners = graph.positions(model), graph.outputs(model)
    owners = dict(owners) if belongs is None else dict.fromkeys(owners, belongs)
    k = {output: _one_hot(own, _tasks(model)).to(layers[output]) for output, own in owners.items()}
    for layer in reversed(_hidden(model)):
        score = weigh(scores(model, layer, k))
        k[layer], owners[layer] = choose(score), owner(score)
    return Split(*({layer: each[layer] for layer in layers} for each in (k, owners)))


def _each_layer(model: nn.Module, owners: Callable[[str, Tensor], Tensor]) -> Split:
    """Owners of each hidden layer's units by itself, the units at their places given."""
    layers = graph.positions(model)
    owned = {layer: owners(layer, place) for layer, place in _hidden(model).items()} | graph.outputs(model)
    owned = {layer: owned[layer] for layer in layers}
    k = {layer: _one_hot(own, _tasks(model)).to(layers[layer]) for layer, own in owned.items()}
    return Split(k, owned)


def _divided(score: Tensor, total: Tensor) -> Tensor:
    return score / total.masked_fill(total == 0, 1)
