import math
from copy import deepcopy

import oracles
import pytest
import torch
from helpers import LINE, PLANE, Flattened, alexnet, conv, lenet, local, mlp, same_state, shrink

from spatial import graph
from spatial.costs import (
    NORMS,
    PER,
    model_costs,
    model_weight_penalty,
    proximity,
    relax,
    scattered,
    transport,
)
from spatial.locality import ON
from spatial.models import build
from spatial.seeds import generator

both_norms = pytest.mark.parametrize("norm", NORMS)
both_readings = pytest.mark.parametrize("per", PER)


def layer(outs=4, ins=3, dim=2, taps=(), dtype=torch.float64):
    """Weights and places of a random connection."""
    return (
        torch.randn(outs, ins, *taps, dtype=dtype),
        torch.randn(outs, dim, dtype=dtype),
        torch.randn(ins, dim, dtype=dtype),
    )


def folded(model, layer):
    """A layer's weights under its batch norm, by the oracle."""
    weight, norm = model.get_submodule(layer).weight.tolist(), graph.norm(model, layer)
    return oracles.folded(weight, norm.weight.tolist(), norm.running_var.tolist(), norm.eps)


def places(model, layer):
    return model.get_submodule(layer).positions.tolist()


def placed_inputs(**changes):
    arguments = {"shape": (2, 2, 3), "layers": (5,), "classes": (3, 2), "dim": 3, "input_positions": "grid"}
    return build("mlp", arguments | changes, 0)


def rotation(dim):
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q


def test_the_worked_example_of_the_module():
    weight, readers, read = (
        torch.tensor([[3.0], [-1.0]]),
        torch.tensor([[0.0, 0.0], [0.0, 2.0]]),
        torch.tensor([[0.0, 1.0]]),
    )
    assert transport(weight, readers, read, "l1") == 2
    assert transport(weight, readers, read, "l2") == 5
    assert proximity(readers).item() == pytest.approx(math.exp(-2))


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (2,), (3, 2)], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_transport_is_the_oracles(norm, per, taps, dim):
    weight, target, source = layer(taps=taps, dim=dim)
    expected = oracles.transport(weight.tolist(), target.tolist(), source.tolist(), norm, per)
    assert transport(weight, target, source, norm, per).item() == pytest.approx(expected, rel=1e-12)


def test_transport_charges_the_square_per_connection_by_default():
    weight, target, source = layer()
    assert transport(weight, target, source) == transport(weight, target, source, "l2", "connection")


@pytest.mark.parametrize("units", [2, 3, 30])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_proximity_is_the_oracles(units, dim):
    places = torch.randn(units, dim, dtype=torch.float64)
    assert proximity(places).item() == pytest.approx(oracles.proximity(places.tolist()), rel=1e-12)


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (2,)], ids=str)
def test_gradients_of_transport(norm, per, taps):
    inputs = [each.requires_grad_() for each in layer(taps=taps)]
    assert torch.autograd.gradcheck(lambda *given: transport(*given, norm, per), inputs)


def test_gradients_of_proximity():
    assert torch.autograd.gradcheck(proximity, torch.randn(5, 2, dtype=torch.float64, requires_grad=True))


@both_norms
@both_readings
def test_coincident_neurons_pull_each_other_nowhere(norm, per):
    weight, target, source = (
        torch.ones(1, 1),
        torch.ones(1, 2, requires_grad=True),
        torch.ones(1, 2, requires_grad=True),
    )
    transport(weight, target, source, norm, per).backward()
    assert target.grad.tolist() == source.grad.tolist() == [[0, 0]]


def test_coincident_neurons_crowd_with_finite_gradients():
    places = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 0.0]], requires_grad=True)
    proximity(places).backward()
    assert places.grad.isfinite().all()
    assert torch.equal(places.grad[0], places.grad[1])  # only the third pushes them


def test_neurons_that_all_coincide_crowd_by_one():
    places = torch.zeros(4, 2, requires_grad=True)
    cost = proximity(places)
    cost.backward()
    assert cost == 1
    assert places.grad.abs().max() == 0


