import numpy as np
import pytest
import torch
from helpers import NAMES, command, copied, reoptioned, small, text_of
from matplotlib import colormaps
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from spatial import (
    commands,
    costs,
    drawing,
    graph,
    heatmaps,
    metrics,
    models,
    plotting,
    positions,
    splitting,
    storing,
)
from spatial.errors import UserError
from spatial.plotting import KINDS, STARTS, plot
from spatial.runs import Run
from spatial.seeds import generator

PNG, GIF = b"\x89PNG\r\n\x1a\n", b"GIF89a"
OF_SHEETS = ("prior", "maps", "variance", "filters")  # which only layers on a sheet have: see test_heatmaps
ANY = [kind for kind in KINDS if kind not in OF_SHEETS]


def make(root, folder, *words, methods=("balanced", "random"), names=NAMES[:2]):
    """A run that is trained, recorded by task and by label, split and scored."""
    for line in (
        ["train", folder, *small(root, *words, names=names)],
        ["record", folder, "--subset", "test"],
        ["record", folder, "--by", "label"],
        ["split", folder, "--method", *methods],
        ["score", folder],
    ):
        assert command(*line) == 0
    return Run(folder)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return make(root, tmp_path_factory.mktemp("run"), "--seeds", "2")


@pytest.fixture(autouse=True, scope="module")
def short_movies():
    """A movie of many frames takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "FRAMES", 5)
        yield


@pytest.fixture(scope="module")
def drawn(run):
    """What plot makes of all that there is."""
    return plot(run)


def dots(axis):
    """What a panel's neurons are drawn at, ``[neurons or heaps, 2]``, in the order of their places."""
    drawn = [np.asarray(each.get_offsets()) for each in axis.collections if isinstance(each, PathCollection)]
    return ordered(np.concatenate(drawn))


def ordered(places):
    return places[np.lexsort(places.T)]


def heaped(place, axis, values=None):
    """What a panel should show of a layer's places and values: ``(values, places)`` of its heaps."""
    heaps = drawing.heaps(place.detach().numpy(), axis.get_xlim()[1], None if values is None else values.numpy())
    return sorted(heaps.values), ordered(heaps.places)


# What plot does.


def test_all_that_the_files_allow(run, drawn):
    assert drawn.left_out == {
        "prior": f"{run.folder}: has no locality prior (train --locality)",
        **dict.fromkeys(OF_SHEETS[1:], f"{run.folder}: no hidden layer lies on a sheet (--model lenet, --locality)"),
    }
    assert [path.stem for path in drawn.paths] == ANY
    for path in drawn.paths:
        moving = path.stem == "trajectory"
        assert path == run.figures / f"{path.stem}.{'gif' if moving else 'png'}"
        assert path.read_bytes().startswith(GIF if moving else PNG)


@pytest.mark.parametrize("kind", ANY)
def test_equal_runs_give_equal_figures(run, drawn, kind, tmp_path):
    (path,) = plot(copied(run, tmp_path / "again"), [kind]).paths
    assert path.read_bytes() == (run.figures / path.name).read_bytes()


def test_plot_prints_nothing(run, capsys):
    plot(run, ["curves"])
    assert capsys.readouterr() == ("", "")


def test_a_kind_given_twice_is_drawn_once(run):
    assert len(plot(run, ["curves", "curves"]).paths) == 1


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


@pytest.mark.parametrize(
    ("kind", "without", "line"),
    [
        ("positions", "parts", "split RUN"),
        ("wiring", "parts", "split RUN"),
        ("trajectory", "parts", "split RUN"),
        ("trajectory", "positions.npz", "train RUN ... --resume"),
        ("activations", "activations", "record RUN"),
        ("labels", "activations", "record RUN --by label"),
        ("curves", "history.csv", "train RUN ... --resume"),
        ("scores", "scores.csv", "score RUN"),
        ("transfer", "transfer.csv", "score RUN"),
    ],
)
def test_a_missing_file_is_answered_with_the_command_that_makes_it(run, tmp_path, kind, without, line):
    bare = copied(run, tmp_path / "bare", without)
    line = line.replace("RUN", str(bare.folder))
    with pytest.raises(UserError) as error:
        plot(bare, [kind])
    assert str(error.value).endswith(f"nothing to draw this from yet; first run: python main.py {line}")
    assert not bare.figures.exists()


