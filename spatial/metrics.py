"""Accuracy per task, live units, statistics of results."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spatial.models import heads
from spatial.tasks import UNLABELLED, Batch, task_loss


class Evaluation(NamedTuple):
    """How well a network does: mean loss, and each task's accuracy, 0 to 1."""

    loss: float
    accuracy: list[float]

    @property
    def mean(self) -> float:
        """The mean accuracy over tasks."""
        return sum(self.accuracy) / len(self.accuracy)


class Tally:
    """Sums up batches on their device, without a synchronisation until the result is read.

    Args:
        classes: number of classes of each task.
    """

    def __init__(self, classes: Sequence[int]):
        self.heads = heads(classes)
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.asked: Tensor | int = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss, ``[batch, sum of classes]`` and ``[batch, tasks]`` (-1: nothing asked)."""
        labelled = labels != UNLABELLED
        guesses = torch.stack([logits[:, own].argmax(1) for own in self.heads], 1)  # [batch, tasks]
        self.loss = self.loss + loss.detach() * labelled.sum()
        self.correct = self.correct + (guesses == labels).sum(0)
        self.asked = self.asked + labelled.sum(0)

    def result(self) -> Evaluation:
        """The mean loss and the accuracies of all that was added."""
        correct, asked = torch.as_tensor(self.correct).tolist(), torch.as_tensor(self.asked).tolist()
        return Evaluation(float(self.loss) / sum(asked), [c / a for c, a in zip(correct, asked, strict=True)])


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], classes: Sequence[int]) -> Evaluation:
    """Loss and accuracies of ``model``, in evaluation mode, over ``batches``."""
    was_training = model.training
    model.eval()
    tally = Tally(classes)
    for images, labels in batches:
        logits = model(images)
        tally.add(task_loss(logits, labels, classes), logits, labels)
    model.train(was_training)
    return tally.result()


def live(outgoing: Tensor) -> Tensor:
    """Which units of a layer are live: ``sum |w|`` over a unit's outgoing weights exceeds 0.1 of the layer's mean.

    Args:
        outgoing: those sums, ``[units]``.
    """
    return outgoing > 0.1 * outgoing.mean()


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (None for a single value) over seeds."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return {"mean": numbers.mean().item(), "std": numbers.std().item() if len(values) > 1 else None}
