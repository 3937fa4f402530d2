import itertools
import math
import shutil

import numpy as np
import oracles
import pytest
from helpers import command, copied, register_sheets, reoptioned, sheet_run, tree
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from PIL import Image

from spatial import drawing, graph, heatmaps, plotting, storing
from spatial.errors import UserError
from spatial.heatmaps import Group, Spread, groups_of
from spatial.plotting import BESIDE, plot
from spatial.runs import Run

SHEET_KINDS = ["prior", "maps", "variance", "filters"]
ONE = groups_of(["A"], [2])


@pytest.fixture
def quick(monkeypatch):
    """Where the files' names matter and not what is in them."""
    monkeypatch.setattr(drawing, "rendered", lambda made, format: (format, b"a figure"))


def written_on(figure):
    """Titles, labels, legends and notes, line breaks as spaces."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(text.get_text() for text in found).split())


def panels(figure):
    """The panels that show an image, in their order, the colour bars left out."""
    return [axis for axis in figure.axes if axis.images]


def drawn(axis):
    """The numbers that a panel's image shows, what is blank as NaN."""
    return np.ma.filled(np.ma.asarray(axis.images[0].get_array(), float), np.nan)


def scale_of(axis):
    return axis.images[0].norm.vmin, axis.images[0].norm.vmax


def row_by_row(values):
    """A map of a plane as nested lists, unit 0 at the top left."""
    edge = math.isqrt(len(values))
    return [[values[edge * y + x] for x in range(edge)] for y in range(edge)]


def assert_drawn(axis, expected):
    assert np.array_equal(drawn(axis), np.array(expected, float), equal_nan=True)
    assert axis.images[0].origin == "upper"  # row 0 at the top


# Groups of labels.


def test_labels_are_grouped_by_task():
    assert groups_of(["A", "B"], [4, 3]) == [Group("A", range(4), slice(0, 4)), Group("B", range(3), slice(4, 7))]


def test_many_labels_are_wrapped():
    found = groups_of(["A", "B", "C"], [10, 23, 2])
    assert [group.name for group in found] == ["A", "B 0 to 9", "B 10 to 19", "B 20 to 22", "C"]
    assert [list(group.labels) for group in found[1:4]] == [[*range(10)], [*range(10, 20)], [20, 21, 22]]
    rows = [row for group in found for row in range(35)[group.rows]]
    assert rows == [*range(35)]
    assert all(len(group.labels) == len(range(35)[group.rows]) for group in found)


def test_of_very_many_labels_some_are_drawn_and_it_is_said():
    found = groups_of(["A", "B"], [1000, 60])
    shown = [[label for group in found if group.name[0] == name for label in group.labels] for name in "AB"]
    assert shown == [[*range(0, 1000, 25)], [*range(60)]]
    rows = [row for group in found for row in range(1060)[group.rows]]
    assert rows == [*range(0, 1000, 25), *range(1000, 1060)]
    assert heatmaps.left_out(["A", "B"], [1000, 60]) == "A: one label in 25" and heatmaps.left_out(["A"], [60]) == ""


@pytest.mark.parametrize(("sheet", "expected"), [("line", [[0, 1, 2, 3]]), ("plane", [[0, 1], [2, 3]])])
def test_a_map_as_an_image(sheet, expected):
    assert heatmaps.image(np.arange(4), sheet).tolist() == expected


# Priors.


@pytest.mark.parametrize(("units", "centre"), [(9, 4), (16, 10), (1, 0)])
def test_a_plane_prior_is_seen_from_the_centre_and_from_the_top_left(units, centre):
    matrix = np.random.default_rng(0).uniform(0.1, 1, (units, units))
    figure = heatmaps.prior({"hidden layer 2": (matrix, None)}, "plane", "a note")
    middle, corner = panels(figure)
    assert_drawn(middle, row_by_row(matrix[centre]))
    assert_drawn(corner, row_by_row(matrix[0]))
    assert scale_of(middle) == scale_of(corner) == (0, matrix.max())
    assert "hidden layer 2" in middle.get_title() and middle.get_title().endswith("seen from the centre")
    assert corner.get_title().endswith("from the top left")
    assert "a note" in written_on(figure)


def test_a_line_prior_is_its_matrix():
    matrix = np.random.default_rng(0).uniform(0.1, 1, (5, 5))
    (axis,) = panels(heatmaps.prior({"first": (matrix, None)}, "line", ""))
    assert_drawn(axis, matrix)


@pytest.mark.parametrize("sheet", ["line", "plane"])
def test_gains_are_drawn_beside_the_prior_on_a_scale_of_their_own(sheet):
    matrix = np.random.default_rng(0).uniform(0.1, 1, (9, 9))
    gain = matrix.mean(1)
    *_, last = panels(heatmaps.prior({"first": (matrix, gain)}, sheet, ""))
    assert_drawn(last, row_by_row(gain) if sheet == "plane" else [gain])
    assert last.get_title() == "gain of every unit" and scale_of(last) == (gain.min(), gain.max())


def test_every_priors_row_has_its_own_scale():
    random = np.random.default_rng(0)
    matrices = {"first": random.uniform(0, 1, (4, 4)), "second": random.uniform(0, 3, (9, 9))}
    found = panels(heatmaps.prior({title: (each, None) for title, each in matrices.items()}, "plane", ""))
    assert [scale_of(axis)[1] for axis in found] == [each.max() for each in matrices.values() for _ in range(2)]


