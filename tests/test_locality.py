import math
import pickle
from copy import deepcopy
from itertools import product

import oracles
import pytest
import torch
from helpers import LINE, PLANE, fit_alone, lenet, noise_tasks, same_state
from torch import nn
from torch.nn import functional as F

from spatial.locality import DECAYS, METRICS, ON, LocalityPriorLinear, locality_prior
from spatial.positions import SHEETS, distance

WIDTHS = {
    "line": [(7, 7), (7, 3), (2, 5), (1, 4), (4, 1), (1, 1)],
    "plane": [(9, 9), (16, 4), (4, 25), (1, 9), (9, 1), (1, 1)],
}
LAYERS = [(topology, *widths) for topology in SHEETS for widths in WIDTHS[topology]]
every_width = pytest.mark.parametrize(("topology", "inputs", "outputs"), LAYERS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_decay = pytest.mark.parametrize("decay", DECAYS)
OPTIONS = [{"metric": metric, "decay": decay} for metric, decay in product(METRICS, DECAYS)]
both_normalized = pytest.mark.parametrize("normalize", [False, True], ids=["", "normalized"])
both_on = pytest.mark.parametrize("on", ON)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def made(**options):
    """A layer from 9 units to 9 on a plane, in double precision, and inputs for it."""
    layer = LocalityPriorLinear(9, 9, **options).double()
    layer.reset_parameters()  # with all the digits
    return layer, torch.randn(5, 9, dtype=torch.float64)


def fresh(layer, x):
    """What a layer should compute, from its parameters and its prior as they are now."""
    if layer.on == "connections":
        return F.linear(x, layer.prior * layer.weight, layer.bias)
    return layer.gain * F.linear(x, layer.weight, layer.bias)


def double_prior(*widths, **options):
    """The prior of a double network."""
    return LocalityPriorLinear(*widths, **options).double().prior


# The prior.


@every_width
@every_metric
@every_decay
@both_normalized
def test_the_prior_is_the_oracles(float64, topology, inputs, outputs, metric, decay, normalize):
    found = locality_prior(inputs, outputs, topology=topology, metric=metric, decay=decay, normalize=normalize)
    expected = oracles.locality_prior(inputs, outputs, topology, metric, decay, normalize)
    assert found.shape == (outputs, inputs)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("decay", "by_steps"),
    [
        ("linear", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7]),
        ("square", [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25, 1 / 36, 1 / 49]),
        ("sqrt", [1, 0.70710678, 0.57735027, 0.5, 0.44721360, 0.40824829, 0.37796447]),
    ],
)
def test_a_line_of_seven_units_by_hand(decay, by_steps):
    prior = locality_prior(7, 7, topology="line", decay=decay)
    torch.testing.assert_close(prior, torch.tensor([[by_steps[abs(i - j)] for i in range(7)] for j in range(7)]))


def test_three_units_that_read_a_line_of_seven_sit_at_its_ends_and_in_its_middle():
    left = [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7]
    expected = torch.tensor([left, [1 / 4, 1 / 3, 1 / 2, 1, 1 / 2, 1 / 3, 1 / 4], left[::-1]])
    torch.testing.assert_close(locality_prior(7, 3, topology="line"), expected)
    torch.testing.assert_close(locality_prior(3, 7, topology="line"), expected.T)


def test_a_single_unit_sits_in_the_middle_of_a_line():
    torch.testing.assert_close(locality_prior(4, 1, topology="line"), torch.tensor([[1 / 2.5, 1 / 1.5, 1 / 1.5, 0.4]]))
    torch.testing.assert_close(locality_prior(1, 3, topology="line"), torch.tensor([[1 / 2], [1], [1 / 2]]))


