"""How this process uses threads and memory: set once, before torch is imported."""

import ctypes
import os
import sys

KEPT = 1 << 30  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for them in mallopt(3)


def settle() -> None:
    """Threads that do not spin long, and memory that is kept to be used again.

    OpenMP's threads spin as they wait, by default so long that runs side by side slow each other down eightfold. glibc
    gives large arrays back to the system when they are freed, and every step of training asks for them again: fresh
    pages cost a tenth of a step on a CPU and half of what spatial costs take.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is imported
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            for threshold in (MMAP_THRESHOLD, TRIM_THRESHOLD):
                libc.mallopt(threshold, KEPT)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_torchrun(name: str, alone: int) -> int:
    """A number that torchrun gives to each of its processes by the environment."""
    whole = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    return int(os.environ[name]) if whole else alone


NUMBER, COUNT = _of_torchrun("RANK", 0), _of_torchrun("WORLD_SIZE", 1)
NUMBER_HERE, COUNT_HERE = _of_torchrun("LOCAL_RANK", 0), _of_torchrun("LOCAL_WORLD_SIZE", 1)  # on this machine
