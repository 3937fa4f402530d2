"""What all tests share: one seed, and runs on generated data."""

import gc

import pytest
import torch
from generated import register
from helpers import CLASSES, NAMES, train_options
from processes import Command, server

from spatial import experiment
from spatial.runs import Run


def pytest_addoption(parser):
    parser.addoption("--nightly", action="store_true", help="try many more random cases, for an hour")


def pytest_terminal_summary(terminalreporter):
    """What tests say that they have tried (``record_property("tried", words)``), a line each."""
    for report in terminalreporter.stats.get("passed", []):
        for name, words in report.user_properties:
            if name == "tried" and report.when == "call":
                terminalreporter.write_line(f"tried: {words}")


def pytest_collection_finish():
    """What was imported stays: without this, looking for garbage among it takes a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session")
def nightly(request):
    """Whether random cases are many (``--nightly``) or a small slice of them."""
    return request.config.getoption("--nightly")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """What is made in the test is in double precision unless it says otherwise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with three registered data sets of different sizes and numbers of classes, 8x8 pixels each."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for seed, (name, classes) in enumerate(zip(NAMES, CLASSES, strict=True)):
            register(patch, folder, name, classes=classes, train=120 - 20 * seed, test=40 - 7 * seed, seed=seed)
        register(patch, folder, "Large", size=10, train=40, test=20, seed=9)
        yield folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folder of the data that commands of :func:`starts` find."""
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def starts(stored):
    """Starts ``python main.py WORDS`` in a folder, as :class:`processes.Command`."""
    with server(stored) as made:
        yield lambda folder, *words, **more: Command(made, words, folder, **more)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def train(root, run):
    """Trains the run with further words of the command line."""

    def train(*words, folder=None, names=NAMES[:2], **flags):
        given = [each for word in words for each in word.split()]
        return experiment.train(folder or run.folder, train_options(root, *given, names=names), **flags)

    return train
