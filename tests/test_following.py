"""The line that says what to run next."""

import shlex

import pytest
from helpers import command, register_sheets, small

from spatial.following import following
from spatial.runs import Run


def goes_on(capsys, *words):
    """Runs a command; the command line that it says comes next."""
    assert command(*words) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("next: python main.py ") and "   # " in last
    return shlex.split(last.removeprefix("next: python main.py "), comments=True)


def follow(capsys, words):
    """The commands that a run's own words lead to, up to ``plot``."""
    names = []
    while words[0] != "plot":
        names.append(" ".join([words[0], *words[2:]]))
        words = goes_on(capsys, *words)
    return names, words


def test_two_tasks_are_trained_split_scored_and_plotted(root, tmp_path, capsys):
    run = tmp_path / "it's a run"
    train = ["train", str(run), *small(root, "--epochs", "1")]
    names, last = follow(capsys, train)
    assert [name.split()[0] for name in names] == ["train", "split", "score"] and last == ["plot", str(run)]
    assert goes_on(capsys, *train, "--resume") == ["plot", str(run)]
    assert goes_on(capsys, "record", run) == ["plot", str(run)]
    assert goes_on(capsys, "split", run, "--method", "random") == ["score", str(run)]  # scores are of other splits now
    assert goes_on(capsys, "score", run) == ["plot", str(run)]
    Run(run).owners("random", 0).unlink()  # an unfinished split
    assert goes_on(capsys, "score", run)[0] == "plot"
    Run(run).scores.write_text("broken")
    assert following(Run(run)).startswith("next: python main.py score ")


@pytest.fixture
def sheets(tmp_path, monkeypatch):
    register_sheets(monkeypatch, tmp_path / "data")
    return tmp_path / "data"


def test_one_task_on_a_sheet_is_recorded_by_label_scored_and_plotted(sheets, tmp_path, capsys):
    words = small(sheets, "--model", "lenet", "--locality", "plane", "--epochs", "1", names=("Digits",))
    names, last = follow(capsys, ["train", str(tmp_path / "run"), *words])
    assert names[1:] == ["record --by label", "score"] and last == ["plot", str(tmp_path / "run")]
