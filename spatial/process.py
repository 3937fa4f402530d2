"""How this process uses threads, memory and streams, set once, before torch is imported; and how it ends."""

import ctypes
import io
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

KEPT = 1 << 30  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for them in mallopt(3)


def settle() -> None:
    """Threads that do not spin long, memory that is kept to be used again, and three streams that take every word.

    OpenMP's threads spin as they wait, by default so long that runs side by side slow each other down eightfold. glibc
    gives large arrays back to the system when they are freed, and every step of training asks for them again: fresh
    pages cost a tenth of a step on a CPU and half of what spatial costs take. A stream that is closed would give its
    number to the next file that is opened; one in ASCII would not take the sign ±.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python has it for stderr
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is imported
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            for threshold in (MMAP_THRESHOLD, TRIM_THRESHOLD):
                libc.mallopt(threshold, KEPT)


def memory() -> float:
    """Bytes that this process may still take without being killed for it, as far as the system says."""
    limits = [math.inf]
    with suppress(OSError, ValueError):  # of a container
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    return min(limits)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_torchrun(name: str, alone: int) -> int:
    """A number that torchrun gives to each of its processes by the environment."""
    whole = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    return int(os.environ[name]) if whole else alone


NUMBER, COUNT = _of_torchrun("RANK", 0), _of_torchrun("WORLD_SIZE", 1)
NUMBER_HERE, COUNT_HERE = _of_torchrun("LOCAL_RANK", 0), _of_torchrun("LOCAL_WORLD_SIZE", 1)  # on this machine


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the program as Ctrl-C does."""


def on_signals(handler: Callable[[int, Any], Any]) -> None:
    """Call it on Ctrl-C, unless a shell has that ignored for what it runs in the background, and on SIGTERM."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


asked: KeyboardInterrupt | None = None  # to end, by a signal


def stop(number: int, _: object) -> NoReturn:
    """Raise KeyboardInterrupt where the program is; a second signal waits for nothing."""
    global asked
    on_signals(at_once)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report the loaders' processes that end as well
    asked = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    raise asked


_said = False  # why the program ends


def at_once(number: int, _: object) -> NoReturn:
    """End without ado."""
    if not _said and NUMBER == 0:
        os.write(2, b"main.py: interrupted\n")
    os._exit(128 + number)


def farewell(end: KeyboardInterrupt, prog: str, hint: str = "") -> int:
    """Say in a line, in the first process alone, why the program ends; returns its exit status."""
    global _said
    _said, ended = True, isinstance(end, Terminated)
    if NUMBER == 0:
        print(f"{prog}: {'terminated' if ended else 'interrupted'}{hint}", file=sys.stderr, flush=True)
    return 143 if ended else 130
