"""Locks between processes. A lock ends with the process that holds it, however that ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spatial.errors import UserError


class Lock:
    """A lock that is held.

    Args:
        path: its file, which is empty and stays.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = self._number()

    def _number(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def lasts(self) -> bool:
        """Whether the file is still that one: if its folder was removed, another process may hold the same path."""
        return self._file is not None and self._number() == self._file


@contextmanager
def locked(path: Path, *, busy: str, wait: bool = False) -> Iterator[Lock]:
    """Within it no other process is within it, for the same path.

    Args:
        path: of the lock's file.
        busy: what to say if another process holds it.
        wait: for it, having said ``busy`` on stderr; else that is an error.

    Raises:
        UserError: ``busy``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(busy) from None
        print(busy, file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield Lock(path)
    finally:
        lock.release()
