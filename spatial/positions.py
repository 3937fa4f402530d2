"""Places of neurons and the distances between them. Lengths are in standard deviations of the random start."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

OUTPUTS = ("free", "task", "held", "arbitrary")


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


def output_groups(classes: Sequence[int], outputs: str = "task") -> Tensor:
    """Which place every output starts around, ``[sum of classes]``; there are as many places as tasks.

    Its task's, but for ``arbitrary``: there the outputs are dealt out to the places in turn, so that every task's are
    spread evenly.
    """
    if outputs == "arbitrary":
        return torch.arange(sum(classes)) % len(classes)
    return torch.arange(len(classes)).repeat_interleave(torch.tensor(classes))


def output_places(draw: Tensor, classes: Sequence[int], outputs: str = "free", spread: float = 0.3) -> Tensor:
    """Where the output neurons start, made from one standard normal draw.

    Args:
        draw: ``[sum of classes, dim]``, standard normal.
        classes: number of classes of each task; outputs are task-major.
        outputs: ``free`` leaves the draw as it is, like every other layer's; ``task`` and ``held`` put each task's
            outputs around a place of its own (:func:`task_centres`), ``arbitrary`` groups that mix the tasks
            (:func:`output_groups`).
        spread: standard deviation around that place.

    Returns:
        ``[sum of classes, dim]``.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, got {outputs!r}")
    if outputs == "free":
        return draw
    centres = task_centres(len(classes), draw.shape[1]).to(draw)
    return centres[output_groups(classes, outputs)] + spread * draw


def pixel_grid(shape: Sequence[int], dim: int) -> Tensor:
    """Places of an image's pixels, ``[channels * height * width, dim]``, in the order of a flattened image.

    The grid is centred and has standard deviation 1 along each axis (0 along an axis of one pixel): x to the right, y
    upwards, further coordinates 0. Channels share places.

    Args:
        shape: ``(channels, height, width)``.
        dim: dimensions of the space, at least 2.
    """
    if dim < 2:
        raise ValueError(f"a grid of pixels needs 2 dimensions or more, got {dim}")
    channels, height, width = shape
    y, x = torch.meshgrid(-_standardised(height), _standardised(width), indexing="ij")
    grid = torch.zeros(height * width, dim)
    grid[:, 0], grid[:, 1] = x.flatten(), y.flatten()
    return grid.repeat(channels, 1)


def _standardised(n: int) -> Tensor:
    """``n`` even steps with mean 0 and (population) standard deviation 1."""
    steps = _centred(n, n - 1)
    return (steps / steps.square().mean().sqrt().clamp(min=1e-12)).float()


def _centred(n: int, span: float) -> Tensor:
    """``n`` even steps from ``-span / 2`` to ``span / 2``; a single one sits in the middle."""
    return (torch.arange(n, dtype=torch.float64, device="cpu") - (n - 1) / 2) * (span / max(n - 1, 1))


# Sheets: fixed places, their unit of length the spacing of neighbours.


def line(units: int, span: float | None = None) -> Tensor:
    """Units side by side along x, centred, ``[units, 2]``, float64.

    Args:
        units: their number, at least 1.
        span: length from the first to the last; None means unit spacing, ``units - 1``.

    Raises:
        ValueError: if there are no units.
    """
    own = line_span(units)
    x = _centred(units, own if span is None else span)
    return torch.stack([x, torch.zeros_like(x)], 1)


def plane(units: int, span: float | None = None) -> Tensor:
    """Units on a square grid, row by row from the top left as an image's pixels, centred, ``[units, 2]``, float64.

    Args:
        units: their number, a square one.
        span: length of an edge; None means unit spacing, ``sqrt(units) - 1``.

    Raises:
        ValueError: if ``units`` is not a square number.
    """
    own = plane_span(units)
    steps = _centred(own + 1, own if span is None else span)
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def line_span(units: int) -> int:
    """Length of a line of unit spacing."""
    if units < 1:
        raise ValueError(f"a line needs 1 unit or more, got {units}")
    return units - 1


def plane_span(units: int) -> int:
    """Length of an edge of a plane of unit spacing."""
    if not is_square(units):
        raise ValueError(f"a plane needs square widths (1, 4, 9, 16, ...), got {units}")
    return math.isqrt(units) - 1


def is_square(units: int) -> bool:
    """Whether so many units make a plane."""
    return units > 0 and math.isqrt(units) ** 2 == units


class Sheet(NamedTuple):
    """A way to lay units out: their places over a span, and the span that has unit spacing."""

    places: Callable[[int, float | None], Tensor]
    span: Callable[[int], int]


SHEETS = {"line": Sheet(line, line_span), "plane": Sheet(plane, plane_span)}
