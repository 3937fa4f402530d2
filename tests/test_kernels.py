"""The costs' one pass over all pairs against the formulas as torch would differentiate them."""

import shutil
from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from helpers import mlp
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from spatial import graph, kernels
from spatial.costs import NORMS, PER, ModelCosts, model_costs, proximity, transport
from spatial.kernels import Plan, Wire

both_norms = pytest.mark.parametrize("norm", NORMS)
both_readings = pytest.mark.parametrize("per", PER)
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


@pytest.fixture(params=[1, 7, 40])
def blocks(request, monkeypatch):
    """So few pairs are computed at a time."""
    monkeypatch.setattr(kernels, "BLOCK", request.param)
    return request.param


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 7)


# The oracle: all differences at once, and torch's own gradients.


def distances(a, b):
    """``[n, m]``, with the gradient 0 where two places are one."""
    squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
    same = squares == 0
    return squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)


def quotients(sums, weights):
    return (sums / weights.masked_fill(weights == 0, 1)).masked_fill(weights == 0, 0)


def naive_transport(weight, target, source, norm="l2", per="connection"):
    phi = weight.abs() if norm == "l1" else weight.square()
    phi = phi.flatten(2).sum(2) if phi.ndim > 2 else phi
    wires = phi * distances(target, source)
    if per == "connection":
        return wires.mean()
    return (quotients(wires.sum(1), phi.sum(1)).mean() + quotients(wires.sum(0), phi.sum(0)).mean()) / 2


def naive_proximity(places):
    one, other = torch.triu_indices(len(places), len(places), 1)
    squares = (places[one] - places[other]).square().sum(1)
    same = squares == 0
    return (-squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)).exp().mean()


def naive_costs(model, norm="l2", per="connection"):
    """``T`` and ``P`` of a network of :func:`helpers.mlp`."""
    layers = list(model.linear)
    wires = [
        naive_transport(after.weight, after.positions, before.positions, norm, per)
        for before, after in pairwise(layers)
    ]
    return torch.stack(wires).mean(), torch.stack([naive_proximity(each.positions) for each in layers]).mean()


def connection(outs=5, ins=4, dim=2, taps=(), dtype=torch.float64):
    """Weights and places of a random connection, which want gradients."""
    shapes = (outs, ins, *taps), (outs, dim), (ins, dim)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def wide(tensors):
    """Copies in double precision."""
    return [each.detach().double().requires_grad_(each.requires_grad) for each in tensors]


def results(cost, tensors):
    """A cost and its gradients by the tensors."""
    value = cost(*tensors)
    return [value.detach(), *torch.autograd.grad(value, tensors)]


def assert_equal(found, wanted, tolerance=1e-12):
    """Tensor for tensor, within a share of each tensor's largest entry."""
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


# One pass, block by block.


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (3,)], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_transport_is_the_naive_forms(blocks, norm, per, taps, dim):
    for outs, ins in [(1, 9), (9, 1), (3, 7), (7, 3), (13, 5)]:
        tensors = connection(outs, ins, dim, taps)
        found = results(lambda *given: transport(*given, norm, per), tensors)
        assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), tensors))


@both_norms
@both_readings
def test_one_wire(norm, per):
    tensors = connection(1, 1)
    length = distances(*tensors[1:]).item()
    value, by_weight, by_target, by_source = results(lambda *given: transport(*given, norm, per), tensors)
    direction = (tensors[1] - tensors[2]).detach() / length
    size, slope = (tensors[0].abs(), tensors[0].sgn()) if norm == "l1" else (tensors[0].square(), 2 * tensors[0])
    pull = size.item() if per == "connection" else 1.0
    assert value.item() == pytest.approx(length * pull)
    assert by_weight.item() == pytest.approx(slope.item() * length if per == "connection" else 0, abs=1e-12)
    torch.testing.assert_close(by_target, pull * direction)
    torch.testing.assert_close(by_source, -pull * direction)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("units", [2, 3, 7, 13, 40])
