"""What the units do: streamed statistics of their activations, task by task."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatial.tasks import Batch, Tasks


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
        values = values.detach().cpu().double().transpose(0, 1).flatten(1)  # [units, samples]
        count = values.shape[1]
        if count == 0:
            return
        mean = values.mean(1)
        shift = mean - self.mean
        share = count / (self.count + count)
        self.deviations = (
            self.deviations + (values - mean[:, None]).square().sum(1) + shift.square() * self.count * share
        )
        self.mean = self.mean + shift * share
        self.mean_abs = self.mean_abs + (values.abs().mean(1) - self.mean_abs) * share
        self.count += count

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.deviations) / max(self.count, 1)


def record(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Moments]:
    """Statistics of every hidden layer's activation, by the layer's name, over ``batches``, in evaluation mode."""
    activity: dict[str, str] = model.activity  # type: ignore[assignment]
    moments = {layer: Moments() for layer in activity}
    hooks = [
        model.get_submodule(module).register_forward_hook(lambda _, __, output, layer=layer: moments[layer].add(output))
        for layer, module in activity.items()
    ]
    try:
        model.eval()
        with torch.inference_mode():
            for batch in batches:
                model(batch.images)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def record_tasks(model: nn.Module, tasks: Tasks, batch_size: int = 2000) -> dict[str, np.ndarray]:
    """Each task's own activity: its images alone, every other task's image blank.

    Returns:
        ``count`` ``[tasks]`` and, for every hidden layer l, ``layer-l/mean``, ``layer-l/mean_abs`` and
        ``layer-l/variance``, ``[tasks, units]``, float64.
    """
    per_task = [record(model, tasks.batches(tasks.alone(task), batch_size)) for task in range(len(tasks.sizes))]
    arrays: dict[str, Any] = {"count": np.array(tasks.sizes)}
    for index, layer in enumerate(per_task[0]):
        for measure in ("mean", "mean_abs", "variance"):
            arrays[f"layer-{index}/{measure}"] = torch.stack(
                [getattr(each[layer], measure) for each in per_task]
            ).numpy()
    return arrays