def test_a_missing_figure_leaves_the_others_undrawn(run, tmp_path):
    bare = copied(run, tmp_path / "bare", "scores.csv")
    with pytest.raises(UserError, match=r"main\.py score"):
        plot(bare, ["curves", "scores"])
    assert not bare.figures.exists()


def test_the_command_says_what_was_drawn_and_what_was_left_out(run, tmp_path, capsys):
    bare = copied(run, tmp_path / "bare", "parts", "activations", "scores.csv", "transfer.csv")
    assert command("plot", bare.folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(bare.figures / "curves.png")
    assert [line.split(" left out: ")[0] for line in said[1:]] == [kind for kind in KINDS if kind != "curves"]
    assert f"python main.py record {bare.folder} --by label" in said[4]


def test_the_command_passes_every_option_on(run, monkeypatch):
    given = {}
    monkeypatch.setattr(plotting, "plot", lambda *_, **options: given.update(options) or plotting.Drawn([], {}))
    words = ["--kind", "curves", "--method", "random", "--seed", "1", "--relax", "held", "--format", "svg"]
    assert command("plot", run.folder, *words) == 0
    assert given.pop("format") == "svg"
    assert given == {"kinds": ["curves"], "method": "random", "seed": 1, "relax": "held", "against": None}
    assert command("plot", run.folder, "--against", "control") == 0
    assert given.pop("against").folder.name == "control"
    assert given == {"kinds": None, "method": None, "seed": None, "relax": None, "format": None}


# Formats.


@pytest.mark.parametrize("format", ["svg", "pdf"])
def test_figures_in_other_formats_are_equal_for_equal_runs(run, tmp_path, format):
    kinds = ["positions", "curves", "scores", "transfer", "trajectory"]
    one, other = (plot(copied(run, tmp_path / name), kinds, format=format).paths for name in "ab")
    assert [path.name for path in one] == [*(f"{kind}.{format}" for kind in kinds[:-1]), "trajectory.gif"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_text_of_other_formats_is_text(run, tmp_path):
    other = copied(run, tmp_path / "other")
    svg = plot(other, ["curves"], format="svg").paths[0].read_text()
    assert svg.startswith("<?xml") and ">mean cross-entropy, nats</text>" in svg and "<dc:date>" not in svg
    pdf = plot(other, ["curves"], format="pdf").paths[0].read_bytes()
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_figures_of_every_format_are_of_the_layout(run, tmp_path):
    other = copied(run, tmp_path / "other")
    for format in drawing.FORMATS:
        plot(other, ["curves"], format=format)
    assert {path.name for path in other.figures.iterdir()} == {"curves.png", "curves.svg", "curves.pdf"}
    (other.figures / ".curves.svg.tmp").write_text("half written")
    other.sweep()
    assert len(list(other.figures.iterdir())) == 3
    other.clear()
    assert not other.figures.exists()


def test_a_format_that_nothing_reads_is_refused(run):
    with pytest.raises(UserError, match="--format svg is not read by --kind trajectory: an animation is a GIF"):
        plot(run, ["trajectory"], format="svg")


# Neurons on their sheets.


@pytest.mark.parametrize(("method", "said"), [(None, "balanced"), ("random", "random")])
@pytest.mark.parametrize("kind", ["positions", "wiring"])
def test_the_split_that_colours_is_named(run, monkeypatch, kind, method, said):
    figures = []
    draw = KINDS[kind]
    monkeypatch.setitem(KINDS, kind, lambda *given: figures.append(draw(*given)) or figures[-1])
    plot(run, [kind], method=method, seed=1)
    assert f"seed 1, owner by the {said} split" in text_of(figures[0])


def test_positions_name_layers_tasks_and_axes(run):
    written = text_of(plotting.positions(run, "balanced", 0))
    for word in ("hidden layer 1", "hidden layer 2", "output layer", "Alpha", "Beta", "live", "silent"):
        assert word in written
    assert "x, sd of the start" in written and "y, sd of the start" in written


def test_positions_are_those_of_the_network(run):
    figure = plotting.positions(run, "random", 1)
    owners = run.split("random", 1, run.network(1))[1].values()
    for axis, place, owner in zip(figure.axes, graph.positions(run.network(1)).values(), owners, strict=True):
        own = place.detach().numpy()[owner == 0]
        blue = [
            each for each in axis.collections if np.allclose(each.get_facecolor()[0, :3], (0, 0x72 / 255, 0xB2 / 255))
        ]
        assert sum(len(each.get_offsets()) for each in blue) == len(own)  # none lie close
        assert ordered(np.concatenate([each.get_offsets() for each in blue])) == pytest.approx(ordered(own))


def test_panels_have_equal_aspect(run):
    assert all(axis.get_aspect() == 1 for axis in plotting.positions(run, "balanced", 0).axes)


def expected_lines(run, method, seed, most):
    """Loops over all pairs of live units: (strength, source, target, task or None) of the strongest, and all |w|."""
    network = run.network(seed)
    owners = {layer: own.tolist() for layer, own in run.split(method, seed, network)[1].items()}
    reads = graph.outgoing(network)
    alive = {
        layer: (metrics.live(reads[layer]) if layer in reads else torch.ones(len(own))).tolist()
        for layer, own in owners.items()
    }
    chosen, total, crossed = [], 0.0, 0.0
    for edge in graph.connections(network):
        found = []
        for j, row in enumerate(graph.weight(network, edge).abs().sum(2).tolist()):
            for i, size in enumerate(row):
                task, other = owners[edge.target][j], owners[edge.source][i]
                if task >= 0 and other >= 0:
                    total, crossed = total + size, crossed + size * (task != other)
                if alive[edge.target][j] and alive[edge.source][i] and size:
                    found.append((size, task if task == other else None))
        chosen.append(sorted(found, key=lambda each: each[0])[-most:])
    return chosen, crossed / total


def test_wiring_draws_the_strongest_connections(run, monkeypatch):
    monkeypatch.setattr(drawing, "LINES", 30)
    figure = plotting.wiring(run, "random", 0)
    expected, share = expected_lines(run, "random", 0, 15)
    drawn = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    assert [len(each.get_segments()) for each in drawn] == [15, 15]
    for lines, wanted in zip(drawn, expected, strict=True):
        widths = 0.5 + 1.5 * np.array([size for size, _ in wanted]) / wanted[-1][0]
        assert lines.get_linewidths() == pytest.approx(widths)
        paint = {0: drawing.COLOURS[0], 1: drawing.COLOURS[1], None: drawing.DARK}
        colours = ["#" + "".join(f"{round(255 * part):02X}" for part in rgba[:3]) for rgba in lines.get_colors()]
        assert colours == [paint[task] for _, task in wanted]
    crossing = sum(task is None for wanted in expected for _, task in wanted)
    written = text_of(figure)
    assert "30 lines, the 15 strongest between live neurons of each two layers" in written
    assert f"{crossing} of them join two tasks" in written
    assert f"so does {100 * share:.1f} % of all |w| between owned neurons" in written


def test_neurons_without_connections_are_drawn_without_wires(run, tmp_path):
    silent = copied(run, tmp_path / "silent")
    network = silent.network(0)
    for layer in graph.placed(network).values():
        layer.weight.detach().zero_()
    storing.save(silent.weights(0), models.pack(network))
    assert "0 lines" in text_of(plotting.wiring(silent, "random", 0))


def test_wires_end_at_neurons(run):
    axis = plotting.wiring(run, "random", 0).axes[0]
    neurons = dots(axis)
    for lines in (each for each in axis.collections if isinstance(each, LineCollection)):
        for end in np.concatenate(lines.get_segments()):
            assert np.abs(neurons - end).sum(1).min() < 1e-6


def test_a_wire_to_a_neuron_without_task_is_said_to_have_none(run, tmp_path):
    changed = copied(run, tmp_path / "changed")
    network = changed.network(0)
    k, owners = changed.split("random", 0, network)
    next(iter(owners.values()))[:] = -1
    changed.save_split("random", 0, k, owners)
    written = text_of(plotting.wiring(changed, "random", 0))
    assert "no task" in written and "an end without task" in written


def test_trajectory_goes_from_the_start_to_the_network(run):
    movie = plotting.trajectory(run, "balanced", 1)
    stored = storing.load_arrays(run.positions)
    assert movie.moments == [0, 0.5, 1, 1.5, 2]
    for moment in movie.moments:
        movie.show(moment)
        assert f"epoch {moment:.1f} of 2" in text_of(movie.figure)
        for index, axis in enumerate(movie.figure.axes):
            path = stored[f"seed-1/layer-{index}"]
            wanted = (path[int(moment)] + path[int(moment + 0.5)]) / 2
            shown = wanted[drawing.within(wanted, axis.get_xlim()[1])]
            assert dots(axis).sum(0) == pytest.approx(shown.sum(0), abs=1e-4)  # none lie close
    last = [place.detach().numpy() for place in graph.positions(run.network(1)).values()]
    assert dots(movie.figure.axes[-1]) == pytest.approx(ordered(last[-1]))


@pytest.mark.parametrize(("epochs", "moments"), [(1, [0, 0.25, 0.5, 0.75, 1]), (3, [0, 1, 2, 3]), (9, [0, 2, 4, 7, 9])])
def test_a_movie_has_few_frames_however_long_the_run(run, tmp_path, epochs, moments):
    other = copied(run, tmp_path / "other")
    stored = storing.load_arrays(run.positions)
    storing.save_arrays(other.positions, {name: each[np.arange(epochs + 1) % 3] for name, each in stored.items()})
    reoptioned(other, epochs=epochs)
    assert plotting.trajectory(other, "balanced", 0).moments == moments


def test_the_gif_holds_its_last_frame_and_stays_small(drawn):
    (path,) = (path for path in drawn.paths if path.suffix == ".gif")
    assert path.stat().st_size < 200_000
    with Image.open(path) as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
        assert durations == [90, 90, 90, 90, 2500]
        assert gif.info["loop"] == 0
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_positions_of_another_network_are_refused(run, tmp_path):
    other = copied(run, tmp_path / "other")
    stored = storing.load_arrays(run.positions)
    for spoil in (lambda a: a[:-1], lambda a: a[:, :5], lambda a: a.astype(int), lambda a: a * np.nan):
        storing.save_arrays(other.positions, {name: spoil(each) for name, each in stored.items()})
        with pytest.raises(UserError, match=r"positions\.npz: .*(does not hold the places|which does not fit)"):
            plot(other, ["trajectory"])


# Relaxing.


def test_relax_alone_draws_relaxed_alone(run):
    assert [path.name for path in plot(run, relax="place").paths] == ["relaxed-place.png"]
    assert [path.name for path in plot(run, ["curves"], relax="place").paths] == ["curves.png", "relaxed-place.png"]


def test_relax_needs_a_split(run, tmp_path):
    with pytest.raises(UserError, match=r"main\.py split"):
        plot(copied(run, tmp_path / "bare", "parts"), relax="random")


def test_the_starts_of_the_command_are_those_of_the_library():
    (option,) = (each for each in commands.parse(["plot", "RUN"]).parser._actions if each.dest == "relax")
    assert list(option.choices) == list(STARTS)


@pytest.mark.parametrize("start", STARTS)
def test_relaxed_draws_what_costs_relax_makes(run, start, monkeypatch):
    monkeypatch.setitem(plotting.RELAXING, "steps", 5)
    network = run.network(1)
    before = {layer: place.detach().clone() for layer, place in graph.positions(network).items()}
    figure = plotting.relaxed(run, "balanced", 1, start)
    if start != "place":
        draws = generator(1, "relax")
        for place in graph.positions(network).values():
            place.data = torch.randn(place.shape, generator=draws)
        if start == "held":
            place.data = positions.output_places(place.data, network.classes, "held")
    held = ["linear.2"] if start == "held" else []
    after = costs.relax(network, norm="l1", per="neuron", transport=3, proximity=10, steps=5, held=held)
    written, outputs = text_of(figure), graph.positions(after)["linear.2"].detach()
    assert dots(figure.axes[2]) == pytest.approx(ordered(outputs.numpy()), abs=1e-6)
    assert torch.equal(outputs, place.data if start == "held" else outputs)
    owners, reads = run.split("balanced", 1, network)[1], graph.outgoing(network)
    for layer in ("linear.0", "linear.1"):
        chosen = metrics.live(reads[layer]) & (owners[layer] >= 0)
        values = [
            metrics.silhouette(places[layer][chosen].detach(), owners[layer][chosen])
            for places in (before, graph.positions(after))
        ]
        assert "silhouette as trained {:.2f}, relaxed {:.2f}".format(*values) in written
    assert STARTS[start] in written
    assert "weights frozen: l1 per neuron, transport 3, proximity 10, 5 steps" in written


def test_relaxed_does_not_change_the_run(run):
    before = run.weights(0).read_bytes()
    first = plot(run, relax="random").paths[0].read_bytes()
    assert plot(run, relax="random").paths[0].read_bytes() == first
    assert run.weights(0).read_bytes() == before


# What the neurons do.


def test_activations_name_what_is_shown(run):
    written = text_of(plotting.activations(run, "balanced", 1))
    for word in ("hidden layer 1, Alpha alone", "hidden layer 2, Beta alone", "mean |activation|", "all test images"):
        assert word in written


def test_activations_are_those_recorded(run):
    figure = plotting.activations(run, "balanced", 1)
    network = run.network(1)
    recorded = run.recorded("task", "test", 1, network)["mean_abs"]
    for index, (layer, values) in enumerate(recorded.items()):
        for task in range(2):
            axis = figure.axes[2 * index + task]
            wanted, places = heaped(graph.positions(network)[layer], axis, values[task])
            assert sorted(axis.collections[0].get_array()) == pytest.approx(wanted)
            assert dots(axis) == pytest.approx(places)


def panels_of_labels(figure):
    """By title, the panels in their order, the colour bars left out."""
    return [axis for axis in figure.axes if axis.get_title()]


def test_labels_have_a_panel_per_label_and_layer(run):
    figure = plotting.labels(run, "balanced", 0)
    assert [axis.get_title() for axis in panels_of_labels(figure)] == [*"0123", *"012"] * 2
    sides = [axis.get_ylabel() for axis in panels_of_labels(figure) if axis.get_ylabel()]
    assert sides == [f"hidden layer {layer}\n{name}" for layer in (1, 2) for name in ("Alpha", "Beta")]
    assert "over all training images of each label" in text_of(figure)


def test_labels_draw_what_was_recorded_on_one_scale_per_layer(run):
    network = run.network(0)
    figure = plotting.labels(run, "balanced", 0)
    recorded = run.recorded("label", "train", 0, network)["mean_abs"]
    axes = iter(panels_of_labels(figure))
    for layer, values in recorded.items():
        scales = set()
        for row in values:
            axis = next(axes)
            wanted, places = heaped(graph.positions(network)[layer], axis, row)
            assert sorted(axis.collections[0].get_array()) == pytest.approx(wanted)
            assert dots(axis) == pytest.approx(places)
            scales.add(axis.collections[0].norm.vmax)
        assert len(scales) == 1


def test_many_labels_are_drawn_for_the_last_hidden_layer_only(run, monkeypatch):
    monkeypatch.setattr(plotting, "MANY", 6)
    monkeypatch.setattr(heatmaps, "WRAP", 3)
    figure = plotting.labels(run, "balanced", 0)
    panels = panels_of_labels(figure)
    assert [axis.get_title() for axis in panels] == [*"012", "3", *"012"]
    assert [axis.get_ylabel() for axis in panels if axis.get_ylabel()] == [
        f"hidden layer 2\n{each}" for each in ("Alpha 0 to 2", "Alpha 3 to 3", "Beta")
    ]
    assert "more than 6 labels: the last hidden layer only" in text_of(figure)


def test_a_label_without_images_says_so(run, tmp_path):
    other = copied(run, tmp_path / "other")
    path = other.activations(0, "label", "train")
    arrays = storing.load_arrays(path)
    for name in arrays:
        if name != "count":
            arrays[name][2] = np.nan
    storing.save_arrays(path, arrays)
    figure = plotting.labels(other, "balanced", 0)
    empty = [axis for axis in panels_of_labels(figure) if "no image" in [text.get_text() for text in axis.texts]]
    assert [axis.get_title() for axis in empty] == ["2", "2"]


# Numbers.


def test_curves_say_how_many_seeds_and_units(run):
    written = text_of(plotting.curves(run, "balanced", 0))
    for word in ("loss", "nats", "answers, %", "transport T", "sd of the start × w²", "proximity P", "Alpha", "test",
                 "train", "mean of 2 seeds"):  # fmt: skip
        assert word in written


def test_curves_draw_the_mean_and_the_range_over_seeds(run):
    figure = plotting.curves(run, "balanced", 0)
    losses = {
        (row["seed"], row["epoch"]): float(row["loss"])
        for row in storing.read_table(run.history)
        if row["subset"] == "test"
    }
    expected = [(losses["0", epoch] + losses["1", epoch]) / 2 for epoch in "12"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(expected)
    shaded = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert shaded.max() == pytest.approx(max(losses.values()))


def accuracies(path, **where):
    """Percent, in the order of the seeds."""
    return [
        100 * float(row["accuracy"])
        for row in storing.read_table(path)
        if all(row[name] == value for name, value in where.items())
    ]


def test_scores_are_means_with_intervals_over_seeds(run):
    figure = plotting.scores(run, "balanced", 0)
    axis = figure.axes[0]
    found = [
        [accuracies(run.scores, method=method, task=task) for task in ("Alpha", "Beta")]
        for method in ("whole", "balanced", "random")
    ]
    values = [[each[0], each[1], np.mean(each, 0).tolist()] for each in found]
    bars = [
        (bar.get_height(), method, group)
        for group in range(3)
        for method, bar in enumerate(axis.patches[3 * group : 3 * group + 3])
    ]
    for height, method, group in bars:
        assert height == pytest.approx(np.mean(values[method][group]))
    first = values[0][0]
    reach = 12.7062 * np.std(first, ddof=1) / 2**0.5  # t of one degree of freedom
    lines = [each.get_segments() for each in axis.collections if isinstance(each, LineCollection)]
    whiskers = [np.asarray(each[0])[:, 1] for each in lines if each[0][0][0] == each[0][1][0]]  # the upright ones
    assert len(whiskers) == 9
    ends = np.clip([np.mean(first) - reach, np.mean(first) + reach], 0, 100)
    assert whiskers[0] == pytest.approx(ends, abs=1e-3)
    points = [each.get_offsets()[:, 1].tolist() for each in axis.collections if isinstance(each, PathCollection)]
    assert points == [pytest.approx(values[method][group]) for group in range(3) for method in range(3)]
    written = text_of(figure)
    assert "mean of 2 seeds (dots), 95 % t-interval over seeds" in written
    assert "accuracy on the test images, %" in written
    for word in ("whole network", "balanced", "random", "chance", "mean of tasks", f"{np.mean(first):.1f}"):
        assert word in written


def test_the_interval_is_students():
    assert metrics.interval([1.0, 2.0, 3.0]) == pytest.approx(4.30265 / 3**0.5, rel=1e-5)  # sd 1, t(2)


def test_transfer_shows_every_part_on_every_task(run):
    figure = plotting.transfer(run, "balanced", 0)
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["balanced split", "random split"]
    for axis, method in zip(panels, ("balanced", "random"), strict=True):
        shown = np.asarray(axis.images[0].get_array())
        rows = [("whole", "whole"), (method, "Alpha"), (method, "Beta")]
        wanted = [
            [np.mean(accuracies(run.transfer, method=of, part=part, task=task)) for task in ("Alpha", "Beta")]
            for of, part in rows
        ]
        assert shown == pytest.approx(np.array(wanted))
        assert [text.get_text() for text in axis.texts] == [f"{value:.1f}" for value in shown.ravel()]
    written = text_of(figure)
    for word in ("whole network", "scored on", "part", "accuracy on the test images, %", "mean of 2 seeds"):
        assert word in written


@pytest.mark.parametrize("name", ["scores", "transfer"])
def test_a_table_that_lacks_a_task_is_refused(run, tmp_path, name):
    other = copied(run, tmp_path / "other")
    path = other.folder / f"{name}.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "Beta," not in line))
    with pytest.raises(UserError, match=f"{name}.csv: does not hold every task's accuracy.*python main.py score"):
        plot(other, [name])


def test_every_method_has_a_colour_of_its_own():
    assert set(plotting.METHODS) == {"whole", *splitting.METHODS}
    assert len(set(plotting.METHODS.values())) == len(plotting.METHODS)


# Other runs.


@pytest.mark.parametrize(
    ("words", "names", "said", "of_sheets"),
    [
        (["--dim", "1"], NAMES[:1], "(spread for sight)", []),
        (["--dim", "3", "--model", "conv", "--layers", "4"], NAMES[:2], "the first two of 3 dimensions", []),
        pytest.param(
            ["--holdout", "20", "--layers", "9", "8", "7", "6"],
            NAMES,
            "hidden layer 4",
            ["maps", "variance"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one task on a line", "channels in space", "three tasks, five layers, held-out images"],
)
def test_every_figure_of_other_runs(root, tmp_path, words, names, said, of_sheets):
    run = make(root, tmp_path / "run", "--epochs", "1", *words, names=names, methods=("greedy",))
    drawn = plot(run)
    assert [path.stem for path in drawn.paths] == [*ANY, *of_sheets]
    assert plot(run, relax="held").paths[0].read_bytes().startswith(PNG)
    written = text_of(plotting.positions(run, "greedy", 0))
    assert said in written
    bars = text_of(plotting.scores(run, "greedy", 0))
    assert "one seed" in bars and "interval" not in bars
    held = "--holdout" in words
    assert ("accuracy on the held-out training images, %" in bars) == held
    legend = [text.get_text() for text in plotting.curves(run, "greedy", 0).legends[0].get_texts()]
    assert legend == [*names, "holdout" if held else "test", "train"]


# Parts of figures.


def test_more_tasks_than_colours_are_still_told_apart():
    looks = {(drawing.colour(task), drawing.marker(task)) for task in range(49)}
    assert len(looks) == 49
    assert len({drawing.colour(task) for task in range(7)}) == len({drawing.marker(task) for task in range(7)}) == 7


def test_neurons_at_one_place_are_drawn_as_one():
    places = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 1.0]])
    heaps = drawing.heaps(places, 1.0, np.array([1.0, 3.0, 5.0]))
    assert sorted(zip(heaps.counts.tolist(), heaps.values.tolist(), strict=True)) == [(1, 5.0), (2, 2.0)]
    assert heaps.places[heaps.counts == 2][0] == pytest.approx([0.0005, 0.0])


def test_numbers_of_heaps_do_not_cover_each_other():
    places = np.repeat([[0.0, 0.0], [0.05, 0.02], [0.5, 0.5]], [30, 40, 25], axis=0)
    axis = Figure().subplots()
    heaped = [(0, drawing.heaps(places[:30], 1.0)), (1, drawing.heaps(places[30:], 1.0))]
    assert not drawing.count(axis, heaped, 1.0)
    assert [text.get_text() for text in axis.texts] == ["40", "25"]
    assert drawing.count(axis, heaped[1:], 1.0)


def test_a_heap_is_not_cut_by_the_edge_of_a_cell():
    beside = np.array([[0.0099, 0.0], [0.0099, 0.0], [0.0101, 0.0], [0.0101, 0.0], [0.0101, 0.0]])  # cells of 0.02
    assert drawing.heaps(beside, 1.0).counts.tolist() == [5]


def test_heaps_of_some_neurons_lie_where_those_of_all_do():
    places = np.random.default_rng(1).normal(size=(6, 1))
    which = np.array([True, False, True, False, False, True])
    some, every = drawing.heaps(places, 5.0, which=which), drawing.sheet(places, 5.0)
    assert ordered(some.places) == pytest.approx(ordered(np.stack(every, 1)[which]))


def test_neurons_outside_the_panel_are_not_drawn():
    heaps = drawing.heaps(np.array([[0.0, 0.0], [0.0, 3.0]]), 1.0)
    assert heaps.counts.tolist() == [1]
    assert heaps.total == 2


def test_neurons_apart_in_a_dimension_that_is_not_drawn_are_not_one():
    apart = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert sorted(drawing.heaps(apart, 1.0).counts.tolist()) == [1, 2]


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_neurons_lie_on_a_sheet_whatever_the_dimension(dim):
    places = np.random.default_rng(0).normal(size=(5, dim))
    x, y = drawing.sheet(places, 1.0)
    assert np.array_equal(x, places[:, 0])
    assert y.shape == (5,)
    assert len(set(y)) == 5


def test_limits_hold_every_place():
    low, high = drawing.limits_of([np.array([[0.0, -3.0]]), np.array([[1.0, 2.0]])])
    assert -low == high > 3


def test_long_notes_and_legends_are_wrapped():
    figure, _ = drawing.panels(1, 1)
    height = figure.get_figheight()
    drawing.explain(figure, [drawing.handle(task, f"a long name {task}") for task in range(6)], "many words " * 20)
    assert "\n" in figure.get_supxlabel()
    assert figure.get_figheight() > height
    assert figure.legends[0]._ncols < 6


# Colours.

MACHADO = {  # Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as it is seen
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    "nothing": np.eye(3).tolist(),
}


def lab(colours, seen):
    """CIE Lab of sRGB colours, ``[n, 3]``, as a matrix of ``MACHADO`` lets them be seen."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(seen).T
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear.clip(0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@pytest.mark.parametrize("lacking", MACHADO)
def test_colours_of_tasks_stay_apart_for_colour_blind_readers(lacking):
    seen = lab(drawing.COLOURS, MACHADO[lacking])
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)[np.triu_indices(len(seen), 1)]
    assert apart.min() > 15  # 2 is just noticed side by side


@pytest.mark.parametrize("lacking", MACHADO)
def test_shades_grow_lighter_for_every_reader(lacking):
    lightness = lab(colormaps[drawing.SHADES](np.linspace(0, 1, 32))[:, :3], MACHADO[lacking])[:, 0]
    assert (np.diff(lightness) > 0.5).all()
