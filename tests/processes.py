"""The program in processes of its own, quickly: one process has imported everything and forks one for each command.

As a script it is that process: it registers generated data sets in a folder and reads commands, a line of JSON each.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIZES = {"Alpha": {"classes": 4, "train": 120, "test": 40}, "Beta": {"classes": 3, "train": 100, "test": 33}}


class Command:
    """``python main.py WORDS`` in a process, with its output in files.

    Args:
        server: of :func:`server`.
        words: of the command line.
        folder: where it is called.
        die_at: the number of the change to the file system at which it is killed, None: never; counted are files that
            are opened to be written, renamed or removed, and folders that are made or removed, below ``folder``.
    """

    def __init__(self, server, words, folder, die_at=None, **more):
        self.server = server
        self.folder = Path(folder)
        self.told = self.folder.with_name(self.folder.name + ".told")
        self.told.mkdir(exist_ok=True)
        words = [str(word) for word in words]
        order = {"words": words, "folder": str(folder), "told": str(self.told), "die_at": die_at, **more}
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


def watch(folder, die_at, note):
    """Count changes below a folder; kill this process at one of them, just before it is made."""
    count = 0

    def hook(event, given):
        nonlocal count
        if event == "open":
            path, _, flags = given
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        if not os.path.abspath(os.fsdecode(given[0])).startswith(folder + os.sep):
            return
        count += 1
        note(count)
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

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
    for each in (signal.SIGINT, signal.SIGTERM):  # as from main.py's first lines on
        signal.signal(each, lambda number, _: os._exit(128 + number))
    if order.get("user"):
        os.setuid(order["user"])
    if order.get("largest"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
    counter = os.open(f"{told}/{number}.changes", os.O_CREAT | os.O_WRONLY, 0o666)
    watch(order["folder"], order["die_at"], lambda count: os.pwrite(counter, b"%d" % count, 0))
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


def serve(data):
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import generated
    import pytest

    from spatial import comparing, experiment, plotting, recording, scoring, splitting  # noqa: F401

    patch = pytest.MonkeyPatch()
    for seed, (name, sizes) in enumerate(SIZES.items()):
        generated.register(patch, Path(data), name, seed=seed, **sizes)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = {"status": os.waitpid(order["wait"], 0)[1]}
        else:
            number = os.fork()
            if number == 0:
                obey(order)
            answer = {"number": number}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