def test_proximity_is_the_naive_form(blocks, units, dim):
    places = torch.randn(units, dim, dtype=torch.float64, requires_grad=True)
    assert_equal(results(proximity, [places]), results(naive_proximity, [places]))


@both_norms
@both_readings
@pytest.mark.parametrize(("outs", "ins"), [(301, 300), (1000, 990)])
def test_transport_keeps_single_precision(norm, per, outs, ins):
    tensors = connection(outs, ins, dtype=torch.float32)
    found = results(lambda *given: transport(*given, norm, per), tensors)
    assert all(each.dtype == torch.float32 for each in found)
    assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), wide(tensors)), 1e-6)


@pytest.mark.parametrize("units", [301, 1000])
def test_proximity_keeps_single_precision(units):
    places = torch.randn(units, 2, requires_grad=True)
    assert_equal(results(proximity, [places]), results(naive_proximity, wide([places])), 1e-6)


def test_few_units_far_apart_keep_single_precision():
    places = torch.tensor([[0.0, 0.0], [6.0, 8.0]], requires_grad=True)
    assert_equal(results(proximity, [places]), results(naive_proximity, wide([places])), 1e-5)


@both_norms
@both_readings
def test_single_precision_far_from_the_origin_is_that_of_the_differences(norm, per):
    tensors = connection(301, 300, dtype=torch.float32)
    with torch.no_grad():
        for each in tensors[1:]:
            each += 1000  # 1000 deviations away
    found = results(lambda *given: transport(*given, norm, per), tensors)
    assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), wide(tensors)), 1e-6)


class Made(TorchDispatchMode):
    """Counts new tensors by their number of entries."""

    def __init__(self, given):
        super().__init__()
        self.sizes, self.known = Counter(), {each.untyped_storage().data_ptr(): each for each in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in self.known:
                self.known[each.untyped_storage().data_ptr()] = each  # kept, so that no address is used twice
                self.sizes[each.numel()] += 1
        return result


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("replicas", [1, 3])
def test_nothing_larger_than_a_block_is_made_but_the_weights_gradient(monkeypatch, norm, per, taps, grows, replicas):
    monkeypatch.setattr(kernels, "BLOCK", 200)
    pairs = 60 * 20 * replicas
    tensors = [torch.randn(replicas, 60, 20, taps), torch.randn(2, replicas, 60), torch.randn(2, replicas, 20)]
    with Made(tensors) as made:
        kernels.compute(Plan((Wire(1.0, 0, 1, 2),), (1,), norm, per), (grows, True, True), tensors)
    large = {pairs * taps} if per == "connection" else {pairs * taps, pairs}  # and that by phi
    assert {size: number for size, number in made.sizes.items() if size > 200 * max(2, taps)} == (
        dict.fromkeys(large, 1) if grows else {}
    )


# Gradients.


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (3,)], ids=str)
def test_gradients_of_transport_by_differences(small_blocks, norm, per, taps):
    tensors = connection(5, 3, taps=taps)
    assert torch.autograd.gradcheck(lambda *given: transport(*given, norm, per), tensors, check_batched_grad=True)


def test_gradients_of_proximity_by_differences(small_blocks):
    places = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(proximity, places, check_batched_grad=True)


@both_norms
@both_readings
def test_gradients_of_a_models_costs_by_differences(small_blocks, norm, per):
    model = mlp((1, 1, 2), (4, 3), (2, 1)).double()
    tensors = [value for name, value in model.named_parameters() if not name.endswith("bias")][1:]
    assert len(tensors) == 5  # but for the first layer's weights
    assert torch.autograd.gradcheck(lambda *_: tuple(model_costs(model, None, norm, per)), tensors)


