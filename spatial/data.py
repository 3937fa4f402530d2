"""Image sets as tensors.

``python -m spatial.data ROOT NAME...`` fetches and verifies data sets.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spatial import seeds
from spatial.errors import UserError, shown
from spatial.formats import COLOUR, Verified, by
from spatial.sources import DATASETS, PERMUTED, check_names, files


class ImageSet(NamedTuple):
    """Images and labels of one subset, whole, on one device.

    Attributes:
        images: uint8 ``[n, channels, height, width]``.
        labels: int64 ``[n]``, each in ``0 .. classes - 1``.
        classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int


class DataSet(NamedTuple):
    """One data set: both subsets and the SHA-256 of each raw file they were read from."""

    name: str
    train: ImageSet
    test: ImageSet
    checksums: dict[str, str]


def fetch(name: str, root: str | os.PathLike[str]) -> dict[str, str]:
    """Make sure that a data set's verified files lie under ``ROOT/NAME``.

    What the user put into ``ROOT/NAME/raw`` or ``ROOT/NAME`` (archives as they are; MNIST and FashionMNIST raw or
    ``.gz``) comes first; the data set's other sources are asked, in order, for the files that are absent, which
    ``ROOT/NAME/raw`` then keeps.

    Returns:
        File name to SHA-256: of an archive as it is, of MNIST's and FashionMNIST's files of their decompressed bytes.

    Raises:
        UserError: the name is unknown, a file under ``root`` is not what its name says, or no source has the files.
    """
    check_names([name])
    base = name.removesuffix(PERMUTED)
    return _parsed(base, files(base, Path(root))).checksums


def load(name: str, root: str | os.PathLike[str]) -> DataSet:
    """A data set by name, fetched and verified; see :func:`fetch` for where it comes from and what is refused."""
    return load_all([name], root)[0]


def load_all(names: Sequence[str], root: str | os.PathLike[str], size: int | None = None) -> list[DataSet]:
    """The data sets by name, in order; every file is read and hashed once, also for ``NAME`` and ``NAME@permuted``.

    ``size``: images are :func:`resized` to it, before pixels are permuted: afterwards it would blur them together.
    """
    check_names(names)
    bases = [name.removesuffix(PERMUTED) for name in names]
    plain = {base: _parsed(base, files(base, Path(root))) for base in dict.fromkeys(bases)}
    if size is not None:
        plain = {base: resized(data, size) for base, data in plain.items()}
    return [plain[name] if name in plain else _permuted(plain[base]) for name, base in zip(names, bases, strict=True)]


def _parsed(name: str, verified: list[Verified]) -> DataSet:
    entry = DATASETS[name]
    try:
        train, test = entry.arrays({part: content for file in verified for part, content in file.contents.items()})
    except ValueError as error:  # the checksums are right: DATASETS itself says otherwise
        raise UserError(f"{name}'s {error}") from None
    checksums = {file: each.sha256 for file, each in zip(entry.checksums, verified, strict=True)}
    return DataSet(name, ImageSet(*train, entry.classes), ImageSet(*test, entry.classes), checksums)


def _permuted(plain: DataSet) -> DataSet:
    """The data set under one fixed permutation of the pixels: the same for every image, channel and subset."""

    def permute(subset: ImageSet) -> ImageSet:
        pixels = subset.images.flatten(2)  # [n, channels, height * width]
        order = torch.randperm(pixels.shape[2], generator=seeds.generator(0, "permuted"))
        return subset._replace(images=pixels[:, :, order].view_as(subset.images))

    return plain._replace(name=plain.name + PERMUTED, train=permute(plain.train), test=permute(plain.test))


# Changing.


def resized(data: DataSet, size: int) -> DataSet:
    """The data set with images of ``size x size`` pixels: bilinear, antialiased, rounded to bytes."""

    def resize(subset: ImageSet) -> ImageSet:
        if subset.images.shape[2:] == (size, size):
            return subset
        images = subset.images.new_empty((*subset.images.shape[:2], size, size))
        # as floats a thousand at a time, to spare memory
        for small, large in zip(images.split(1000), subset.images.split(1000), strict=True):
            scaled = F.interpolate(large.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
            small.copy_(scaled.round_().clamp_(0, 255))
        return subset._replace(images=images)

    return data._replace(train=resize(data.train), test=resize(data.test))


def coloured(sets: Sequence[DataSet]) -> list[DataSet]:
    """The data sets; if any is coloured, a grey image is the same in each of the three channels."""
    if not any(data.train.images.shape[1] == COLOUR for data in sets):
        return list(sets)

    def colour(subset: ImageSet) -> ImageSet:
        return subset._replace(images=subset.images.expand(-1, COLOUR, -1, -1))

    return [data._replace(train=colour(data.train), test=colour(data.test)) for data in sets]


def held_out(data: DataSet, count: int) -> DataSet:
    """The data set with ``count`` training images in place of the test images, and without them in training.

    The choice is random and fixed: the same for every run, every seed, and for ``NAME`` and ``NAME@permuted``.

    Raises:
        UserError: no training image would be left.
    """
    images, labels, classes = data.train
    held = choice(data.name, len(images), count)
    train, test = (ImageSet(images[chosen], labels[chosen], classes) for chosen in (~held, held))
    return data._replace(train=train, test=test)


def choice(name: str, images: int, count: int) -> Tensor:
    """Which ``count`` of a data set's training images :func:`held_out` takes, ``[images]``, bool."""
    if count >= images:
        raise UserError(f"--holdout {count}: {name} has {images:,} training images, leave some to train on")
    held = torch.zeros(images, dtype=torch.bool)
    held[torch.randperm(images, generator=seeds.generator(0, "holdout", name.removesuffix(PERMUTED)))[:count]] = True
    return held


def main(arguments: Sequence[str]) -> int:
    """``python -m spatial.data ROOT NAME...``: one line per data set; exit status."""
    try:
        if len(arguments) < 2 or any(argument.startswith("-") for argument in arguments):
            raise UserError("takes a folder, one data set or more, and no options: python -m spatial.data ROOT NAME...")
        root, *names = arguments
        check_names(names)
        for name in names:
            fetch(name, root)
            entry = DATASETS[name.removesuffix(PERMUTED)]
            train, test = entry.counts
            print(f"{name}: {train:,} + {test:,} images of {by(entry.shape)}, {entry.classes} classes, verified")
    except UserError as error:
        print(f"spatial.data: error: {shown(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
