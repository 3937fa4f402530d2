import math

import oracles
import pytest
import torch
from helpers import LINE, PLANE, alexnet, conv, hooks, lenet, line, local, mlp, moved, noise_tasks, parameters, units
from torch import nn

from spatial import graph
from spatial.maps import maps_of, shuffled_variance, spatial_variance, uniform_variance, variances
from spatial.tasks import INPUTS

SIZES, CLASSES = (9, 5, 7), (3, 8, 2)
every_dim = pytest.mark.parametrize("dim", [1, 2, 3])
every_draw = pytest.mark.parametrize("draw", ["normal", "grid", "coincident"])


def plane(edge):
    return torch.tensor([[x, -y] for y in range(edge) for x in range(edge)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("activity", "places", "expected"),
    [
        ([5], line(3), 0),
        ([0, 0, 2, 0], plane(2), 0),
        ([1, 1], line(0, 3), 9 / 2),
        ([1, 99], line(0, 3), 9 / 2),  # whatever their weights
        ([0, 1e-6, 0, 1], plane(2), 1 / 2),
        ([1, 0, 0, 0, 0, 0, 0, 0, 7], plane(3), 8 / 2),
        ([1, 1, 1, 1], plane(2), 4 / 6),
        ([1] * 49, plane(7), 49 / 6),
        ([1] * 49, line(*range(49)), 49 * 50 / 12),
        ([1, 1, 1], line(0, 1, 2), 1),
        ([1, 2, 1], line(0, 1, 2), 4 / 5),  # pairs 1-2 and 2-3 weigh 2 each at distance 1, 1-3 weighs 1 at 2
        ([1, 1, 8], line(0, 0, 4), 16 * 16 / 17 / 2),  # two units at one place are two
        ([1, 1], line(2, 2), 0),
    ],
)
def test_spatial_variance_by_hand(activity, places, expected):
    found = spatial_variance(torch.tensor([activity], dtype=torch.float64), places)
    assert found.tolist() == [pytest.approx(expected, rel=1e-9)]


def test_an_empty_map_has_no_spatial_variance():
    maps = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert spatial_variance(maps, line(0, 1, 2)).tolist() == pytest.approx([math.nan, 0, math.nan, 2], nan_ok=True)
    assert spatial_variance(maps[:0], line(0, 1, 2)).shape == (0,)


def activity(images=12, units=9, share=0.5):
    """Maps of which some units are silent, one of them empty and one of a single unit."""
    maps = torch.rand(images, units, dtype=torch.float64) * (torch.rand(images, units) < share)
    maps[3] = maps[5] = 0
    maps[5, 2] = 0.7
    return maps


@every_dim
@every_draw
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_spatial_variance_is_the_oracles(dim, draw, share):
    maps, (places, _) = activity(share=share), units(9, dim, draw=draw)
    expected = [oracles.spatial_variance(each.tolist(), places.tolist()) for each in maps]
    found = spatial_variance(maps, places).tolist()
    assert found == pytest.approx([math.nan if each is None else each for each in expected], abs=1e-12, nan_ok=True)
    assert math.isnan(found[3]) and found[5] == 0


def test_spatial_variance_is_that_around_the_centre_of_mass():
    """The definition, for one map, in loops."""
    activity, places = [0.5, 0.0, 2.0, 1.5], [[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, -1.0]]
    a = [x / sum(activity) for x in activity]
    centre = [sum(share * place[axis] for share, place in zip(a, places, strict=True)) for axis in (0, 1)]
    spread = sum(share * oracles.distance(place, centre) ** 2 for share, place in zip(a, places, strict=True))
    found = spatial_variance(torch.tensor([activity]), torch.tensor(places)).item()
    assert found == pytest.approx(spread / (1 - sum(share**2 for share in a)), rel=1e-12)


@every_dim
def test_spatial_variance_does_not_change_when_a_sheet_is_moved_or_a_map_scaled(dim):
    maps, (places, _) = activity(), units(9, dim)
    expected = pytest.approx(spatial_variance(maps, places).tolist(), rel=1e-9, abs=1e-12, nan_ok=True)
    assert spatial_variance(maps, *moved(places)).tolist() == expected
    assert spatial_variance(maps, places + 1000).tolist() == expected
    assert spatial_variance(1e-6 * maps, places).tolist() == expected
    assert spatial_variance(1e6 * maps * torch.rand(12, 1), places).tolist() == expected  # each by a factor of its own
    order = torch.randperm(9)
    assert spatial_variance(maps[:, order], places[order]).tolist() == expected


@pytest.mark.parametrize("spacing", [1e-3, 2, 100])
def test_spatial_variance_grows_with_the_square_of_the_spacing(spacing):
    maps = activity()
    expected = (spacing**2 * spatial_variance(maps, plane(3))).tolist()
    assert spatial_variance(maps, spacing * plane(3)).tolist() == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_spatial_variance_is_that_of_every_map_alone():
    maps = activity()
    alone = [spatial_variance(each[None], plane(3)).item() for each in maps]
    assert spatial_variance(maps, plane(3)).tolist() == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_spatial_variance_is_of_float64_and_leaves_its_arguments_alone():
    maps, places = activity().float().requires_grad_(), plane(3).float().requires_grad_()
    kept = maps.detach().clone()
    found = spatial_variance(maps, places)
    assert found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found, spatial_variance(kept.double(), plane(3)), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(maps, kept)
    assert spatial_variance(torch.tensor([[0, 3, 1, 0]]), plane(2)).tolist() == [pytest.approx(1)]


def test_a_shuffled_maps_variance_is_that_of_units_that_changed_places():
    maps, places = activity(), plane(3)
    orders = torch.stack([torch.arange(9), *(torch.randperm(9) for _ in range(4))])
    found = shuffled_variance(maps, places, orders)
    assert found.shape == (12, 5)
    for column, order in zip(found.T, orders, strict=True):
        expected = [oracles.spatial_variance(each.tolist(), [places[u].tolist() for u in order]) for each in maps]
        expected = [math.nan if each is None else each for each in expected]
        assert column.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: spatial_variance(torch.ones(4), plane(2)), r"\[images, units\], .* got \[4\], \[4, 2\]"),
        (lambda: spatial_variance(torch.ones(2, 4, 1), plane(2)), r"got \[2, 4, 1\], \[4, 2\]"),
        (lambda: spatial_variance(torch.ones(2, 4), torch.ones(4)), r"got \[2, 4\], \[4\]"),
        (lambda: spatial_variance(torch.ones(2, 4), plane(3)), r"got \[2, 4\], \[9, 2\]"),
        (lambda: spatial_variance(torch.tensor([[1.0, 1, 1, -1e-9]]), plane(2)), "must not be negative"),
    ],
)
def test_maps_that_do_not_fit_are_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()