@both_norms
@both_readings
@pytest.mark.parametrize(
    "weigh",
    [
        lambda t, p: 3 * t - 0.5 * p,
        lambda t, p: -2 * t + 7 * p,
        lambda t, p: t * p,
        lambda t, p: (t - 5).square() + p.log(),
        lambda t, p: t,
        lambda t, p: -p,
    ],
    ids=["3T-P/2", "-2T+7P", "TP", "(T-5)^2+log P", "T", "-P"],
)
def test_each_cost_is_weighed_by_itself(small_blocks, norm, per, weigh):
    model = mlp(layers=(6, 5)).double()
    tensors = [value for value in model.parameters() if value.requires_grad]
    found, wanted = (
        torch.autograd.grad(weigh(*costs), tensors, allow_unused=True)
        for costs in (model_costs(model, None, norm, per), naive_costs(model, norm, per))
    )
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) is (other is None)
        if one is not None:
            assert_equal([one], [other])


def test_the_gradient_of_a_cost_that_is_not_asked_for_is_none():
    model = mlp(layers=(6, 5))
    model_costs(model).proximity.backward()
    assert model.linear[1].weight.grad is None
    assert all(place.grad is not None for place in graph.positions(model).values())


@both_norms
@both_readings
def test_a_second_backward_pass_gives_the_same_again(norm, per):
    model = mlp(layers=(6, 5))
    costs = model_costs(model, None, norm, per)
    kept = costs.transport.grad_fn.saved_tensors
    before = [each.clone() for each in kept]
    total = 3 * costs.transport - costs.proximity
    total.backward(retain_graph=True)
    once = [None if each.grad is None else each.grad.clone() for each in model.parameters()]
    total.backward()
    for parameter, first in zip(model.parameters(), once, strict=True):
        assert (parameter.grad is None) is (first is None)
        assert first is None or torch.equal(parameter.grad, 2 * first)
    assert len(kept) == len(before) == 8  # of two connections' weights, of three places for T, of three for P
    assert all(torch.equal(one, other) for one, other in zip(kept, before, strict=True))


@both_readings
def test_inputs_stay_as_they_are(small_blocks, per):
    for norm in NORMS:
        tensors = connection(taps=(1,), dim=1)  # nothing has to be copied
        before = [each.detach().clone() for each in tensors]
        results(lambda *given: transport(*given, norm, per), tensors)  # noqa: B023
        proximity(tensors[1]).backward()
        assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


@both_readings
def test_a_gradients_gradient_is_refused(per):
    tensors = connection()
    for cost, inputs in [(lambda *given: transport(*given, per=per), tensors), (proximity, tensors[1:2])]:
        for each in torch.autograd.grad(cost(*inputs).square(), inputs, create_graph=True):
            with pytest.raises(RuntimeError, match="differentiate twice"):
                each.sum().backward(retain_graph=True)
        for each in torch.autograd.grad(cost(*inputs), inputs, create_graph=True):
            with pytest.raises(RuntimeError):
                torch.autograd.grad(each.sum(), inputs)


# Only what is needed.

SUBSETS = list(product([False, True], repeat=3))


@both_norms
@both_readings
@pytest.mark.parametrize("needs", SUBSETS, ids=str)
def test_gradients_go_where_they_are_wanted(small_blocks, norm, per, needs):
    tensors = [each.requires_grad_(need) for each, need in zip(connection(), needs, strict=True)]
    value = transport(*tensors, norm, per)
    assert value.requires_grad is any(needs)
    assert_equal([value.detach()], [naive_transport(*tensors, norm, per).detach()])
    if any(needs):
        value.backward()
        chosen = [each for each, need in zip(tensors, needs, strict=True) if need]
        wanted = torch.autograd.grad(naive_transport(*tensors, norm, per), chosen)
        assert_equal([each.grad for each in chosen], wanted)
    assert all(each.grad is None for each, need in zip(tensors, needs, strict=True) if not need)


@both_norms
@both_readings
def test_without_gradients_the_values_are_the_same(norm, per):
    model = mlp(layers=(6, 5))
    costs = model_costs(model, None, norm, per)
    with torch.no_grad():
        silent = model_costs(model, None, norm, per)
    for one, other in zip(silent, costs, strict=True):
        assert not one.requires_grad and one.grad_fn is None
        assert torch.equal(one, other)


