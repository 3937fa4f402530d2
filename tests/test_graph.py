import oracles
import pytest
import torch
from helpers import LINE, PLANE, Flattened, alexnet, conv, hand_made, lenet, local, mlp, shrink
from torch import nn

from spatial import graph
from spatial.layers import SpatialConv2d
from spatial.locality import ON
from spatial.models import build
from spatial.positions import pixel_grid


def placed_inputs(shape=(2, 2, 3), layers=(6, 5), dim=2):
    arguments = {"shape": shape, "layers": layers, "classes": (3, 2), "dim": dim, "input_positions": "grid"}
    return build("mlp", arguments, 0)


def grouped(groups, ins=4, outs=6, kernel=2):
    """A network of a convolution that reads another's channels in groups."""
    model = nn.Module()
    model.source, model.target = SpatialConv2d(1, ins, 1), SpatialConv2d(ins, outs, kernel, groups=groups)
    model.connections = [("source", "target")]
    return model


def flat(taps):
    return [weight for row in taps for weight in row]


def test_placed_layers_come_from_input_to_output():
    model = mlp(layers=(6, 5), classes=(3, 2))
    assert [len(place) for place in graph.positions(model).values()] == [6, 5, 5]
    assert list(graph.placed(model)) == ["linear.0", "linear.1", "linear.2"]