@pytest.mark.parametrize(
    ("units", "sheet", "expected"),
    [
        (49, "plane", 49 / 6),
        (16, "plane", 16 / 6),
        (49, "line", 49 * 50 / 12),
        (5, "line", 5 * 6 / 12),
        (1, "plane", 0),
    ],
)
def test_the_uniform_maps_variance_by_hand(units, sheet, expected):
    assert uniform_variance(units, sheet) == pytest.approx(expected)
    places = oracles.sheet(units, 1, sheet)
    assert uniform_variance(units, sheet) == pytest.approx(oracles.spatial_variance([1] * units, places))


# Of a network.


@pytest.mark.parametrize(
    ("model", "expected", "charged"),
    [
        (lenet(prior=PLANE), [0, 1], [0, 1]),
        (lenet(layers=(49, 49)), [0, 1], [0, 1]),
        (lenet(layers=(5, 5), prior=LINE), [0, 1], [0, 1]),
        (lenet(layers=(5, 5)), [], []),  # its control cannot be laid out
        (alexnet(prior=PLANE), [0, 1], [0, 1]),
        (alexnet(layers=(9, 16)), [0, 1], []),
        (local(layers=(4, 9, 9)), [1, 2], [1, 2]),
        (local(layers=(4, 4, 5, 9, 9, 9)), [0, 1, 3, 4, 5], [0, 1, 3, 4, 5]),
        (local(layers=(4, 5, 5), prior=LINE), [1, 2], [1, 2]),
        (mlp(layers=(4, 9, 9)), [0, 1, 2], []),  # a control: its places are anybody's where nothing charges them
        (mlp(layers=(6, 9, 1, 16), classes=(2, 2)), [1, 3], []),  # 4 outputs are no map, nor is a single unit
        (mlp(layers=(6, 5)), [], []),
        (conv(layers=(4, 9)), [], []),
    ],
    ids=[
        "lenet", "control", "line", "odd control", "alexnet", "its control", "local", "two pairs", "odd line",
        "mlp", "some", "none", "conv",
    ],
)  # fmt: skip
def test_the_layers_that_have_maps(model, expected, charged):
    names = list(graph.placed(model))
    assert [names.index(layer) for layer in maps_of(model)] == expected
    assert [names.index(layer) for layer in maps_of(model, charged=True)] == charged


def sheets_of(units):
    return ["line", "plane"] if math.isqrt(units) ** 2 == units else ["line"]