@both_norms
@both_readings
@pytest.mark.parametrize("needs", SUBSETS, ids=str)
def test_only_the_gradients_that_are_needed_are_computed(norm, per, needs):
    weight, target, source = (each.detach() for each in connection(6, 5, 2, (3,)))
    tensors = [weight[None], target.T[:, None], source.T[:, None]]
    plan = Plan((Wire(0.5, 0, 1, 2),), (1,), norm, per)
    found = kernels.compute(plan, needs, tensors)
    described = kernels.gradients(plan, needs)
    by = [each for each, need in enumerate(needs) if need]
    expected = [(0, tensor) for tensor in by] + ([(1, 1)] if needs[1] else [])
    assert [(cost, tensor) for cost, tensor, _ in described] == expected
    assert [each.shape for each in found] == [(1,), (1,), *(tensors[tensor].shape for _, tensor in expected)]


def test_one_forward_pass_needs_no_gradient_under_no_grad(monkeypatch):
    asked, compute = [], kernels.compute
    monkeypatch.setattr(
        kernels, "compute", lambda plan, needs, given: asked.append(needs) or compute(plan, needs, given)
    )
    tensors = connection()
    transport(*tensors)
    with torch.no_grad():
        transport(*tensors)
    transport(tensors[0].detach(), *tensors[1:])
    assert asked == [(True, True, True), (False, False, False), (False, True, True)]


@both_norms
@both_readings
def test_no_pull_is_summed_on_places_that_stay(monkeypatch, norm, per):
    tensors = connection()
    wanted = torch.autograd.grad(transport(*tensors, norm, per), tensors[0])
    monkeypatch.setattr(kernels, "_over", None)
    value = transport(tensors[0], *(each.detach() for each in tensors[1:]), norm, per)
    assert_equal(torch.autograd.grad(value, tensors[0]), wanted)
    assert proximity(tensors[1].detach()) > 0


# Tensors that come more than once.


def plan_costs(plan, *tensors):
    return kernels.OnePass.apply(plan, False, tuple(each.requires_grad for each in tensors), *tensors)[:2]


@both_norms
@both_readings
def test_a_layer_wired_to_itself(blocks, norm, per):
    weight, places, _ = connection(9, 9)
    found = results(lambda w, p: transport(w, p, p, norm, per), [weight, places])
    assert_equal(found, results(lambda w, p: naive_transport(w, p, p, norm, per), [weight, places]))
    plan = Plan((Wire(1 / 81 if per == "connection" else 1.0, 0, 1, 1),), (), norm, per)
    assert_equal(results(lambda w, p: plan_costs(plan, w[..., None], p)[0], [weight, places]), found)


@both_norms
@both_readings
def test_wires_share_places(blocks, norm, per):
    one, two, three = (torch.randn(units, 2, dtype=torch.float64, requires_grad=True) for units in (3, 5, 4))
    pairs = [(0, 1, 2), (1, 2, 3), (0, 3, 1), (1, 1, 1), (0, 1, 2)]  # part, and indices of target and source
    places = [one, two, three]
    units = [len(places[index - 1]) for index in range(1, 4)]
    weights = [
        torch.randn(units[target - 1], units[source - 1], 2, dtype=torch.float64, requires_grad=True)
        for _, target, source in pairs
    ]
    parts = [0.3, -2.0, 1.0, 0.7, 5.0]
    shift = len(weights) - 1
    plan = Plan(
        tuple(
            Wire(part, index, shift + target, shift + source)
            for index, (part, (_, target, source)) in enumerate(zip(parts, pairs, strict=True))
        ),
        (shift + 2, shift + 1),
        norm,
        per,
    )
    tensors = [*weights, *places]

    def naive(*given):
        total = 0.0
        for part, weight, (_, target, source) in zip(parts, given, pairs, strict=False):
            a, b = given[shift + target], given[shift + source]
            total = total + part * naive_transport(weight, a, b, norm, per) * (
                len(a) * len(b) if per == "connection" else 1
            )
        return 2 * total - 3 * (naive_proximity(given[shift + 1]) + naive_proximity(given[shift + 2])) / 2

    def planned(*given):
        wires, crowd = plan_costs(plan, *given)
        return 2 * wires - 3 * crowd

    assert_equal(results(planned, tensors), results(naive, tensors))


