"""Random numbers: every use has a generator of its own, so that one use never shifts another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed made from ``seed`` and what it is for, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one use: ``generator(seed, "order", epoch)``.

    Args:
        seed: the run's seed.
        names: the use (``weights``, ``positions``, ``order``, ``split``, ...) and, where it recurs, which time it is.
            A generator made anew for each epoch makes resuming a matter of knowing the epoch.
    """
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int, device: torch.device | str = "cpu") -> Iterator[None]:
    """torch's own generators in their start for one use, for what takes no generator (initialisation, dropout).

    Afterwards they are as they were before.

    Args:
        seed, names: as :func:`generator`'s.
        device: whose generator is used, besides the CPU's.
    """
    here = torch.device(device)
    others = [] if here.type == "cpu" else [here.index or 0]
    with torch.random.fork_rng(others, device_type="cuda" if here.type == "cpu" else here.type):
        start = derive(seed, *names)
        torch.default_generator.manual_seed(start)  # torch.manual_seed would reach accelerators too, even unused ones
        if others:
            torch.get_device_module(here).manual_seed(start)
        yield
