"""The program in processes of its own, quickly: one process has imported everything and forks one for each command.

As a script it is that process: it registers generated data sets in a folder and reads commands, a line of JSON each.
"""

import dataclasses
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parent.parent
NETWORK = "--layers 12 8 --batch-size 16 --device cpu --transport 1 --proximity 1"
SIZES = {"Alpha": {"classes": 4, "train": 120, "test": 40}, "Beta": {"classes": 3, "train": 100, "test": 33}}

# at the start, for all; an optimizer imports torch._dynamo, which takes 2 s
IMPORTED = ("torch._dynamo", "spatial.comparing", "spatial.experiment", "spatial.plotting", "spatial.recording")

STOPS = (signal.SIGINT, signal.SIGTERM)


class Command:
    """``python main.py WORDS`` in a process, with its output in files.

    Args:
        server: of :func:`server`.
        words: of the command line.
        folder: where it is called.
        die_at: the number of the change to the file system at which it is killed, None: never; counted are files that
            are opened to be written, renamed or removed, and folders that are made or removed, below ``folder``.
        fail_at: as ``die_at``; from that change on each fails with the system's ``error`` number.
        largest: a limit of the system on the size of a file, bytes.
        clock_back: whether the clock goes backwards.
        out: where stdout goes, in place of a file.
    """

    def __init__(self, server, words, folder, *, die_at=None, fail_at=None, error=0, **more):
        self.server = server
        self.folder = Path(folder)
        self.told = self.folder.with_name(self.folder.name + ".told")
        self.told.mkdir(exist_ok=True)
        words = [str(word) for word in words]
        order = {"words": words, "folder": str(folder), "told": str(self.told), **more}
        order |= {"die_at": die_at, "fail_at": fail_at, "error": error}
        self.number = server.ask(order)["number"]
        self.status = None

    def send(self, signal_number):
        os.kill(self.number, signal_number)

    def wait(self):
        """Its exit status, -N if signal N has killed it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(self.server.ask({"wait": self.number})["status"])
        return self.status

    @property
    def out(self):
        return self._said("out")

    @property
    def errors(self):
        return self._said("err")

    def _said(self, where):
        path = self.told / f"{self.number}.{where}"
        return path.read_text() if path.exists() else ""

    @property
    def changes(self):
        """How many changes to the file system it has made."""
        return int((self.told / f"{self.number}.changes").read_text())


class Server:
    """A process that forks commands."""

    def __init__(self, data):
        words = [sys.executable, __file__, str(data)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def server(data):
    """A :class:`Server` whose data sets lie in the folder ``data``."""
    made = Server(data)
    try:
        yield made
    finally:
        made.process.stdin.close()
        made.process.wait(20)
        made.process.stdout.close()


def until(condition, seconds=60):
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def watch(folder, note, die_at, fail_at, error):
    """Count changes below a folder; kill this process at one of them, or let them fail, just before it is made."""
    changes = 0

    def hook(event, given):
        nonlocal changes
        if event == "open":
            path, _, flags = given
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        if not os.path.abspath(os.fsdecode(given[0])).startswith(folder + os.sep):
            return
        changes += 1
        note(changes)
        if changes == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if fail_at is not None and changes >= fail_at:
            raise OSError(error, os.strerror(error), os.fsdecode(given[0]))

    sys.addaudithook(hook)


def obey(order):
    """In a forked process: the command, as the shell would start it."""
    import runpy

    told, number = order["told"], os.getpid()
    for name, descriptor in (("out", 1), ("err", 2)):
        path = order.get(name, f"{told}/{number}.{name}")
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(each, mode) for each, mode in ((0, "r"), (1, "w"), (2, "w")))
    os.chdir(order["folder"])
    sys.argv = ["main.py", *order["words"]]
    for each in STOPS:  # as from main.py's first lines on
        signal.signal(each, lambda number, _: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if order.get("largest"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
    counter = os.open(f"{told}/{number}.changes", os.O_CREAT | os.O_WRONLY, 0o666)
    if order.get("clock_back"):
        time.time = partial(next, count(2e9, -10))
    what = [order[name] for name in ("die_at", "fail_at", "error")]
    watch(order["folder"], lambda count: os.pwrite(counter, b"%d" % count, 0), *what)
    status = 1
    try:
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    os._exit(status)


def slowly(folder, empty, files):
    """A source of data that takes its time and notes that it was asked, in ``asked`` beside the folder."""
    with (folder.parent / "asked").open("a") as asked:
        print(os.getpid(), file=asked)
    for file in files:
        time.sleep(0.1)
        shutil.copy(folder / file, empty / file)
    return empty


def register_all(data):
    """List the data sets of ``SIZES``, whose files lie in a folder, and Slow: the last of them, not there yet."""
    import generated
    import pytest

    from spatial import sources

    patch = pytest.MonkeyPatch()  # never undone
    for seed, (name, sizes) in enumerate(SIZES.items()):
        entry = generated.register(patch, data, name, seed=seed, **sizes)
    slow = {"a slow source": partial(slowly, data / name / "raw")}
    patch.setitem(sources.DATASETS, "Slow", dataclasses.replace(entry, sources=slow))


def serve(data):
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # so that forked processes need not copy what is collected

    register_all(Path(data))
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = {"status": os.waitpid(order["wait"], 0)[1]}
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until it has its handlers
            number = os.fork()
            if number == 0:
                obey(order)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            answer = {"number": number}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