@pytest.mark.parametrize("sheet", ["line", "plane"])
@pytest.mark.parametrize("gain", [None, np.ones(49)], ids=["connections", "activations"])
def test_titles_of_priors_are_whole(sheet, gain):
    """Nothing that is written goes over the figure's edge."""
    figure = heatmaps.prior({"hidden layer 2": (np.eye(49), gain)}, sheet, "a note")
    figure.draw_without_rendering()
    for axis in figure.axes:
        box = axis.title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


# Maps.


def label_maps(runs, layers, labels, units):
    """Mean maps by run and layer, each run's larger than the one's before."""
    random = np.random.default_rng(0)
    return {
        name: {layer: (number + 1) * random.uniform(0, 1, (labels, units)) for layer in layers}
        for number, name in enumerate(runs)
    }


@pytest.mark.parametrize("names", [["mine"], ["control", "mine"]], ids=["alone", "beside"])
def test_every_labels_map_is_drawn_on_one_scale_per_layer(names):
    groups, layers = groups_of(["A", "B"], [3, 2]), ["first", "second"]
    shown = label_maps(names, layers, 5, 9)
    figure = heatmaps.maps(shown, groups, "plane", "a note")
    found = iter(panels(figure))
    for layer in layers:
        highest = max(values[layer].max() for values in shown.values())
        for group, task in ((groups[0], "A"), (groups[1], "B")):
            for name in names:
                for label, values in enumerate(shown[name][layer][group.rows]):
                    axis = next(found)
                    assert_drawn(axis, row_by_row(values))
                    assert scale_of(axis) == (0, highest)
                    assert axis.get_title() == str(label)
                    side = "\n".join([layer, *([name] if len(names) > 1 else []), task])
                    assert axis.get_ylabel() == ("" if label else side)
    assert next(found, None) is None
    assert written_on(figure).count("mean |activation|") == 2 and "a note" in written_on(figure)


@pytest.mark.parametrize("names", [["mine"], ["control", "mine"]], ids=["alone", "beside"])
def test_maps_on_a_line_are_drawn_one_below_another_on_one_scale_per_layer(names):
    groups, layers = groups_of(["A", "B"], [3, 2]), ["first", "second"]
    shown = label_maps(names, layers, 5, 9)
    found = iter(panels(heatmaps.maps(shown, groups, "line", "")))
    for layer in layers:
        highest = max(values[layer].max() for values in shown.values())
        for group, task in ((groups[0], "A"), (groups[1], "B")):
            for name in names:
                axis = next(found)
                assert_drawn(axis, shown[name][layer][group.rows])
                assert scale_of(axis) == (0, highest)
                assert [text.get_text() for text in axis.get_yticklabels()] == list(map(str, group.labels))
                assert axis.get_ylabel() == "\n".join([layer, *([name] if len(names) > 1 else []), task])
    assert next(found, None) is None


def test_more_labels_than_a_row_holds_are_all_drawn():
    shown = label_maps(["mine"], ["first"], 14, 4)
    figure = heatmaps.maps(shown, groups_of(["A", "B"], [12, 2]), "plane", "")
    for axis, values in zip(panels(figure), shown["mine"]["first"], strict=True):
        assert_drawn(axis, row_by_row(values))
    assert [axis.get_title() for axis in panels(figure)] == [*map(str, range(12)), "0", "1"]
    sides = [axis.get_ylabel() for axis in panels(figure) if axis.get_ylabel()]
    assert sides == ["first\nA 0 to 9", "first\nA 10 to 11", "first\nB"]


def test_a_label_without_images_is_blank():
    shown = label_maps(["mine"], ["first"], 2, 4)
    shown["mine"]["first"][1] = np.nan
    first, blank = panels(heatmaps.maps(shown, ONE, "plane", ""))
    assert np.isnan(drawn(blank)).all()
    assert scale_of(blank) == scale_of(first) == (0, shown["mine"]["first"][0].max())


@pytest.mark.parametrize("value", [0, np.nan])
def test_maps_of_silent_layers_are_drawn(value):
    figure = heatmaps.maps({"mine": {"first": np.full((2, 4), value)}}, ONE, "plane", "")
    figure.draw_without_rendering()
    assert scale_of(panels(figure)[0])[1] > 0


# Spatial variance.


def bars_of(axis):
    """Height, place and width of every bar, in the order of drawing: run by run."""
    return [(bar.get_height(), bar.get_x() + bar.get_width() / 2, bar.get_width()) for bar in axis.patches]


def whiskers_of(axis):
    """The ends of every upright line."""
    segments = [
        each for drawn in axis.collections if isinstance(drawn, LineCollection) for each in drawn.get_segments()
    ]
    drawn = [each for each in segments if len(each) == 2 and np.isfinite(each).all()]
    return [sorted(each[:, 1]) for each in drawn if each[0][0] == each[1][0]]


def spreads(names, seeds=3, inputs=12, seed=0):
    random = np.random.default_rng(seed)
    values = {name: random.uniform(0, 9, (seeds, inputs)) for name in names}
    for each in values.values():
        each[0, 3] = each[-1, 7] = np.nan
    return values


