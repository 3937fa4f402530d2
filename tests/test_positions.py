import math

import oracles
import pytest
import torch

from spatial import positions
from spatial.positions import distance, output_places, task_centres


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_distance_is_the_oracles(dim):
    a, b = torch.randn(4, dim, dtype=torch.float64), torch.randn(3, dim, dtype=torch.float64)
    expected = [[oracles.distance(p, q) for q in b.tolist()] for p in a.tolist()]
    torch.testing.assert_close(distance(a, b), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("offset", [0, 1000])
def test_distance_in_float32_is_exact_above_25_rows(offset):
    a, b = torch.randn(60, 2) + offset, torch.randn(40, 2) + offset
    exact = torch.tensor([[oracles.distance(p, q) for q in b.tolist()] for p in a.tolist()])
    assert (distance(a, b) - exact).abs().max() < 1e-6
    assert distance(a, a).diagonal().max() == 0


def test_distance_has_gradient_zero_where_two_places_coincide():
    a = torch.tensor([[1.0, 2.0], [5.0, 6.0]], requires_grad=True)
    b = torch.tensor([[1.0, 2.0]], requires_grad=True)
    distance(a, b)[0, 0].backward()
    assert a.grad.tolist() == [[0, 0], [0, 0]]
    assert b.grad.tolist() == [[0, 0]]


def test_random_places_are_standard_normal_and_follow_their_generator():
    draws = [positions.random_places(4000, 2, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].mean().abs() < 0.05
    assert abs(draws[0].std() - 1) < 0.05


def test_two_tasks_sit_left_and_right():
    assert task_centres(2, 2).tolist() == [[-2, 0], [2, 0]]
    assert task_centres(2, 3).tolist() == [[-2, 0, 0], [2, 0, 0]]


def test_in_one_dimension_tasks_lie_evenly_from_left_to_right():
    assert task_centres(5, 1).flatten().tolist() == [-2, -1, 0, 1, 2]


def test_a_single_task_sits_at_the_origin():
    assert task_centres(1, 2).tolist() == [[0, 0]]


@pytest.mark.parametrize("tasks", [3, 4, 7])
@pytest.mark.parametrize("dim", [2, 3])
def test_more_tasks_lie_evenly_on_a_circle(tasks, dim):
    centres = task_centres(tasks, dim)
    side = 4 * math.sin(math.pi / tasks)  # of the regular polygon
    for task in range(tasks):
        assert oracles.distance(centres[task].tolist(), [0] * dim) == pytest.approx(2, abs=1e-5)
        assert oracles.distance(centres[task].tolist(), centres[task - 1].tolist()) == pytest.approx(side, abs=1e-5)


def test_free_outputs_keep_their_draw():
    draw = torch.randn(5, 2)
    assert torch.equal(output_places(draw, (3, 2), "free"), draw)


def test_task_outputs_sit_around_their_tasks_place():
    draw = torch.randn(5, 2)
    expected = [[x * 0.3 + (-2 if unit < 3 else 2), y * 0.3] for unit, (x, y) in enumerate(draw.tolist())]
    torch.testing.assert_close(output_places(draw, (3, 2), "task"), torch.tensor(expected))


def test_an_unknown_placement_is_refused_by_name():
    with pytest.raises(ValueError, match="outputs must be one of free, task, got 'sideways'"):
        output_places(torch.zeros(2, 2), (2,), "sideways")
