import math

import oracles
import pytest
import torch

from spatial import positions
from spatial.positions import (
    SHEETS,
    distance,
    is_square,
    line,
    output_groups,
    output_places,
    pixel_grid,
    plane,
    task_centres,
)


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


def test_held_outputs_start_as_task_outputs_do():
    draw = torch.randn(6, 3)
    assert torch.equal(output_places(draw, (3, 2, 1), "held"), output_places(draw, (3, 2, 1), "task"))


def test_arbitrary_outputs_sit_around_places_that_mix_the_tasks():
    assert output_groups((4, 3), "arbitrary").tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert output_groups((1, 3, 2), "arbitrary").tolist() == [0, 1, 2, 0, 1, 2]  # dealt on where the last task ended
    draw = torch.randn(7, 2)
    expected = [[x * 0.3 + (2 if unit % 2 else -2), y * 0.3] for unit, (x, y) in enumerate(draw.tolist())]
    torch.testing.assert_close(output_places(draw, (4, 3), "arbitrary"), torch.tensor(expected))


@pytest.mark.parametrize("classes", [(10, 10), (10, 26, 7), (5, 4, 9, 4), (3, 2, 2), (1, 1, 1)], ids=str)
def test_arbitrary_groups_take_every_tasks_outputs_evenly(classes):
    group, task = output_groups(classes, "arbitrary"), output_groups(classes)
    for each in range(len(classes)):
        sizes = [int((group[task == each] == place).sum()) for place in range(len(classes))]
        assert sum(sizes) == classes[each]
        assert max(sizes) - min(sizes) <= 1
    sizes = group.bincount(minlength=len(classes))
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("outputs", ["task", "held", "free"])
def test_groups_are_the_tasks_otherwise(outputs):
    assert output_groups((4, 1, 3), outputs).tolist() == [0, 0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("outputs", ["arbitrary", "task"])
def test_a_single_tasks_outputs_sit_around_the_origin(outputs):
    draw = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(output_places(draw, (3,), outputs), 0.3 * draw)


def test_an_unknown_placement_is_refused_by_name():
    with pytest.raises(ValueError, match="outputs must be one of free, task, held, arbitrary, got 'sideways'"):
        output_places(torch.zeros(2, 2), (2,), "sideways")


def test_a_grid_of_four_pixels_by_hand():
    upper_left, upper_right, lower_left, lower_right = [-1, 1], [1, 1], [-1, -1], [1, -1]
    assert pixel_grid((1, 2, 2), 2).tolist() == [upper_left, upper_right, lower_left, lower_right]


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 3, 5), (3, 4, 1), (1, 1, 2), (1, 1, 1)], ids=str)
def test_a_grid_is_the_oracles(shape, dim):
    places = pixel_grid(shape, dim)
    assert places.shape == (math.prod(shape), dim)
    for found, expected in zip(places.tolist(), oracles.pixel_grid(shape, dim), strict=True):
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_grid_has_the_order_of_a_flattened_image():
    places = pixel_grid((2, 4, 3), 2)
    columns = torch.arange(3.0).expand(2, 4, 3).flatten()  # images whose pixels say where they are
    rows = torch.arange(4.0)[:, None].expand(2, 4, 3).flatten()
    assert torch.corrcoef(torch.stack([places[:, 0], columns]))[0, 1] == pytest.approx(1)
    assert torch.corrcoef(torch.stack([places[:, 1], rows]))[0, 1] == pytest.approx(-1)  # y points upwards
    assert torch.equal(places[:12], places[12:])  # channels share places


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9)], ids=str)
def test_a_grid_is_centred_with_deviation_one_along_each_axis(shape):
    places = pixel_grid(shape, 3)
    torch.testing.assert_close(places.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(places.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))