@both_norms
@both_readings
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_transport_does_not_change_under_rigid_motion(norm, per, dim):
    weight, target, source = layer(dim=dim)
    turn, shift = rotation(dim), torch.randn(dim, dtype=torch.float64)
    moved = transport(weight, target @ turn + shift, source @ turn + shift, norm, per)
    torch.testing.assert_close(moved, transport(weight, target, source, norm, per))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_proximity_does_not_change_under_rigid_motion(dim):
    places = torch.randn(6, dim, dtype=torch.float64)
    moved = places @ rotation(dim) + torch.randn(dim, dtype=torch.float64)
    torch.testing.assert_close(proximity(moved), proximity(places))


@both_norms
@both_readings
def test_transport_does_not_change_under_renumbering(norm, per):
    weight, target, source = layer(5, 4)
    rows, columns = torch.randperm(5), torch.randperm(4)
    renumbered = transport(weight[rows][:, columns], target[rows], source[columns], norm, per)
    torch.testing.assert_close(renumbered, transport(weight, target, source, norm, per))
    assert not torch.isclose(transport(weight, target[[1, 2, 3, 4, 0]], source, norm, per), renumbered)


def test_proximity_does_not_change_under_renumbering():
    places = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(proximity(places[torch.randperm(6)]), proximity(places))


@pytest.mark.parametrize(("norm", "factor"), [("l1", 6), ("l2", 12)])
def test_per_connection_scales_with_weights_and_lengths(norm, factor):
    weight, target, source = layer()
    scaled = transport(2 * weight, 3 * target, 3 * source, norm)
    torch.testing.assert_close(scaled, factor * transport(weight, target, source, norm))


@both_norms
@pytest.mark.parametrize("scale", [-7, 1e-3, 2])
def test_per_neuron_cannot_be_cheated_by_smaller_weights(norm, scale):
    weight, target, source = layer()
    before = transport(weight, target, source, norm, "neuron")
    torch.testing.assert_close(transport(scale * weight, target, source, norm, "neuron"), before)
    torch.testing.assert_close(transport(weight, 3 * target, 3 * source, norm, "neuron"), 3 * before)


@both_norms
def test_per_neuron_units_without_weights_contribute_zero(norm):
    weight, target, source = layer()
    weight[1], weight[:, 2] = 0, 0
    cost = transport(weight, target, source, norm, "neuron")
    assert cost.item() == pytest.approx(
        oracles.transport(weight.tolist(), target.tolist(), source.tolist(), norm, "neuron")
    )


@both_norms
@both_readings
def test_units_without_weights_keep_gradients_finite(norm, per):
    inputs = [each.requires_grad_() for each in layer()]
    with torch.no_grad():
        inputs[0][1], inputs[0][:, 2] = 0, 0
    transport(*inputs, norm, per).backward()
    for each in inputs:
        assert each.grad.isfinite().all()
    assert inputs[1].grad[1].abs().max() == 0
    assert inputs[2].grad[2].abs().max() == 0


@both_norms
def test_per_neuron_of_no_weight_at_all_is_zero(norm):
    weight, target, source = layer()
    assert transport(0 * weight, target, source, norm, "neuron") == 0


@both_norms
@both_readings
@pytest.mark.parametrize(("outs", "ins"), [(0, 3), (3, 0), (0, 0)])
def test_transport_of_nothing_is_zero(norm, per, outs, ins):
    inputs = [each.requires_grad_() for each in layer(outs, ins)]
    cost = transport(*inputs, norm, per)
    cost.backward()
    assert cost == 0


@both_readings
def test_transport_of_one_wire(per):
    assert transport(torch.tensor([[1.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]]), "l1", per) == 5


@pytest.mark.parametrize("units", [0, 1])
def test_proximity_of_at_most_one_neuron_is_zero(units):
    places = torch.randn(units, 2, requires_grad=True)
    cost = proximity(places)
    cost.backward()
    assert cost == 0
    assert places.grad.shape == (units, 2)


@both_norms
@both_readings
@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_costs_are_computed_in_float32_or_wider(norm, per, given, computed):
    weight, target, source = layer(20, 30, dtype=given)
    assert transport(weight, target, source, norm, per).dtype == computed
    assert proximity(target).dtype == computed


@both_readings
def test_bfloat16_is_raised_before_anything_is_summed(per):
    weight, target, source = layer(40, 40, dtype=torch.bfloat16)
    raised = transport(weight, target, source, per=per)
    assert torch.equal(raised, transport(weight.float(), target.float(), source.float(), per=per))
    assert torch.equal(proximity(target), proximity(target.float()))