@both_norms
@both_readings
def test_one_tensor_in_several_roles(small_blocks, norm, per):
    weight, places, _ = connection(5, 5)
    part = 1 / 25 if per == "connection" else 1.0
    plan = Plan((Wire(part, 0, 2, 3), Wire(2 * part, 1, 3, 2)), (2, 3), norm, per)

    def planned(w, p):  # both weights are one, and all four places
        wires, crowd = plan_costs(plan, w[..., None], w[..., None], p, p)
        return wires + crowd

    def naive(w, p):
        return 3 * naive_transport(w, p, p, norm, per) + naive_proximity(p)

    assert_equal(results(planned, [weight, places]), results(naive, [weight, places]))


def test_layers_that_share_their_places(small_blocks):
    model = mlp(layers=(5, 5)).double()
    model.linear[1].positions = model.linear[0].positions
    tensors = [model.linear[0].positions, model.linear[1].weight]
    found, wanted = (torch.autograd.grad(sum(costs), tensors) for costs in (model_costs(model), naive_costs(model)))
    assert_equal(found, wanted)


# Places and weights at the edge.


@both_norms
@both_readings
def test_coincident_places_pull_nowhere(blocks, norm, per):
    tensors = connection(6, 5)
    with torch.no_grad():
        tensors[1][2] = tensors[2][3]
        tensors[1][4] = tensors[1][0]
    found = results(lambda *given: transport(*given, norm, per), tensors)
    assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), tensors))
    places = tensors[1]
    assert_equal(results(proximity, [places]), results(naive_proximity, [places]))


@both_norms
@both_readings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_places_that_are_all_one_cost_no_wire_and_crowd_by_one(blocks, norm, per, dtype):
    weight, *_ = connection(6, 5, dtype=dtype)
    places = torch.full((6, 2), 0.1, dtype=dtype, requires_grad=True)
    read = torch.full((5, 2), 0.1, dtype=dtype, requires_grad=True)
    for each in results(lambda *given: transport(*given, norm, per), [weight, places, read]):
        assert torch.equal(each, torch.zeros_like(each))
    value, pull = results(proximity, [places])
    assert value == 1
    assert torch.equal(pull, torch.zeros_like(pull))


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (3,)], ids=str)
def test_weights_of_exactly_zero(blocks, norm, per, taps):
    tensors = connection(6, 5, taps=taps)
    with torch.no_grad():
        tensors[0][1] = 0  # reads nothing
        tensors[0][:, 2] = 0  # is not read
        tensors[0][3, 3] = 0
        if taps:
            tensors[0][4, 4, 0] = 0
    found = results(lambda *given: transport(*given, norm, per), tensors)
    assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), tensors))
    assert found[1][tensors[0] == 0].abs().max() == 0  # |w| has the slope 0 at 0
    nothing = results(lambda *given: transport(0 * given[0], *given[1:], norm, per), tensors)
    assert all(torch.equal(each, torch.zeros_like(each)) for each in nothing)


@both_norms
def test_weights_whose_squared_sums_vanish_count_as_zero(norm):
    tensors = connection(6, 5, dtype=torch.float32)
    with torch.no_grad():
        tensors[0] *= {"l1": 1e-25, "l2": 1e-15}[norm]
    for each in results(lambda *given: transport(*given, norm, "neuron"), tensors):
        assert torch.equal(each, torch.zeros_like(each))