def class_means(values, labels):
    """By label, then seed: the mean of the maps that are not empty."""
    found = []
    for label in range(labels.shape[1]):
        means = []
        for row in values.tolist():
            own = [x for x, has in zip(row, labels[:, label], strict=True) if has and not math.isnan(x)]
            means.append(sum(own) / len(own))
        found.append(means)
    return found


LABELS = np.arange(12)[:, None] % 3 == np.arange(3)
THREE = groups_of(["A"], [3])


@pytest.mark.parametrize("names", [["mine"], ["control", "mine"]], ids=["alone", "beside"])
def test_bars_are_the_labels_mean_variances(names):
    values = spreads(names)
    figure = heatmaps.variance({"first": Spread(values, 8.5)}, LABELS, THREE, "a note")
    bars, _ = figure.axes
    found = bars_of(bars)
    assert len(found) == len(whiskers_of(bars)) == 3 * len(names)
    for number, name in enumerate(names):
        for label, means in enumerate(class_means(values[name], LABELS)):
            height, place, _ = found[3 * number + label]
            mean, deviation = oracles.mean_and_deviation(means)
            reach = 4.302653 * deviation / math.sqrt(3)
            assert height == pytest.approx(mean)
            ends = [max(mean - reach, 0), mean + reach]  # no variance is below 0
            assert whiskers_of(bars)[3 * number + label] == pytest.approx(ends, rel=1e-5, abs=1e-9)
            assert abs(place - label) < 0.5
    assert [text.get_text() for text in bars.get_xticklabels()] == ["0", "1", "2"]
    assert "a note" in written_on(figure)


def test_bars_of_two_runs_stand_beside_each_other_and_have_two_colours():
    figure = heatmaps.variance({"first": Spread(spreads(["control", "mine"]), 1)}, LABELS, THREE, "")
    edges = sorted((place - width / 2, place + width / 2) for _, place, width in bars_of(figure.axes[0]))
    assert all(right <= left for (_, right), (left, _) in itertools.pairwise(edges))
    colours = {name: to_rgba(paint) for name, paint in (("control", drawing.DARK), ("mine", heatmaps.BESIDE))}
    assert [bar.get_facecolor() for bar in figure.axes[0].patches] == [
        colours[name] for name in ("control", "mine") for _ in range(3)
    ]
    legend = {
        text.get_text(): handle for text, handle in zip(figure.legends[0].texts, figure.legends[0].legend_handles,
                                                        strict=True)
    }  # fmt: skip
    assert all(legend[name].get_facecolor() == colour for name, colour in colours.items())
    assert [each.get_edgecolor() for each in figure.axes[1].patches] == [*colours.values()]


def test_a_run_alone_has_the_colour_that_it_has_beside_its_control():
    figure = heatmaps.variance({"first": Spread(spreads(["mine"]), 1)}, LABELS, THREE, "")
    assert {bar.get_facecolor() for bar in figure.axes[0].patches} == {to_rgba(heatmaps.BESIDE)}


def test_one_seed_has_no_intervals():
    figure = heatmaps.variance({"first": Spread(spreads(["mine"], seeds=1), 8.5)}, LABELS, THREE, "")
    assert whiskers_of(figure.axes[0]) == []


def test_runs_may_have_other_numbers_of_seeds():
    values = spreads(["control"], seeds=4) | spreads(["mine"], seeds=1)
    figure = heatmaps.variance({"first": Spread(values, 8.5)}, LABELS, THREE, "")
    assert len(bars_of(figure.axes[0])) == 6 and len(whiskers_of(figure.axes[0])) == 3


def test_a_histogram_is_over_all_maps_that_are_not_empty():
    values = spreads(["control", "mine"], inputs=12)
    figure = heatmaps.variance({"first": Spread(values, 8.5)}, LABELS, THREE, "")
    every = np.concatenate([each[~np.isnan(each)] for each in values.values()])
    for outline, each in zip(figure.axes[1].patches, values.values(), strict=True):
        known = each[~np.isnan(each)]
        assert len(known) == 34
        density, edges = np.histogram(known, 60, (every.min(), every.max()), density=True)  # the same for both
        corners = outline.get_xy()
        assert corners[:, 0].min() == pytest.approx(every.min()) and corners[:, 0].max() == pytest.approx(every.max())
        assert corners[1:-1:2, 1] == pytest.approx(density)
        assert (density * np.diff(edges)).sum() == pytest.approx(1)


def test_the_uniform_map_is_marked_in_every_panel():
    layers = {"first": Spread(spreads(["mine"]), 1.5), "second": Spread(spreads(["mine"], seed=1), 8.1666)}
    figure = heatmaps.variance(layers, LABELS, THREE, "")
    for row, value in enumerate((1.5, 8.1666)):
        bars, histogram = figure.axes[2 * row : 2 * row + 2]
        assert bars.lines[-1].get_ydata() == [value, value]
        assert histogram.lines[-1].get_xdata() == [value, value]
    assert [axis.get_title() for axis in figure.axes[::2]] == ["first, by label", "second, by label"]


def test_the_uniform_maps_value_is_said_of_every_layer():
    layers = {"first": Spread(spreads(["mine"]), 1.5), "second": Spread(spreads(["mine"], seed=1), 8.1666)}
    written = written_on(heatmaps.variance(layers, LABELS, THREE, ""))
    assert "1.500" in written and "8.167" in written


