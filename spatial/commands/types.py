"""Types of options: what argparse calls to turn a word into a value, with messages that say what would be right.

And the options that several commands have.
"""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spatial.errors import LONGEST, brief

DEVICES = ("auto", "cpu", "cuda", "mps")
WHOLE = re.compile(r"-?[0-9]+")
NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
SMALLEST, LARGEST = 1e-38, 1e38  # of the numbers that float32 holds
LONGEST_NAME, LONGEST_PATH = 200, 2000  # bytes, of a folder in which further names find room


def add_reading(whole: argparse.ArgumentParser) -> None:
    """Options of the commands that show images to a trained network."""
    parser = whole.add_argument_group("images and device")
    parser.add_argument(
        "--root",
        type=folder,
        metavar="FOLDER",
        help="where the data sets are kept; fetched if they are not there (default: where train found them)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto takes an accelerator where there is one"
    )
    add_workers(parser)


def add_workers(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--workers",
        type=whole(0, 1024),
        metavar="N",
        help="of ImageNet: processes that decode images; 0: none but this one (default: one for each core, 16 at most)",
    )


def folder(word: str) -> str:
    """The path of a folder that is there, or can be made."""
    name = repr(brief(word))
    if not word:
        raise argparse.ArgumentTypeError("'' is not a folder's name")
    if not word.isprintable():
        raise argparse.ArgumentTypeError(f"{name} has characters that cannot be printed; give another name")
    if word.startswith("~"):
        raise argparse.ArgumentTypeError(f"{name}: the shell has left the ~ as it is; write the folder out")
    if len(os.fsencode(word)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(word).parts):
        most = f"{LONGEST_NAME} bytes a name, {LONGEST_PATH:,} in all"
        raise argparse.ArgumentTypeError(f"{name} is too long; give {most} at most")
    there = next((each for each in (Path(word), *Path(word).parents) if os.path.lexists(each)), Path())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there}: is {'a file, ' if there.is_file() else ''}not a folder")
    return word


def number(minimum: float, maximum: float = LARGEST, *, above: bool = False) -> Callable[[str], float]:
    """A float from (or ``above``) ``minimum`` to ``maximum``, which float32 holds."""
    wanted = f"a number {'above' if above else 'of at least'} {minimum:g}"
    if maximum != LARGEST:
        wanted = f"a number from {minimum:g} to {maximum:g}"

    def convert(word: str) -> float:
        if not NUMBER.fullmatch(word):
            meant = _meant(float, word.replace(",", "."))
            hint = "" if meant is None or not math.isfinite(meant) else f"; write {meant:g}"
            raise argparse.ArgumentTypeError(f"{brief(word)!r} is not a number (give {wanted}{hint})")
        value = float(word)
        held = value <= 0 or SMALLEST <= value <= LARGEST
        if not held or not minimum <= value <= maximum or (above and value == minimum):
            hint = "" if held else f"; float32 holds {SMALLEST:g} to {LARGEST:g}"
            raise argparse.ArgumentTypeError(f"{brief(word)} is out of range (give {wanted}{hint})")
        return value

    return convert


def whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """An integer from ``minimum`` to ``maximum``."""
    wanted = f"a whole number from {minimum} to {maximum:,}"

    def convert(word: str) -> int:
        if not WHOLE.fullmatch(word):
            meant = _meant(int, word)
            if meant is None and (number := _meant(float, word)) is not None and number.is_integer():
                meant = int(number)
            hint = "" if meant is None or not minimum <= meant <= maximum else f"; write {meant}"
            hint = "; separate numbers by spaces" if "," in word else hint
            raise argparse.ArgumentTypeError(f"{brief(word)!r} is not a whole number (give {wanted}{hint})")
        if len(word) > LONGEST or not minimum <= int(word) <= maximum:
            raise argparse.ArgumentTypeError(f"{brief(word)} is out of range (give {wanted})")
        return int(word)

    return convert


def _meant(kind: Callable[[str], Any], word: str) -> Any:
    """What Python takes for a number and is none here, such as 1_000; None: not even that."""
    try:
        return kind(word)
    except ValueError:
        return None
