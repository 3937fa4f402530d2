"""The index of a folder of image files: which images there are, of which class, and that each can be decoded.

The layout is ImageNet's: ``ROOT/train/CLASS/*.JPEG`` and ``ROOT/val/CLASS/*.JPEG``.
"""

import difflib
import hashlib
import multiprocessing
import os
import signal
import stat
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from spatial import process
from spatial.errors import UserError, shown
from spatial.formats import read_arrays
from spatial.locking import locked

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
LAYOUT = "expected are the folders train and val, in each one folder of images per class"
SUBSETS = ("train", "val")
ONE_IN = 50  # so many images may have one that is unreadable: 2 %
FEW = 300  # new images that are decoded sooner than processes start
CHUNK = 64  # images that a process decodes at a time
NAMED, CLASSES_NAMED = 10, 5  # unreadable images, and classes, that a message names
FORMAT = 1  # of the cache


class Files(NamedTuple):
    """The images of one subset as files.

    Attributes:
        folder: ``ROOT/train`` or ``ROOT/val``.
        names: bytes ``[n]``, paths relative to ``folder``, :func:`os.fsencode`'d, by class, folder and name. An array:
            processes that are forked to load images would copy a list's pages by counting references.
        labels: int64 ``[n]``, each in ``0 .. classes - 1``.
        classes: number of classes.
    """

    folder: Path
    names: np.ndarray
    labels: Tensor
    classes: int

    def path(self, i: int) -> Path:
        """Where image ``i`` is."""
        return self.folder / os.fsdecode(self.names[i])


class Index(NamedTuple):
    """Both subsets of a folder of images.

    Attributes:
        classes: the class folders of ``train``, sorted: label ``i`` is ``classes[i]``, in ``val`` too.
        left_out: unreadable images, path relative to ROOT, and why; they are not in ``train`` and ``val``.
        checksums: of ``train`` and ``val``, SHA-256 of ``NAME\\0SIZE\\0`` of each image in order: names relative to the
            subset's folder, sizes in bytes. Times do not count, so that a copied tree is the same.
    """

    classes: list[str]
    train: Files
    val: Files
    left_out: dict[str, str]
    checksums: dict[str, str]


