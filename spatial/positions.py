"""Places of neurons and the distances between them. Lengths are in standard deviations of the random start."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

OUTPUTS = ("free", "task")


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance ``d(a, b) = ||a - b||_2`` between every place of ``a`` and every place of ``b``.

    Args:
        a: places, ``[n, dim]``.
        b: places, ``[m, dim]``.

    Returns:
        ``[n, m]``. Exact (float32 ``torch.cdist`` errs by 1e-3 in its default mode, a matrix product), and its
        gradient where two neurons coincide is 0.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def random_places(units: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal places, ``[units, dim]``."""
    return torch.randn(units, dim, generator=generator)


def task_centres(tasks: int, dim: int, radius: float = 2.0) -> Tensor:
    """One place per task, ``[tasks, dim]``: x = -2 and +2 for two, evenly on a circle of radius 2 for more.

    In one dimension they lie evenly from -2 to +2; a single task sits at the origin.
    """
    centres = torch.zeros(tasks, dim)
    if tasks > 1 and (tasks == 2 or dim == 1):
        centres[:, 0] = torch.linspace(-radius, radius, tasks)
    elif tasks > 2:
        angle = torch.arange(tasks) * (2 * math.pi / tasks) + math.pi  # the first at x = -2, as with two
        centres[:, 0], centres[:, 1] = radius * angle.cos(), radius * angle.sin()
    return centres


def output_places(draw: Tensor, classes: Sequence[int], outputs: str = "free", spread: float = 0.3) -> Tensor:
    """Where the output neurons start, made from one standard normal draw.

    Args:
        draw: ``[sum of classes, dim]``, standard normal.
        classes: number of classes of each task; outputs are task-major.
        outputs: ``free`` leaves the draw as it is, like every other layer's; ``task`` puts each task's outputs around
            a place of its own (:func:`task_centres`).
        spread: standard deviation around that place.

    Returns:
        ``[sum of classes, dim]``.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, got {outputs!r}")
    if outputs == "free":
        return draw
    centres = task_centres(len(classes), draw.shape[1]).to(draw)
    return centres.repeat_interleave(torch.tensor(classes), dim=0) + spread * draw
