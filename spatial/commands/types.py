"""Types of options: what argparse calls to turn a word into a value, with messages that say what would be right."""

import argparse
import math
from collections.abc import Callable


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