A, B, C = 1 / (1 + math.sqrt(2)), 1 / (1 + math.sqrt(5)), 1 / (1 + math.sqrt(8))
CORNER = {  # of a plane of 3 x 3: what the upper left unit reads, row by row
    ("euclidean", "linear"): [1, 1 / 2, 1 / 3, 1 / 2, A, B, 1 / 3, B, C],
    ("cityblock", "linear"): [1, 1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 3, 1 / 4, 1 / 5],
    ("chebyshev", "linear"): [1, 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 3],
    ("cityblock", "square"): [1, 1 / 4, 1 / 9, 1 / 4, 1 / 9, 1 / 16, 1 / 9, 1 / 16, 1 / 25],
    ("chebyshev", "sqrt"): [1, 2**-0.5, 3**-0.5, 2**-0.5, 2**-0.5, 3**-0.5, 3**-0.5, 3**-0.5, 3**-0.5],
}
CENTRE = {  # and the middle one
    ("euclidean", "linear"): [A, 1 / 2, A, 1 / 2, 1, 1 / 2, A, 1 / 2, A],
    ("cityblock", "linear"): [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1, 1 / 2, 1 / 3, 1 / 2, 1 / 3],
    ("chebyshev", "linear"): [1 / 2, 1 / 2, 1 / 2, 1 / 2, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2],
    ("cityblock", "square"): [1 / 9, 1 / 4, 1 / 9, 1 / 4, 1, 1 / 4, 1 / 9, 1 / 4, 1 / 9],
    ("chebyshev", "sqrt"): [2**-0.5] * 4 + [1] + [2**-0.5] * 4,
}


@pytest.mark.parametrize(("metric", "decay"), list(CORNER))
def test_a_plane_of_three_by_three_by_hand(metric, decay):
    prior = locality_prior(9, 9, metric=metric, decay=decay)
    torch.testing.assert_close(prior[0], torch.tensor(CORNER[metric, decay]))
    torch.testing.assert_close(prior[4], torch.tensor(CENTRE[metric, decay], dtype=torch.float32))


def test_planes_of_different_widths_share_their_corners():
    nine, four = locality_prior(9, 9), locality_prior(9, 4)
    torch.testing.assert_close(four, nine[[0, 2, 6, 8]])
    torch.testing.assert_close(locality_prior(9, 1), nine[[4]])


def test_normalized_rows_by_hand():
    # rows of 1, 1/2, 1/3 and of 1/2, 1, 1/2 have the means 11/18 and 2/3
    ends, middle = [18 / 11, 9 / 11, 6 / 11], [3 / 4, 3 / 2, 3 / 4]
    prior = locality_prior(3, 3, topology="line", normalize=True)
    torch.testing.assert_close(prior, torch.tensor([ends, middle, ends[::-1]]))


def test_an_unknown_prior_is_the_euclidean_linear_one_on_a_plane():
    named = locality_prior(9, 4, topology="plane", metric="euclidean", decay="linear", normalize=False)
    assert torch.equal(locality_prior(9, 4), named)


@every_width
def test_reading_and_being_read_are_alike(topology, inputs, outputs):
    for options in OPTIONS:
        there = locality_prior(inputs, outputs, topology=topology, **options)
        back = locality_prior(outputs, inputs, topology=topology, **options)
        assert torch.equal(there, back.T)


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS["line"])
@every_decay
@both_normalized
def test_a_line_reversed_is_the_same(float64, inputs, outputs, decay, normalize):
    prior = locality_prior(inputs, outputs, topology="line", decay=decay, normalize=normalize)
    torch.testing.assert_close(prior.flip(0, 1), prior)


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS["plane"])
@every_metric
@both_normalized
@pytest.mark.parametrize(
    "moved", [lambda grid: grid.rot90(), torch.t, torch.fliplr], ids=["turned", "tilted", "flipped"]
)
def test_a_plane_turned_or_reflected_is_the_same(float64, inputs, outputs, metric, normalize, moved):
    prior = locality_prior(inputs, outputs, metric=metric, normalize=normalize)
    rows, columns = (moved(torch.arange(n).view(math.isqrt(n), -1)).flatten() for n in (outputs, inputs))
    torch.testing.assert_close(prior[rows][:, columns], prior)


