"""Mistakes that a user can mend."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST = 60  # characters of a word in a message
MEANT = {"gpu": "cuda"}  # what a name means that is nearest to another


class UserError(ValueError):
    """A mistake in what the user gave: an option, a file, a folder.

    The message is one line; it names the option or file, what was wrong and what would be right.
    The program prints it as ``main.py COMMAND: error: MESSAGE`` and exits with status 2.
    """


class Alone(UserError):
    """A mistake that one of several processes meets by itself: it says so, others are met by all and said once."""


@contextmanager
def by_itself() -> Iterator[None]:
    """Within it a mistake is met by this process alone."""
    try:
        yield
    except UserError as error:
        raise Alone(str(error)) from None


def shown(words: object) -> str:
    """Words as a part of one line: what cannot be printed, such as a newline or a terminal's codes, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(words))


def brief(word: str) -> str:
    """A word for a message, of a long one the beginning."""
    return word if len(word) <= LONGEST else f"{word[:LONGEST]}..."


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not among ``known``, with the nearest one that is."""
    known = sorted(known)
    close = [meant] if (meant := MEANT.get(name.lower())) in known else []
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # letters alone: mnist for MNIST
        close = [other for other in known if other.lower() == name.lower()]
    if "," in name:
        return UserError(f"unknown {kind} {brief(name)!r}: separate names by spaces")
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return UserError(f"unknown {kind} {brief(name)!r}: {hint}")