def assert_variances(found, activations):
    """What was found is the oracle's of ``activations[layer][image]``, layers by index."""
    kinds = {layer: sheets_of(len(images[0])) for layer, images in activations.items()}
    assert set(found) == {f"layer-{layer}/{kind}" for layer in kinds for kind in kinds[layer]}
    for layer, images in activations.items():
        for kind in kinds[layer]:
            places = oracles.sheet(len(images[0]), 1, kind)
            expected = [oracles.spatial_variance([abs(x) for x in image], places) for image in images]
            expected = [math.nan if each is None else each for each in expected]
            values = found[f"layer-{layer}/{kind}"]
            assert values.dtype == "float64" and values.shape == (len(images),)
            assert values.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_variances_of_a_network_with_a_prior_are_the_oracles(input, batch_size):
    tasks = noise_tasks(input, SIZES, CLASSES)
    model = local(shape=(3 if input == "concatenate" else 1, 4, 4), classes=CLASSES, activation="Tanh")
    found = variances(model, tasks, maps_of(model), batch_size)
    weights, biases = parameters(model)
    prior = oracles.locality_prior(9, 9, "plane", "euclidean", "linear", False)
    weights[2] = oracles.attenuated(weights[2], prior, "connections")
    images = tasks.batch(tasks.scoring_order()).images.flatten(1).tolist()
    layers = list(zip(*(oracles.forward(weights, biases, "Tanh", pixels) for pixels in images), strict=True))
    assert len(images) == (21 if input == "sequential" else 9)
    assert_variances(found, {1: layers[1], 2: layers[2]})


@pytest.mark.parametrize("prior", [None, PLANE, LINE], ids=["control", "plane", "line"])
def test_variances_of_lenet_are_those_of_every_image_alone(prior):
    tasks, model = noise_tasks(sizes=(11, 6), size=16), lenet(layers=(9, 9) if prior != LINE else (5, 5), prior=prior)
    found = variances(model, tasks, maps_of(model), batch_size=4)
    activations = {0: [], 1: []}
    for image in tasks.batch(tasks.scoring_order()).images:
        x = (image[None] - 0.1307) / 0.3081
        for block in model.conv:
            x = nn.functional.max_pool2d(block(x), 2).relu()
        first = model.linear[0](x.flatten(1)).relu()
        activations[0].append(first[0].tolist())
        activations[1].append(model.norm(model.linear[1](first)).relu()[0].tolist())
    assert_variances(found, activations)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prior", [None, PLANE], ids=["control", "plane"])
def test_variances_of_alexnet_are_those_of_every_image_alone(prior):
    tasks, model = noise_tasks(sizes=(5, 3), size=63), alexnet(prior=prior)
    found = variances(model, tasks, maps_of(model), batch_size=2)
    activations = {0: [], 1: []}
    for image in tasks.batch(tasks.scoring_order()).images:
        x = model.avgpool(model.features((image[None] - 0.449) / 0.226))
        first = model.linear[0](x.flatten(1)).relu()
        activations[0].append(first[0].tolist())
        activations[1].append(model.norm(model.linear[1](first)).relu()[0].tolist())
    assert_variances(found, activations)


def test_variances_of_empty_maps_are_none():
    tasks, model = noise_tasks(sizes=(8, 8)), local(layers=(9, 9, 4))
    with torch.no_grad():
        model.linear[1].bias[:] = -100
        model.linear[1].bias[4] = 100
        model.linear[0].bias[:] = -100
    found = variances(model, tasks, maps_of(model))
    assert list(found) == ["layer-0/line", "layer-0/plane", "layer-1/line", "layer-1/plane"]
    assert all(math.isnan(value) for value in found["layer-0/plane"])
    assert found["layer-1/line"].tolist() == [0] * 8  # one unit alone is active
    with torch.no_grad():
        model.linear[0].bias[:] = 0
        model.linear[0].weight[:] = 0
        model.linear[0].weight[2:4, 0] = torch.tensor([1.0, 2.0])  # active where the first pixel is
    tasks.images[0][:5, 0, 0, 0] = tasks.images[1][:, 0, 0, 0] = 0
    found = variances(model, tasks, maps_of(model), batch_size=3)
    assert found["layer-0/line"].tolist() == pytest.approx([math.nan] * 5 + [0.5] * 3, nan_ok=True)
    assert found["layer-0/plane"].tolist() == pytest.approx([math.nan] * 5 + [5 / 2] * 3, nan_ok=True)


def test_variances_are_of_the_layers_that_are_asked_for():
    tasks, model = noise_tasks(), mlp(layers=(9, 6, 4))
    assert list(variances(model, tasks, ["linear.0", "linear.1"])) == ["layer-0/line", "layer-0/plane", "layer-1/line"]
    assert variances(model, tasks, []) == {}
    assert hooks(model) == 0 and not model.training