@every_width
def test_the_farther_the_less_and_all_of_it_where_two_places_coincide(float64, topology, inputs, outputs):
    for options in OPTIONS:
        prior = locality_prior(inputs, outputs, topology=topology, **options).flatten()
        d = torch.tensor(oracles.sheet_distances(inputs, outputs, topology, options["metric"])).flatten()
        nearer = d[:, None] < d - 1e-9
        assert (prior[:, None] > prior)[nearer].all()
        assert prior.min() > 0 and prior.max() <= 1
        assert torch.equal(prior == 1, d < 1e-9)


@every_width
def test_normalizing_gives_every_row_the_mean_1_and_changes_no_ratio(float64, topology, inputs, outputs):
    for options in OPTIONS:
        normalized, plain = (
            locality_prior(inputs, outputs, topology=topology, normalize=each, **options) for each in (True, False)
        )
        torch.testing.assert_close(normalized.mean(1), torch.ones(outputs), rtol=1e-14, atol=0)
        torch.testing.assert_close(normalized / normalized[:, :1], plain / plain[:, :1])


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS["line"])
def test_on_a_line_all_metrics_are_the_same(inputs, outputs):
    first, *others = (locality_prior(inputs, outputs, topology="line", metric=metric) for metric in METRICS)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("topology", SHEETS)
@both_normalized
def test_one_unit_that_reads_one_reads_all_of_it(topology, normalize):
    assert locality_prior(1, 1, topology=topology, normalize=normalize).tolist() == [[1]]


def test_the_prior_is_of_the_default_type_and_rounded_once(float64):
    exact = locality_prior(16, 25, metric="euclidean", decay="sqrt", normalize=True)
    assert exact.dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert torch.equal(locality_prior(16, 25, metric="euclidean", decay="sqrt", normalize=True), exact.float())


MISTAKES = [
    ((9, 9), {"topology": "ring"}, "topology must be one of line, plane, got 'ring'"),
    ((9, 9), {"metric": "manhattan"}, "metric must be one of euclidean, cityblock, chebyshev, got 'manhattan'"),
    ((9, 9), {"decay": "cube"}, "decay must be one of linear, sqrt, square, got 'cube'"),
    ((50, 50), {}, r"a plane needs square widths \(1, 4, 9, 16, ...\), got 50"),
    ((64, 50), {}, "a plane needs square widths .* got 50"),
    ((50, 64), {"topology": "plane"}, "a plane needs square widths .* got 50"),
    ((0, 9), {}, "a plane needs square widths .* got 0"),
    ((9, -4), {}, "a plane needs square widths .* got -4"),
    ((0, 7), {"topology": "line"}, "a line needs 1 unit or more, got 0"),
    ((7, 0), {"topology": "line"}, "a line needs 1 unit or more, got 0"),
]


@pytest.mark.parametrize(("widths", "options", "message"), MISTAKES, ids=str)
@pytest.mark.parametrize("make", [locality_prior, LocalityPriorLinear])
def test_a_prior_that_cannot_be_is_refused(make, widths, options, message):
    with pytest.raises(ValueError, match=message):
        make(*widths, **options)


def test_what_the_prior_is_put_on_is_refused_by_name():
    with pytest.raises(ValueError, match="on must be one of connections, activations, got 'weights'"):
        LocalityPriorLinear(9, 9, on="weights")


def test_a_line_takes_any_width():
    assert LocalityPriorLinear(64, 50, topology="line").prior.shape == (50, 64)


# The layer.


