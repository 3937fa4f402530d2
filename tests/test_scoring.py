import csv
import json
import math

import numpy as np
import oracles
import pytest
import torch
from helpers import (
    PLANE,
    PerfectPredictor,
    alexnet,
    coded_sets,
    command,
    conv,
    lenet,
    local,
    mlp,
    noise_tasks,
    register_sheets,
    sheet_run,
    split,
)
from torch import nn

from spatial import graph, metrics, models, scoring, splitting, storing
from spatial.maps import maps_of, variances
from spatial.tasks import INPUTS, Tasks

NAMES = ["A", "B"]
ROWS = [
    {"seed": seed, "method": method, "task": task, "accuracy": accuracy, "units": 3,
     "parameters": 500 if method == "whole" else None, "loss": 1.5 - accuracy}
    for seed, method, task, accuracy in [
        (0, "whole", "A", 0.9), (0, "whole", "B", 0.8), (0, "greedy", "A", 0.7), (0, "greedy", "B", 0.8),
        (1, "whole", "A", 1.0), (1, "whole", "B", 0.6), (1, "greedy", "A", 0.9), (1, "greedy", "B", 0.3),
        (2, "whole", "A", 0.8), (2, "whole", "B", 0.7), (2, "greedy", "A", 0.8), (2, "greedy", "B", 0.75),
    ]
]  # fmt: skip


@pytest.mark.parametrize("input", INPUTS)
def test_a_perfect_predictor_scores_one(input):
    sets = coded_sets((23, 9), (3, 2))
    found = scoring.score_part(PerfectPredictor(sets), Tasks(sets, input), batch_size=4)
    assert found.accuracy == [1, 1]
    assert max(found.loss, *found.losses) < 1e-6


PARTS = [metrics.Evaluation(5, [0.9, 0.2], [1.5, 2.5]), metrics.Evaluation(6, [0.1, 0.8], [3.5, 4.5])]


def test_each_task_is_scored_by_its_own_part():
    rows = scoring.score_rows(3, "greedy", NAMES, PARTS, [5, 7], [40, None])
    assert rows == [
        {"seed": 3, "method": "greedy", "task": "A", "accuracy": 0.9, "units": 5, "parameters": 40, "loss": 1.5},
        {"seed": 3, "method": "greedy", "task": "B", "accuracy": 0.8, "units": 7, "parameters": None, "loss": 4.5},
    ]
    assert list(rows[0]) == ["seed", "method", "task", "accuracy", "units", "parameters", "loss"]


def test_every_part_is_scored_on_every_task():
    rows = list(scoring.transfer_rows(3, "greedy", NAMES, NAMES, PARTS))
    assert [(row["part"], row["task"], row["accuracy"]) for row in rows] == [
        ("A", "A", 0.9), ("A", "B", 0.2), ("B", "A", 0.1), ("B", "B", 0.8),
    ]  # fmt: skip
    assert {(row["seed"], row["method"]) for row in rows} == {(3, "greedy")}


def test_kept_units_are_hidden_ones():
    k = {
        "first": torch.tensor([[1.0, 0, 0, 0.2], [0, 1, 0, 1], [0, 0, 0, 0]]),
        "second": torch.tensor([[0.0, 0], [1, 1], [0, 0.5]]),
        "outputs": torch.ones(3, 5),
    }
    assert scoring.kept_units(k) == [2, 4, 1]
    assert [scoring.empty_layers(k, task) for task in range(3)] == ["layer 1", "", "layer 0"]
    k["second"][2] = 0
    assert scoring.empty_layers(k, 2) == "layer 0, 1"


def test_hidden_units_leave_the_output_layer_out():
    assert scoring.hidden_units(mlp(layers=(6, 5), classes=(3, 2))) == 11
    assert scoring.hidden_units(conv(layers=(3, 4, 2))) == 9


# Measures.


COLUMNS = [
    "seed", "method", "layer", "units", "live", "live_A", "live_B", "places", "purity", "kappa", "silhouette",
    "crossing", "wire", "ari_greedy", "ari_balanced",
]  # fmt: skip