def test_layers_without_places_are_left_out():
    assert graph.placed(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == {}


def test_connections_join_neighbouring_layers():
    assert graph.connections(mlp(layers=(6, 5))) == [("linear.0", "linear.1"), ("linear.1", "linear.2")]


@pytest.mark.parametrize(
    ("where", "targets"),
    [
        (None, ["linear.1", "linear.2"]),
        ([0], []),
        ([2], ["linear.2"]),
        ([0, 1], ["linear.1"]),
        ([2, 1], ["linear.1", "linear.2"]),
    ],
)
def test_charged_connections_are_those_into_the_chosen_layers(where, targets):
    assert [edge.target for edge in graph.charged(mlp(layers=(6, 5)), where)] == targets


def test_weight_holds_all_weights_of_a_pair_of_units():
    model = mlp(layers=(6, 5))
    edge = graph.connections(model)[0]
    assert graph.weight(model, edge).shape == (5, 6, 1)
    assert torch.equal(graph.weight(model, edge)[:, :, 0], model.linear[1].weight)


def test_a_unit_may_hold_several_features():
    model = mlp(layers=(6, 5))
    model.linear[0].positions = nn.Parameter(torch.randn(3, 2))  # as a channel of two features
    weight = graph.weight(model, graph.connections(model)[0])
    assert weight.shape == (5, 3, 2)
    assert torch.equal(weight[:, 1], model.linear[1].weight[:, 2:4])


def test_outgoing_sums_the_weights_that_read_a_unit():
    weights = [torch.randn(3, 2).tolist(), torch.randn(4, 3).tolist(), torch.randn(5, 4).tolist()]
    sums = graph.outgoing(hand_made(weights, (3, 2)))
    assert list(sums) == ["linear.0", "linear.1"]
    for layer, readers in zip(sums.values(), weights[1:], strict=True):
        assert layer.tolist() == pytest.approx(oracles.outgoing(readers), rel=1e-6)


def test_a_convolution_joins_two_channels_by_its_taps():
    model = conv()
    edge = graph.connections(model)[0]
    assert edge == ("conv.0", "conv.1")
    model.norms = {}
    assert torch.equal(graph.weight(model, edge), model.conv[1].weight.flatten(2))
    assert graph.weight(model, edge).shape == (5, 6, 25)


def test_a_flattened_channel_feeds_by_all_its_features():
    model = Flattened()
    weight = graph.weight(model, graph.connections(model)[1])
    assert weight.shape == (5, 6, 6)
    assert weight.tolist() == oracles.by_unit(model.output.weight.tolist(), 6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_grouped_convolution_joins_nothing_across_groups(groups):
    model = grouped(groups)
    edge = graph.connections(model)[0]
    weight = graph.weight(model, edge)
    assert weight.shape == (6, 4, 4)
    assert graph.density(model, edge) == 1 / groups
    for found, expected in zip(weight.tolist(), oracles.ungrouped(model.target.weight.tolist(), groups), strict=True):
        assert found == [flat(taps) or [0.0] * 4 for taps in expected]


def test_a_depthwise_convolution_joins_each_channel_with_its_own():
    model = grouped(4, outs=8)
    weight = graph.weight(model, graph.connections(model)[0])
    assert (weight.abs().sum(2) > 0).tolist() == [[j // 2 == i for i in range(4)] for j in range(8)]


def test_the_blocks_of_a_grouped_convolution_do_what_it_does():
    model = grouped(2, kernel=3)
    model.target.padding = (1, 1)
    whole = graph.weight(model, graph.connections(model)[0]).unflatten(2, (3, 3))
    images = torch.randn(2, 4, 5, 5)
    expected = nn.functional.conv2d(images, whole, model.target.bias, padding=1)
    torch.testing.assert_close(model.target(images), expected)


@pytest.mark.parametrize("model", [conv(), Flattened()], ids=["conv", "grouped"])
def test_a_batch_norm_is_folded_into_the_weights_before_it(model):
    model = model.double()
    for layer, name in model.norms.items():
        norm = model.get_submodule(name)
        assert graph.norm(model, layer) is norm
        weight = model.get_submodule(layer).weight.tolist()
        folded = oracles.folded(weight, norm.weight.tolist(), norm.running_var.tolist(), norm.eps)
        for edge in graph.connections(model):
            if edge.target == layer:
                whole = oracles.ungrouped(folded, model.get_submodule(layer).groups)
                found = graph.weight(model, edge)
                for j, row in enumerate(whole):
                    for i, taps in enumerate(row):
                        expected = flat(taps) or [0.0] * found.shape[2]
                        assert found[j, i].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_folded_weight_is_the_networks_own():
    model = conv().double()
    edge, norm = graph.connections(model)[0], model.norm[1]
    maps = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    offset = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
    whole = graph.weight(model, edge).unflatten(2, (5, 5))
    expected = nn.functional.conv2d(maps, whole, offset, 2, 2)
    torch.testing.assert_close(norm(model.conv[1](maps)), expected)


def test_a_layer_without_a_batch_norm_has_none():
    assert graph.norm(mlp(), "linear.0") is None
    assert graph.norm(conv(), "linear") is None
    assert graph.norm(Flattened(), "first") is None


def test_gradients_reach_weight_and_gain_but_not_the_variance():
    model = conv()
    graph.weight(model, graph.connections(model)[0]).square().sum().backward()
    assert model.conv[1].weight.grad.abs().max() > 0
    assert model.norm[1].weight.grad.abs().min() > 0
    assert not model.norm[1].running_var.requires_grad


@pytest.mark.parametrize(
    "model",
    [conv(), Flattened(), lenet(prior=PLANE), alexnet(prior=LINE)],
    ids=["conv", "grouped", "lenet", "alexnet"],
)
def test_shrinking_the_weights_before_a_batch_norm_changes_nothing(model):
    images, small = torch.rand(3, *model.shape), shrink(model)
    torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)
    for edge in graph.connections(model):
        torch.testing.assert_close(graph.weight(small, edge), graph.weight(model, edge))
    for layer, sums in graph.outgoing(model).items():
        torch.testing.assert_close(graph.outgoing(small)[layer], sums)


def test_outgoing_sums_all_taps_and_features():
    model = Flattened()
    whole = oracles.ungrouped(
        oracles.folded(
            model.grouped.weight.tolist(), model.norm.weight.tolist(), model.norm.running_var.tolist(), model.norm.eps
        ),
        2,
    )
    sums = graph.outgoing(model)
    assert list(sums) == ["first", "grouped"]
    assert sums["first"].tolist() == pytest.approx(oracles.outgoing(oracles.strengths(whole)), rel=1e-5)
    features = oracles.strengths(oracles.by_unit(model.output.weight.tolist(), 6))
    assert sums["grouped"].tolist() == pytest.approx(oracles.outgoing(features), rel=1e-5)


def test_a_layer_that_two_others_read_sums_over_both():
    model = mlp(layers=(4, 4))
    model.connections = [("linear.0", "linear.1"), ("linear.1", "linear.2"), ("linear.0", "linear.2")]
    expected = model.linear[1].weight.abs().sum(0) + model.linear[2].weight.abs().sum(0)
    torch.testing.assert_close(graph.outgoing(model)["linear.0"], expected.detach())


def test_inputs_have_places_where_the_network_says_so():
    model = placed_inputs()
    assert list(graph.positions(model)) == ["linear.0", "linear.1", "linear.2"]
    assert list(graph.places(model)) == ["linear.0", "linear.1", "linear.2", graph.INPUT]
    assert torch.equal(graph.places(model)[graph.INPUT], pixel_grid((2, 2, 3), 2))
    assert graph.INPUT not in graph.places(mlp())
    assert graph.INPUT not in graph.places(conv())


def test_placed_inputs_make_the_first_layer_chargeable():
    model = placed_inputs()
    assert graph.charged(model, [0]) == [("input", "linear.0")]
    assert graph.weight(model, graph.connections(model)[0]).shape == (6, 12, 1)
    assert list(graph.outgoing(model)) == ["linear.0", "linear.1"]  # pixels are no units


@pytest.mark.parametrize("groups", [1, 2])
def test_scale_multiplies_what_a_unit_is_read_by(groups):
    model, factors = grouped(groups), torch.tensor([2.0, 0.0, 0.5, -1.0])
    edge = graph.connections(model)[0]
    before = graph.weight(model, edge).detach().clone()
    graph.scale(model, edge, factors)
    torch.testing.assert_close(graph.weight(model, edge), before * factors[:, None])


def test_scale_reaches_all_features_of_a_channel():
    model, factors = Flattened(), torch.arange(6.0)
    before = model.output.weight.detach().clone()
    graph.scale(model, graph.connections(model)[1], factors)
    for feature in range(36):
        assert torch.equal(model.output.weight[:, feature], before[:, feature] * (feature // 6))


def test_scaling_by_a_factor_scales_what_is_read():
    model, factors = Flattened().double(), torch.rand(4, dtype=torch.float64)
    maps = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    expected = model.grouped(maps * factors[:, None, None])
    graph.scale(model, graph.connections(model)[0], factors)
    torch.testing.assert_close(model.grouped(maps), expected)


def test_remove_zeroes_all_that_makes_a_unit_and_nothing_else():
    model, gone = Flattened(), torch.tensor([True, False, False, True, False, False])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph.remove(model, "grouped", gone)
    after = model.state_dict()
    for name, empty in (
        ("grouped.weight", 0),
        ("grouped.bias", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("norm.running_mean", 0),
        ("norm.running_var", 1),
    ):
        assert (after[name][gone] == empty).all()
        assert torch.equal(after[name][~gone], before.pop(name)[~gone])
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_removed_channel_is_black_on_every_image():
    model, gone = Flattened(), torch.tensor([True, False, False, True, False, False])
    graph.remove(model, "grouped", gone)
    maps = model.norm(model.grouped(torch.randn(2, 4, 3, 2)))
    assert maps[:, gone].abs().max() == 0
    assert maps[:, ~gone].abs().min() > 0


def test_remove_copes_without_a_bias():
    model = conv()
    graph.remove(model, "conv.0", torch.tensor([True] + [False] * 5))
    assert model.conv[0].weight[0].abs().max() == 0


def test_spread_gives_every_feature_its_units_value():
    assert graph.spread(torch.tensor([3, 5]), 6).tolist() == [3, 3, 3, 5, 5, 5]
    assert graph.spread(torch.tensor([3, 5]), 2).tolist() == [3, 5]


# Locality priors and sheets.

PRIORS = [
    {"topology": "plane", "metric": "chebyshev", "decay": "linear", "normalize": False},
    {"topology": "line", "metric": "euclidean", "decay": "square", "normalize": True},
]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (mlp(), []),
        (conv(), []),
        (Flattened(), []),
        (local((4, 9, 9)), ["linear.1", "linear.2"]),
        (local((9, 9, 9, 4)), ["linear.0", "linear.1", "linear.2"]),
        (local((4, 4, 5, 9, 9)), ["linear.0", "linear.1", "linear.3", "linear.4"]),
        (lenet(prior=PLANE), ["linear.0", "linear.1"]),
        (lenet(prior=LINE), ["linear.0", "linear.1"]),
        (lenet(), ["linear.0", "linear.1"]),
        (lenet(layers=(9, 4), prior=PLANE), ["linear.0", "linear.1"]),
        (lenet(layers=(9, 7)), []),
        (alexnet(prior=PLANE), ["linear.0", "linear.1"]),
        (alexnet(layers=(9, 4), prior=LINE), ["linear.0", "linear.1"]),
        (alexnet(layers=(49, 49)), []),
    ],
    ids=[
        "mlp", "conv", "grouped", "local", "all local", "two pairs", "plane", "line", "control", "two sizes", "other",
        "alexnet", "alexnet on a line", "alexnet's control",
    ],
)  # fmt: skip
def test_the_layers_on_a_sheet_are_named(model, names):
    assert graph.on_sheet(model) == names


def test_a_layer_without_a_prior_is_its_own_plain_layer():
    for layer in (*graph.placed(mlp()).values(), *graph.placed(conv()).values()):
        weight, bias = graph.effective(layer)
        assert weight is layer.weight and bias is layer.bias


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("prior", PRIORS, ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(9, 9), (9, 4), (4, 16)])
@pytest.mark.parametrize("make", [lenet, alexnet])
def test_what_joins_two_units_is_the_prior_times_the_weight_under_its_batch_norm(make, on, prior, inputs, outputs):
    model = make(layers=(inputs, outputs), prior=prior | {"on": on}).double()
    layer, norm = model.linear[1], model.norm
    expected = oracles.folded(
        oracles.attenuated(layer.weight.tolist(), oracles.locality_prior(inputs, outputs, *prior.values()), on),
        norm.weight.tolist(),
        norm.running_var.tolist(),
        norm.eps,
    )
    found = graph.weight(model, graph.connections(model)[0])
    assert found.shape == (outputs, inputs, 1)
    torch.testing.assert_close(found[:, :, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_without_a_batch_norm_too(on, prior):
    model = local((4, 9, 9), prior=prior | {"on": on}).double()
    near = oracles.locality_prior(9, 9, *prior.values())
    expected = oracles.attenuated(model.linear[2].weight.tolist(), near, on)
    below, local_, above = (graph.weight(model, edge)[:, :, 0] for edge in graph.connections(model))
    torch.testing.assert_close(local_, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.equal(below, model.linear[1].weight) and torch.equal(above, model.linear[3].weight)
    sums = graph.outgoing(model)["linear.1"]
    assert sums.tolist() == pytest.approx(oracles.outgoing(expected), rel=1e-12)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("training", [True, False])
def test_the_weight_with_a_prior_is_the_networks_own(on, training):
    model = lenet(layers=(9, 9), prior=PLANE | {"on": on}).double().train(training)
    x = torch.randn(3, 9, dtype=torch.float64)
    model.norms = {}
    whole = graph.weight(model, graph.connections(model)[0])[:, :, 0]
    _, bias = graph.effective(model.linear[1])
    torch.testing.assert_close(nn.functional.linear(x, whole, bias), model.linear[1](x))


@pytest.mark.parametrize("on", ON)
def test_gradients_reach_weight_and_gain_through_the_prior(on):
    model = lenet(prior=PLANE | {"on": on})
    graph.weight(model, graph.connections(model)[0]).square().sum().backward()
    assert model.linear[1].weight.grad.abs().min() > 0
    assert model.norm.weight.grad.abs().min() > 0
    assert model.linear[1].positions.grad is None


@pytest.mark.parametrize("on", ON)
def test_a_prior_scales_and_removes_as_a_plain_layer_does(on):
    model, factors = lenet(layers=(9, 9), prior=PLANE | {"on": on}), torch.linspace(0, 2, 9)
    edge, gone = graph.connections(model)[0], torch.arange(9) % 3 == 0
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        model(images)  # a product is kept from here
    before = graph.weight(model, edge).detach().clone()
    graph.scale(model, edge, factors)
    torch.testing.assert_close(graph.weight(model, edge), before * factors[:, None])
    graph.remove(model, "linear.1", gone)
    assert graph.weight(model, edge)[gone].abs().max() == 0
    with torch.no_grad():
        outputs = model.norm(model.linear[1](torch.randn(4, 9)))
    assert outputs[:, gone].abs().max() == 0
    assert outputs[:, ~gone].abs().min() > 0