@pytest.mark.parametrize(
    ("weight", "target", "source"),
    [
        ((3, 4), (4, 2), (3, 2)),  # transposed
        ((4, 3), (4, 2), (2, 2)),
        ((4,), (4, 2), (3, 2)),
        ((4, 3), (4,), (3, 2)),
        ((4, 3), (4, 2), (3, 2, 1)),
        ((4, 3), (4, 2), (3, 1)),  # spaces of different dimensions
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_named(weight, target, source):
    message = f"got {list(weight)}, {list(target)} and {list(source)}".replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=message):
        transport(torch.ones(weight), torch.ones(target), torch.ones(source))


@pytest.mark.parametrize("shape", [(4,), (4, 2, 1)], ids=str)
def test_proximity_wants_rows_of_places(shape):
    with pytest.raises(ValueError, match=r"positions must be \[n, dim\], got"):
        proximity(torch.ones(shape))


@pytest.mark.parametrize("wrong", [{"norm": "l3"}, {"per": "layer"}], ids=str)
def test_unknown_names_are_refused_with_the_known(wrong):
    with pytest.raises(ValueError, match=r"norm must be one of l1, l2 and per of connection, neuron, got .*(l3|layer)"):
        transport(*layer(), **wrong)


@both_norms
@both_readings
@pytest.mark.parametrize(("where", "targets"), [(None, [1, 2]), ([2], [2]), ([0, 1], [1])])
def test_a_models_transport_is_the_mean_over_its_charged_connections(norm, per, where, targets):
    model = mlp(layers=(6, 5)).double()
    terms = [
        oracles.transport(
            model.linear[index].weight.tolist(),
            model.linear[index].positions.tolist(),
            model.linear[index - 1].positions.tolist(),
            norm,
            per,
        )
        for index in targets
    ]
    assert model_costs(model, where, norm, per).transport.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_a_models_transport_without_a_charged_connection_is_zero():
    assert model_costs(mlp(), [0]).transport == 0


@pytest.mark.parametrize(("where", "layers"), [(None, [0, 1, 2]), ([1], [1]), ([0, 2], [0, 2])])
def test_a_models_proximity_is_the_mean_over_its_layers(where, layers):
    model = mlp(layers=(6, 1)).double()  # a layer of one unit counts, with 0
    terms = [oracles.proximity(model.linear[index].positions.tolist()) for index in layers]
    assert model_costs(model, where).proximity.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_costs_reach_weights_and_places():
    model = mlp(layers=(6, 5))
    (model_costs(model).transport + model_costs(model).proximity).backward()
    assert model.linear[0].weight.grad is None  # the inputs have no places
    assert model.linear[1].weight.grad.abs().min() > 0
    assert all(place.grad.abs().min() > 0 for place in graph.positions(model).values())


@pytest.mark.parametrize(("norm", "small"), [("l1", 1e-40), ("l2", 1e-20)])
def test_weights_that_all_but_vanish_give_finite_gradients(norm, small):
    weight = torch.tensor([[small, small], [1.0, 2.0]], requires_grad=True)
    target = torch.randn(2, 2, requires_grad=True)
    transport(weight, target, torch.randn(2, 2), norm, "neuron").backward()
    assert weight.grad.isfinite().all() and target.grad.isfinite().all()


# Convolutions, batch norms, groups, flattened channels.


@both_norms
@both_readings
@pytest.mark.parametrize(("where", "targets"), [(None, [1, 2]), ([1], [1]), ([0, 2], [2])], ids=str)
def test_a_convolutional_networks_transport_is_the_oracles(norm, per, where, targets):
    model = conv(classes=(2, 1)).double()
    heads = [[[weight] for weight in row] for row in model.linear.weight.tolist()]
    terms = {
        1: oracles.transport(folded(model, "conv.1"), places(model, "conv.1"), places(model, "conv.0"), norm, per),
        2: oracles.transport(heads, places(model, "linear"), places(model, "conv.1"), norm, per),
    }
    expected = sum(terms[target] for target in targets) / len(targets)
    assert model_costs(model, where, norm, per).transport.item() == pytest.approx(expected, rel=1e-9)


@both_norms
@both_readings
def test_transport_of_a_grouped_convolution_is_the_oracles(norm, per):
    model = Flattened().double()
    weight = oracles.ungrouped(folded(model, "grouped"), 2)
    if per == "connection":
        expected = oracles.mean_over_joined(weight, places(model, "grouped"), places(model, "first"), norm)
    else:
        expected = oracles.transport(weight, places(model, "grouped"), places(model, "first"), norm, per)
    assert model_costs(model, [1], norm, per).transport.item() == pytest.approx(expected, rel=1e-9)


@both_norms
@both_readings
def test_transport_of_a_flattened_channel_is_the_oracles(norm, per):
    model = Flattened().double()
    weight = oracles.by_unit(model.output.weight.tolist(), 6)
    expected = oracles.transport(weight, places(model, "output"), places(model, "grouped"), norm, per)
    assert model_costs(model, [2], norm, per).transport.item() == pytest.approx(expected, rel=1e-9)


def test_one_kernel_and_one_flattened_channel_by_hand():
    model = Flattened(classes=(1,))
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        model.first.positions[0] = torch.tensor([3.0, 4.0])  # 5 from all other units
        model.norm.weight.fill_(2)
        model.norm.running_var.fill_(4)
        model.norm.eps = 0.0
        model.grouped.weight[0, 0, 0] = torch.tensor([1.0, -2.0, 3.0])
        model.output.positions[0, 0] = 2.0
        model.output.weight[0, 6:9] = torch.tensor([1.0, -1.0, 5.0])  # features of channel 1
    # 6 channels read 2 each: 12 pairs, one of which has a weight
    assert model_costs(model, [1], "l1").transport.item() == pytest.approx(5 * 6 / 12)
    assert model_costs(model, [1], "l2").transport.item() == pytest.approx(5 * 14 / 12)
    assert model_weight_penalty(model, [1], "l1").item() == pytest.approx(6 / 12)
    assert model_costs(model, [2], "l1").transport.item() == pytest.approx(2 * 7 / 6)
    assert model_weight_penalty(model, [2], "l2").item() == pytest.approx(27 / 6)
    assert model_costs(model, None, "l1").transport.item() == pytest.approx((5 * 6 / 12 + 2 * 7 / 6) / 2)


@both_norms
@pytest.mark.parametrize(("where", "targets"), [(None, [1, 2]), ([1], [1]), ([2], [2])], ids=str)
def test_the_weight_penalty_is_the_oracles(norm, where, targets):
    model = Flattened().double()
    weights = {
        1: oracles.ungrouped(folded(model, "grouped"), 2),
        2: oracles.by_unit(model.output.weight.tolist(), 6),
    }
    terms = [oracles.mean_over_joined(weights[target], None, None, norm) for target in targets]
    assert model_weight_penalty(model, where, norm).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@both_norms
@pytest.mark.parametrize(
    "model", [mlp(), conv(), placed_inputs(), alexnet()], ids=["mlp", "conv", "placed inputs", "alexnet"]
)
def test_the_weight_penalty_is_transport_over_distances_of_one(norm, model):
    edges = graph.charged(model)
    units = [len(graph.places(model)[name]) for edge in edges for name in edge]
    apart = [transport(graph.weight(model, edge), torch.ones(n, 1), torch.zeros(m, 1), norm)
             for edge, m, n in zip(edges, units[::2], units[1::2], strict=True)]  # fmt: skip
    torch.testing.assert_close(model_weight_penalty(model, None, norm), torch.stack(apart).mean())


def test_the_weight_penalty_without_a_charged_connection_is_zero():
    assert model_weight_penalty(mlp(), [0]) == 0


@pytest.mark.parametrize(
    ("where", "norm"),
    [(None, "l1"), (None, "l2"), ([1], "l2")],
    ids=str,
)
def test_the_weight_penalty_does_not_move_anything(where, norm):
    model = conv()
    model_weight_penalty(model, where, norm).backward()
    assert model.conv[1].weight.grad.abs().max() > 0
    assert model.norm[1].weight.grad.abs().max() > 0
    assert all(place.grad is None for place in graph.positions(model).values())


@both_norms
@pytest.mark.parametrize("cost", [*PER, "penalty"])
@pytest.mark.parametrize("make", [conv, Flattened], ids=["conv", "grouped"])
def test_gradients_through_convolution_and_batch_norm(norm, cost, make):
    model = make(classes=(2, 1)).double() if make is Flattened else conv((1, 3, 3), (3, 2), (2, 1)).double()
    layer, norm_name = list(model.norms.items())[-1]
    inputs = [model.get_parameter(f"{layer}.weight"), model.get_parameter(f"{norm_name}.weight")]
    if cost != "penalty":
        inputs.append(model.get_parameter(f"{layer}.positions"))

    def value(*_):  # gradcheck changes the parameters in place
        if cost == "penalty":
            return model_weight_penalty(model, None, norm)
        return model_costs(model, None, norm, cost).transport

    assert torch.autograd.gradcheck(value, inputs)


@both_norms
@both_readings
def test_costs_reach_weights_gains_and_places_but_no_variance(norm, per):
    model = conv().train()
    model(torch.rand(4, 1, 6, 6))  # the statistics move
    (model_costs(model, None, norm, per).transport + model_costs(model).proximity).backward()
    assert model.conv[0].weight.grad is model.norm[0].weight.grad is None  # the inputs have no places
    assert model.conv[1].weight.grad.abs().min() > 0
    assert model.linear.weight.grad.abs().min() > 0
    assert all(place.grad.abs().max() > 0 for place in graph.positions(model).values())
    assert not model.norm[1].running_var.requires_grad
    if per == "connection":
        assert model.norm[1].weight.grad.abs().min() > 0


@both_norms
@both_readings
@pytest.mark.parametrize(
    "model",
    [conv(), Flattened(), lenet(prior=PLANE), alexnet(), alexnet(prior=PLANE)],
    ids=["conv", "grouped", "lenet", "alexnet", "local alexnet"],
)
def test_shrinking_the_weights_before_a_batch_norm_cheats_no_cost(norm, per, model):
    small = shrink(model)
    torch.testing.assert_close(
        model_costs(small, None, norm, per).transport, model_costs(model, None, norm, per).transport
    )
    torch.testing.assert_close(model_weight_penalty(small, None, norm), model_weight_penalty(model, None, norm))
    assert model_costs(small).proximity == model_costs(model).proximity


@both_norms
@both_readings
@pytest.mark.parametrize("where", [[0], None], ids=str)
def test_transport_from_placed_inputs_is_the_oracles(norm, per, where):
    model = placed_inputs().double()
    grid = oracles.pixel_grid((2, 2, 3), 3)
    first, last = model.linear
    terms = [oracles.transport(first.weight.tolist(), first.positions.tolist(), grid, norm, per)]
    if where is None:
        source, target = first.positions.tolist(), last.positions.tolist()
        terms.append(oracles.transport(last.weight.tolist(), target, source, norm, per))
    assert model_costs(model, where, norm, per).transport.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_placed_inputs_stay_where_they_are():
    model = placed_inputs()
    model_costs(model, [0]).transport.backward()
    assert model.linear[0].weight.grad.abs().min() > 0
    assert model.linear[0].positions.grad.abs().min() > 0
    assert not model.input_places.requires_grad
    assert model_costs(placed_inputs(input_positions=None), [0]).transport == 0


def test_placed_inputs_do_not_crowd():
    model = placed_inputs()
    terms = [oracles.proximity(place.tolist()) for place in graph.positions(model).values()]
    assert model_costs(model).proximity.item() == pytest.approx(sum(terms) / 2, rel=1e-5)


# Locality priors.


@both_norms
@both_readings
@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize(("where", "targets"), [(None, [1, 2]), ([1], [1]), ([0, 2], [2])], ids=str)
def test_transport_of_a_network_with_a_prior_is_the_oracles(norm, per, on, where, targets):
    model = local((9, 9), prior=PLANE | {"on": on, "metric": "cityblock"}).double()
    near = oracles.locality_prior(9, 9, "plane", "cityblock", "linear", False)
    weights = {
        1: oracles.attenuated(model.linear[1].weight.tolist(), near, on),
        2: model.linear[2].weight.tolist(),
    }
    layers = [place.tolist() for place in graph.positions(model).values()]
    terms = [oracles.transport(weights[at], layers[at], layers[at - 1], norm, per) for at in targets]
    assert model_costs(model, where, norm, per).transport.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    if per == "connection":
        terms = [oracles.transport(weights[at], [[1.0]] * len(weights[at]), [[0.0]] * 9, norm, per) for at in targets]
        assert model_weight_penalty(model, where, norm).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@both_norms
@both_readings
@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("make", [lenet, alexnet])
def test_transport_reads_a_prior_under_its_batch_norm(norm, per, on, make):
    model = make(layers=(4, 9), prior=LINE | {"on": on}).double()
    after = model.norm
    weight = oracles.attenuated(
        model.linear[1].weight.tolist(), oracles.locality_prior(4, 9, "line", "euclidean", "sqrt", False), on
    )
    weight = oracles.folded(weight, after.weight.tolist(), after.running_var.tolist(), after.eps)
    expected = oracles.transport(weight, places(model, "linear.1"), places(model, "linear.0"), norm, per)
    assert model_costs(model, [1], norm, per).transport.item() == pytest.approx(expected, rel=1e-9)


def test_one_wire_under_a_prior_by_hand():
    model = local((4, 4), classes=(1,))
    with torch.no_grad():
        for linear in model.linear:
            linear.weight.zero_()
        model.linear[1].weight[0, 1] = 3.0  # neighbours, one apart: half of it is left
        model.linear[1].weight[3, 3] = -5.0  # one above the other: all of it, along a wire of no length
    assert model_costs(model, [1], "l1").transport.item() == pytest.approx(3 / 2 / 16)
    assert model_costs(model, [1], "l2").transport.item() == pytest.approx((3 / 2) ** 2 / 16)
    assert model_weight_penalty(model, [1], "l1").item() == pytest.approx((3 / 2 + 5) / 16)
    assert model_costs(model, [1], "l1", "neuron").transport.item() == pytest.approx((1 / 4 + 1 / 4) / 2)


@pytest.mark.parametrize(
    "model",
    [local(), lenet(prior=PLANE), lenet(), alexnet(prior=PLANE), alexnet()],
    ids=["local", "lenet", "control", "local alexnet", "alexnet"],
)
def test_costs_of_a_sheet_reach_weights_and_the_places_that_learn(model):
    fixed = graph.on_sheet(model)
    (model_costs(model).transport + model_costs(model).proximity).backward()
    for edge in graph.connections(model):
        assert model.get_submodule(edge.target).weight.grad.abs().max() > 0
    for name, place in graph.positions(model).items():
        assert (place.grad is None) is (name in fixed)


@both_norms
@both_readings
@pytest.mark.parametrize("on", ON)
def test_gradients_through_a_prior(norm, per, on):
    model = local((4, 4), classes=(2,), prior=PLANE | {"on": on}).double()
    inputs = [model.linear[1].weight, model.linear[2].weight, model.linear[2].positions]
    assert torch.autograd.gradcheck(lambda *_: model_costs(model, None, norm, per).transport, inputs)


# Relaxing.


def cost(model, transport=1.0, proximity=1.0, **options):
    return (transport * model_costs(model, **options).transport + proximity * model_costs(model).proximity).item()


@pytest.mark.parametrize(
    "model",
    [mlp(), conv(), Flattened(), placed_inputs(), alexnet(dim=3)],
    ids=["mlp", "conv", "grouped", "placed inputs", "alexnet"],
)
def test_relaxing_lowers_the_cost_and_moves_only_neurons(model):
    before = deepcopy(model)
    relaxed = relax(model, steps=30)
    assert same_state(model, before)
    assert cost(relaxed) < cost(model)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, relaxed.state_dict()[name])]
    assert moved == [f"{layer}.positions" for layer in graph.placed(model)]
    assert relaxed is not model


