"""Types of options: what argparse calls to turn a word into a value, with messages that say what would be right.

And the options that several commands have.
"""

import argparse
import math
from collections.abc import Callable

DEVICES = ("auto", "cpu", "cuda", "mps")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that show images to a trained network."""
    parser.add_argument(
        "--root",
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


def number(minimum: float, *, above: bool = False) -> Callable[[str], float]:
    """A finite float that is at least (or ``above``) ``minimum``."""

    def convert(word: str) -> float:
        wanted = f"a number {'above' if above else 'of at least'} {minimum:g}"
        try:
            value = float(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not a number (give {wanted})") from None
        if not math.isfinite(value) or value < minimum or (above and value == minimum):
            raise argparse.ArgumentTypeError(f"{word} is out of range (give {wanted})")
        return value

    return convert


def whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """An integer from ``minimum`` to ``maximum``."""
    wanted = f"a whole number from {minimum} to {maximum:,}"

    def convert(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            spaces = "; separate numbers by spaces" if "," in word else ""
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number (give {wanted}{spaces})") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{word} is out of range (give {wanted})")
        return value

    return convert
