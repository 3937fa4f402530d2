"""From the names of data sets to tasks: those held in memory, and the folder of image files that stays on the disk."""

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spatial import process
from spatial.data import DataSet, choice, coloured, held_out, load_all
from spatial.errors import UserError
from spatial.folders import Files, index
from spatial.formats import COLOUR
from spatial.sources import DATASETS, FOLDER, PERMUTED, check_names
from spatial.streaming import FileTasks, check_shared_memory, default_workers
from spatial.tasks import Tasks

FOLDER_SIZE = 224  # pixels, where --resize says nothing else


class FileSet(NamedTuple):
    """The folder of image files as a data set, see :class:`spatial.data.DataSet`.

    Attributes:
        size: height and width of what a network sees, pixels.
        left_out: images that cannot be read and why, by path.
    """

    name: str
    train: Files
    test: Files
    checksums: dict[str, str]
    size: int
    left_out: dict[str, str]


def load_sets(
    names: Sequence[str], root: str, input: str, *, holdout: int = 0, resize: int | None = None, trust: bool = False,
    workers: int | None = None, left_out: dict[str, str] | None = None,
) -> list[DataSet] | list[FileSet]:  # fmt: skip
    """The data sets by name, in order, so that their images meet as ``input`` asks.

    Args:
        names: as :func:`spatial.data.load_all` takes them, which says what is refused; or ``ImageNet`` alone.
        root: the folder of the data; of ImageNet that of ``train/`` and ``val/``.
        input: ``mix``, ``concatenate`` or ``sequential``; where images are not stacked, grey ones beside coloured ones
            count for every channel.
        holdout: if not 0, so many training images of each task are its ``test`` instead of the test images.
        resize: if given, images have this height and width, in pixels; ImageNet's else 224.
        trust: of ImageNet: every image is taken to be readable, see :func:`spatial.folders.index`.
        workers: processes that try them, by default as many as there are cores.
        left_out: of ImageNet: those that are known not to be; nothing is tried.
    """
    if FOLDER in names:
        if len(names) > 1:
            raise UserError(f"--datasets {' '.join(names)}: {FOLDER} is trained alone, its images stay in files")
        found = index(root, trust=trust, workers=workers, left_out=left_out)
        size = resize or FOLDER_SIZE
        sets = FileSet(FOLDER, found.train, found.val, found.checksums, size, found.left_out)
        return [_held_out(sets, holdout)] if holdout else [sets]
    if resize is not None:
        _check_room(names, resize)
    plain = load_all(names, root, resize)
    if input != "concatenate":
        plain = coloured(plain)
    return [held_out(each, holdout) for each in plain] if holdout else plain


def _check_room(names: Sequence[str], size: int) -> None:
    """UserError if the memory does not hold all images, of ``size`` x ``size`` pixels, as read and as tasks."""
    check_names(names)
    sets = [DATASETS[name.removesuffix(PERMUTED)] for name in names]
    pixels = sum(sum(each.counts) * prod(each.shape[:-2]) for each in sets) * size**2
    if (free := process.memory()) < 2 * pixels:
        raise UserError(
            f"--resize {size}: the images need {2 * pixels / 2**30:,.0f} GiB of memory, {free / 2**30:,.1f} GiB are "
            f"free; give {isqrt(int(size**2 * free / (2 * pixels)))} or less"
        )


def _held_out(data: FileSet, count: int) -> FileSet:
    """As :func:`spatial.data.held_out`."""
    held = choice(data.name, len(data.train.labels), count)

    def chosen(which: Tensor) -> Files:
        return data.train._replace(names=data.train.names[which.numpy()], labels=data.train.labels[which])

    return data._replace(train=chosen(~held), test=chosen(held))


def as_tasks(
    sets: Sequence[DataSet | FileSet], subset: str, input: str, device: torch.device | str = "cpu", *,
    workers: int | None = None, at_once: int = 0,
) -> Tasks:  # fmt: skip
    """The ``train`` or ``test`` images of data sets as tasks.

    Args:
        workers: processes that decode what is in files; None: as many as there are cores to this process.
        at_once: images that a step computes at once, where there is one.

    Raises:
        UserError: if there is too little shared memory for the workers.
    """
    chosen = [getattr(each, subset) for each in sets]
    if isinstance(sets[0], FileSet):
        workers = default_workers(process.COUNT_HERE) if workers is None else workers
        check_shared_memory(workers, at_once, sets[0].size, process.COUNT_HERE)
        return FileTasks(chosen[0], sets[0].size, device, workers=workers, stay=subset == "train")
    return Tasks(chosen, input, device)


def load_tasks(names: Sequence[str], root: str, input: str, subset: str, **options: Any) -> Tasks:
    """The tasks of data sets by name, from their ``train`` or ``test`` images, on the CPU; see :func:`load_sets`."""
    return as_tasks(load_sets(names, root, input, **options), subset, input)


def input_shape(sets: Sequence[Any], input: str) -> tuple[int, int, int]:
    """The shape of one input, ``(channels, height, width)``.

    Raises:
        UserError: if the images' sizes differ where they are added or stacked.
    """
    if isinstance(sets[0], FileSet):
        return COLOUR, sets[0].size, sets[0].size
    shapes = [tuple(each.train.images.shape[1:]) for each in sets]
    aligned = {shape[1:] for shape in shapes} if input == "concatenate" else set(shapes)
    if len(aligned) > 1:
        sizes = ", ".join(f"{each.name} {'x'.join(map(str, shape))}" for each, shape in zip(sets, shapes, strict=True))
        largest = max(side for shape in shapes for side in shape[1:])
        one_size = len({shape[1:] for shape in shapes}) == 1
        help = "use data sets with as many channels" if one_size else f"try --resize {largest}"
        raise UserError(f"--input {input} needs images of one size, got {sizes}; {help}")
    channels, height, width = shapes[0]
    return (sum(shape[0] for shape in shapes) if input == "concatenate" else channels), height, width