@pytest.mark.parametrize("network", [mlp, conv, alexnet])
@pytest.mark.parametrize("method", splitting.METHODS)
def test_measures_have_a_row_per_layer(network, method):
    model = network(layers=(12, 10))
    owners = split(model, method).owners
    rows = scoring.measure_rows(4, method, model, owners, NAMES)
    assert [list(row) for row in rows] == [COLUMNS] * 3
    assert [(row["seed"], row["method"], row["layer"], row["units"]) for row in rows] == [
        (4, method, layer, units) for layer, units in enumerate((12, 10, 5))
    ]
    reads, places = graph.outgoing(model), graph.positions(model)
    for row, (layer, own) in zip(rows, owners.items(), strict=True):
        alive = metrics.live(reads[layer]) if layer in reads else torch.ones(5, dtype=torch.bool)
        assert row["live"] == alive.sum()
        assert row["live_B"] == pytest.approx((own[alive] == 1).double().mean().item())
        chosen = alive & (own >= 0)
        assert row["kappa"] == metrics.kappa(places[layer][chosen], own[chosen])
        agreed = (row["ari_greedy"], row["ari_balanced"])
        assert (agreed == (None, None)) is (method != "clusters" or row["layer"] == 2)
    assert rows[0]["crossing"] is rows[0]["wire"] is None
    first, second, output = owners
    assert rows[2]["crossing"] == pytest.approx(
        oracles.crossing(model.get_submodule(output).weight.tolist(), owners[output].tolist(), owners[second].tolist())
    )
    edge = graph.Connection(first, second)
    assert rows[1]["wire"] == pytest.approx(
        oracles.wire_length(graph.weight(model, edge).tolist(), places[second].tolist(), places[first].tolist()),
        rel=1e-5,
    )


def test_groups_of_outputs_are_scored_and_measured():
    model, tasks = mlp(layers=(12, 10), classes=(3, 2), outputs="arbitrary"), noise_tasks()
    rows, measures = scoring.group_rows(4, model, tasks, NAMES)
    belongs = torch.tensor([0, 1, 0, 1, 0])
    k, owners = splitting.grouped(model, belongs)
    parts = [splitting.cut(model, k, group) for group in (0, 1)]
    images, labels = tasks.batch(tasks.scoring_order())
    with torch.no_grad():
        logits = torch.stack([parts[group](images)[:, output] for output, group in enumerate(belongs.tolist())], 1)
    right = [(logits[:, :3].argmax(1) == labels[:, 0]), (logits[:, 3:].argmax(1) == labels[:, 1])]
    assert [row["accuracy"] for row in rows] == pytest.approx([each.double().mean().item() for each in right])
    assert [(row["seed"], row["method"], row["task"], row["units"]) for row in rows] == [
        (4, "groups", name, 22) for name in NAMES
    ]
    assert [list(row) for row in measures] == [COLUMNS] * 3
    assert all(row["live_A"] is row["live_B"] is None for row in measures)
    places = list(graph.positions(model).values())
    alive = metrics.live_units(model)
    for row, place, (layer, own) in zip(measures, places, owners.items(), strict=True):
        assert row["kappa"] == metrics.kappa(place[alive[layer]], own[alive[layer]])


def test_placed_inputs_have_wires_and_no_task():
    model = mlp_on_a_grid()
    first, *_ = scoring.measure_rows(0, "greedy", model, split(model, "greedy").owners, NAMES)
    places = graph.places(model)
    expected = oracles.wire_length(
        model.linear[0].weight.tolist(), places["linear.0"].tolist(), places["input"].tolist()
    )
    assert first["wire"] == pytest.approx(expected, rel=1e-5)
    assert first["crossing"] is None


def mlp_on_a_grid():
    return models.build(
        "mlp", {"shape": (1, 4, 4), "layers": (6, 5), "classes": (3, 2), "input_positions": "grid"}, seed=0
    )


def test_one_owner_leaves_measures_undefined():
    model = mlp()
    owners = {layer: torch.zeros(len(place), dtype=torch.long) for layer, place in graph.positions(model).items()}
    for row in scoring.measure_rows(0, "greedy", model, owners, NAMES):
        assert row["kappa"] is row["silhouette"] is None
        assert (row["live_A"], row["live_B"]) == (1, 0)


# Spread of activation maps.