@every_width
@both_on
@both_normalized
@both_modes
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_layer_is_the_oracles(topology, inputs, outputs, on, normalize, training, bias):
    options = {"topology": topology, "metric": "cityblock", "decay": "sqrt", "normalize": normalize}
    layer = LocalityPriorLinear(inputs, outputs, bias, on=on, **options).double().train(training)
    prior = oracles.locality_prior(inputs, outputs, *options.values())
    x = torch.randn(3, inputs, dtype=torch.float64)
    offsets = layer.bias.tolist() if bias else [0.0] * outputs
    expected = [oracles.prior_linear(layer.weight.tolist(), offsets, prior, on, each) for each in x.tolist()]
    assert (layer.bias is None) is not bias
    torch.testing.assert_close(layer(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@both_modes
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_on_connections_it_is_a_plain_layer_of_the_attenuated_weights(training, bias):
    layer, x = made(bias=bias)
    expected = F.linear(x, double_prior(9, 9) * layer.weight, layer.bias)
    assert torch.equal(layer.train(training)(x), expected)


@both_modes
@both_normalized
def test_on_activations_it_is_a_gain_per_unit_on_a_plain_layer(training, normalize):
    layer, x = made(on="activations", metric="chebyshev", normalize=normalize)
    prior = oracles.locality_prior(9, 9, "plane", "chebyshev", "linear", normalize)
    gains = torch.tensor([sum(row) / 9 for row in prior], dtype=torch.float64)
    torch.testing.assert_close(layer.train(training)(x), gains * F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer.gain, gains)


def test_on_activations_a_normalized_prior_does_nothing():
    layer, x = made(on="activations", normalize=True)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_layer_of_one_unit_is_a_plain_one():
    layer, x = LocalityPriorLinear(1, 1), torch.randn(4, 1)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@both_on
@both_modes
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_plain_layer_that_it_says_computes_the_same(on, training, bias):
    layer, x = made(on=on, bias=bias, decay="square")
    weight, offset = layer.train(training).effective()
    assert (offset is None) is not bias
    torch.testing.assert_close(F.linear(x, weight, offset), layer(x))


@both_on
def test_gradients_reach_it_through_the_plain_layer_that_it_says(on):
    layer, x = made(on=on)
    parameters = [layer.weight, layer.bias]
    through = torch.autograd.grad(F.linear(x, *layer.effective()).square().sum(), parameters)
    direct = torch.autograd.grad(layer(x).square().sum(), parameters)
    for one, other in zip(through, direct, strict=True):
        torch.testing.assert_close(one, other)


@both_on
@both_modes
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck], ids=["first", "second"])
def test_gradients_of_the_layer(on, training, check):
    layer = LocalityPriorLinear(4, 4, on=on).double().train(training)

    def value(x, weight, bias):
        # clones: gradcheck moves its inputs by way of .data, which counts only from the next eval()
        given = {"weight": weight.clone(), "bias": bias.clone()}
        return torch.func.functional_call(layer, given, (x,))

    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert check(value, (x, layer.weight, layer.bias))


@both_on
def test_gradients_are_those_of_training_in_evaluation_mode(on):
    layer, x = made(on=on)
    x.requires_grad_()
    found = {}
    for training in (True, False):
        silent(layer.train(training), x)
        found[training] = torch.autograd.grad(layer(x).square().sum(), [layer.weight, layer.bias, x])
    for one, expected in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(one, expected)
        assert one.abs().max() > 0


@both_on
@both_modes
def test_a_second_backward_adds_the_same_gradient_again(on, training):
    layer, x = made(on=on)
    loss = layer.train(training)(x).square().sum()
    loss.backward(retain_graph=True)
    once = layer.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, 2 * once)
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, 3 * once)


@both_on
def test_it_starts_as_torch_starts_a_plain_layer_and_draws_no_more(on):
    started = []
    for make in (nn.Linear, lambda *widths: LocalityPriorLinear(*widths, on=on)):
        torch.manual_seed(5)
        layer = make(16, 9)
        again = torch.random.get_rng_state()
        layer.reset_parameters()
        started.append((layer, again, torch.random.get_rng_state()))
    (plain, *states), (local, *others) = started
    assert torch.equal(plain.weight, local.weight) and torch.equal(plain.bias, local.bias)
    assert all(map(torch.equal, states, others))