def test_an_axis_of_one_pixel_has_no_extent():
    assert pixel_grid((1, 1, 2), 2).tolist() == [[-1, 0], [1, 0]]
    assert pixel_grid((1, 2, 1), 2).tolist() == [[0, 1], [0, -1]]
    assert pixel_grid((2, 1, 1), 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_grid_on_a_line_is_refused():
    with pytest.raises(ValueError, match="a grid of pixels needs 2 dimensions or more, got 1"):
        pixel_grid((1, 2, 2), 1)


# Sheets.


def test_lines_by_hand():
    assert line(4).tolist() == [[-1.5, 0], [-0.5, 0], [0.5, 0], [1.5, 0]]
    assert line(3, span=6).tolist() == [[-3, 0], [0, 0], [3, 0]]
    assert line(2, span=0).tolist() == [[0, 0], [0, 0]]


def test_planes_by_hand():
    upper_left, upper_right, lower_left, lower_right = [-1, 1], [1, 1], [-1, -1], [1, -1]
    assert plane(4).tolist() == [[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]
    assert plane(4, span=2).tolist() == [upper_left, upper_right, lower_left, lower_right]
    top, middle, bottom = (
        [upper_left, [0, 1], upper_right],
        [[-1, 0], [0, 0], [1, 0]],
        [lower_left, [0, -1], lower_right],
    )
    assert plane(9).tolist() == [*top, *middle, *bottom]


@pytest.mark.parametrize("sheet", [line, plane])
@pytest.mark.parametrize("span", [None, 0, 5])
def test_a_single_unit_sits_at_the_origin(sheet, span):
    assert sheet(1, span).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("topology", "units", "other"),
    [("line", 7, 7), ("line", 5, 8), ("line", 1, 4), ("plane", 16, 16), ("plane", 9, 49), ("plane", 1, 4)],
)
def test_a_sheet_is_the_oracles_centred_and_upright(topology, units, other):
    places = SHEETS[topology].places(units, SHEETS[topology].span(max(units, other)))
    expected = torch.tensor(oracles.sheet(units, other, topology), dtype=torch.float64)
    expected = (expected - expected.mean(0)) * torch.tensor([1.0, -1.0])  # the oracle's rows count downwards
    torch.testing.assert_close(places, expected)


@pytest.mark.parametrize("edge", [2, 5, 28])
def test_a_plane_lies_as_an_images_pixels_do(edge):
    grid = pixel_grid((1, edge, edge), 2)
    places = plane(edge * edge).float()
    torch.testing.assert_close(places / places.std(0, correction=0), grid)


@pytest.mark.parametrize(("topology", "units"), [("line", 6), ("plane", 36)])
def test_neighbours_are_one_apart(topology, units):
    d = distance(*[SHEETS[topology].places(units, None)] * 2)
    d.fill_diagonal_(math.inf)
    torch.testing.assert_close(d.min(1).values, torch.ones(units, dtype=torch.float64))


def test_the_span_of_unit_spacing_by_hand():
    assert list(SHEETS) == ["line", "plane"]
    assert [SHEETS["line"].span(units) for units in (1, 2, 7)] == [0, 1, 6]
    assert [SHEETS["plane"].span(units) for units in (1, 4, 49)] == [0, 1, 6]


@pytest.mark.parametrize("sheet", [line, plane])
def test_sheets_are_double_and_on_the_cpu_whatever_the_default(sheet):
    with torch.device("meta"):
        places = sheet(16)
    assert (places.dtype, places.device.type) == (torch.float64, "cpu")


def test_squares_by_hand():
    assert [units for units in range(-4, 51) if is_square(units)] == [1, 4, 9, 16, 25, 36, 49]


def test_large_squares_are_told_from_their_neighbours():
    square = (10**9 + 7) ** 2  # beyond what floats hold
    assert [is_square(square + step) for step in (-1, 0, 1)] == [False, True, False]


@pytest.mark.parametrize("units", [-1, 0])
def test_a_line_of_no_units_is_refused(units):
    with pytest.raises(ValueError, match=f"a line needs 1 unit or more, got {units}"):
        line(units)


@pytest.mark.parametrize("units", [-4, 0, 2, 48, 50])
@pytest.mark.parametrize("span", [None, 3], ids=["unit spacing", "a span"])
def test_a_plane_of_a_width_that_is_not_square_is_refused(units, span):
    with pytest.raises(ValueError, match=rf"a plane needs square widths \(1, 4, 9, 16, ...\), got {units}"):
        plane(units, span)