def test_variances_have_a_row_per_layer_and_sheet():
    nan, near = math.nan, pytest.approx
    found = {
        "layer-1/plane": np.array([1.0, nan, 4.0, 1.0]), "layer-1/line": np.array([nan] * 4),
        "layer-2/line": np.array([0.0, 2.0, 1.0, 2.0]),
    }  # fmt: skip
    assert scoring.variance_rows(3, mlp(layers=(6, 9, 5)), found) == [
        {"seed": 3, "layer": 1, "sheet": "plane", "inputs": 4, "empty": 1, "variance": 2.0, "uniform": near(9 / 6)},
        {
            "seed": 3,
            "layer": 1,
            "sheet": "line",
            "inputs": 4,
            "empty": 4,
            "variance": None,
            "uniform": near(7.5),
        },
        {
            "seed": 3,
            "layer": 2,
            "sheet": "line",
            "inputs": 4,
            "empty": 0,
            "variance": 1.25,
            "uniform": near(2.5),
        },
    ]


@pytest.mark.parametrize(
    "model", [lenet(), local(layers=(4, 9, 9)), alexnet(prior=PLANE)], ids=["lenet", "local", "alexnet"]
)
def test_rows_of_a_networks_variances_are_their_means(model):
    tasks = noise_tasks(sizes=(9, 6), size=model.shape[-1])
    found = variances(model, tasks, maps_of(model))
    rows = scoring.variance_rows(0, model, found)
    assert [f"layer-{row['layer']}/{row['sheet']}" for row in rows] == list(found)
    for row, values in zip(rows, found.values(), strict=True):
        known = [value for value in values.tolist() if not math.isnan(value)]
        assert row["variance"] == pytest.approx(sum(known) / len(known))
        assert (row["inputs"], row["empty"]) == (9, 9 - len(known))


VARIANCES = [
    {"seed": seed, "layer": layer, "sheet": sheet, "inputs": 500, "empty": empty, "variance": value, "uniform": uniform}
    for seed, layer, sheet, empty, value, uniform in [
        (0, 0, "line", 0, 30.0, 42.5), (0, 0, "plane", 0, 3.0, 1.5), (0, 1, "plane", 500, None, 8.1666),
        (1, 0, "line", 9, 20.0, 42.5), (1, 0, "plane", 9, 4.0, 1.5), (1, 1, "plane", 493, 2.5, 8.1666),
    ]
]  # fmt: skip


def test_variances_are_summed_up_over_the_seeds_that_have_them():
    found = scoring.summarise(ROWS, variances=VARIANCES)["variance"]
    assert {layer: list(sheets) for layer, sheets in found.items()} == {
        "layer-0": ["line", "plane"], "layer-1": ["plane"],
    }  # fmt: skip
    assert_summary(found["layer-0"]["line"], [30, 20])
    assert_summary(found["layer-0"]["plane"], [3, 4])
    assert found["layer-1"]["plane"] == {"mean": 2.5, "std": None}
    first = [row for row in VARIANCES if row["seed"] == 0]
    assert scoring.summarise(ROWS, variances=first)["variance"]["layer-1"]["plane"] == {"mean": None, "std": None}


def test_the_table_of_variances_counts_empty_maps():
    lines = scoring.variance_table(scoring.summarise(ROWS, variances=VARIANCES), VARIANCES).splitlines()
    assert [line.split() for line in lines] == [
        ["activation", "maps", "layer", "spatial", "variance", "uniform", "map", "empty", "maps"],
        ["line", "0", "25.000", "±", "7.071", "42.500", "9", "of", "1,000"],
        ["plane", "0", "3.500", "±", "0.707", "1.500", "9", "of", "1,000"],
        ["plane", "1", "2.500", "8.167", "993", "of", "1,000"],
    ]
    assert_aligned(lines)


def test_the_table_of_variances_shows_the_rows_that_it_is_given():
    rows = [row for row in VARIANCES if row["sheet"] == "plane" and row["seed"] == 0]
    lines = scoring.variance_table(scoring.summarise(ROWS, variances=rows), rows).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["plane", "0", "3.000", "1.500", "0", "of", "500"], ["plane", "1", "-", "8.167", "500", "of", "500"],
    ]  # fmt: skip


# Time.


