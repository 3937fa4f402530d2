import shutil

import numpy as np
import pytest
from helpers import command, small

from spatial import plotting, runs
from spatial.errors import UserError
from spatial.plotting import KINDS, plot
from spatial.runs import Run

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A run of two seeds, recorded on the test images and split in two ways."""
    folder = tmp_path_factory.mktemp("run")
    for words in (["train", folder, *small(root, "--seeds", "2")], ["record", folder, "--subset", "test"]):
        assert command(*words) == 0
    for method in ("balanced", "random"):
        assert command("split", folder, "--method", method) == 0
    return Run(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_of_every_kind(run, kind):
    (path,) = plot(run, [kind])
    assert path == run.figures / f"{kind}.png"
    assert path.read_bytes().startswith(PNG)


def test_all_that_the_files_allow(run):
    assert [path.stem for path in plot(run)] == list(KINDS)


def test_equal_runs_give_equal_figures(run):
    first = plot(run, ["positions"])[0].read_bytes()
    assert plot(run, ["positions"])[0].read_bytes() == first


def test_a_kind_given_twice_is_drawn_once(run):
    assert len(plot(run, ["curves", "curves"])) == 1


def text_of(figure):
    """Everything written on a figure."""
    figure.draw_without_rendering()
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize(("method", "said"), [(None, "balanced"), ("random", "random")])
def test_the_split_that_colours_is_named(run, monkeypatch, method, said):
    figures = []
    draw = plotting.positions
    monkeypatch.setitem(KINDS, "positions", lambda *given: figures.append(draw(*given)) or figures[-1])
    plot(run, ["positions"], method=method)
    assert f"owner by the {said} split" in text_of(figures[0])


def test_positions_name_layers_tasks_and_axes(run):
    written = text_of(plotting.positions(run, "balanced", 0))
    for word in ("hidden layer 1", "hidden layer 2", "output layer", "Alpha", "Beta", "live", "silent", "x", "y"):
        assert word in written


def test_activations_name_what_is_shown(run):
    written = text_of(plotting.activations(run, "balanced", 1))
    for word in ("hidden layer 1, Alpha alone", "hidden layer 2, Beta alone", "mean |activation|"):
        assert word in written


def test_curves_say_how_many_seeds(run):
    written = text_of(plotting.curves(run, "balanced", 0))
    for word in ("loss", "accuracy, %", "transport T", "proximity P", "Alpha", "test", "train", "mean of 2 seeds"):
        assert word in written


def test_curves_draw_the_mean_and_the_range_over_seeds(run):
    figure = plotting.curves(run, "balanced", 0)
    losses = {
        (row["seed"], row["epoch"]): float(row["loss"])
        for row in runs.read_table(run.history)
        if row["subset"] == "test"
    }
    expected = [(losses["0", epoch] + losses["1", epoch]) / 2 for epoch in "12"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(expected)


def test_panels_have_equal_aspect(run):
    assert all(axis.get_aspect() == 1 for axis in plotting.positions(run, "balanced", 0).axes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 7}, "--seed 7: .* has the seeds 0, 1"),
        ({"method": "greedy"}, "unknown split of this run 'greedy'.*known.* balanced, random"),
        ({"method": "balenced"}, "did you mean balanced"),
    ],
    ids=str,
)
def test_what_the_run_does_not_have_is_named(run, given, message):
    with pytest.raises(UserError, match=message):
        plot(run, **given)


def test_neurons_at_one_place_are_drawn_as_one():
    places = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 1.0]])
    heaps = plotting._heaps(places, 1.0, np.array([1.0, 3.0, 5.0]))
    assert sorted(zip(heaps.counts.tolist(), heaps.values.tolist(), strict=True)) == [(1, 5.0), (2, 2.0)]
    assert heaps.places[heaps.counts == 2][0] == pytest.approx([0.0005, 0.0])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_neurons_lie_on_a_sheet_whatever_the_dimension(dim):
    places = np.random.default_rng(0).normal(size=(5, dim))
    x, y = plotting._sheet(places)
    assert np.array_equal(x, places[:, 0])
    assert y.shape == (5,)
    assert len(set(y)) == 5


def test_limits_hold_every_place():
    low, high = plotting._limits([np.array([[0.0, -3.0]]), np.array([[1.0, 2.0]])])
    assert -low == high > 3


def test_neurons_apart_in_a_dimension_that_is_not_drawn_are_not_one():
    assert plotting._heaps(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 1.0).counts.tolist() == [1, 2]


def test_figures_that_are_left_out_are_named(run, tmp_path, capsys):
    bare = Run(tmp_path / "bare")
    shutil.copytree(run.folder, bare.folder, ignore=shutil.ignore_patterns("parts", "activations", "figures"))
    assert [path.name for path in plot(bare)] == ["curves.png"]
    said = capsys.readouterr().out
    assert f"positions left out: {bare.folder}: nothing to draw this from yet" in said
    assert f"python main.py record {bare.folder}" in said