@both_norms
def test_no_weight_is_too_small_for_finite_gradients(norm):
    weight, target, source = connection(300, 4, dtype=torch.float32)
    for exponent in range(-92, 1):
        tensors = [(10 ** (exponent / 2) * weight.detach()).requires_grad_(), target, source]
        for each in results(lambda *given: transport(*given, norm, "neuron"), tensors):
            assert each.isfinite().all(), f"weights of about 10 to the {exponent / 2}"


def test_a_layer_of_one_unit_crowds_nobody(small_blocks):
    one, two = (torch.randn(units, 2, dtype=torch.float64, requires_grad=True) for units in (1, 3))
    _, crowd = plan_costs(Plan((), (0, 1)), one, two)
    assert crowd.item() == pytest.approx(naive_proximity(two).item() / 2)
    crowd.backward()
    assert one.grad.tolist() == [[0, 0]]
    assert_equal([two.grad], [torch.autograd.grad(naive_proximity(two) / 2, two)[0]])


@both_norms
@both_readings
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_lengths_of_any_size(blocks, norm, per, scale):
    tensors = connection(6, 5, dtype=torch.float32)
    with torch.no_grad():
        for each in tensors[1:]:
            each *= scale
    found = results(lambda *given: transport(*given, norm, per), tensors)
    assert_equal(found, results(lambda *given: naive_transport(*given, norm, per), wide(tensors)), 1e-6)
    places = tensors[1]
    assert_equal(results(proximity, [places]), results(naive_proximity, wide([places])), 1e-6)


def test_units_far_apart_and_all_but_coincident_in_one_layer(blocks):
    places = torch.tensor([[0.0, 0.0], [1e-15, 0.0], [1e15, 0.0], [0.0, 1.0], [-1e15, 1e15]], requires_grad=True)
    assert_equal(results(proximity, [places]), results(naive_proximity, wide([places])), 1e-6)


# Replicas.


def looped(cost, tensors, dims):
    """What ``vmap`` computes, one replica after the other."""
    [replicas] = {each.shape[dim] for each, dim in zip(tensors, dims, strict=True) if dim is not None}
    picked = (
        [each if dim is None else each.select(dim, index) for each, dim in zip(tensors, dims, strict=True)]
        for index in range(replicas)
    )
    return torch.stack([cost(*given) for given in picked])


DIMS = [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None), (None, 0, None), (0, None, None), (2, 1, 0), (1, 2, None)]


def stacked(dims, taps=()):
    tensors = connection(5, 4, taps=taps)
    return [
        each if dim is None else torch.randn(3, *each.shape).to(each).movedim(0, dim).requires_grad_()
        for each, dim in zip(tensors, dims, strict=True)
    ]


@both_norms
@both_readings
@pytest.mark.parametrize("taps", [(), (3,)], ids=str)
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_replicas_of_a_connection_are_those_of_a_loop(blocks, norm, per, taps, dims):
    tensors, share = stacked(dims, taps), torch.randn(3, dtype=torch.float64)

    def cost(*given):
        return transport(*given, norm, per)

    together = vmap(cost, dims)(*tensors)
    one_by_one = looped(cost, tensors, dims)
    assert_equal([together.detach()], [one_by_one.detach()])
    assert_equal(torch.autograd.grad(together @ share, tensors), torch.autograd.grad(one_by_one @ share, tensors))


