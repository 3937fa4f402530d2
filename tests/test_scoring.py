import numpy as np
import oracles
import pytest
from helpers import PerfectPredictor, coded_sets, mlp

from spatial import scoring
from spatial.tasks import INPUTS, Tasks

NAMES = ["A", "B"]
ROWS = [
    {"seed": seed, "method": method, "task": task, "accuracy": accuracy, "units": 3}
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
    rows = scoring.score_rows(3, "greedy", NAMES, [[0.9, 0.2], [0.1, 0.8]], [5, 7])
    assert rows == [
        {"seed": 3, "method": "greedy", "task": "A", "accuracy": 0.9, "units": 5},
        {"seed": 3, "method": "greedy", "task": "B", "accuracy": 0.8, "units": 7},
    ]


def test_every_part_is_scored_on_every_task():
    rows = list(scoring.transfer_rows(3, "greedy", NAMES, NAMES, [[0.9, 0.2], [0.1, 0.8]]))
    assert [(row["part"], row["task"], row["accuracy"]) for row in rows] == [
        ("A", "A", 0.9), ("A", "B", 0.2), ("B", "A", 0.1), ("B", "B", 0.8),
    ]  # fmt: skip
    assert {(row["seed"], row["method"]) for row in rows} == {(3, "greedy")}


def test_kept_units_are_hidden_ones():
    owners = [np.array([0, 1, -1, 1]), np.array([1, 1]), np.array([0, 0, 0, 1, 2])]
    assert scoring.kept_units(owners, 3) == [1, 4, 0]


def test_hidden_units_leave_the_output_layer_out():
    assert scoring.hidden_units(mlp(layers=(6, 5), classes=(3, 2))) == 11


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