@every_width
def test_distances_between_its_places_make_its_prior(topology, inputs, outputs):
    for options in OPTIONS:
        layer = LocalityPriorLinear(inputs, outputs, topology=topology, **options)
        below = LocalityPriorLinear(outputs, inputs, topology=topology)  # whose outputs are this layer's inputs
        for place, row in zip(layer.positions.tolist(), layer.prior.tolist(), strict=True):
            d = [oracles.length(place, source, options["metric"]) for source in below.positions.tolist()]
            f = {"linear": lambda x: x, "sqrt": math.sqrt, "square": lambda x: x * x}[options["decay"]]
            assert row == pytest.approx([1 / f(each + 1) for each in d], rel=1e-6)


def test_between_equal_widths_its_own_places_make_its_prior():
    layer = LocalityPriorLinear(49, 49)
    torch.testing.assert_close(layer.prior, 1 / (1 + distance(layer.positions, layer.positions)))


@every_width
def test_its_places_are_on_a_sheet_and_never_learn(topology, inputs, outputs):
    layer = LocalityPriorLinear(inputs, outputs, topology=topology)
    assert layer.on_sheet and layer.dim == 2
    assert layer.positions.shape == (outputs, 2)
    assert not layer.positions.requires_grad
    torch.testing.assert_close(layer.positions.mean(0), torch.zeros(2))


def test_its_repr_says_everything():
    layer = LocalityPriorLinear(9, 4, False, metric="cityblock", decay="sqrt", normalize=True, on="activations")
    assert repr(layer) == (
        "LocalityPriorLinear(in_features=9, out_features=4, bias=False, dim=2, plane, cityblock, sqrt, normalize=True, "
        "on=activations)"
    )


# Files and copies.


@both_on
def test_the_prior_is_no_parameter_and_in_no_file(on):
    layer = LocalityPriorLinear(9, 9, on=on)
    assert list(layer.state_dict()) == list(dict(layer.named_parameters())) == ["weight", "bias", "positions"]
    assert "prior" in dict(layer.named_buffers())
    assert ("gain" in dict(layer.named_buffers())) is (on == "activations")
    assert not layer.prior.requires_grad


FORMS = list(product([torch.float32, torch.float64], [False, True], ["cpu", "meta"]))