class Clock:
    """A clock that a network on it moves on."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(scoring.time, "perf_counter", lambda: self.now)

    def network(self, *seconds):
        each = iter(seconds)

        class Slow(nn.Module):
            def forward(_, images):
                self.now += next(each)

        return Slow()


def test_inference_takes_the_median_after_a_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    networks = [clock.network(100, 1, 9, 2), clock.network(50, 3, 3, 4), clock.network(0, 5, 7, 8)]
    assert scoring.inference_seconds(networks, torch.zeros(2, 1), repeats=3) == [2, 3, 7]


@pytest.mark.parametrize("repeats", [1, 9])
def test_inference_of_real_networks_takes_some_time(repeats):
    found = scoring.inference_seconds([mlp(), conv(shape=(1, 4, 4))], torch.rand(5, 1, 4, 4), repeats)
    assert len(found) == 2 and min(found) > 0


def test_times_have_a_row_per_extracted_part(monkeypatch):
    monkeypatch.setattr(scoring, "inference_seconds", lambda networks, images: [4.0, 1.0, 3.0][: len(networks)])
    model, tasks = mlp(), noise_tasks()
    assert scoring.time_rows(0, "greedy", model, {}, tasks) == []
    rows = scoring.time_rows(2, "greedy", model, {"B": mlp(), "A": mlp()}, tasks, images=10)
    assert rows == [
        {
            "seed": 2, "method": "greedy", "part": part, "images": 10, "threads": torch.get_num_threads(),
            "device": "cpu", "whole_seconds": 4.0, "part_seconds": seconds, "ratio": seconds / 4,
        }
        for part, seconds in (("B", 1.0), ("A", 3.0))
    ]  # fmt: skip
    assert scoring.time_rows(2, "greedy", model, {"B": mlp()}, tasks)[0]["images"] == 24  # all there are


# What is summed up.


@pytest.mark.parametrize("method", ["whole", "greedy"])
@pytest.mark.parametrize("task", NAMES)
def test_accuracy_is_summed_up_over_seeds(method, task):
    values = [row["accuracy"] for row in ROWS if (row["method"], row["task"]) == (method, task)]
    assert_summary(scoring.summarise(ROWS)["accuracy"][method][task], values)


@pytest.mark.parametrize(("method", "means"), [("whole", [0.85, 0.8, 0.75]), ("greedy", [0.75, 0.6, 0.775])])
def test_the_mean_over_tasks_is_taken_seed_by_seed(method, means):
    assert_summary(scoring.summarise(ROWS)["accuracy"][method]["mean"], means)


@pytest.mark.parametrize(("task", "points"), [("A", [20, 10, 0]), ("B", [0, 30, -5]), ("mean", [10, 20, -2.5])])
def test_lost_points_are_paired_by_seed(task, points):
    lost = scoring.summarise(ROWS)["lost"]
    assert list(lost) == ["greedy"]
    assert_summary(lost["greedy"][task], points)


@pytest.mark.parametrize("column", ["accuracy", "loss"])
def test_a_column_by_method_and_task_has_the_tasks_mean_beside_them(column):
    found = scoring.with_mean(ROWS, column)
    assert list(found) == ["whole", "greedy"]
    for method, tasks in found.items():
        assert list(tasks) == ["A", "B", "mean"]
        for task in NAMES:
            assert tasks[task] == [row[column] for row in ROWS if (row["method"], row["task"]) == (method, task)]
        assert tasks["mean"] == pytest.approx([(a + b) / 2 for a, b in zip(tasks["A"], tasks["B"], strict=True)])


def test_the_mean_of_one_task_is_its_own():
    found = scoring.with_mean([row for row in ROWS if row["task"] == "A"], "accuracy")
    assert found["whole"] == {"A": [0.9, 1.0, 0.8], "mean": [0.9, 1.0, 0.8]}


@pytest.mark.parametrize(("method", "task"), [("whole", "A"), ("greedy", "B"), ("greedy", "mean")])
def test_losses_are_summed_up_over_seeds(method, task):
    accuracy = scoring.with_mean(ROWS, "accuracy")[method][task]
    assert_summary(scoring.summarise(ROWS)["loss"][method][task], [1.5 - each for each in accuracy])


def assert_summary(found, values):
    mean, deviation = oracles.mean_and_deviation(values)
    assert found["mean"] == pytest.approx(mean, abs=1e-9)
    assert found["std"] == pytest.approx(deviation, abs=1e-9)


def test_one_seed_has_no_deviation():
    metrics = scoring.summarise([row for row in ROWS if row["seed"] == 0])
    assert metrics["accuracy"]["whole"]["A"] == {"mean": pytest.approx(0.9), "std": None}


def test_the_table_is_aligned_and_in_percent():
    lines = scoring.table(scoring.summarise(ROWS), NAMES).splitlines()
    assert lines[0].split() == ["accuracy,", "%", "A", "B", "mean", "points", "lost", "loss"]
    assert "90.0 ± 10.0" in lines[1] and lines[1].startswith("whole") and lines[1].endswith("  0.700 ± 0.050")
    assert lines[2].startswith("greedy") and lines[2].endswith("9.2 ± 11.3  0.792 ± 0.095")
    assert len(lines) == 3
    assert lines[0].index("B") == lines[1].index("70.0 ± 10.0") + len("70.0 ± 10.0") - 1


def test_the_table_of_one_task_has_no_mean():
    lines = scoring.table(scoring.summarise([row for row in ROWS if row["task"] == "A"]), ["A"]).splitlines()
    assert lines[0].split() == ["accuracy,", "%", "A", "points", "lost", "loss"]
    assert lines[1].split() == ["whole", "90.0", "±", "10.0", "0.600", "±", "0.100"]
    assert lines[2].split()[1:] == ["80.0", "±", "10.0", "10.0", "±", "10.0", "0.700", "±", "0.100"]
    assert_aligned(lines)


MEASURES = [
    {"seed": seed, "method": method, "layer": layer, "units": 6, "live": live, "kappa": kappa, "crossing": crossing}
    for method, seed, layer, live, kappa, crossing in [
        ("greedy", 0, 0, 5, 0.5, None), ("greedy", 0, 1, 4, None, 0.25), ("greedy", 0, 2, 6, 0.9, 0.1),
        ("greedy", 1, 0, 6, 0.1, None), ("greedy", 1, 1, 4, -0.5, 0.75), ("greedy", 1, 2, 6, 0.7, 0.3),
        ("random", 0, 0, 5, None, None), ("random", 0, 1, 4, None, 0.5), ("random", 0, 2, 6, 0.0, 0.5),
        ("random", 1, 0, 6, None, None), ("random", 1, 1, 4, None, 0.5), ("random", 1, 2, 6, 0.0, 0.5),
    ]
]  # fmt: skip


def test_measures_are_summed_up_over_the_seeds_that_have_them():
    found = scoring.summarise(ROWS, MEASURES)["measures"]
    assert list(found) == ["greedy", "random"]
    assert list(found["greedy"]) == ["layer-0", "layer-1", "layer-2"]
    assert list(found["greedy"]["layer-0"]) == ["units", "live", "kappa", "crossing"]
    assert_summary(found["greedy"]["layer-0"]["live"], [5, 6])
    assert_summary(found["greedy"]["layer-0"]["kappa"], [0.5, 0.1])
    assert found["greedy"]["layer-1"]["kappa"] == {"mean": -0.5, "std": None}  # of the one seed that has it
    assert found["greedy"]["layer-0"]["crossing"] == {"mean": None, "std": None}
    assert found["random"]["layer-1"]["kappa"] == {"mean": None, "std": None}
    assert_summary(found["random"]["layer-1"]["crossing"], [0.5, 0.5])


def test_parameters_are_summed_up_where_there_are_any():
    found = scoring.summarise(ROWS)["parameters"]
    assert found["whole"]["A"] == {"mean": 500, "std": 0}
    assert found["greedy"]["A"] == {"mean": None, "std": None}


def test_metrics_are_plain_json():
    written = json.dumps(scoring.summarise(ROWS, MEASURES, VARIANCES), allow_nan=False)
    assert json.loads(written) == scoring.summarise(ROWS, MEASURES, VARIANCES)


def test_without_a_split_there_are_no_measures():
    found = scoring.summarise([row for row in ROWS if row["method"] == "whole"])
    assert (found["lost"], found["measures"], found["variance"]) == ({}, {}, {})


def assert_aligned(lines):
    """Every cell of a column ends where the column's others end; the first begins the line."""
    ends = [len(line) for line in lines]
    assert len(set(ends)) == 1
    assert not any(line.startswith(" ") for line in lines)


