"""Random numbers: every use has a generator of its own, so that one use never shifts another."""

import hashlib

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
