"""How far a command is: bars on a terminal, which leave nothing behind; elsewhere nothing. One process shows them."""

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from tqdm import tqdm

from spatial import process

T = TypeVar("T")
LAYOUT = "{desc} {percentage:3.0f}%|{bar}| "
NARROW = 6  # characters of a bar between its numbers
AT_ONCE, SHARE = 0.5, 0.05  # seconds between two looks at the numbers, and the share of the time that these may take


def shown(what: str, **options: Any) -> Any:
    """A bar of tqdm's, where there is a terminal."""
    quiet = None if process.NUMBER == 0 else True  # None: unless stderr is a terminal
    return tqdm(desc=what, leave=False, dynamic_ncols=True, disable=quiet, **options)


def counting(what: str, total: int, unit: str) -> Any:
    """A bar to ``update``, if it takes longer than a second."""
    return shown(what, total=total, unit=unit, delay=1)


def over(each: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The same items, under a bar if they take longer than a second."""
    return shown(what, iterable=each, total=total, unit="batch", delay=1)


def lasting(seconds: float) -> str:
    """A time for a person to read.

    >>> lasting(12.6), lasting(754), lasting(40_000), lasting(math.nan)
    ('13 s', '13 min', '11.1 h', '?')
    """
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Watch:
    """A training that is watched: a bar for every epoch, with what its steps come to, and the time that is left.

    Args:
        epochs: that are to be trained, of networks side by side once; one that was begun is whole.
        names: of the tasks.
        several: whether there are more networks than those of one epoch, so that it is said whose it is.
    """

    def __init__(self, epochs: float, names: Sequence[str] = (), several: bool = False):
        self.epochs, self.names, self.several = epochs, names, several
        self.done, self.began, self.after = 0.0, time.perf_counter(), 0.0
        self.bar: Any = None
        self.first = 0  # step that the bar began with

    def left(self) -> float:
        """Seconds that the rest takes, if it goes on as it did; NaN before anything is done."""
        done = self.done + ((self.bar.n - self.first) / self.bar.total if self.bar is not None else 0)
        spent = time.perf_counter() - self.began
        return spent / done * max(self.epochs - done, 0.0) if done else math.nan

    @contextmanager
    def steps(self, seeds: Sequence[int], epoch: str, done: int, steps: int) -> Iterator[Iterable[int]]:
        """The numbers of an epoch's steps, but for those that are done."""
        name = f"epoch {epoch}"
        if self.several or len(seeds) > 1:
            name = f"seed {seeds[0]}{f'-{seeds[-1]}' if len(seeds) > 1 else ''}  {name}"
        self.epochs -= done / steps
        self.first, self.after = done, time.perf_counter() + AT_ONCE
        layout = f"{LAYOUT}left {lasting(self.left())}"
        with shown(name, iterable=range(done, steps), initial=done, total=steps, bar_format=layout) as self.bar:
            yield self.bar
        self.bar = None
        self.done += (steps - done) / steps

    def due(self) -> bool:
        """Whether the numbers beside the bar are to be computed anew."""
        return not self.bar.disable and time.perf_counter() >= self.after

    def show(self, loss: float, accuracies: Sequence[float], costs: Mapping[str, float], began: float) -> None:
        """Put them there; to compute them took the time since ``began``."""
        names = self.names or [f"task-{task}" for task in range(len(accuracies))]
        first = [f"left {lasting(self.left())}", f"task {loss:.3g}", *(f"{name} {x:.2g}" for name, x in costs.items())]
        room = _columns() - len(f"{self.bar.desc} 100%|| ") - NARROW
        for letters in (None, 8, 5, 3):  # of a task's name, as many as there is room for
            pairs = [(name[:letters], x) for name, x in zip(names, accuracies, strict=True) if math.isfinite(x)]
            words = "  ".join([*first, *(f"{name} {x:.2f}" for name, x in pairs)])
            if len(words) <= room:
                break
        self.bar.bar_format = LAYOUT + words.replace("{", "{{").replace("}", "}}")
        now = time.perf_counter()
        self.after = now + max(AT_ONCE, (now - began) / SHARE)


def _columns() -> int:
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns
    return 80
