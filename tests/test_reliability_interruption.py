"""``train`` is killed, interrupted and terminated at any moment: ``--resume`` comes to the same, bit for bit."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import NamedTuple

import pytest
from helpers import results
from processes import NETWORK, ROOT, until

from spatial import storing
from spatial.runs import Run

WORDS = f"--datasets Alpha Beta {NETWORK} --epochs 8 --schedule cosine --norm l1"
CASES = {
    "mix": "--input mix",
    "mix, also saved in mid-epoch": "--input mix --save-every 2 --optimizer AdamW --weight-decay 0.1",
    "sequential, seeds in a row": "--input sequential --seeds 2 --replicas sequential --save-every 5",
    "concatenate, seeds together": "--input concatenate --seeds 3 --replicas together --optimizer SGD --lr 0.1",
    "conv": "--model conv --layers 4 4 --input mix --seeds 2 --replicas sequential",
}
RARER = ("mix", "conv")  # left to `make test-all`
SIGNALS = {
    "SIGKILL": ([signal.SIGKILL], {-signal.SIGKILL}),
    "SIGINT": ([signal.SIGINT], {130}),
    "SIGTERM": ([signal.SIGTERM], {143}),
    "SIGINT twice": ([signal.SIGINT, signal.SIGINT], {130}),
}
LINE = re.compile(r"^seed (\d+)  epoch (\d+)/", re.MULTILINE)


class Case(NamedTuple):
    """A way of training and what it comes to uninterrupted."""

    words: list[str]
    run: Run
    changes: int
    seconds: float


@pytest.fixture(
    scope="module",
    params=[pytest.param(words, marks=pytest.mark.slow) if name in RARER else words for name, words in CASES.items()],
    ids=list(CASES),
)
def case(request, starts, stored, tmp_path_factory):
    words = [*WORDS.split(), *request.param.split(), "--root", str(stored)]
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    whole = starts(folder, "train", "run", *words)
    assert whole.wait() == 0, whole.errors
    seconds = time.monotonic() - began
    assert starts(folder, "score", "run").wait() == 0
    return Case(words, Run(folder / "run"), whole.changes, seconds)


def saved_rows(run):
    """The rows of the epochs that the checkpoints hold, their seconds included."""
    states = [storing.load_plain(path) for path in (run.folder / "resume").glob("seed-*.pt")]
    return [row for state in states for row in state["history"]]


def as_read(rows):
    """Rows as they come back from a table."""
    return [{name: str(storing.cell(value)) for name, value in row.items()} for row in rows]


def recovers(starts, case, folder, interrupt):
    """Starts a run and interrupts it, again and again as it resumes; then it must come to what it is uninterrupted.

    Args:
        interrupt: is given the command and how many went before it; False: let it end.

    Returns:
        How often it was interrupted.
    """
    run, said, kept, often = Run(folder / "run"), "", [], 0
    while True:
        first = not run.config_file.is_file()  # then the same command simply starts
        command = starts(folder, "train", "run", *case.words, *([] if first else ["--resume"]))
        went_on = interrupt(command, often)
        status = command.wait()
        said += command.out
        assert "Traceback" not in command.errors and command.errors.count("\n") <= 1, command.errors
        rows = as_read(saved_rows(run))
        assert all(row in rows for row in kept)
        kept = rows
        if not went_on or status == 0:
            assert status == 0, command.errors
            break
        often += 1
    assert results(run) == results(case.run)
    assert all(count == 1 for count in Counter(LINE.findall(said)).values())
    in_table = storing.read_table(run.history)
    assert all(row in in_table for row in kept)
    left = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert left == []
    assert starts(folder, "score", "run").wait() == 0
    assert run.metrics.read_bytes() == case.run.metrics.read_bytes()
    return often


def test_killed_at_any_change_of_a_file(starts, case, tmp_path, nightly, record_property):
    """Half-written files: killed just before each file is opened to be written, renamed or removed."""
    assert case.changes > 40
    numbers = range(1, case.changes + 1)
    chosen = numbers if nightly else random.Random(0).sample(numbers, 1)
    for number in chosen:
        folder = tmp_path / str(number)
        folder.mkdir()
        command = starts(folder, "train", "run", *case.words, die_at=number)
        assert command.wait() == -signal.SIGKILL
        assert recovers(starts, case, folder, lambda *_: False) == 0
    record_property("tried", f"{len(chosen)} of {case.changes} changes of files: killed just before, resumed, the same")


@pytest.mark.parametrize("name", SIGNALS)
def test_stopped_at_random_moments(starts, case, tmp_path, nightly, record_property, name):
    signals, statuses = SIGNALS[name]
    moments, random_ = 0, random.Random(name)
    for number in range(10 if nightly else 1):
        folder = tmp_path / str(number)
        folder.mkdir()

        def interrupt(command, often, config=folder / "run" / "config.json"):
            if often == (3 if nightly else 1):
                return False
            until(lambda: config.is_file() or command.errors)
            time.sleep(random_.uniform(0, case.seconds / 2))
            for each in signals:
                with contextlib.suppress(ProcessLookupError):
                    command.send(each)
            assert command.wait() in statuses | {0}, (command.wait(), command.errors)
            return True

        moments += recovers(starts, case, folder, interrupt)
    record_property("tried", f"{moments} random moments: {name}, resumed, the same")


STAGE = """
stages:
  train:
    cmd: {python} {registered} {data} train run {words} --resume --overwrite
    deps: [input]
    outs: [run/config.json, run/history.csv, run/positions.npz, run/weights]
"""


def forget_broken(lock):
    """Remove dvc's own list of locks where dvc has been killed as it wrote it, as its error says."""
    if lock.is_file():
        try:
            json.loads(lock.read_text())
        except ValueError:
            lock.unlink()


@pytest.mark.slow
def test_interrupted_inside_dvc_repro(case, stored, tmp_path, monkeypatch, nightly, record_property):
    """dvc and the training get Ctrl-C, both or one of them SIGTERM or SIGKILL; the same ``dvc repro`` goes on."""
    times, random_, said = 6 if nightly else 2, random.Random(5), ""
    registered = ROOT / "tests" / "registered.py"
    stage = STAGE.format(python=sys.executable, registered=registered, data=stored, words=" ".join(case.words))
    (tmp_path / "dvc.yaml").write_text(stage)
    (tmp_path / "input").write_text("x")
    dvc = [sys.executable, "-m", "dvc"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    run = Run(tmp_path / "run")
    kept = []
    for number in range(times + 1):
        out = tmp_path / f"out-{number}"
        with out.open("w") as file:
            repro = subprocess.Popen(
                [*dvc, "repro"], cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        if number < times:
            until(lambda repro=repro: run.config_file.is_file() or repro.poll() is not None)
            time.sleep(random_.uniform(0, case.seconds))
            number_of_signal = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)[number % 3]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(repro.pid, number_of_signal)
        assert (repro.wait(120) == 0) >= (number == times), out.read_text()
        said += out.read_text()
        assert not any(f'File "{ROOT / each}' in said for each in ("main.py", "spatial")), said  # dvc's are its own
        rows = as_read(saved_rows(run))
        assert all(row in rows for row in kept)
        kept = rows
        if number < times and len(rows) == len(as_read(saved_rows(case.run))):  # dvc has not noted that it is done,
            kept, said = [], ""  # and calls it again: a finished run starts anew
        forget_broken(tmp_path / ".dvc/tmp/rwlock")
    assert all(count == 1 for count in Counter(LINE.findall(said)).values())
    assert results(run) == results(case.run)
    record_property("tried", f"{times} interruptions of dvc repro: resumed by dvc repro, the same")