@both_readings
@pytest.mark.parametrize("dims", [(0, 0, 0), (2, 1, None)], ids=str)
def test_gradients_of_replicas_inside_are_those_of_a_loop(small_blocks, per, dims):
    tensors = [each.detach() for each in stacked(dims)]

    def cost(*given):
        return transport(*given, per=per)

    found = vmap(grad(cost, (0, 1, 2)), dims)(*tensors)
    alone = [each if dim is None else each.movedim(dim, 0) for each, dim in zip(tensors, dims, strict=True)]
    for index in range(3):
        given = [each if dim is None else each[index] for each, dim in zip(alone, dims, strict=True)]
        assert_equal([each[index] for each in found], results(cost, [each.requires_grad_() for each in given])[1:])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_replicas_of_a_crowd_are_those_of_a_loop(blocks, dim):
    places = torch.randn(3, 9, 2, dtype=torch.float64).movedim(0, dim).requires_grad_()
    share = torch.randn(3, dtype=torch.float64)
    together, one_by_one = vmap(proximity, dim)(places), looped(proximity, [places], [dim])
    assert_equal([together.detach()], [one_by_one.detach()])
    assert_equal(torch.autograd.grad(together @ share, places), torch.autograd.grad(one_by_one @ share, places))


def test_replicas_are_computed_together(monkeypatch):
    shapes, compute = [], kernels.compute
    monkeypatch.setattr(
        kernels,
        "compute",
        lambda plan, needs, given: shapes.append([tuple(each.shape) for each in given]) or compute(plan, needs, given),
    )
    vmap(transport)(*stacked((0, 0, 0)))
    assert shapes == [[(3, 5, 4, 1), (2, 3, 5), (2, 3, 4)]]


class Charged(nn.Module):
    """A network whose forward pass is its costs, for ``functional_call``."""

    def __init__(self, model, norm, per):
        super().__init__()
        self.model = model
        self.costs = ModelCosts(model, None, norm, per)

    def forward(self):
        return tuple(self.costs())


@both_norms
@both_readings
def test_replicas_of_a_model_are_those_of_a_loop(blocks, norm, per):
    charged = Charged(mlp(layers=(6, 5)).double(), norm, per)
    replicas = [dict(mlp(layers=(6, 5), seed=seed).double().named_parameters()) for seed in range(3)]
    together = {
        f"model.{name}": torch.stack([each[name].detach() for each in replicas]).requires_grad_()
        for name in replicas[0]
    }

    def costs(parameters):
        return functional_call(charged, parameters, ())

    found = vmap(costs)(together)
    wanted = [torch.stack(each) for each in zip(*[costs({name: value[index] for name, value in together.items()})
                                                  for index in range(3)], strict=True)]  # fmt: skip
    assert_equal([each.detach() for each in found], [each.detach() for each in wanted])
    share = torch.randn(2, 3, dtype=torch.float64)
    one, other = (
        torch.autograd.grad((share * torch.stack(list(each))).sum(), list(together.values()), allow_unused=True)
        for each in (found, wanted)
    )
    assert [each is None for each in one] == [each is None for each in other]
    assert sum(each is not None for each in one) == 5  # of all weights and places but the first layer's weights
    kept = [[each for each in gradients if each is not None] for gradients in (one, other)]
    assert_equal(*kept)


# Compiled.


def charges(model, **options):
    """A model's costs and their gradients by its parameters."""
    costs = ModelCosts(model, **options)()
    charged = [value for name, value in model.named_parameters() if not name.endswith("bias")][1:]
    gradients = torch.autograd.grad(costs.transport - 2 * costs.proximity, charged)
    return [*(each.detach() for each in costs), *gradients]


COMPILING = "compiling the costs, once for these layers (seconds)"