@both_norms
@both_readings
def test_relaxing_lowers_the_cost_that_it_is_given(norm, per):
    model = mlp()
    relaxed = relax(model, transport=2, proximity=0.5, norm=norm, per=per, steps=30)
    options = {"transport": 2, "proximity": 0.5, "norm": norm, "per": per}
    assert cost(relaxed, **options) < cost(model, **options)


def test_relaxing_finds_the_one_place_that_is_best():
    model = mlp(layers=(3, 1), classes=(2,))
    relaxed = relax(model, proximity=0.0, held=["linear.0", "linear.2"], norm="l1", where=[1, 2], steps=200)
    found, wanted = relaxed.linear[1].positions.detach(), []
    for x in torch.linspace(-3, 3, 61):
        for y in torch.linspace(-3, 3, 61):
            with torch.no_grad():
                model.linear[1].positions[0] = torch.stack([x, y])
            wanted.append((model_costs(model, [1, 2], "l1").transport.item(), x.item(), y.item()))
    assert model_costs(relaxed, [1, 2], "l1").transport.item() <= min(wanted)[0] + 1e-4
    assert oracles.distance(found[0].tolist(), min(wanted)[1:]) < 0.2


def test_held_layers_stay():
    model = conv()
    relaxed = relax(model, held=["conv.0", "linear"], steps=5)
    assert torch.equal(relaxed.conv[0].positions, model.conv[0].positions)
    assert torch.equal(relaxed.linear.positions, model.linear.positions)
    assert not torch.equal(relaxed.conv[1].positions, model.conv[1].positions)