def test_the_table_of_measures_shows_hidden_layers_and_what_is_defined():
    lines = scoring.measure_table(scoring.summarise(ROWS, MEASURES)).splitlines()
    assert [line.split() for line in lines] == [
        ["measures", "layer", "live", "kappa", "crossing"],
        ["greedy", "0", "5.5", "±", "0.7", "0.30", "±", "0.28", "-"],
        ["greedy", "1", "4.0", "±", "0.0", "-0.50", "0.50", "±", "0.35"],
        ["random", "0", "5.5", "±", "0.7", "-", "-"],
        ["random", "1", "4.0", "±", "0.0", "-", "0.50", "±", "0.00"],
    ]
    assert_aligned(lines)


def extracted(**counts):
    """Metrics and times of splits whose parts were extracted: counts and ratios of each task, by method."""
    perfect = {"seed": 0, "accuracy": 1.0, "loss": 0.0}
    rows = [{**perfect, "method": "whole", "task": task, "parameters": 12000} for task in NAMES]
    times = []
    for method, each in counts.items():
        for task, (parameters, ratio) in each.items():
            rows.append({**perfect, "method": method, "task": task, "parameters": parameters})
            if ratio is not None:
                times.append({"method": method, "part": task, "ratio": ratio})
    return scoring.summarise(rows), times


