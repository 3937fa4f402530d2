import math

import oracles
import pytest
import torch
from helpers import mlp

from spatial import graph
from spatial.costs import NORMS, PER, model_proximity, model_transport, proximity, transport

both_norms = pytest.mark.parametrize("norm", NORMS)
both_readings = pytest.mark.parametrize("per", PER)


def layer(outs=4, ins=3, dim=2, taps=(), dtype=torch.float64):
    """Weights and places of a random connection."""
    return (
        torch.randn(outs, ins, *taps, dtype=dtype),
        torch.randn(outs, dim, dtype=dtype),
        torch.randn(ins, dim, dtype=dtype),
    )


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
    assert model_transport(model, where, norm, per).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_a_models_transport_without_a_charged_connection_is_zero():
    assert model_transport(mlp(), [0]) == 0


@pytest.mark.parametrize(("where", "layers"), [(None, [0, 1, 2]), ([1], [1]), ([0, 2], [0, 2])])
def test_a_models_proximity_is_the_mean_over_its_layers(where, layers):
    model = mlp(layers=(6, 1)).double()  # a layer of one unit counts, with 0
    terms = [oracles.proximity(model.linear[index].positions.tolist()) for index in layers]
    assert model_proximity(model, where).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_costs_reach_weights_and_places():
    model = mlp(layers=(6, 5))
    (model_transport(model) + model_proximity(model)).backward()
    assert model.linear[0].weight.grad is None  # the inputs have no places
    assert model.linear[1].weight.grad.abs().min() > 0
    assert all(place.grad.abs().min() > 0 for place in graph.positions(model).values())


@pytest.mark.parametrize(("norm", "small"), [("l1", 1e-40), ("l2", 1e-20)])
def test_weights_that_all_but_vanish_give_finite_gradients(norm, small):
    weight = torch.tensor([[small, small], [1.0, 2.0]], requires_grad=True)
    target = torch.randn(2, 2, requires_grad=True)
    transport(weight, target, torch.randn(2, 2), norm, "neuron").backward()
    assert weight.grad.isfinite().all() and target.grad.isfinite().all()