@pytest.fixture
def forgetful():
    """Nothing that another test compiled is known, nor is it counted against the number that torch compiles."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_like_eager(norm, per):
    lines, (model, other) = [], [mlp(layers=(6,), seed=seed).double() for seed in range(2)]
    compute = kernels.compiled(lines.append)
    for each in (model, other, model):
        found = charges(each, norm=norm, per=per, compute=compute)
        assert lines == [COMPILING]
        assert_equal(found, charges(each, norm=norm, per=per))


@both_norms
@both_readings
def test_what_a_compiler_is_given_are_the_costs(monkeypatch, forgetful, norm, per):
    graphs, compile = [], torch.compile

    def backend(graph, _):  # runs it as it is
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *given, **options: compile(*given, backend=backend, **options))
    assert_compiled_like_eager(norm, per)
    assert len(graphs) == 1  # in one piece, and only once


@needs_compiler
@pytest.mark.slow
@both_readings
def test_compiled_costs_are_the_costs(forgetful, per):
    assert_compiled_like_eager("l1" if per == "connection" else "l2", per)


def test_what_is_compiled_is_told_once_for_every_shape(monkeypatch):
    lines, calls = [], []
    monkeypatch.setattr(torch, "compile", lambda compute, **_: lambda *given: calls.append(0) or compute(*given))
    compute = kernels.compiled(lines.append)
    small, large = mlp(layers=(6, 5)).double(), mlp(layers=(7, 5)).double()
    options = {"per": "neuron"}  # whose plans are the same
    wanted = charges(small, **options), charges(large, **options)
    for number, (model, costs) in enumerate([(small, 0), (small, 0), (large, 1), (small, 0), (large, 1)], 1):
        assert_equal(charges(model, compute=compute, **options), wanted[costs])
        assert len(calls) == number
        assert lines == [COMPILING] * (1 if number < 3 else 2)
    for number, change in enumerate([{"norm": "l1"}, {"proximity": False}], 3):
        for _ in range(2):
            ModelCosts(small, compute=compute, **(options | change))()
            assert lines == [COMPILING] * number
    charges(small.float(), compute=compute, **options)
    assert lines == [COMPILING] * 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no compiler\nsecond line"), "no compiler"),
        (OSError(" "), "OSError"),
        (ValueError(), "ValueError"),
    ],
    ids=["two lines", "blank", "empty"],
)
def test_without_a_compiler_there_is_one_warning_and_the_right_costs(monkeypatch, error, reason):
    lines, tries = [], []

    def broken(*_):
        tries.append(0)
        raise error

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    compute = kernels.compiled(lines.append)
    for model in (mlp(layers=(6, 5)), mlp(layers=(6, 5)), mlp(layers=(7, 5))):
        assert_equal(charges(model, compute=compute), charges(model), 0)
    assert tries == [0]
    assert lines == [
        COMPILING,
        f"warning: --compile: the costs are not compiled ({reason}); training goes on without",
    ]


# Types.


@both_norms
@both_readings
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_raised(norm, per, given):
    tensors = connection(20, 30, dtype=given)
    raised = [each.detach().float().requires_grad_() for each in tensors]
    for cost, some, same in [
        (lambda *all_: transport(*all_, norm, per), tensors, raised),
        (proximity, tensors[1:2], raised[1:2]),
    ]:
        value, *gradients = results(cost, some)
        wanted, *wide_ones = results(cost, same)
        assert value.dtype == torch.float32 and torch.equal(value, wanted)
        for one, other in zip(gradients, wide_ones, strict=True):
            assert one.dtype == given and torch.equal(one, other.to(given))


@both_norms
@both_readings
@pytest.mark.parametrize("double", [0, 1, 2])
def test_the_widest_type_is_that_of_the_costs(norm, per, double):
    tensors = connection(dtype=torch.float32)
    types = [torch.float64 if index == double else given for index, given in
             enumerate((torch.bfloat16, torch.float32, torch.float16))]  # fmt: skip
    tensors = [each.detach().to(dtype).requires_grad_() for each, dtype in zip(tensors, types, strict=True)]
    value, *gradients = results(lambda *given: transport(*given, norm, per), tensors)
    assert value.dtype == torch.float64
    assert [each.dtype for each in gradients] == types
    wanted, *doubles = results(lambda *given: naive_transport(*given, norm, per), wide(tensors))
    assert_equal([value], [wanted])
    for one, other, dtype in zip(gradients, doubles, types, strict=True):
        torch.testing.assert_close(one, other.to(dtype))


@both_readings
def test_to_autograd_a_gradient_is_a_constant(per):
    tensors = connection()
    value = transport(*tensors, "l1", per)
    assert not any(each.requires_grad for each in torch.autograd.grad(value, tensors, create_graph=True))