def test_layers_that_are_not_charged_stay():
    model = mlp(layers=(4, 4))
    relaxed = relax(model, where=[1], steps=5)
    assert torch.equal(relaxed.linear[2].positions, model.linear[2].positions)
    assert not torch.equal(relaxed.linear[0].positions, model.linear[0].positions)  # read by layer 1


@pytest.mark.parametrize("make", [mlp, conv])
def test_relaxing_is_deterministic_and_draws_nothing(make):
    state = torch.random.get_rng_state()
    one = relax(make(), steps=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert same_state(one, relax(make(), steps=5))


def test_relaxing_works_where_gradients_are_off():
    with torch.no_grad():
        quiet = relax(mlp(), steps=5)
    assert same_state(quiet, relax(mlp(), steps=5))


def test_relaxing_leaves_gradients_and_mode_alone():
    model = conv().train()
    model_costs(model).transport.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    relaxed = relax(model, steps=2)
    assert all(value.requires_grad and value.grad is gradients[name] for name, value in model.named_parameters())
    assert all(value.requires_grad for value in relaxed.parameters())
    assert relaxed.conv[1].weight.grad is relaxed.norm[1].weight.grad is None
    assert model.training and relaxed.training


def test_a_strong_proximity_unstacks_neurons_that_all_but_share_a_place():
    model = mlp(layers=(5,))
    with torch.no_grad():
        model.linear[0].positions.mul_(1e-3)
    relaxed = relax(model, proximity=10, steps=60)
    gaps = torch.pdist(relaxed.linear[0].positions.detach())
    assert gaps.min() > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": 3, "held": ["linear.0", "linear.1", "linear.2"]},
        {"steps": 3, "where": [0], "held": ["linear.0"]},
    ],
    ids=["no steps", "all held", "only a held layer charged"],
)
def test_relaxing_nothing_gives_a_copy(options):
    model = mlp()
    relaxed = relax(model, **options)
    assert same_state(relaxed, model)
    assert relaxed is not model


