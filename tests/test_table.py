"""The tables of the README and of the experiments' pages."""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers import command, small

PATH = Path(__file__).parents[1] / "experiments" / "table.py"


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Two scored runs whose folders have one name."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("first", "second")]
    for folder, methods in zip(folders, (["random"], ["balanced", "greedy"]), strict=True):
        assert command("train", folder, *small(root, "--seeds", "2")) == 0
        assert command("split", folder, "--method", *methods) == 0
        assert command("score", folder) == 0
    return [str(folder) for folder in folders]


def table(monkeypatch, capsys, *words):
    """What the script prints, as rows of cells, and its exit status."""
    specification = importlib.util.spec_from_file_location("table", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["table.py", *words])
    capsys.readouterr()
    status = module.main()
    said = capsys.readouterr()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in said.out.splitlines()], status, said.err


def test_accuracies_of_several_runs(runs, monkeypatch, capsys):
    (head, rule, *rows), status, _ = table(monkeypatch, capsys, *runs)
    assert status == 0
    assert head == ["network", "task", "before the cut", "greedy", "balanced", "random"]
    assert set("".join(rule)) == {"-"}
    assert [row[:2] for row in rows] == [[run, task] for run in runs for task in ("Alpha", "Beta", "mean")]
    assert [row[3] == "" for row in rows] == [True] * 3 + [False] * 3  # the first was not split by greedy
    assert all("±" in row[2] for row in rows)


def test_the_mean_alone(runs, monkeypatch, capsys):
    (head, _, *rows), _, _ = table(monkeypatch, capsys, "--mean", *runs)
    assert head[:2] == ["network", "before the cut"]
    assert [row[0] for row in rows] == runs


def test_measures_of_a_split(runs, monkeypatch, capsys):
    (head, _, *rows), _, _ = table(monkeypatch, capsys, "--measures", "greedy", runs[1])
    assert head == ["network", "layer", "live", "places", "kappa", "silhouette", "crossing"]
    assert [row[:2] for row in rows] == [["run", "0"], ["run", "1"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--measures", "gready", 1], "unknown split of run 'gready': did you mean greedy?"),
        (["nowhere"], "metrics.json"),
    ],
)
def test_mistakes_are_one_line(runs, monkeypatch, capsys, words, said):
    words = [runs[word] if isinstance(word, int) else word for word in words]
    rows, status, error = table(monkeypatch, capsys, *words)
    assert (rows, status) == ([], 2)
    assert said in error and error.count("\n") == 1
