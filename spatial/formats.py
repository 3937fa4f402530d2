"""What files of data must be, and how they are read: bounded, in memory, nothing unverified.

A file that is not what its name says raises a ValueError that says what is wrong with it.
"""

import gzip
import hashlib
import io
import math
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

IMAGES, LABELS = 0x803, 0x801  # IDX magic numbers: unsigned bytes in 3 and in 1 dimensions
RECORDS = 0xC02  # 32-bit integers in 2 dimensions: QMNIST's labels
RECORD = 8  # QMNIST says 8 numbers of an image, the label first
HOLDS = {IMAGES: "images", LABELS: "labels", RECORDS: "labels"}
CHUNK = 2**20  # bytes read at a time
SLACK = 2**20  # bytes of a .tar beside the files that are read: headers, padding, a read-me
GREY, COLOUR = 1, 3  # channels
SMALL = 2**26  # bytes that arrays of unknown shapes may unpack to, however short their file is
DENSE = 50  # and so many times the file's length: what a network measures is never more regular


class Mismatch(ValueError):
    """A checksum that is not the one expected.

    Attributes:
        digest: what it is.
    """

    def __init__(self, kind: str, digest: str, expected: str, hint: str = ""):
        super().__init__(f"{kind} is {digest}, expected {expected}{hint}")
        self.digest = digest


