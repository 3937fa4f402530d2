"""How files are written, so that none is ever seen half done, and read, so that none is believed unasked."""

import csv
import io
import json
import math
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from spatial.errors import UserError
from spatial.formats import Misshapen, read_arrays

LONGEST_JSON, LONGEST_TABLE = 2**26, 2**28  # bytes that are read
MOST = 3.5e38  # that a float32 holds: no number of a file is larger


def temporary(path: Path) -> Path:
    """Where ``path`` is written first: a fixed name, so that what a kill leaves behind is overwritten next time."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` when, and only when, it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary(path)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def save(path: Path, content: Any) -> None:
    """``torch.save`` of tensors and plain values; equal content gives equal bytes."""
    buffer = io.BytesIO()  # torch writes a file's name into the file
    torch.save(content, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed ``.npz``."""
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_plain(path: Path) -> Any:
    """Tensors and plain values of a file that :func:`save` wrote; nothing else is ever unpickled."""
    try:
        _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # torch warns of a file that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
        return content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a broken file makes torch raise almost anything
        raise UserError(f"{path}: cannot be read as a file of tensors ({type(error).__name__})") from error


# what the pickle of tensors and plain values calls
TENSORS = re.compile(r"torch \w+Storage|torch\._utils _rebuild_tensor_v2|collections OrderedDict")


def _check_archive(path: Path) -> None:
    """What torch does not ask before it reads a file; ValueError if it is not so.

    Checksums are right, nothing unpacks to more than the file holds, and nothing is called but what makes tensors.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members, length = archive.infolist(), file.seek(0, io.SEEK_END)
        file.seek(0)
        if file.read(4) != b"PK\3\4" or any(member.compress_type for member in members):
            raise ValueError("is not what torch.save writes")
        if sum(member.file_size for member in members) > length or archive.testzip() is not None:
            raise ValueError("is damaged")
        for member in members:
            if member.filename.endswith(".pkl"):
                for code, name, _ in pickletools.genops(archive.read(member)):
                    if code.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not TENSORS.fullmatch(str(name)):
                        raise ValueError("calls what makes no tensor")


def _check_tensors(content: Any) -> None:
    """ValueError if numbers are seen twice, by two tensors or by one: so a short file could hold a large network."""
    todo, met, used = [content], set(), set()
    while todo:
        each = todo.pop()
        if isinstance(each, Tensor):
            start = each.untyped_storage().data_ptr()
            dense = each.is_contiguous() or each.is_contiguous(memory_format=torch.channels_last)
            if not dense or (each.numel() and start in used):
                raise ValueError("tensors share their numbers")
            used.add(start)
        elif isinstance(each, dict | list | tuple) and id(each) not in met:
            met.add(id(each))
            todo += each.values() if isinstance(each, dict) else each


def load_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``, see :func:`spatial.formats.read_arrays`; UserError if it is none."""
    try:
        with path.open("rb") as file:
            return read_arrays(file, shapes)
    except Misshapen as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a broken file makes numpy raise almost anything
        raise UserError(f"{path}: cannot be read as arrays ({type(error).__name__})") from error


def save_json(path: Path, content: Any) -> None:
    """JSON that a person can read and diff."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What is in a JSON file: no NaN, no infinity, no key twice."""
    try:
        return json.loads(
            _text(path, LONGEST_JSON), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once
        )
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error


def _text(path: Path, most: int) -> str:
    """A text file of at most so many bytes; ValueError if it is longer or no text."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError("is too long")
    return content.decode()


def _finite(word: str) -> float:
    """A number; ValueError if it is none, or larger than the program's own can be."""
    number = float(word)
    if not abs(number) <= MOST:
        raise ValueError(f"{word} is no number")
    return number


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def save_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A CSV file, its columns those of the first row."""
    with replacing(path) as file:
        file.write(_csv(rows, header=True).encode())


def append_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """More rows at the end of a CSV file, under a header if it is empty."""
    with path.open("a", newline="") as file:
        file.write(_csv(rows, header=file.tell() == 0))


def _csv(rows: Sequence[dict[str, Any]], header: bool) -> str:
    """Rows as CSV; floats to 6 significant digits, None and NaN as nothing."""
    if not rows:
        return ""
    rows = [{key: cell(value) for key, value in row.items()} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def read_table(path: Path, numbers: Sequence[str] = (), maybe: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file, each as long as the first; the columns ``numbers`` as floats, all finite, those of
    ``maybe`` too, NaN where they are empty."""
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(_text(path, LONGEST_TABLE), newline="")))
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("a row has more cells than there are columns, or fewer")
            row |= {name: _finite(row[name]) for name in numbers}
            row |= {name: math.nan if row[name] == "" else _finite(row[name]) for name in maybe}
        return rows
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table ({type(error).__name__})") from error