@both_on
@pytest.mark.parametrize(("dtype", "assign", "device"), FORMS, ids=str)
def test_the_layer_survives_its_file_exactly(tmp_path, on, dtype, assign, device):
    options = {"metric": "euclidean", "decay": "sqrt", "normalize": True, "on": on}
    saved = LocalityPriorLinear(9, 4, **options).to(dtype)
    torch.save(saved.state_dict(), tmp_path / "layer.pt")
    with torch.device(device):
        loaded = LocalityPriorLinear(9, 4, **options)
    if device == "meta" and not assign:
        loaded.to_empty(device="cpu")
    loaded.eval()
    loaded.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True), assign=assign)
    kept = dtype if assign else torch.float32
    saved = saved.to(kept)
    assert same_state(saved, loaded)
    assert loaded.prior.dtype == loaded.weight.dtype == kept
    assert torch.equal(loaded.prior, saved.prior)
    assert torch.equal(loaded.prior, double_prior(9, 4, **options).to(kept))
    assert not loaded.positions.requires_grad and loaded.weight.requires_grad
    x = torch.randn(3, 9, dtype=kept)
    assert torch.equal(loaded(x), saved.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@both_on
def test_whatever_its_type_the_prior_is_rounded_once(dtype, on):
    layer, exact = LocalityPriorLinear(16, 9, decay="sqrt", on=on), double_prior(16, 9, decay="sqrt")
    for between in (torch.bfloat16, torch.float64, dtype):
        layer.to(between)
    assert layer.prior.dtype == dtype
    assert torch.equal(layer.prior, exact.to(dtype))
    if on == "activations":
        assert torch.equal(layer.gain, exact.mean(1).to(dtype))


@both_on
@pytest.mark.parametrize("copied", [deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"])
@both_modes
def test_a_copy_is_the_same_layer_and_another(on, copied, training):
    layer, x = made(on=on)
    before = silent(layer.train(training), x)
    copy = copied(layer)
    assert copy.training is training
    assert copy._fold is None
    assert torch.equal(silent(copy, x), before)
    assert torch.equal(copy.prior, layer.prior) and same_state(copy, layer)
    with torch.no_grad():
        copy.weight.mul_(2)
    assert torch.equal(silent(copy, x), fresh(copy, x))
    assert torch.equal(silent(layer, x), before)


# The product that is kept in evaluation mode.


every_quiet = pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])


def silent(layer, x):
    """The layer's outputs where no gradient is asked for."""
    with torch.no_grad():
        return layer(x)


@every_quiet
def test_the_product_is_computed_once(quiet):
    layer, x = made()
    layer.eval()
    with quiet():
        assert torch.equal(layer(x), fresh(layer, x))
        kept = layer._fold.product
        assert torch.equal(layer(2 * x), fresh(layer, 2 * x))
        assert layer._fold.product is kept


def test_the_product_of_a_weight_that_does_not_learn_is_computed_once():
    layer, x = made()
    layer.requires_grad_(False).eval()
    x.requires_grad_()
    outputs = layer(x)
    kept = layer._fold.product
    assert torch.equal(layer(x), outputs) and torch.equal(outputs, fresh(layer, x))
    assert layer._fold.product is kept
    (gradient,) = torch.autograd.grad(outputs.sum(), x)
    torch.testing.assert_close(gradient, (layer.prior * layer.weight).sum(0).expand(5, 9))


def test_where_gradients_are_asked_for_nothing_is_kept():
    layer, x = made()
    layer.eval()
    silent(layer, x)
    layer(x)
    assert layer._fold is None
    silent(layer, x)
    layer.effective()
    assert layer._fold is None


def test_in_training_and_on_activations_nothing_is_kept():
    layer, x = made()
    silent(layer, x)
    assert layer._fold is None
    layer, x = made(on="activations")
    silent(layer.eval(), x)
    assert layer._fold is None


def test_training_mode_forgets_the_product():
    layer, x = made()
    silent(layer.eval(), x)
    layer.train()
    assert layer._fold is None


def step(name, **options):
    """A change: one step of an optimizer, the layer in the mode that it is in."""

    def change(layer):
        layer(torch.ones(2, 9, dtype=layer.weight.dtype)).square().sum().backward()
        getattr(torch.optim, name)([layer.weight, layer.bias], lr=0.1, **options).step()

    return change


def step_of_a_cost(layer):
    """A change: a fused step of a cost that reads the weight and no input."""
    layer.effective()[0].square().sum().backward()
    torch.optim.SGD([layer.weight], lr=0.1, fused=True).step()


def in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def within_inference_mode(layer):
    with torch.inference_mode():
        layer.weight.mul_(2)


def loaded(layer, **options):
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()}, **options)


def replaced(layer):
    layer.weight = nn.Parameter(2 * layer.weight.detach())


def data_replaced(layer):
    layer.weight.data = 2 * layer.weight.data


def data_changed(layer):
    layer.weight.data.mul_(2)
    layer.eval()


def trained(layer):
    layer.train()
    step("SGD", fused=True)(layer)
    layer.eval()


def pruned(layer):
    nn.init.constant_(layer.weight, 0.5)


