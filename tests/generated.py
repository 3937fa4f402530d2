"""Small data sets made on the spot, in the files and the registry that real ones use."""

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from spatial import data, formats
from spatial.data import ImageSet

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: Tensor) -> bytes:
    """A tensor of bytes as an IDX file: magic number, sizes, bytes."""
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def make(
    *, size: int = 8, classes: int = 4, train: int = 400, test: int = 100, seed: int = 0
) -> tuple[formats.IdxSet, dict[str, bytes]]:
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
    return formats.IdxSet(sha256=sha256, classes=classes, counts=(train, test), shape=(size, size)), files


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
) -> formats.IdxSet:
    """:func:`make` a data set, write it into ``ROOT/NAME/raw`` and list it in ``DATASETS``; give each its own seed."""
    entry, files = make(size=size, classes=classes, train=train, test=test, seed=seed)
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (raw / file).write_bytes(content)
    monkeypatch.setitem(data.DATASETS, name, entry)
    return entry


def archived(name: str, *, train: int = 10, test: int = 5) -> tuple[formats.KnownSet, dict[str, bytes], list[ImageSet]]:
    """A small data set of random images in the archives of a real one: its entry, the archives, train and test.

    CIFAR10's images keep their size, the others' are of 4 x 5 pixels. Every data set has a seed of its own.
    """
    random = torch.Generator().manual_seed(len(name))
    known = data.DATASETS[name]
    shape = known.shape if name == "CIFAR10" else (4, 5)
    subsets = []
    for count in (train, test):
        images = torch.randint(256, (count, *shape), generator=random, dtype=torch.uint8)
        labels = torch.randint(known.classes, (count,), generator=random)
        subsets.append(ImageSet(images.view(count, -1, *shape[-2:]), labels, known.classes))
    archives = pack(name, parts(name, subsets))
    return repack(dataclasses.replace(known, counts=(train, test), shape=shape), archives), archives, subsets


def parts(name: str, subsets: list[ImageSet]) -> dict[str, bytes]:
    """Train and test as the innermost files of a real data set."""
    contents = []
    for images, labels, _ in subsets:
        if name == "CIFAR10":
            records = torch.cat([labels.to(torch.uint8)[:, None], images.flatten(1)], 1)
            contents += [each.numpy().tobytes() for each in records.chunk(5 if not contents else 1)]
        elif name == "QMNIST":
            contents += [idx(images.squeeze(1)), idx_records(labels)]
        else:
            contents += [idx(images.squeeze(1)), idx(labels)]
    return dict(zip(data.DATASETS[name].parts, contents, strict=True))


def idx_records(labels: Tensor) -> bytes:
    """QMNIST's labels: eight 32-bit integers an image, of which the first is the label, as an IDX file."""
    records = torch.cat([labels[:, None], torch.full((len(labels), 7), 70_000)], 1)
    return struct.pack(">3I", 0xC02, *records.shape) + records.numpy().astype(">i4").tobytes()


def pack(name: str, parts: dict[str, bytes]) -> dict[str, bytes]:
    """The archives that hold files of a real data set, and what else there may be in them."""
    if name == "EMNIST":
        packed = {f"gzip/{part}.gz": gzip.compress(content) for part, content in parts.items()}
        return {"gzip.zip": zipped({"gzip/emnist-letters-train-images-idx3-ubyte.gz": b"", **packed})}
    if name == "CIFAR10":
        placed = {f"cifar-10-batches-bin/{part}": content for part, content in parts.items()}
        return {
            "cifar-10-binary.tar.gz": gzip.compress(tarred({"cifar-10-batches-bin/readme.html": b"read", **placed}))
        }
    return {f"{part}.gz": gzip.compress(content) for part, content in parts.items()}


def repack(entry: formats.KnownSet, archives: dict[str, bytes]) -> formats.KnownSet:
    """The entry of a data set in these archives."""
    md5 = {archive: hashlib.md5(content).hexdigest() for archive, content in archives.items()}
    return dataclasses.replace(entry, md5=md5)


def zipped(members: dict[str, bytes]) -> bytes:
    """A .zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    """A .tar archive; a member without content is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), tarfile.REGTYPE if content else tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_tree(
    root: Path, *, classes: int = 3, train: int = 8, val: int = 4, size: int = 64, seed: int = 0, suffix: str = ".jpg"
) -> Path:
    """An ImageNet-like tree of coloured images, so many of each class and subset; each class has a colour of its own.

    Images are a little wider than high; their names differ between classes.
    """
    random = torch.Generator().manual_seed(seed)
    colours = torch.randint(40, 200, (classes, 3), generator=random)
    for subset, count in (("train", train), ("val", val)):
        for label, colour in enumerate(colours):
            folder = root / subset / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(-30, 30, (size, size + 8, 3), generator=random)
                pixels = (colour + noise).to(torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{label}-{number}{suffix}")
    return root