def test_the_table_of_extracted_parts_shows_sizes_and_times():
    found = extracted(greedy={"A": (5000, 0.5), "B": (70, 0.25)}, random={"A": (800, 1.0), "B": (1234, 1.125)})
    lines = scoring.extracted_table(*found, NAMES).splitlines()
    assert [line.split() for line in lines] == [
        ["extracted", "A,", "parameters", "time", "B,", "parameters", "time"],
        ["whole", "12,000", "1.00", "12,000", "1.00"],
        ["greedy", "5,000", "0.50", "70", "0.25"],
        ["random", "800", "1.00", "1,234", "1.12"],
    ]
    assert_aligned(lines)


def test_a_task_without_an_extracted_part_has_an_empty_cell():
    """What a `split --extract` that was interrupted leaves."""
    found = extracted(greedy={"A": (None, None), "B": (70, 0.25)}, random={"A": (800, 1.0), "B": (1234, 1.125)})
    lines = scoring.extracted_table(*found, NAMES).splitlines()
    assert lines[2].split()[-2:] == ["70", "0.25"]
    assert_aligned(lines)


# What the command writes of networks on sheets.


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Scored runs of two tasks and two seeds, by name, the second of them split: a LeNet, and a net with a prior."""
    root = tmp_path_factory.mktemp("sheets")
    with pytest.MonkeyPatch.context() as patch:
        register_sheets(patch, root)
        names = {"names": ("Digits", "Garments")}
        made = {
            "control": sheet_run(root, root / "control", "--model", "lenet", "--seeds", "2", **names),
            "line": sheet_run(root, root / "line", "--layers", "9", "5", "5", "--locality", "line", "--seed", "4",
                              "--input", "sequential", "--activation", "Tanh", **names),
        }  # fmt: skip
        assert command("split", made["line"].folder, "--method", "greedy") == 0
        assert command("score", made["line"].folder) == 0
        yield made


SHEETS = {"control": {0: ("line", "plane"), 1: ("line", "plane")}, "line": {1: ("line",), 2: ("line",)}}
each_run = pytest.mark.parametrize("name", SHEETS)


def table_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@each_run
def test_the_variance_of_every_map_is_written(sheets, name):
    run = sheets[name]
    stored, tasks = storing.load_arrays(run.variances), run.tasks("test")
    keys = [f"layer-{layer}/{sheet}" for layer, kinds in SHEETS[name].items() for sheet in kinds]
    assert list(stored) == [*(f"seed-{seed}/{key}" for seed in run.seeds() for key in keys), "labels"]
    assert np.array_equal(stored["labels"], tasks.batch(tasks.scoring_order()).labels.numpy())
    for seed in run.seeds():
        network = run.network(seed)
        for key, values in variances(network, tasks, maps_of(network), batch_size=5).items():
            assert stored[f"seed-{seed}/{key}"] == pytest.approx(values, rel=1e-5, nan_ok=True)


@each_run
def test_means_of_variances_are_written(sheets, name):
    run = sheets[name]
    stored, rows = storing.load_arrays(run.variances), table_of(run.variance)
    assert list(rows[0]) == ["seed", "layer", "sheet", "inputs", "empty", "variance", "uniform"]
    assert len(rows) == len(stored) - 1
    found = {}
    for row in rows:
        values = stored[f"seed-{row['seed']}/layer-{row['layer']}/{row['sheet']}"].tolist()
        known = [value for value in values if not math.isnan(value)]
        assert (int(row["inputs"]), int(row["empty"])) == (len(values), len(values) - len(known))
        assert float(row["variance"]) == pytest.approx(sum(known) / len(known), rel=1e-5)
        units = 49 if name == "control" else 5
        expected = units / 6 if row["sheet"] == "plane" else units * (units + 1) / 12
        assert float(row["uniform"]) == pytest.approx(expected, rel=1e-5)
        found.setdefault(f"layer-{row['layer']}", {}).setdefault(row["sheet"], []).append(sum(known) / len(known))
    written = json.loads(run.metrics.read_text())["variance"]
    assert {layer: list(each) for layer, each in written.items()} == {
        f"layer-{layer}": list(kinds) for layer, kinds in SHEETS[name].items()
    }
    for layer, each in found.items():
        for sheet, means in each.items():
            mean, deviation = oracles.mean_and_deviation(means)
            assert written[layer][sheet]["mean"] == pytest.approx(mean)
            assert written[layer][sheet]["std"] == (None if deviation is None else pytest.approx(deviation))


@each_run
def test_every_tasks_loss_is_written(sheets, name):
    run = sheets[name]
    tasks, rows, names = run.tasks("test"), table_of(run.scores), ["Digits", "Garments"]
    images, labels = tasks.batch(tasks.scoring_order())
    assert list(rows[0])[-1] == "loss"
    means = {}
    for seed in run.seeds():
        networks = {"whole": [run.network(seed)] * 2}
        if name == "line":
            networks["greedy"] = run.part_networks("greedy", seed, run.network(seed))
        for method, parts in networks.items():
            own = []
            for task, part in enumerate(parts):
                sums = oracles.task_losses(part(images).tolist(), labels.tolist(), tasks.classes)
                (row,) = (
                    row for row in rows
                    if (row["seed"], row["method"], row["task"]) == (str(seed), method, names[task])
                )  # fmt: skip
                own.append(sums[task] / tasks.sizes[task])
                assert float(row["loss"]) == pytest.approx(own[-1], rel=1e-4)
            means.setdefault(method, []).append(sum(own) / 2)
    assert len(rows) == 4
    written = json.loads(run.metrics.read_text())["loss"]
    assert {method: list(each) for method, each in written.items()} == {key: [*names, "mean"] for key in means}
    for method, values in means.items():
        assert written[method]["mean"]["mean"] == pytest.approx(sum(values) / len(values), rel=1e-4)


@each_run
def test_the_command_shows_variances_of_the_runs_own_sheet(sheets, name, capsys):
    run = sheets[name]
    assert command("score", run.folder) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("activation maps"))
    written = json.loads(run.metrics.read_text())["variance"]
    sheet, inputs = ("plane", 48) if name == "control" else ("line", 42)
    for line, layer in zip(lines[start + 1 :], SHEETS[name], strict=False):
        cells = line.split()
        assert cells[:2] == [sheet, str(layer)] and cells[-2:] == ["of", str(inputs)]
        assert cells[2] == f"{written[f'layer-{layer}'][sheet]['mean']:.3f}"
    assert not any(line.startswith(("plane", "line")) for line in lines[start + 1 + len(SHEETS[name]) :])


def test_scoring_again_writes_the_same(sheets):
    run = sheets["control"]
    before = [path.read_bytes() for path in (run.scores, run.metrics, run.variance, run.variances)]
    assert command("score", run.folder) == 0
    assert [path.read_bytes() for path in (run.scores, run.metrics, run.variance, run.variances)] == before


@pytest.mark.parametrize("words", [["--transport", "1", "--layers", "9", "9"], ["--layers", "12", "8"]], ids=str)
def test_without_maps_there_is_nothing_of_their_variance(sheets, tmp_path, capsys, words):
    root = sheets["control"].folder.parent
    run = sheet_run(root, tmp_path / "run", *words)
    assert not run.variance.exists() and not run.variances.exists()
    assert json.loads(run.metrics.read_text())["variance"] == {}
    assert "spatial variance" not in capsys.readouterr().out