def test_scattered_neurons_are_a_copys_at_new_places():
    model = mlp()
    before = deepcopy(model)
    one, two = (scattered(model, generator(0, name)) for name in ("a", "b"))
    again = scattered(model, generator(0, "a"))
    assert same_state(model, before)
    assert same_state(one, again)
    for layer, place in graph.positions(model).items():
        first, second = graph.positions(one)[layer], graph.positions(two)[layer]
        assert not torch.equal(first, place) and not torch.equal(first, second)
        assert torch.equal(one.get_submodule(layer).weight, model.get_submodule(layer).weight)


@pytest.mark.parametrize(
    "model",
    [local(), lenet(prior=LINE), lenet(), alexnet(prior=LINE)],
    ids=["local", "lenet", "control", "local alexnet"],
)
def test_relaxing_leaves_sheets_as_they_are(model):
    fixed, before = graph.on_sheet(model), deepcopy(model)
    relaxed = relax(model, steps=20)
    assert same_state(model, before)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, relaxed.state_dict()[name])]
    assert moved == [f"{layer}.positions" for layer in graph.placed(model) if layer not in fixed]
    assert cost(relaxed) < cost(model)
    for network in (model, relaxed):
        assert [name for name, value in network.named_parameters() if not value.requires_grad] == [
            f"{layer}.positions" for layer in fixed
        ]
    images = torch.rand(2, *model.shape)
    torch.testing.assert_close(relaxed(images), model(images))


def test_relaxing_a_network_of_sheets_alone_gives_a_copy():
    model = local((9, 9, 9))
    relaxed = relax(model, held=["linear.3"], steps=3)
    assert same_state(relaxed, model)
    assert same_state(relax(model, where=[0, 1, 2], steps=3), model)
    assert relaxed is not model
