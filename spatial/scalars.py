"""A training's history as scalars for TensorBoard: a folder per seed, rebuilt from the history when a run goes on."""

import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spatial.errors import UserError

NAME = "events.out.tfevents.{}.spatial"
COSTS = ("transport", "proximity", "weight_penalty")


def check(folder: str) -> None:
    """Refuse, before anything is written, what cannot be: without the package, or in a folder that is shut."""
    if find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs a package that is not installed: python -m pip install tensorboard")
    there = next(each for each in (Path(folder), *Path(folder).absolute().parents) if each.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--tensorboard {folder}: {there} cannot be written to")


def check_free(folders: Iterable[Path]) -> None:
    """Refuse the folders of a run that begins if they hold another's events."""
    for folder in folders:
        if any(folder.glob("*tfevents*")):
            raise UserError(
                f"{folder}: holds the events of another run; remove them, give another folder to --tensorboard, or "
                "--overwrite"
            )


def clear(folder: Path) -> None:
    """Remove an earlier run's events, also of seeds that this one has not."""
    for path in folder.glob(f"seed-*/{NAME.format('*')}"):
        path.unlink()


class Scalars:
    """The event file of one seed.

    Tags: ``loss/SUBSET``, ``accuracy/SUBSET/TASK``, ``top5/SUBSET`` where it is measured, and ``cost/transport``,
    ``cost/proximity`` and ``cost/weight_penalty`` as they are, without strengths; steps are epochs.

    Args:
        folder: of the seed alone; earlier files of this class in it are replaced.
        names: of the tasks.
        rows: the seed's rows of history.csv so far.
    """

    def __init__(self, folder: Path, names: Sequence[str], rows: Iterable[dict[str, Any]] = ()):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.names = names
        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob(NAME.format("*")))
        self.path = folder / NAME.format(time.time_ns())  # another name: whoever reads the old file finds the new one
        # what a reader knows of these steps already is to be forgotten
        start = Event(step=0, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START))
        self._write([Event(file_version="brain.Event:2", wall_time=time.time()), start, *self._events(rows)])
        for path in earlier:
            path.unlink()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """More rows of history.csv."""
        self._write(self._events(rows))

    def _events(self, rows: Iterable[dict[str, Any]]) -> Iterator[Any]:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar

        for row in rows:
            for tag, value in self._scalars(row):
                if math.isfinite(value):  # of a task of which nothing was asked there is no accuracy
                    yield Event(step=row["epoch"], wall_time=time.time(), summary=scalar(tag, value))

    def _scalars(self, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
        subset = row["subset"]
        yield f"loss/{subset}", row["loss"]
        for name in self.names:
            yield f"accuracy/{subset}/{name}", row[name]
        if "top5" in row:
            yield f"top5/{subset}", row["top5"]
        if subset != "train":  # costs are of an epoch, not of a subset
            for name in COSTS:
                yield f"cost/{name}", row[name]

    def _write(self, events: Iterable[Any]) -> None:
        """At once, not by SummaryWriter's thread, whose errors nobody meets."""
        from torch.utils.tensorboard import RecordWriter

        content = io.BytesIO()
        writer = RecordWriter(content)
        for event in events:
            writer.write(event.SerializeToString())
        try:
            with self.path.open("ab") as file:
                file.write(content.getbuffer())
        except OSError as error:  # a full disk is met without a name
            raise OSError(error.errno, error.strerror, str(self.path)) from None
