import json

import oracles
import pytest
import torch
from helpers import PerfectPredictor, coded_sets, conv, mlp, noise_tasks, split
from torch import nn

from spatial import graph, metrics, models, scoring, splitting
from spatial.tasks import INPUTS, Tasks

NAMES = ["A", "B"]
ROWS = [
    {"seed": seed, "method": method, "task": task, "accuracy": accuracy, "units": 3,
     "parameters": 500 if method == "whole" else None}
    for seed, method, task, accuracy in [
        (0, "whole", "A", 0.9), (0, "whole", "B", 0.8), (0, "greedy", "A", 0.7), (0, "greedy", "B", 0.8),
        (1, "whole", "A", 1.0), (1, "whole", "B", 0.6), (1, "greedy", "A", 0.9), (1, "greedy", "B", 0.3),
        (2, "whole", "A", 0.8), (2, "whole", "B", 0.7), (2, "greedy", "A", 0.8), (2, "greedy", "B", 0.75),
    ]
]  # fmt: skip


@pytest.mark.parametrize("input", INPUTS)
def test_a_perfect_predictor_scores_one(input):
    sets = coded_sets((23, 9), (3, 2))
    assert scoring.score_part(PerfectPredictor(sets), Tasks(sets, input), batch_size=4) == [1, 1]


def test_each_task_is_scored_by_its_own_part():
    rows = scoring.score_rows(3, "greedy", NAMES, [[0.9, 0.2], [0.1, 0.8]], [5, 7], [40, None])
    assert rows == [
        {"seed": 3, "method": "greedy", "task": "A", "accuracy": 0.9, "units": 5, "parameters": 40},
        {"seed": 3, "method": "greedy", "task": "B", "accuracy": 0.8, "units": 7, "parameters": None},
    ]
    assert list(rows[0]) == ["seed", "method", "task", "accuracy", "units", "parameters"]


def test_every_part_is_scored_on_every_task():
    rows = list(scoring.transfer_rows(3, "greedy", NAMES, NAMES, [[0.9, 0.2], [0.1, 0.8]]))
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


@pytest.mark.parametrize("network", [mlp, conv])
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
            "whole_seconds": 4.0, "part_seconds": seconds, "ratio": seconds / 4,
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


def assert_summary(found, values):
    mean, deviation = oracles.mean_and_deviation(values)
    assert found["mean"] == pytest.approx(mean, abs=1e-9)
    assert found["std"] == pytest.approx(deviation, abs=1e-9)


def test_one_seed_has_no_deviation():
    metrics = scoring.summarise(row for row in ROWS if row["seed"] == 0)
    assert metrics["accuracy"]["whole"]["A"] == {"mean": pytest.approx(0.9), "std": None}


def test_the_table_is_aligned_and_in_percent():
    lines = scoring.table(scoring.summarise(ROWS), NAMES).splitlines()
    assert lines[0].split() == ["accuracy,", "%", "A", "B", "mean", "points", "lost"]
    assert "90.0 ± 10.0" in lines[1] and lines[1].startswith("whole")
    assert lines[2].startswith("greedy") and lines[2].endswith("9.2 ± 11.3")
    assert len(lines) == 3
    assert lines[0].index("B") == lines[1].index("70.0 ± 10.0") + len("70.0 ± 10.0") - 1


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
    written = json.dumps(scoring.summarise(ROWS, MEASURES), allow_nan=False)
    assert json.loads(written) == scoring.summarise(ROWS, MEASURES)


def test_without_a_split_there_are_no_measures():
    found = scoring.summarise([row for row in ROWS if row["method"] == "whole"])
    assert (found["lost"], found["measures"]) == ({}, {})


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
    rows = [{"seed": 0, "method": "whole", "task": task, "accuracy": 1.0, "parameters": 12000} for task in NAMES]
    times = []
    for method, each in counts.items():
        for task, (parameters, ratio) in each.items():
            rows.append({"seed": 0, "method": method, "task": task, "accuracy": 1.0, "parameters": parameters})
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