CHANGES = {
    "a step of SGD": step("SGD"),
    "a step of Adam": step("Adam"),
    "a step of RMSprop": step("RMSprop"),
    "a step of SGD, for each": step("SGD", foreach=True),
    "a step of Adam, for each": step("Adam", foreach=True),
    "a step of SGD, fused": step("SGD", fused=True),
    "a step of Adam, fused": step("Adam", fused=True),
    "a step of AdamW, fused": step("AdamW", fused=True),
    "a fused step of a cost": step_of_a_cost,
    "in place": in_place,
    "in place within inference mode": within_inference_mode,
    "loaded": loaded,
    "loaded by assigning": lambda layer: loaded(layer, assign=True),
    "initialised": pruned,
    "another parameter": replaced,
    "other data": data_replaced,
    "data in place, then eval": data_changed,
    "single precision": lambda layer: layer.float(),
    "single precision and back": lambda layer: layer.float().double(),
    "train, step, eval": trained,
}


@both_on
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_weight_counts_at_once_in_evaluation_mode(on, change):
    layer, x = made(on=on)
    before = silent(layer.eval(), x)
    change(layer)
    x = x.to(layer.weight.dtype)
    assert not layer.training
    assert torch.equal(silent(layer, x), fresh(layer, x))
    assert torch.equal(silent(layer, x), fresh(layer, x))  # by the product that is kept now
    assert torch.equal(layer(x), fresh(layer, x))
    assert not torch.equal(layer(x), before)


@both_on
def test_a_weight_made_in_inference_mode_is_read_as_it_is(on):
    with torch.inference_mode():
        layer, x = made(on=on)
        layer.eval()
        for _ in range(3):
            assert torch.equal(layer(x), fresh(layer, x))
            layer.weight.mul_(2)


def test_parameters_that_come_and_go_are_never_taken_for_each_other():
    """Freed memory is handed out again: an address alone would not tell two weights apart."""
    layer, x = LocalityPriorLinear(400, 400).eval(), torch.randn(2, 400)  # large enough to get the same memory
    for _ in range(5):
        layer.weight = None
        layer.weight = nn.Parameter(torch.randn(400, 400))
        assert torch.equal(silent(layer, x), fresh(layer, x))


def test_a_weight_lent_for_one_call_is_read_in_that_call_alone():
    layer, x = made()
    before = silent(layer.eval(), x)
    for factor in (2, 3):
        lent = factor * layer.weight.detach()
        expected = F.linear(x, layer.prior * lent, layer.bias)
        with torch.no_grad():
            assert torch.equal(torch.func.functional_call(layer, {"weight": lent}, (x,)), expected)
    assert torch.equal(silent(layer, x), before)


def test_function_transforms_work_in_evaluation_mode():
    layer, x = made()
    silent(layer.eval(), x)

    def loss(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).square().sum()

    found = torch.func.grad(loss)(layer.weight.detach())
    torch.testing.assert_close(found, torch.autograd.grad(fresh(layer, x).square().sum(), layer.weight)[0])


@both_on
@every_quiet
def test_after_a_forward_without_gradients_there_are_gradients_again(on, quiet):
    layer, x = made(on=on)
    layer.eval()
    expected = torch.autograd.grad(fresh(layer, x).square().sum(), layer.weight)[0]
    with quiet():
        assert not layer(x).requires_grad
    inputs = x.clone().requires_grad_()
    layer(inputs).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected)
    assert inputs.grad.abs().max() > 0


@both_on
@every_quiet
def test_after_a_forward_without_gradients_inputs_have_them_though_no_weight_learns(on, quiet):
    layer, x = made(on=on)
    layer.requires_grad_(False).eval()
    with quiet():
        layer(x)
    x.requires_grad_()
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(fresh(layer, x).square().sum(), x)
    torch.testing.assert_close(found, expected)


@both_on
def test_a_forward_within_inference_mode_is_that_outside(on):
    layer, x = made(on=on)
    outside = layer.eval()(x)
    with torch.inference_mode():
        assert torch.equal(layer(x), outside)
    layer.eval()
    with torch.inference_mode():
        assert torch.equal(layer(x), outside)


