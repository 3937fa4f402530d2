"""Small data sets made on the spot, in the files and the registry that real ones use."""

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spatial import data

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: Tensor) -> bytes:
    """A tensor of bytes as an IDX file: magic number, sizes, bytes."""
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def make(
    *, size: int = 8, classes: int = 4, train: int = 400, test: int = 100, seed: int = 0
) -> tuple[data.IdxSet, dict[str, bytes]]:
    """A data set of grey images, ``size`` x ``size``, and the bytes of its four files.

    Each class has a random black and white pattern of its own, the same in train and test, under weak noise: a small
    MLP learns it in 25 steps. Classes are equally frequent, in random order.
    """
    random = torch.Generator().manual_seed(seed)
    patterns = torch.randint(0, 2, (classes, size, size), generator=random) * 192
    contents = []
    for count in (train, test):
        labels = torch.arange(count)[torch.randperm(count, generator=random)] % classes
        images = patterns[labels] + torch.randint(0, 64, (count, size, size), generator=random)
        contents += [idx(images), idx(labels)]
    files = dict(zip(FILES, contents, strict=True))
    sha256 = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    return data.IdxSet(sha256, classes=classes, counts=(train, test), shape=(size, size)), files


def register(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    name: str,
    *,
    size: int = 8,
    classes: int = 4,
    train: int = 400,
    test: int = 100,
    seed: int = 0,
) -> data.IdxSet:
    """:func:`make` a data set, write it into ``ROOT/NAME/raw`` and list it in ``DATASETS``; give each its own seed."""
    entry, files = make(size=size, classes=classes, train=train, test=test, seed=seed)
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file, content in files.items():
        (raw / file).write_bytes(content)
    monkeypatch.setitem(data.DATASETS, name, entry)
    return entry