def test_bars_of_several_tasks_say_whose_they_are():
    labels = np.arange(12)[:, None] % 5 == np.arange(5)
    figure = heatmaps.variance({"first": Spread(spreads(["mine"]), 1)}, labels, groups_of(["A", "B"], [3, 2]), "")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "0", "1"]
    assert figure.axes[0].get_xlabel() == "labels of A, then B"


def test_a_label_without_maps_has_no_bar():
    labels, values = LABELS.copy(), spreads(["mine"], seeds=1)
    labels[:, 1] = False
    values["mine"][0, labels[:, 2]] = np.nan
    figure = heatmaps.variance({"first": Spread(values, 1)}, labels, THREE, "")
    figure.draw_without_rendering()
    heights = [height for height, *_ in bars_of(figure.axes[0])]
    assert heights[0] == pytest.approx(np.nanmean(values["mine"][0, labels[:, 0]]))
    assert np.isnan(heights[1:]).all()


@pytest.mark.parametrize("empty", [1, 2, 3], ids="{} of 3 seeds".format)
def test_a_labels_bar_is_over_the_seeds_that_have_maps_of_it(empty):
    values = spreads(["mine"])
    values["mine"][:empty, LABELS[:, 1]] = np.nan
    bars, _ = heatmaps.variance({"first": Spread(values, 1)}, LABELS, THREE, "").axes
    left = [np.nanmean(each[LABELS[:, 1]]) for each in values["mine"][empty:]]
    assert bars_of(bars)[1][0] == pytest.approx(np.mean(left) if left else np.nan, nan_ok=True)
    ends = whiskers_of(bars)
    assert len(ends) == (3 if empty == 1 else 2)  # a single seed has no interval, not one of width 0
    if empty == 1:  # t of one degree of freedom
        assert np.ptp(ends[1]) == pytest.approx(2 * 12.7062 * np.std(left, ddof=1) / math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize("names", [["mine"], ["control", "mine"]], ids=["alone", "beside"])
def test_a_layer_whose_maps_are_all_empty_is_drawn(names):
    values = spreads(names) | {"mine": np.full((3, 12), np.nan)}
    figure = heatmaps.variance({"first": Spread(values, 1)}, LABELS, THREE, "")
    figure.draw_without_rendering()
    assert np.isnan([height for height, *_ in bars_of(figure.axes[0])][-3:]).all()


# Filters.


def test_a_units_weights_are_drawn_at_its_place():
    weight = np.random.default_rng(0).normal(size=(9, 4))
    (axis,) = panels(heatmaps.filters({"mine": weight}, "plane", "a note"))
    mosaic = drawn(axis)
    assert mosaic.shape == (3 * 3 - 1, 3 * 3 - 1)  # 2 x 2 pixels each, a line between them
    for unit in range(9):
        for read in range(4):
            assert mosaic[3 * (unit // 3) + read // 2, 3 * (unit % 3) + read % 2] == weight[unit, read]
    assert np.isnan(mosaic[2::3]).all() and np.isnan(mosaic[:, 2::3]).all()
    assert np.isnan(mosaic).sum() == mosaic.size - weight.size
    reach = np.abs(weight).max()
    assert scale_of(axis) == (-reach, reach)


@pytest.mark.parametrize(("edge", "shown", "step"), [(10, 10, 1), (11, 6, 2), (20, 10, 2), (21, 7, 3)])
def test_at_most_ten_filters_are_drawn_along_each_axis(edge, shown, step):
    units = edge * edge
    weight = np.repeat(np.arange(units)[:, None], 4, 1) + 1.0  # a unit's weights tell its number
    figure = heatmaps.filters({"mine": weight}, "plane", "a note")
    (axis,) = panels(figure)
    found = drawn(axis)[::3, ::3]
    assert found.tolist() == [[edge * step * y + step * x + 1 for x in range(shown)] for y in range(shown)]
    assert shown <= heatmaps.FILTERS
    assert (f"one unit in {step} along each axis" in written_on(figure)) == (step > 1)


def test_the_filters_of_a_line_are_a_matrix():
    weight = np.random.default_rng(0).normal(size=(5, 3))
    (axis,) = panels(heatmaps.filters({"mine": weight}, "line", ""))
    assert_drawn(axis, weight)


def test_filters_of_two_runs_have_a_scale_each():
    random = np.random.default_rng(0)
    weights = {"control": random.normal(size=(4, 4)), "mine": 0.1 * random.normal(size=(4, 4))}
    found = panels(heatmaps.filters(weights, "plane", ""))
    assert [axis.get_title() for axis in found] == ["control", "mine"]
    assert [scale_of(axis)[1] for axis in found] == [np.abs(each).max() for each in weights.values()]


def test_filters_without_weights_are_drawn():
    figure = heatmaps.filters({"mine": np.zeros((4, 4))}, "plane", "")
    figure.draw_without_rendering()
    assert scale_of(panels(figure)[0]) == (-1, 1)


# Of runs.

LENET = ["--model", "lenet"]
PRIOR = {"normalize": False, "topology": "plane", "metric": "euclidean", "decay": "linear"}
RUNS = {
    "control": (LENET, {}),
    "plane": ([*LENET, "--locality", "plane", "--metric", "cityblock", "--decay", "square"],
              {"metric": "cityblock", "decay": "square"}),
    "line": ([*LENET, "--locality", "line", "--decay", "sqrt"], {"topology": "line", "decay": "sqrt"}),
    "gains": ([*LENET, "--locality", "plane", "--locality-on", "activations"], {}),
    "mlp": (["--layers", "9", "9", "16", "16", "--locality", "plane", "--normalize"], {"normalize": True}),
    "two": ([*LENET, "--locality", "plane", "--input", "sequential"], {}),
    "wide": (["--layers", "16", "9", "9", "--locality", "plane"], {}),
    "wide-control": (["--layers", "16", "9", "9"], {}),
    "odd": (["--layers", "5", "5", "--locality", "line"], {"topology": "line"}),
    "odd-control": (["--layers", "5", "5"], {}),
    "mixed": (["--layers", "5", "5", "9", "--locality", "line"], {"topology": "line"}),
    "mixed-control": (["--layers", "5", "5", "9"], {}),
    "plain": (["--layers", "12", "8"], {}),
}  # fmt: skip
MAPS = {  # hidden layers whose activity is a map, by their index
    "control": [0, 1], "plane": [0, 1], "line": [0, 1], "gains": [0, 1], "mlp": [0, 1, 2, 3], "two": [0, 1],
    "wide": [1, 2], "wide-control": [0, 1, 2], "odd": [0, 1],
}  # fmt: skip
SEEDS = {"control": 3, "plane": 2}
each_run = pytest.mark.parametrize("name", MAPS)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Runs with and without a prior, by name, recorded and scored."""
    root = tmp_path_factory.mktemp("sheets")
    with pytest.MonkeyPatch.context() as patch:
        register_sheets(patch, root)
        yield {
            name: sheet_run(
                root, root / name, *words, "--seeds", str(SEEDS.get(name, 1)),
                names=("Digits", "Garments") if name == "two" else ("Digits",),
            )
            for name, (words, _) in RUNS.items()
        }  # fmt: skip


def is_line(name):
    return RUNS[name][1].get("topology") == "line"


def laid_out(values, name):
    return [values] if is_line(name) else row_by_row(values)


def titles(name):
    return [f"hidden layer {index + 1}" for index in MAPS[name]]


def recorded(run, seed=0):
    """What `record --by label` measured, by layer's index: ``[labels, units]``."""
    found = run.recorded("label", "train", seed, run.network(seed))["mean_abs"]
    return [values.numpy() for values in found.values()]


@pytest.mark.parametrize("name", ["plane", "line", "gains", "mlp", "two", "odd"])
def test_a_runs_prior_is_drawn(sheets, name):
    figure = plotting.prior(sheets[name], "", 0)
    given = PRIOR | RUNS[name][1]
    widths = {"mlp": [9, 16], "odd": [5]}.get(name, [49])
    found = iter(panels(figure))
    for units in widths:
        expected = oracles.locality_prior(units, units, given["topology"], given["metric"], given["decay"],
                                          given["normalize"])  # fmt: skip
        edge = math.isqrt(units)
        rows = [expected[(edge // 2) * edge + edge // 2], expected[0]]
        shown = [expected] if is_line(name) else [row_by_row(row) for row in rows]
        if name == "gains":
            shown.append(row_by_row([sum(row) / len(row) for row in expected]))
        for values in shown:
            assert drawn(next(found)) == pytest.approx(np.array(values), rel=1e-6)
    assert next(found, None) is None
    written = written_on(figure)
    assert {"square": "1 / (d + 1)²", "sqrt": "1 / sqrt(d + 1)", "linear": "1 / (d + 1)"}[given["decay"]] in written
    assert f"on a {given['topology']}" in written
    assert (f"{given['metric']} distance" in written) == (not is_line(name))
    assert ("each row's mean 1" in written) == given["normalize"]


@each_run
def test_a_runs_maps_are_those_recorded(sheets, name):
    figure = plotting.maps(sheets[name], "", 0)
    found, values = iter(panels(figure)), recorded(sheets[name])
    tasks = {"Digits": slice(0, 4), "Garments": slice(4, 7)} if name == "two" else {"Digits": slice(0, 4)}
    for title, index in zip(titles(name), MAPS[name], strict=True):
        for task, rows in tasks.items():
            each_label = (
                [values[index][rows]] if is_line(name) else [laid_out(each, name) for each in values[index][rows]]
            )
            for label, shown in enumerate(each_label):
                axis = next(found)
                assert_drawn(axis, shown)
                assert axis.get_title() == ("" if is_line(name) else str(label))
                assert axis.get_ylabel() == ("" if label else f"{title}\n{task}")
                assert scale_of(axis) == (0, values[index].max())
    assert next(found, None) is None
    assert "seed 0, over all training images of each label" in written_on(figure)


@each_run
def test_a_runs_variances_are_those_scored(sheets, name):
    run = sheets[name]
    figure = plotting.variance(run, "", 0)
    stored, tasks = storing.load_arrays(run.variances), run.tasks("test")
    labels = tasks.batch(tasks.scoring_order()).labels.numpy()
    columns = [labels[:, task] == label for task, classes in enumerate(tasks.classes) for label in range(classes)]
    sheet = "line" if is_line(name) else "plane"
    widths = [len(place) for place in graph.positions(run.network(0)).values()]
    assert len(figure.axes) == 2 * len(MAPS[name])
    for row, index in enumerate(MAPS[name]):
        bars, histogram = figure.axes[2 * row : 2 * row + 2]
        values = np.stack([stored[f"seed-{seed}/layer-{index}/{sheet}"] for seed in run.seeds()])
        for (height, *_), own in zip(bars_of(bars), columns, strict=True):
            assert height == pytest.approx(np.mean([np.nanmean(each[own]) for each in values]), nan_ok=True)
        units = widths[index]
        expected = units * (units + 1) / 12 if sheet == "line" else units / 6
        assert bars.lines[-1].get_ydata() == pytest.approx([expected, expected])
        corners = histogram.patches[0].get_xy()[:, 0]
        assert (corners.min(), corners.max()) == pytest.approx((np.nanmin(values), np.nanmax(values)))
        assert bars.get_title() == f"hidden layer {index + 1}, by label"
    written = written_on(figure)
    assert f"every test image's map on a {sheet}" in written
    many = SEEDS.get(name, 1)
    assert (f"{name}: {many} seeds" if many > 1 else f"{name}: one seed") in written


@pytest.mark.parametrize(("name", "said"), [("control", True), ("line", False)])
def test_intervals_are_mentioned_where_there_are_some(sheets, name, said):
    assert ("t-interval" in written_on(plotting.variance(sheets[name], "", 0))) is said


def effective(run, index, seed=0):
    """The weights into a layer as its prior leaves them."""
    layer = run.network(seed).linear[index]
    weight = layer.weight.detach().numpy()
    return weight * layer._factor.numpy() if hasattr(layer, "prior") else weight


@each_run
def test_a_runs_filters_are_its_weights(sheets, name):
    figure = plotting.filters(sheets[name], "", 0)
    (axis,) = panels(figure)
    index = MAPS[name][1]
    weight = effective(sheets[name], index)
    if is_line(name):
        assert drawn(axis) == pytest.approx(weight, rel=1e-6)
    else:
        edge, read = (math.isqrt(number) for number in weight.shape)
        for unit, row in enumerate(weight):
            top, left = (read + 1) * (unit // edge), (read + 1) * (unit % edge)
            own = drawn(axis)[top : top + read, left : left + read]
            assert own == pytest.approx(np.array(row_by_row(row)), rel=1e-6)
    assert axis.get_title() == name
    assert f"seed 0, weights into hidden layer {index + 1}" in written_on(figure)


def test_another_seed_is_drawn(sheets):
    run = sheets["plane"]
    first = panels(plotting.maps(run, "", 1))[0]
    assert_drawn(first, row_by_row(recorded(run, seed=1)[0][0]))
    mosaic = drawn(panels(plotting.filters(run, "", 1))[0])
    assert mosaic[:7, :7] == pytest.approx(effective(run, 1, seed=1)[0].reshape(7, 7))
    assert not np.array_equal(drawn(first), drawn(panels(plotting.maps(run, "", 0))[0]))


def test_held_out_images_are_said_to_be_so(sheets, tmp_path):
    root = sheets["plane"].folder.parent
    run = sheet_run(root, tmp_path / "held", *LENET, "--locality", "plane", "--holdout", "12")
    assert "every held-out training image's map on a plane" in written_on(plotting.variance(run, "", 0))


# Beside a control.


def test_maps_of_both_runs_share_a_scale_per_layer(sheets):
    figure = plotting.maps(sheets["plane"], "", 1, sheets["control"])
    found = iter(panels(figure))
    values = {name: recorded(sheets[name], seed=1) for name in ("control", "plane")}
    for index in (0, 1):
        highest = max(each[index].max() for each in values.values())
        for name in ("control", "plane"):  # the control above
            for label in range(4):
                axis = next(found)
                assert_drawn(axis, row_by_row(values[name][index][label]))
                assert scale_of(axis) == (0, highest)
                assert axis.get_ylabel() == ("" if label else f"hidden layer {index + 1}\n{name}\nDigits")
    assert next(found, None) is None


@pytest.mark.parametrize(("name", "sheet"), [("plane", "plane"), ("line", "line"), ("gains", "plane")])
def test_variances_of_both_runs_are_drawn_on_the_sheet_of_the_prior(sheets, name, sheet):
    figure = plotting.variance(sheets[name], "", 0, sheets["control"])
    tasks = sheets[name].tasks("test")
    labels = tasks.batch(tasks.scoring_order()).labels.numpy()[:, 0]
    for index in (0, 1):
        heights = [height for height, *_ in bars_of(figure.axes[2 * index])]
        expected = []
        for each in (sheets["control"], sheets[name]):
            stored = storing.load_arrays(each.variances)
            values = [stored[f"seed-{seed}/layer-{index}/{sheet}"] for seed in each.seeds()]
            expected += [np.mean([np.nanmean(own[labels == label]) for own in values]) for label in range(4)]
        assert heights == pytest.approx(expected)
    written = written_on(figure)
    assert "control: 3 seeds" in written and (f"{name}: one seed" in written or name == "plane")


def test_a_line_prior_lays_the_control_out_on_a_line(sheets):
    values = [recorded(sheets[name])[0] for name in ("control", "line")]
    found = panels(plotting.maps(sheets["line"], "", 0, sheets["control"]))
    assert_drawn(found[0], values[0])
    assert_drawn(found[1], values[1])
    found = panels(plotting.filters(sheets["line"], "", 0, sheets["control"]))
    assert [drawn(axis).shape for axis in found] == [(49, 49)] * 2
    assert_drawn(panels(plotting.maps(sheets["control"], "", 0, sheets["line"]))[1], values[0])  # or the other way


def test_filters_of_both_runs_are_drawn(sheets):
    found = panels(plotting.filters(sheets["plane"], "", 0, sheets["control"]))
    assert [axis.get_title() for axis in found] == ["control", "plane"]
    for axis, name in zip(found, ("control", "plane"), strict=True):
        assert drawn(axis)[8:15, 16:23] == pytest.approx(effective(sheets[name], 1)[1 * 7 + 2].reshape(7, 7))


@pytest.mark.parametrize("kind", BESIDE)
def test_a_control_with_a_further_square_layer_is_drawn_by_the_runs_layers(sheets, kind):
    figure = BESIDE[kind](sheets["wide"], "", 0, sheets["wide-control"])
    written = written_on(figure)
    assert "hidden layer 3" in written and "hidden layer 1" not in written
    if kind == "maps":
        values = [recorded(sheets[name])[1] for name in ("wide-control", "wide")]
        for axis, each in zip(panels(figure), [*values[0], *values[1]], strict=False):
            assert_drawn(axis, row_by_row(each))
    if kind == "filters":
        for axis, name in zip(panels(figure), ("wide-control", "wide"), strict=True):
            assert drawn(axis)[:3, :3] == pytest.approx(effective(sheets[name], 2)[0].reshape(3, 3))


def test_runs_of_one_name_are_told_apart(sheets, tmp_path):
    other = copied(sheets["control"], tmp_path / "plane")
    found = panels(plotting.filters(sheets["plane"], "", 0, other))
    assert [axis.get_title() for axis in found] == [str(other.folder), str(sheets["plane"].folder)]


# Files.


def test_figures_of_equal_runs_are_equal(sheets, tmp_path):
    runs = [copied(sheets["two"], tmp_path / number / "two") for number in "01"]
    first, again = (plot(run, SHEET_KINDS) for run in runs)
    assert [path.name for path in first.paths] == [f"{kind}.png" for kind in SHEET_KINDS]
    assert first.left_out == {}
    assert [path.read_bytes() for path in first.paths] == [path.read_bytes() for path in again.paths]
    for path in first.paths:
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 200


def test_figures_of_equal_runs_beside_a_control_are_equal(sheets, tmp_path):
    runs = [copied(sheets["line"], tmp_path / number / "line") for number in "01"]
    kinds, control = ["variance", "filters"], sheets["control"]
    first, again = ([path.read_bytes() for path in plot(run, kinds, against=control).paths] for run in runs)
    assert first == again and len(first) == 2


@pytest.mark.usefixtures("quick")
def test_figures_beside_a_control_have_its_name(sheets, tmp_path, capsys):
    run, control = copied(sheets["plane"], tmp_path / "plane"), copied(sheets["control"], tmp_path / "my control")
    before = tree(control.folder)
    assert command("plot", run.folder, "--kind", "filters") == 0
    capsys.readouterr()
    assert command("plot", run.folder, "--against", control.folder) == 0
    names = [f"{kind}-against-my control.png" for kind in ("maps", "variance", "filters")]
    assert capsys.readouterr().out.splitlines() == [str(run.figures / name) for name in names]
    assert {path.name for path in run.figures.iterdir()} == {*names, "filters.png"}
    assert tree(control.folder) == before
    assert plot(run, ["filters"], against=control).paths == [run.figures / names[2]]


@pytest.mark.usefixtures("quick")
def test_a_control_alone_has_no_prior(sheets, tmp_path):
    run = copied(sheets["control"], tmp_path / "control")
    with pytest.raises(UserError, match=r"control: has no locality prior \(train --locality\)"):
        plot(run, ["prior"])
    assert "prior" in plot(run).left_out
    assert {path.stem for path in run.figures.iterdir()} >= {"maps", "variance", "filters"}


@pytest.mark.parametrize("kind", ["maps", "variance", "filters"])
def test_a_run_without_sheets_says_so(sheets, tmp_path, kind):
    run = copied(sheets["plain"], tmp_path / "plain")
    message = "no hidden layer lies on a sheet (--model lenet, --locality)"
    with pytest.raises(UserError) as error:
        plot(run, [kind])
    assert str(error.value) == f"{run.folder}: {message}"
    assert not run.figures.exists()


@pytest.mark.usefixtures("quick")
def test_the_command_says_what_a_run_without_sheets_leaves_out(sheets, tmp_path, capsys):
    run = copied(sheets["plain"], tmp_path / "plain")
    assert command("plot", run.folder) == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"prior left out: {run.folder}: has no locality prior (train --locality)" in printed
    for kind in ("maps", "variance", "filters"):
        line = f"{kind} left out: {run.folder}: no hidden layer lies on a sheet (--model lenet, --locality)"
        assert line in printed


def test_a_costs_network_has_no_maps(sheets, tmp_path):
    """Its places are learned: the order of its units means nothing."""
    run = reoptioned(copied(sheets["wide-control"], tmp_path / "charged"), transport=1.0)
    with pytest.raises(UserError, match="no hidden layer lies on a sheet"):
        plot(run, ["maps"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "without", "line"),
    [("maps", "activations", "record RUN --by label"), ("variance", "variance.npz", "score RUN")],
)
@pytest.mark.parametrize("whose", ["run", "control"])
def test_a_missing_file_is_answered_with_the_command_that_makes_it(sheets, tmp_path, kind, without, line, whose):
    run = copied(sheets["plane"], tmp_path / "run", *([without] if whose == "run" else []))
    control = copied(sheets["control"], tmp_path / "control", *([without] if whose == "control" else []))
    with pytest.raises(UserError) as error:
        plot(run, [kind], against=control)
    line = line.replace("RUN", str(tmp_path / whose))
    assert str(error.value).endswith(f"nothing to draw this from yet; first run: python main.py {line}")
    assert not run.figures.exists()
    assert list(plot(run, against=control).left_out) == [f"{kind}-against-control"]


@pytest.mark.usefixtures("quick")
def test_a_network_with_one_layer_on_a_sheet_has_no_filters(sheets, tmp_path):
    root = sheets["plane"].folder.parent
    run = sheet_run(root, tmp_path / "one", "--layers", "12", "9")
    with pytest.raises(UserError, match="no connection joins two layers on a sheet"):
        plot(run, ["filters"])
    assert [path.stem for path in plot(run, ["maps", "variance"]).paths] == ["maps", "variance"]


def moved_seed(run, seed):
    """The same run, said to be of another seed."""
    for path in sorted(run.folder.rglob("seed-0*")):
        path.rename(path.with_name(path.name.replace("seed-0", f"seed-{seed}")))
    return reoptioned(run, seed=seed, seeds=1)


@pytest.mark.parametrize(
    ("words", "spoil", "message"),
    [
        (["--kind", "positions"], None, "--against is read only by --kind maps variance filters, got positions"),
        (["--kind", "maps", "prior"], None, "--against is read only by --kind maps variance filters, got prior"),
        (["--seed", "7"], None, "--seed 7: "),
        (["--seed", "1"], lambda run: moved_seed(run, 0), "--against OTHER: has no seed 1, but 0"),
        ([], lambda run: moved_seed(run, 5), "--against OTHER: has none of the seeds of RUN"),
        ([], lambda run: reoptioned(run, datasets=["Garments"]), "its datasets is ['Garments'], that of RUN"),
        ([], lambda run: reoptioned(run, holdout=12), "its holdout is 12, that of RUN 0"),
        ([], lambda run: reoptioned(run, input="sequential"), "its input is sequential, that of RUN mix"),
        ([], lambda run: shutil.rmtree(run.folder), "OTHER: no such folder"),
        ([], lambda run: run.config_file.unlink(), "OTHER: not a run, it has no config.json"),
        ([], lambda run: run.weights(0).unlink(), "seed-0.pt: no such file, training has not finished"),
        ([], lambda run: run.variances.write_bytes(b""), "variance.npz: cannot be read as arrays"),
    ],
    ids=[
        "positions", "prior", "seed", "this seed", "other seeds", "other data", "held out", "other input", "missing",
        "no run", "untrained", "damaged",
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_drawn(sheets, tmp_path, capsys, words, spoil, message):
    run, control = copied(sheets["plane"], tmp_path / "plane"), copied(sheets["control"], tmp_path / "control")
    if spoil is not None:
        spoil(control)
    before = tree(tmp_path)
    assert command("plot", run.folder, "--against", control.folder, *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("main.py plot: error: ") and printed.err.count("\n") == 1
    assert message.replace("OTHER", str(control.folder)).replace("RUN", str(run.folder)) in printed.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("other", ["mlp", "wide", "plain", "odd"])
def test_a_control_of_other_layers_is_refused(sheets, other):
    with pytest.raises(UserError, match=r"--against .*: its network has other layers than that of "):
        plot(sheets["plane"], against=sheets[other])


def test_a_run_is_not_drawn_beside_itself(sheets, tmp_path):
    (tmp_path / "linked").symlink_to(sheets["plane"].folder, target_is_directory=True)
    for folder in (sheets["plane"].folder, tmp_path / "linked"):
        with pytest.raises(UserError, match=f"--against {folder}: is the run itself"):
            plot(sheets["plane"], against=Run(folder))


@pytest.mark.usefixtures("quick")
def test_a_relaxed_sheet_is_drawn_beside_what_a_control_is_asked_for(sheets, tmp_path):
    run = copied(sheets["plane"], tmp_path / "plane")
    assert command("split", run.folder, "--method", "random") == 0
    names = [path.name for path in plot(run, ["filters"], relax="place", against=sheets["control"]).paths]
    assert names == ["filters-against-control.png", "relaxed-place.png"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("names", [("odd", "odd-control"), ("mixed", "mixed-control")], ids=str)
def test_runs_without_a_common_map_layer_say_so(sheets, tmp_path, names):
    """A control's units are laid out in squares only: no command makes what is missing."""
    run, control = copied(sheets[names[0]], tmp_path / "run"), sheets[names[1]]
    with pytest.raises(UserError, match="there is nothing to draw: ") as error:
        plot(run, against=control)
    assert "first run" not in str(error.value)
    assert not run.figures.exists()


def test_a_prior_that_is_stretched_is_drawn(tmp_path):
    """Of layers of different widths, as LeNet can have from Python."""
    matrix = np.array(oracles.locality_prior(4, 9, "plane", "euclidean", "linear", False))
    middle, corner = panels(heatmaps.prior({"first": (matrix, None)}, "plane", ""))
    assert_drawn(middle, row_by_row(matrix[4]))
    assert_drawn(corner, row_by_row(matrix[0]))