def index(
    root: str | os.PathLike[str],
    *,
    trust: bool = False,
    workers: int | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Index:
    """The images under ``ROOT/train`` and ``ROOT/val``: files of class folders, at any depth, links followed.

    The order and the labels are those of torchvision's ``ImageFolder``; hidden files and folders are passed over. Every
    image is decoded once; what came of it is kept under ``$XDG_CACHE_HOME/spatial`` (``~/.cache/spatial``), and only
    an image whose size or time has changed is decoded again. Unreadable ones are named on stderr and left out.

    Args:
        trust: nothing is decoded, every image is taken to be readable.
        workers: processes that decode; by default as many as this process has cores.
        left_out: what another process has found unreadable: nothing is decoded again, or said again.

    Raises:
        UserError: the folders are not laid out like that or cannot be read, a class of ``val`` is not in ``train``, a
            class has no image or none that is readable, or more than 2 % of a subset's images are unreadable.
    """
    root = Path(root)
    try:
        classes, found = _listed(root, quiet=left_out is not None)
    except OSError as error:
        raise UserError(f"{shown(error.filename or root)}: {error.strerror or error}") from None
    if left_out is not None:
        reasons = {os.fsencode(name): reason for name, reason in left_out.items()}
    else:
        reasons = {} if trust else _unreadable(root, found, process.cores() if workers is None else workers)
    if reasons and left_out is None:
        _name(root, reasons)
        for each in found:
            _check(root, each, reasons)
    files, checksums = {}, {}
    for each in found:
        kept = np.array([name not in reasons for name in each.names])
        names = [name[len(each.subset) + 1 :] for name in each.names if name not in reasons]
        sizes, labels = each.sizes[kept], torch.from_numpy(each.labels[kept])
        files[each.subset] = Files(root / each.subset, np.array(names), labels, len(classes))
        lines = b"".join(b"%b\0%d\0" % line for line in zip(names, sizes.tolist(), strict=True))
        checksums[each.subset] = hashlib.sha256(lines).hexdigest()
    named = {os.fsdecode(name): reason for name, reason in reasons.items()}
    return Index(classes, files["train"], files["val"], named, checksums)


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file, whole, as RGB.

    Grey is the same in each channel, transparency is dropped, more than 8 bits are cut off at 255, the first of several
    pictures counts: all as in torchvision's ``ImageFolder``.

    Raises:
        ValueError: it is no image that can be read; says in a few words why.
    """
    try:
        if not os.stat(path).st_size:
            raise ValueError("empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts of large or odd images that it reads all the same
            with Image.open(path) as image:
                return image.convert("RGB")
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):  # its text is the path
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    plain = isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError)
    words = str(error) if plain and str(error) else f"{type(error).__name__} {error}"
    return textwrap.shorten(shown(words), 100)


def _some(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - CLASSES_NAMED:,} more" if len(names) > CLASSES_NAMED else ""
    return ", ".join(map(shown, names[:CLASSES_NAMED])) + more


# Listing.


class _Listed(NamedTuple):
    """The images of a subset before any is decoded; the names are relative to ROOT."""

    subset: str
    names: list[bytes]
    sizes: np.ndarray  # bytes
    times: np.ndarray  # of the last change, ns
    labels: np.ndarray


def _listed(root: Path, quiet: bool = False) -> tuple[list[str], list[_Listed]]:
    """The classes, and the images of each subset; what is wrong with the folders is a UserError."""
    try:
        missing = sorted({*SUBSETS} - {*_folders(root)})
    except (FileNotFoundError, NotADirectoryError) as error:
        wrong = "no such folder" if isinstance(error, FileNotFoundError) else "is not a folder"
        raise UserError(f"{shown(root)}: {wrong}; {LAYOUT}") from None
    if missing:
        raise UserError(f"{shown(root)}: no folder {' and no folder '.join(missing)} in it; {LAYOUT}")
    folders = {subset: _folders(root / subset) for subset in SUBSETS}
    for subset, names in folders.items():
        if not names:
            raise UserError(f"{shown(root / subset)}: no class folders in it; {LAYOUT}")
    classes, val = folders["train"], root / "val"
    labels = {name: label for label, name in enumerate(classes)}
    if foreign := [name for name in folders["val"] if name not in labels]:
        near = difflib.get_close_matches(foreign[0], classes, n=1) if len(foreign) == 1 else []
        hint = f", did you mean {shown(near[0])}?" if near else f"; a class needs a folder in {shown(root / 'train')}"
        raise UserError(f"{shown(val)}: no class of train is called {_some(foreign)}{hint}")
    if (absent := sorted({*classes} - {*folders["val"]})) and not quiet:
        count = f"{len(absent):,} of {len(classes):,} classes are not there"
        print(f"{shown(val)}: {count}: {_some(absent)}", file=sys.stderr)
    return classes, [_images(root, subset, names, labels) for subset, names in folders.items()]


def _folders(path: Path) -> list[str]:
    """The folders in a folder, sorted, without hidden ones."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def _images(root: Path, subset: str, folders: list[str], known: dict[str, int]) -> _Listed:
    """The images of a subset, class by class."""
    names: list[bytes] = []
    numbers: list[tuple[int, int]] = []  # of each image, size and time
    labels: list[int] = []
    empty = []
    for folder in folders:
        before = len(names)
        for inner, files in _walked(root, f"{subset}/{folder}"):
            names += [os.fsencode(f"{inner}/{name}") for name, _, _ in files]
            numbers += [(size, time) for _, size, time in files]
        labels += [known[folder]] * (len(names) - before)
        if len(names) == before:
            empty.append(folder)
    if empty:
        where = shown(root / subset)
        raise UserError(f"{where}: no images ({' '.join(EXTENSIONS)}) in {_some(empty)}; put some there or delete it")
    sizes, times = np.array(numbers, dtype=np.int64).T.copy()
    return _Listed(subset, names, sizes, times, np.array(labels, dtype=np.int64))


def _walked(root: Path, top: str) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """The folder ``top`` and all in it, links followed, and the name, size and time of each image in each, sorted."""
    found = []
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while todo:
        folder, above = todo.pop()
        status = os.stat(root / folder)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link back to where it lies would lead on and on
            continue
        files = []
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # such as macOS's ._NAME beside each NAME
                    continue
                if _is_folder(entry):
                    todo.append((f"{folder}/{entry.name}", above | {here}))
                elif entry.name.lower().endswith(EXTENSIONS) and (numbers := _numbers(entry)):
                    files.append((entry.name, *numbers))
        found.append((folder, sorted(files)))
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _numbers(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Size and time of a file; -1 of a link to nothing: decoding says why; None of a pipe, which would be waited on."""
    try:
        status = entry.stat()
    except OSError:
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


# Decoding, once.


def _unreadable(root: Path, found: Sequence[_Listed], workers: int) -> dict[bytes, str]:
    """The images that cannot be decoded, and why; of those that the cache knows it is asked, the others are tried."""
    names = [name for each in found for name in each.names]
    sizes, times = (np.concatenate([getattr(each, what) for each in found]) for what in ("sizes", "times"))
    known, reasons = _remembered(root, names, sizes, times)
    if known.all():
        return {names[row]: reasons[row] for row in sorted(reasons)}
    with _decoding(root):
        known, reasons = _remembered(root, names, sizes, times)  # another process may have tried them meanwhile
        new = np.flatnonzero(~known).tolist()
        workers = workers if len(new) >= FEW else 1
        step = CHUNK if workers > 1 else 1
        chunks = [new[start : start + step] for start in range(0, len(new), step)]
        work = [[names[row] for row in chunk] for chunk in chunks]
        try:
            # the processes before the bar, which may start a thread: they are forked
            with (
                _trying(root, work, workers) as results,
                tqdm(desc="decoding", total=len(new), unit="image", disable=None, leave=False) as bar,
            ):
                for chunk, bad in zip(chunks, results, strict=True):
                    reasons |= {chunk[each.at]: each.reason for each in bad}
                    passing = {each.at for each in bad if not each.lasts}  # the next index tries these again
                    known[[row for at, row in enumerate(chunk) if at not in passing]] = True
                    bar.update(len(chunk))
        finally:  # also what was decoded before an interruption
            _remember(root, names, sizes, times, known, reasons)
    return {names[row]: reasons[row] for row in sorted(reasons)}


@contextmanager
def _decoding(root: Path) -> Iterator[None]:
    """Within it no other process decodes the same images: it would find them in the cache, if there can be one."""
    with ExitStack() as stack:
        with suppress(OSError, RuntimeError):
            busy = f"{shown(root)}: another process decodes its images, waiting for that"
            stack.enter_context(locked(_cache(root).with_suffix(".lock"), busy=busy, wait=True))
        yield


def _name(root: Path, reasons: dict[bytes, str]) -> None:
    """Name the first unreadable images on stderr, one a line."""
    for name, reason in list(reasons.items())[:NAMED]:
        print(f"{shown(root / os.fsdecode(name))}: left out: {reason}", file=sys.stderr)
    if len(reasons) > NAMED:
        print(f"... and {len(reasons) - NAMED:,} more", file=sys.stderr)


def _check(root: Path, found: _Listed, reasons: dict[bytes, str]) -> None:
    """UserError where too many images of a subset are unreadable, or all of a class."""
    where = shown(root / found.subset)
    bad = [name for name in found.names if name in reasons]
    if len(bad) * ONE_IN > len(found.names):
        first = f"the first is {shown(os.fsdecode(bad[0]))} ({reasons[bad[0]]})"
        count = f"{len(bad):,} of {len(found.names):,} images are unreadable, more than {1 / ONE_IN:.0%}"
        raise UserError(f"{where}: {count}; {first}; replace or delete them")
    labels = found.labels.tolist()
    left = {label for name, label in zip(found.names, labels, strict=True) if name not in reasons}
    if lost := [name for name, label in zip(found.names, labels, strict=True) if label not in left]:
        folders = dict.fromkeys(os.fsdecode(name).split("/")[1] for name in lost)
        raise UserError(f"{where}: no image is readable in {_some([*folders])}; put some there or delete it")


class _Bad(NamedTuple):
    """Image ``at`` of a piece of work cannot be decoded; ``lasts``: nor will it be while the file is the same."""

    at: int
    reason: str
    lasts: bool


def _tried(root: str, names: Sequence[bytes]) -> list[_Bad]:
    """The images that cannot be decoded."""
    bad = []
    for at, name in enumerate(names):
        if _stop is not None and _stop.value:
            break
        try:
            decode(os.path.join(root, os.fsdecode(name)))
        except ValueError as error:
            cause = error.__cause__  # the system's own errors have numbers: permissions, disks, too many open files
            passes = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
            bad.append(_Bad(at, str(error), not passes))
    return bad


_stop: Any = None  # in a process that decodes: shared, set when nobody waits for its results any more


@contextmanager
def _trying(root: Path, work: Sequence[Sequence[bytes]], workers: int) -> Iterator[Iterable[list[_Bad]]]:
    """What :func:`_tried` says of each piece of work, in order, by ``workers`` processes; by this one if that is 1."""
    try_them = partial(_tried, str(root))
    if workers <= 1:
        yield map(try_them, work)
        return
    # Forking is quick and asks nothing of the caller's script; these children use neither torch nor its threads.
    context: BaseContext = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    stop = context.RawValue("b", 0)
    Image.init()  # Pillow's readers, imported once for all
    with ProcessPoolExecutor(min(workers, len(work)), context, initializer=_begin, initargs=(stop,)) as pool:
        try:
            with _undisturbed():
                results = pool.map(try_them, work)
            yield results
        except BrokenProcessPool:
            died = "a process that decoded images has died, perhaps for lack of memory"
            raise UserError(f"{shown(root)}: {died}; the same command goes on from there") from None
        finally:
            stop.value = 1
            pool.shutdown(cancel_futures=True)  # thousands may be waiting


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C is held back while processes start: it is for this one, and they inherit that they never see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, of forking beside torch's threads
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Any) -> None:
    """In a process that decodes: it ends when its parent says so or is gone, and takes no part in Ctrl-C."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent: if that is killed, its processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


# The cache.


def _cache(root: Path) -> Path:
    """The file that keeps what came of decoding the images under ``root``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"  # a relative one is to be ignored
    return folder / "spatial" / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()}.npz"


def _remembered(
    root: Path, names: Sequence[bytes], sizes: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """Which images the cache knows, bool ``[n]``, and of the unreadable ones among them, by number, why."""
    known = np.zeros(len(names), dtype=bool)
    try:
        with _cache(root).open("rb") as file:
            kept = read_arrays(file)
        if kept["format"] != FORMAT:
            raise ValueError("of another version")
        rows = {name: row for row, name in enumerate(_split(kept["names"]))}
        numbers = np.stack([kept["sizes"], kept["times"]])
        reasons = {int(row): why.decode() for row, why in zip(kept["bad"], _split(kept["why"]), strict=True)}
        if numbers.shape != (2, len(rows)) or not reasons.keys() <= set(rows.values()):
            raise ValueError("its parts do not fit")
    except Exception:  # absent, cut off, another file: whatever is wrong with it, it is made anew
        return known, {}
    at = np.array([rows.get(name, -1) for name in names])
    here = np.flatnonzero(at >= 0)
    here = here[(numbers[:, at[here]] == np.stack([sizes, times])[:, here]).all(axis=0)]
    known[here] = True
    pairs = zip(here.tolist(), at[here].tolist(), strict=True)
    return known, {row: reasons[before] for row, before in pairs if before in reasons}


def _remember(
    root: Path, names: Sequence[bytes], sizes: np.ndarray, times: np.ndarray, known: np.ndarray, reasons: dict[int, str]
) -> None:
    """Write what is known of the images, whole or not at all; a line on stderr where that cannot be."""
    rows = np.flatnonzero(known)
    bad = [row for row in sorted(reasons) if known[row]]
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "names": _joined(names[row] for row in rows.tolist()),
        "sizes": sizes[rows],
        "times": times[rows],
        "bad": np.searchsorted(rows, bad),
        "why": _joined(reasons[row].encode() for row in bad),
    }
    where = "the cache"
    try:
        path = _cache(root)
        where = shown(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        why = getattr(error, "strerror", None) or error
        print(f"{where}: {why}; the images will be decoded again next time", file=sys.stderr)


def _joined(texts: Iterable[bytes]) -> np.ndarray:
    """Texts in one array of bytes, each with a zero behind it: file names have none, and the longest costs no more."""
    return np.frombuffer(b"".join(text + b"\0" for text in texts), dtype=np.uint8)


def _split(array: np.ndarray) -> list[bytes]:
    """The texts of :func:`_joined`."""
    return array.tobytes().split(b"\0")[:-1]
