"""One or more data sets as tasks of one network: how their images meet, in which order they come, what the loss is.

An *index* ``[n, tasks]`` says which image of each task makes an input; ``N``, a task's number of images, stands for a
blank image without a label, and ``N + 1 + i`` for image i, shown but not asked for. So all ways of input are one:

* ``mix``: the images of a row are added, pixel by pixel;
* ``concatenate``: they are stacked along the channels;
* ``sequential``: as ``mix``, every row but for one task blank: one image at a time, only its own head is asked.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spatial.data import ImageSet
from spatial.models import heads
from spatial.seeds import generator

INPUTS = ("mix", "concatenate", "sequential")
ORDERS = ("random", "blocked")
UNLABELLED = -1


class Batch(NamedTuple):
    """Inputs of the network and what is asked of it.

    Attributes:
        images: floats, ``[batch, channels, height, width]``, ``x / 255``.
        labels: ``[batch, tasks]``, -1 where an input has no image of that task.

    Both have the replicas first where the index has.
    """

    images: Tensor
    labels: Tensor


class Tasks:
    """The image sets of one subset, one per task, as batches on a device.

    Args:
        sets: one per task.
        input: ``mix``, ``concatenate`` or ``sequential``.
        device: where the images are held, as bytes, and the batches made.

    Attributes:
        top: accuracy is also counted among so many best guesses; None: it is not.
        most: images that may be shown at once where nothing is learned.
    """

    top: int | None = None
    most = 2000

    def __init__(self, sets: Sequence[ImageSet], input: str, device: torch.device | str = "cpu"):
        if input not in INPUTS:
            raise ValueError(f"input must be one of {', '.join(INPUTS)}, got {input!r}")
        self.input = input
        self.classes = tuple(each.classes for each in sets)
        self.sizes = tuple(len(each.images) for each in sets)
        # the blank image comes last
        self.images = [torch.cat([each.images, torch.zeros_like(each.images[:1])]).to(device) for each in sets]
        self.labels = [torch.cat([each.labels, torch.tensor([UNLABELLED])]).to(device) for each in sets]

    @property
    def device(self) -> torch.device:
        """Where the images are held."""
        return self.images[0].device

    @property
    def blank(self) -> Tensor:
        """The index of every task's blank image, ``[tasks]``."""
        return torch.tensor(self.sizes)

    def batch(self, index: Tensor) -> Batch:
        """The inputs of the rows of ``index``, ``[..., batch, tasks]``, on the same device."""
        columns, labels = index.unbind(-1), self.asked(index)
        picked = [
            # ten times as fast on bytes as own[column]
            own.index_select(0, (column % len(own)).flatten()).unflatten(0, column.shape)
            for own, column in zip(self.images, columns, strict=True)
        ]
        if self.input == "concatenate":
            return Batch(torch.cat(picked, -3) / 255, labels)
        total = picked[0].to(torch.get_default_dtype())
        for other in picked[1:]:
            total += other
        return Batch(total.div_(255), labels)

    def asked(self, index: Tensor) -> Tensor:
        """The labels of the rows of ``index``, see :class:`Batch`."""
        columns = zip(self.labels, index.unbind(-1), strict=True)
        return torch.stack([own[column.clamp(max=len(own) - 1)] for own, column in columns], -1)

    def batches(self, index: Tensor, size: int) -> Iterator[Batch]:
        """All rows of ``index``, ``[..., n, tasks]``, ``size`` at a time."""
        index = index.to(self.device)
        return (self.batch(rows) for rows in index.split(size, -2))

    def series(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """A batch for each of several indices ``[n, tasks]``."""
        return (self.batch(rows.to(self.device)) for rows in chunks)

    def training_batches(self, index: Tensor, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """As :meth:`batches`, of images as they are learned from: whole images in memory are, as they are scored."""
        return self.batches(index, size)

    @property
    def inputs(self) -> int:
        """How many inputs an epoch has, the length of :meth:`training_order`."""
        return max(self.sizes) * (len(self.sizes) if self.input == "sequential" else 1)

    def training_order(self, seed: int, epoch: int, order: str = "random") -> Tensor:
        """One epoch's index, ``[n, tasks]``, from generators made for this seed and epoch.

        A shorter data set is resampled up to the longest: every image comes before any comes again. ``sequential``: the
        tasks' images one by one, shuffled together (``random``) or task after task (``blocked``).
        """
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        longest = max(self.sizes)
        columns = []
        for task, size in enumerate(self.sizes):
            draws = generator(seed, "order", epoch, task)
            rounds = [torch.randperm(size, generator=draws) for _ in range(-(-longest // size))]
            columns.append(torch.cat(rounds)[:longest])
        if self.input != "sequential":
            return torch.stack(columns, 1)
        index = self._one_by_one(columns)
        if order == "random" and len(columns) > 1:  # a single task's images are shuffled already
            index = index[torch.randperm(len(index), generator=generator(seed, "order", epoch, "tasks"))]
        return index

    def scoring_order(self) -> Tensor:
        """The index on which networks are scored, ``[n, tasks]``: one and the same for every seed, every image in it.

        In ``mix`` and ``concatenate`` the other tasks' images are paired with the first's by fixed permutations (a data
        set may be sorted by class). A shorter data set starts again, its images shown but not asked for: each is
        scored once.
        """
        if self.input == "sequential":
            return self._one_by_one([torch.arange(size) for size in self.sizes])
        longest = max(self.sizes)
        rows, columns = torch.arange(longest), []
        for task, size in enumerate(self.sizes):
            order = torch.randperm(size, generator=generator(0, "pairing", task)) if task else torch.arange(size)
            columns.append(order[rows % size] + (rows >= size) * (size + 1))
        return torch.stack(columns, 1)

    def alone(self, task: int) -> Tensor:
        """An index of every image of one task, every other task's image blank, ``[images of the task, tasks]``."""
        index = self.blank.repeat(self.sizes[task], 1)
        index[:, task] = torch.arange(self.sizes[task])
        return index

    def _one_by_one(self, columns: list[Tensor]) -> Tensor:
        index = self.blank.repeat(sum(map(len, columns)), 1)
        start = 0
        for task, column in enumerate(columns):
            index[start : start + len(column), task] = column
            start += len(column)
        return index


def task_loss(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Cross-entropy, the mean over everything asked: ``sum over labelled (image, task) of CE / their number``.

    Where every image carries every task that is the mean over tasks of the mean over images; in ``sequential`` the mean
    over the batch, each image by its own head.

    Args:
        logits: ``[batch, sum of classes]``.
        labels: ``[batch, tasks]``, -1 where nothing is asked.
        classes: number of classes of each task.
    """
    return sum(task_losses(logits, labels, classes)) / (labels != UNLABELLED).sum()


def task_losses(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """Each task's cross-entropy, in float32 or wider, summed over its labelled images; arguments as there."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return [
        F.cross_entropy(logits[:, own], labels[:, task], ignore_index=UNLABELLED, reduction="sum")
        for task, own in enumerate(heads(classes))
    ]