# A batch norm right behind.


@pytest.fixture
def followed():
    """A layer and a batch norm whose eps is next to nothing, trained on batches of a large variance."""

    def follow(layer):
        norm = nn.BatchNorm1d(9, eps=1e-30, momentum=None).double()  # the statistics are means over what it met
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-2, 3, 9))
            norm.bias.copy_(torch.linspace(1, -1, 9))
        return nn.Sequential(layer, norm).double()

    batches = 100 * torch.randn(4, 20, 9, dtype=torch.float64)

    def outputs(layer):
        network = follow(layer).train()
        training = [network(batch) for batch in batches]
        return torch.stack(training), network.eval()(batches[0])

    return outputs


def alike(layer, make):
    """Another layer with the same weights."""
    other = make()
    other.load_state_dict({name: value for name, value in layer.state_dict().items() if name in other.state_dict()})
    return other


@pytest.mark.parametrize("prior", [PLANE, LINE, {"decay": "square", "metric": "cityblock"}], ids=str)
@both_normalized
def test_a_batch_norm_right_behind_cancels_a_prior_on_activations(followed, prior, normalize):
    layer = LocalityPriorLinear(9, 9, on="activations", normalize=normalize, **prior).double()
    for found, plain in zip(followed(layer), followed(alike(layer, lambda: nn.Linear(9, 9).double())), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", [PLANE, LINE, {"decay": "square", "metric": "cityblock"}], ids=str)
@both_on
def test_a_batch_norm_right_behind_cancels_normalizing(followed, prior, on):
    layer = LocalityPriorLinear(9, 9, on=on, **prior).double()
    other = alike(layer, lambda: LocalityPriorLinear(9, 9, on=on, normalize=True, **prior).double())
    for found, plain in zip(followed(layer), followed(other), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)


def test_a_batch_norm_right_behind_does_not_cancel_a_prior_on_connections(followed):
    layer = LocalityPriorLinear(9, 9).double()
    for found, plain in zip(followed(layer), followed(alike(layer, lambda: nn.Linear(9, 9).double())), strict=True):
        assert (found - plain).abs().max() > 0.1


ON_ACTIVATIONS = {**PLANE, "on": "activations"}
PAIRS = {
    "on activations or not at all": (ON_ACTIVATIONS, None),
    "on activations, normalized or not": ({**ON_ACTIVATIONS, "normalize": True}, ON_ACTIVATIONS),
    "normalized or not": ({**PLANE, "normalize": True}, PLANE),
    "on a line, normalized or not": ({**LINE, "normalize": True}, LINE),
}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def trained_lenet(prior, batch_norm):
    """The parameters of a network after three epochs of two steps, and the losses on its way."""
    tasks, model = noise_tasks(sizes=(32, 32), size=16), lenet(prior=prior, batch_norm=batch_norm)
    if batch_norm:
        model.norm.eps = 1e-30
    steps = fit_alone(model, tasks, tasks, seed=0, epochs=3, batch_size=16, optimizer="SGD", lr=0.05, momentum=0.5)
    losses = [epoch.train.loss for epoch, _ in steps]
    return {name: value for name, value in model.named_parameters() if "positions" not in name}, losses


@every_pair
def test_with_a_batch_norm_whole_training_does_not_feel_what_it_cancels(float64, pair):
    (one, losses), (other, expected) = (trained_lenet(prior, batch_norm=True) for prior in pair)
    assert losses == pytest.approx(expected, rel=1e-9)
    assert losses[2] != losses[0]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12)


@every_pair
def test_without_a_batch_norm_whole_training_does(float64, pair):
    (one, losses), (other, expected) = (trained_lenet(prior, batch_norm=False) for prior in pair)
    assert losses != pytest.approx(expected, rel=1e-6)
    assert (one["linear.1.weight"] - other["linear.1.weight"]).abs().max() > 1e-6