class Verified(NamedTuple):
    """A file that is what its name says.

    Attributes:
        path: where it lies.
        sha256: of its decompressed bytes (:class:`IdxSet`) or of the archive as it is (:class:`ArchiveSet`).
        contents: the decompressed bytes of each file in it, by name; of a plain file its own.
    """

    path: Path
    sha256: str
    contents: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class KnownSet(ABC):
    """What is known of a data set beforehand. Its innermost files are IDX files unless a kind says otherwise.

    Attributes:
        classes: labels are ``0 .. classes - 1``.
        counts: images in train and test.
        shape: of an image: height and width, before them the number of channels if it is not grey.
        sources: where else than under the user's folder the files can be had, in the order of trying: what a person
            calls the source, and a function that, given an empty folder and the names of the files that are absent,
            returns the folder that holds the files or raises.
    """

    classes: int = 10
    counts: tuple[int, int] = (60_000, 10_000)
    shape: tuple[int, ...] = (28, 28)
    sources: dict[str, Callable[[Path, list[str]], Path]] = field(default_factory=dict)
    unpacked: ClassVar[bool] = False  # whether ROOT/NAME/raw keeps the files decompressed

    @property
    @abstractmethod
    def checksums(self) -> dict[str, str]:
        """File name to the checksum that the file is verified by."""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The innermost files, in the order train images, train labels, test images, test labels.

        A name says what its file holds: ``images`` or ``labels``, and ``train`` or not.
        """

    @abstractmethod
    def read(self, path: Path, file: str) -> Verified:
        """``path``, if it is what ``file`` should be; else ValueError says what is wrong. Reading is bounded."""

    def names(self, file: str) -> tuple[str, ...]:
        """The names under which ``file`` may lie in a folder."""
        return (file,)

    def header(self, part: str) -> tuple[int, ...]:
        """What an IDX file's header must hold: the magic number, then the size along each dimension."""
        count = self.counts["train" not in part]
        if "images" in part:
            return IMAGES, count, *self.shape
        return (RECORDS, count, RECORD) if part.endswith("idx2-int") else (LABELS, count)

    def size(self, part: str) -> int:
        """The length of an innermost file in bytes."""
        header = self.header(part)
        return 4 * len(header) + math.prod(header[1:]) * (4 if header[0] == RECORDS else 1)

    def misfit(self, content: bytes, part: str) -> str:
        """What an innermost file's header and length say against it, in words; empty where they are right."""
        header = self.header(part)
        kind, start = HOLDS[header[0]], struct.pack(f">{len(header)}I", *header)
        other = HOLDS.get(int.from_bytes(content[:4], "big"), kind)
        if other != kind:
            return f"holds {other}, not {kind}"
        if content[:2] == b"\x1f\x8b":
            return "is compressed: its name should end in .gz"
        if not start.startswith(content[:4]):
            return f"is no IDX file of {kind}"
        if len(content) >= len(start) and content[: len(start)] != start:
            sizes = struct.unpack_from(f">{len(header)}I", content)[1:]
            return f"holds {by(sizes)} {kind}, expected {by(header[1:])}"
        return _wrong_length(content, self.size(part))

    def arrays(self, contents: dict[str, bytes]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Images ``[n, channels, height, width]``, uint8, and labels ``[n]``, int64, of train and of test.

        Raises:
            ValueError: the files have the right checksums, but KnownSet itself says otherwise.
        """
        train_images, train_labels, test_images, test_labels = (
            self._values(contents[part], part) for part in self.parts
        )
        return (train_images, train_labels), (test_images, test_labels)

    def _values(self, content: bytes, part: str) -> Tensor:
        if wrong := self.misfit(content, part):
            raise ValueError(f"{part} {wrong}")
        magic, *sizes = self.header(part)
        values = np.frombuffer(content, ">i4" if magic == RECORDS else np.uint8, offset=4 * (1 + len(sizes)))
        if magic == IMAGES:
            return torch.from_numpy(values.reshape(sizes[0], GREY, *sizes[1:]).copy())
        return self.checked_labels(torch.from_numpy(values.reshape(sizes[0], -1)[:, 0].astype(np.int64)), part)

    def checked_labels(self, labels: Tensor, part: str) -> Tensor:
        """The labels, if each is in ``0 .. classes - 1``; else ValueError."""
        for label in (int(labels.max()), int(labels.min())):
            if not 0 <= label < self.classes:
                raise ValueError(f"{part} holds label {label}, expected 0 to {self.classes - 1}")
        return labels


@dataclass(frozen=True, kw_only=True)
class IdxSet(KnownSet):
    """A data set in four IDX files, raw or ``.gz``, kept raw.

    Attributes:
        sha256: file name to SHA-256 of its *decompressed* bytes, in the order of :attr:`KnownSet.parts`.
    """

    sha256: dict[str, str]
    unpacked: ClassVar[bool] = True

    @property
    def checksums(self) -> dict[str, str]:
        return self.sha256

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.sha256)

    def names(self, file: str) -> tuple[str, ...]:
        return file, f"{file}.gz"

    def read(self, path: Path, file: str) -> Verified:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                content = stream.read(self.size(file) + 1)  # bounded: of a .gz that unpacks to more, one byte too many
        except EOFError:
            raise ValueError("is a truncated .gz file") from None
        except (gzip.BadGzipFile, zlib.error):
            raise ValueError("is a corrupt .gz file, or none") from None
        digest = hashlib.sha256(content).hexdigest()
        if digest == self.sha256[file]:
            return Verified(path, digest, {file: content})
        if wrong := self.misfit(content, file):
            raise ValueError(wrong)
        raise Mismatch("sha256", digest, self.sha256[file])


@dataclass(frozen=True, kw_only=True)
class ArchiveSet(KnownSet):
    """A data set in archives, kept and used as they are: nothing is unpacked but in memory, nothing unverified at all.

    Attributes:
        md5: archive's name to torchvision's MD5 of it, in the order of :attr:`KnownSet.parts`.
        inside: the files that are read of the one archive, by the last part of their names, as :attr:`KnownSet.parts`
            (a ``.gz`` in a ``.zip`` without the suffix). Empty: each archive is one file, compressed with gzip.
    """

    md5: dict[str, str]
    inside: tuple[str, ...] = ()

    @property
    def checksums(self) -> dict[str, str]:
        return self.md5

    @property
    def parts(self) -> tuple[str, ...]:
        return self.inside or tuple(file.removesuffix(".gz") for file in self.md5)

    def read(self, path: Path, file: str) -> Verified:
        parts = self.inside or (file.removesuffix(".gz"),)
        suffix = "".join(PurePosixPath(file).suffixes)
        with path.open("rb") as stream:  # one handle for both: the file cannot be exchanged between
            md5, sha256 = _digests(stream)
            if md5 != self.md5[file]:
                if not stream.tell():
                    raise ValueError("is empty")
                raise Mismatch("md5", md5, self.md5[file], ": truncated, or another file")
            stream.seek(0)
            try:
                contents = UNPACK[suffix](stream, {part: self.size(part) for part in parts})
            except EOFError:
                raise ValueError(f"is a truncated {suffix} file") from None
            except CORRUPT:
                raise ValueError(f"is a corrupt {suffix} file, or none") from None
        for part in parts:
            if part not in contents:
                raise ValueError(f"holds no {part}")
            if wrong := self.misfit(contents[part], part):
                raise ValueError(f"its {part} {wrong}")
        return Verified(path, sha256, contents)


@dataclass(frozen=True, kw_only=True)
class CifarSet(ArchiveSet):
    """An archive of files of records, the last file test, the others train in equal shares.

    A record is a label, one byte, then the pixels, ``shape`` bytes: channel by channel, row by row.
    """

    def size(self, part: str) -> int:
        train, test = self.counts
        count = test if part == self.parts[-1] else train // (len(self.parts) - 1)
        return count * (1 + math.prod(self.shape))

    def misfit(self, content: bytes, part: str) -> str:
        return _wrong_length(content, self.size(part))  # there is no header

    def arrays(self, contents: dict[str, bytes]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return self._joined(contents, self.parts[:-1]), self._joined(contents, self.parts[-1:])

    def _joined(self, contents: dict[str, bytes], parts: Iterable[str]) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for part in parts:
            records = torch.frombuffer(bytearray(contents[part]), dtype=torch.uint8).view(-1, 1 + math.prod(self.shape))
            labels.append(self.checked_labels(records[:, 0].to(torch.int64), part))
            images.append(records[:, 1:].reshape(-1, *self.shape))
        return torch.cat(images), torch.cat(labels)


def _wrong_length(content: bytes, size: int) -> str:
    if len(content) < size:
        return f"is truncated: {len(content):,} of {size:,} bytes"
    return f"is longer than its {size:,} bytes" if len(content) > size else ""


def by(sizes: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def _digests(stream: IO[bytes]) -> tuple[str, str]:
    """MD5 and SHA-256 of what is left of a stream."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    while chunk := stream.read(CHUNK):
        md5.update(chunk)
        sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


# Archives. Each function takes one and the sizes of the files wanted of it, and returns of those there are their
# bytes: one byte too many of a file that is longer.


def _gunzip(stream: IO[bytes], sizes: dict[str, int]) -> dict[str, bytes]:
    with gzip.open(stream) as content:
        return {part: content.read(size + 1) for part, size in sizes.items()}


def _unzip(stream: IO[bytes], sizes: dict[str, int]) -> dict[str, bytes]:
    contents = {}
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            part = PurePosixPath(member.filename).name.removesuffix(".gz")
            if part in sizes and part not in contents:
                with archive.open(member) as packed, gzip.open(packed) as content:
                    contents[part] = content.read(sizes[part] + 1)
    return contents


def _untar(stream: IO[bytes], sizes: dict[str, int]) -> dict[str, bytes]:
    most = sum(sizes.values()) + SLACK
    with gzip.open(stream) as packed:
        whole = packed.read(most + 1)
    if len(whole) > most:
        raise ValueError(f"unpacks to more than {most:,} bytes")
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
        for member in archive:
            part = PurePosixPath(member.name).name
            if part in sizes and part not in contents and (content := archive.extractfile(member)):
                contents[part] = content.read(sizes[part] + 1)
    return contents


# Arrays.


class Misshapen(ValueError):
    """An array of another shape than it must have."""


def read_arrays(stream: IO[bytes], shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
    """The arrays of numbers in an ``.npz``: all, or those of ``shapes``, each of the shape that it must have.

    What an array says of its length is checked before memory is taken for it, its checksum when it is read. Arrays of
    unknown shapes unpack to at most ``SMALL`` bytes, or ``DENSE`` times the file's length.

    Raises:
        Misshapen: if an array has another shape.
        Exception: of almost any kind, if it is no such file.
    """
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if shapes is None and sum(member.file_size for member in members.values()) > max(SMALL, DENSE * _end(stream)):
            raise ValueError("unpacks to more than it should")
        return {name: _array(archive, members[name], name, shapes) for name in (members if shapes is None else shapes)}


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, shapes: Mapping[str, tuple[int, ...]] | None
) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is compressed in a way that cannot be bounded")
    with archive.open(member) as content:
        np.lib.format.read_magic(content)
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        if shapes is not None and shape != shapes[name]:
            raise Misshapen(f"{name} has the shape {shape}, which does not fit the network")
        if dtype.kind not in "biuf" or content.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{name} holds no numbers, or not as many as it says")
        content.seek(0)
        array = np.lib.format.read_array(content, allow_pickle=False)
        content.read(1)  # the end, where the checksum is verified
    return array


def _end(stream: IO[bytes]) -> int:
    """The length of a file."""
    return stream.seek(0, io.SEEK_END)


UNPACK = {".gz": _gunzip, ".zip": _unzip, ".tar.gz": _untar}
CORRUPT = (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError)  # the last: encrypted
