"""What the units do: streamed statistics of their activations, task by task or label by label."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatial import graph
from spatial.models import endless
from spatial.progress import over
from spatial.tasks import Tasks

BY = ("task", "label")


class Moments:
    """Mean, mean |a| and variance of each column of a stream of batches, in float64, without keeping any of it.

    Batches are merged by their means and sums of squared deviations (Chan, Golub and LeVeque 1979), which does not
    cancel as a sum of squares does. The variance is the population's, ``sum (a - mean)^2 / count``.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.mean_abs: Tensor | float = 0.0
        self.deviations: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """One batch, ``[batch, units]``; a feature map ``[batch, units, ...]`` counts every place in it."""
        values = values.detach().cpu().double()
        count = values[:, :1].numel()
        if count == 0:
            return
        samples = [0, *range(2, values.ndim)]
        variance, mean = torch.var_mean(values, samples, correction=0)  # [units] each
        shift = mean - self.mean
        share = count / (self.count + count)
        self.deviations = self.deviations + variance * count + shift.square() * self.count * share
        self.mean = self.mean + shift * share
        self.mean_abs = self.mean_abs + (values.abs().mean(samples) - self.mean_abs) * share
        self.count += count

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.deviations) / max(self.count, 1)


@contextmanager
def watching(model: nn.Module, receive: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``receive(layer, activation)`` for every hidden layer that the model states, at every forward pass."""
    activity: dict[str, str] = model.activity  # type: ignore[assignment]
    hooks = [
        model.get_submodule(module).register_forward_hook(lambda _, __, output, layer=layer: receive(layer, output))
        for layer, module in activity.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def groups(tasks: Tasks, by: str) -> list[Tensor]:
    """The images that each row of a record is about, every other task's image blank; no image is in two groups.

    Args:
        by: ``task``: a group per task; ``label``: one per (task, label), task-major.

    Returns:
        Indices ``[images of the group, tasks]``, see :mod:`spatial.tasks`; without rows for a label that no image has.

    Raises:
        ValueError: if ``by`` is unknown.
    """
    if by not in BY:
        raise ValueError(f"by must be one of {', '.join(BY)}, got {by!r}")
    whole = [tasks.alone(task) for task in range(len(tasks.sizes))]
    if by == "task":
        return whole
    labels = [own[:-1].cpu() for own in tasks.labels]  # the last is the blank image's
    return [
        index[own == label]
        for index, own, classes in zip(whole, labels, tasks.classes, strict=True)
        for label in range(classes)
    ]


def record_groups(model: nn.Module, tasks: Tasks, by: str, batch_size: int = 500) -> dict[str, np.ndarray]:
    """Each task's own activity, or each label's: its images alone, every other task's image blank.

    Args:
        by: ``task``: a row per task; ``label``: a row per (task, label), task-major: ``[sum of classes]`` rows.

    Returns:
        ``count`` ``[rows]``, the images of each row, and, for every hidden layer l, ``layer-l/mean``,
        ``layer-l/mean_abs`` and ``layer-l/variance``, ``[rows, units]``, float64; NaN where a row has no image.

    Raises:
        ValueError: if ``by`` is unknown.
        UserError: if an activity is not finite.
    """
    indices = groups(tasks, by)
    batch_size = min(batch_size, tasks.most)
    chunks = [(row, rows) for row, index in enumerate(indices) for rows in index.split(batch_size) if len(rows)]
    rows = [{layer: Moments() for layer in model.activity} for _ in indices]  # type: ignore[union-attr]
    shown = 0
    model.to(tasks.device).eval()
    with watching(model, lambda layer, output: rows[shown][layer].add(output)), torch.inference_mode():
        batches = over(tasks.series(each for _, each in chunks), "recording", len(chunks))
        for (shown, _), batch in zip(chunks, batches, strict=True):  # noqa: B007
            model(batch.images)
    places = graph.positions(model)
    arrays: dict[str, Any] = {"count": np.array([len(index) for index in indices])}
    for number, layer in enumerate(rows[0]):
        empty = torch.full((len(places[layer]),), torch.nan, dtype=torch.float64)
        for measure in ("mean", "mean_abs", "variance"):
            seen = [getattr(row[layer], measure) for row in rows if row[layer].count]
            if not all(each.isfinite().all() for each in seen):
                raise endless(model, f"the activity of layer {number}")
            values = [getattr(row[layer], measure) if row[layer].count else empty for row in rows]
            arrays[f"layer-{number}/{measure}"] = torch.stack(values).numpy()
    return arrays
