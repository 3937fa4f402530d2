from itertools import pairwise

import oracles
import pytest
import torch
from helpers import conv, mlp, parameters, same_state
from torch import nn

import spatial
from spatial import graph, models, runs
from spatial.errors import UserError
from spatial.models import (
    ACTIVATIONS,
    INPUT_POSITIONS,
    MODELS,
    arguments_of,
    build,
    constructor_arguments,
    heads,
    pack,
    parameter_count,
    unpack,
)
from spatial.positions import output_places, pixel_grid

COMMON = {"shape": (2, 3, 3), "layers": (5, 4), "classes": (3, 2), "activation": "ReLU", "dim": 2}
ARGUMENTS = {"mlp": COMMON | {"input_positions": None}, "conv": COMMON}
every_model = pytest.mark.parametrize("name", MODELS)


def first(model):
    """The first placed layer."""
    return next(iter(graph.placed(model).values()))


def start(name, seed=0, outputs="free", **changes):
    return build(name, ARGUMENTS[name] | changes, seed, outputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_mlp_is_the_oracles(activation):
    model = mlp((2, 2, 3), (5, 4), (3, 2), activation).double()
    image = torch.rand(1, 2, 2, 3, dtype=torch.float64)
    *_, logits = oracles.forward(*parameters(model), activation, image.flatten().tolist())
    assert model(image)[0].tolist() == pytest.approx(logits, rel=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 6, 6)], ids=str)
def test_the_convolutional_network_is_the_oracles(activation, shape):
    model = conv(shape, (4, 3), (3, 2), activation).double()
    image = torch.rand(shape, dtype=torch.float64)
    logits = oracles.conv_forward(
        [layer.weight.tolist() for layer in model.conv],
        [
            [*(each.tolist() for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)), norm.eps]
            for norm in model.norm
        ],
        model.linear.weight.tolist(),
        model.linear.bias.tolist(),
        activation,
        image.tolist(),
        [range(4), range(3)],
    )
    assert model(image[None])[0].tolist() == pytest.approx(logits, rel=1e-9)


@every_model
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 3), (3, 5, 2), (3, 1, 7)], ids=str)
@pytest.mark.parametrize("layers", [(), (3,), (5, 4), (4, 3, 2, 6)], ids=str)
def test_any_image_and_any_number_of_layers_give_the_logits_of_all_tasks(name, shape, layers):
    model = start(name, shape=shape, layers=layers, classes=(3, 1, 2))
    assert model(torch.rand(7, *shape)).shape == (7, 6)
    assert [len(place) for place in graph.positions(model).values()] == [*layers, 6]
    names = list(graph.placed(model))
    assert graph.connections(model) == list(pairwise(names))
    assert list(model.activity) == names[:-1]


def test_the_convolutional_networks_layers_by_hand():
    model = start("conv")
    assert list(graph.placed(model)) == ["conv.0", "conv.1", "linear"]
    assert graph.connections(model) == [("conv.0", "conv.1"), ("conv.1", "linear")]
    assert model.norms == {"conv.0": "norm.0", "conv.1": "norm.1"}
    assert model.activity == {"conv.0": "active.0", "conv.1": "active.1"}
    assert [tuple(layer.weight.shape) for layer in graph.placed(model).values()] == [(5, 2, 5, 5), (4, 5, 5, 5), (5, 4)]
    assert [graph.norm(model, name) for name in graph.placed(model)] == [*model.norm, None]


def test_maps_shrink_by_half_rounded_up():
    model, shapes = conv((1, 7, 4), (3, 3, 3)), []
    for module in model.active:
        module.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[2:])))
    model(torch.rand(2, 1, 7, 4))
    assert shapes == [(4, 2), (2, 1), (1, 1)]


@every_model
def test_its_activity_is_what_the_next_layer_reads(name):
    model, seen = start(name).eval(), {}
    for layer, module in model.activity.items():
        assert model.get_submodule(layer).positions is not None
        model.get_submodule(module).register_forward_hook(
            lambda _, __, output, layer=layer: seen.update({layer: output})
        )
    logits = model(torch.rand(7, 2, 3, 3))
    assert [(len(output), output.shape[1]) for output in seen.values()] == [(7, 5), (7, 4)]
    last = list(seen.values())[-1]
    head = list(graph.placed(model).values())[-1]
    torch.testing.assert_close(head(last.amax((2, 3)) if last.ndim == 4 else last), logits)


@every_model
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_is_torchs_of_that_name(name, activation):
    kind = getattr(nn, activation)
    assert [type(module) for module in start(name, activation=activation).active] == [kind, kind]


def test_heads_are_slices_task_by_task():
    assert heads((4, 1, 3)) == [slice(0, 4), slice(4, 5), slice(5, 8)]


@every_model
def test_one_seed_gives_one_start(name):
    assert same_state(start(name, 3), start(name, 3))


@every_model
def test_another_seed_gives_another_start(name):
    one, other = (dict(start(name, seed).named_parameters()) for seed in (3, 4))
    drawn = [key for key in one if not key.startswith("norm")]  # gains and offsets start at 1 and 0
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


@every_model
def test_the_start_ignores_the_global_generator_and_leaves_it_alone(name):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = start(name, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_state(one, start(name, 3))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((name, changed) for name in MODELS for changed in (
            {"dim": 1}, {"dim": 3}, {"outputs": "task"}, {"outputs": "held"}, {"outputs": "arbitrary"},
            {"activation": "Tanh"},
        )),
        ("mlp", {"input_positions": "grid"}),
        ("mlp", {"input_positions": "grid", "dim": 3}),
    ],
    ids=str,
)  # fmt: skip
def test_weights_do_not_depend_on_the_space(name, changed):
    one, other = start(name).state_dict(), start(name, **changed).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one if not key.endswith("positions"))


def test_placed_inputs_shift_no_neuron():
    one, other = start("mlp"), start("mlp", input_positions="grid")
    assert same_state(one, other)


@every_model
@pytest.mark.parametrize("outputs", ["task", "held", "arbitrary"])
def test_placed_outputs_move_the_output_layer_only(name, outputs):
    free, placed = (list(graph.positions(start(name, outputs=each)).values()) for each in ("free", outputs))
    assert all(torch.equal(*pair) for pair in zip(free[:-1], placed[:-1], strict=True))
    assert torch.equal(placed[-1], output_places(free[-1], (3, 2), outputs))
    assert not torch.equal(placed[-1], free[-1])


@every_model
def test_positions_start_standard_normal_in_every_layer(name):
    model = start(name, layers=(900, 700), classes=(600, 500))
    for place in graph.positions(model).values():
        assert place.mean().abs() < 0.1
        assert abs(place.std() - 1) < 0.1


@every_model
def test_weights_start_as_torch_starts_them(name):
    weight = first(start(name, layers=(50, 4))).weight  # uniform within 1 / sqrt(inputs)
    inputs = weight[0].numel()
    assert 0.95 / inputs**0.5 < weight.abs().max() <= 1 / inputs**0.5


def test_batch_norms_start_as_torch_starts_them():
    for norm in start("conv").norm:
        assert same_state(norm, nn.BatchNorm2d(norm.num_features))


# Placed inputs.


def test_the_grid_gives_the_pixels_places():
    model = start("mlp", input_positions="grid", dim=3)
    assert torch.equal(model.input_places, pixel_grid((2, 3, 3), 3))
    assert graph.connections(model)[0] == ("input", "linear.0")
    assert start("mlp").input_places is None
    assert list(INPUT_POSITIONS) == ["grid"]


def test_the_grid_is_in_no_file_but_moves_with_the_network():
    model = start("mlp", input_positions="grid")
    assert "input_places" not in model.state_dict()
    assert model.double().input_places.dtype == torch.float64


def test_a_grid_on_a_line_is_refused():
    with pytest.raises(ValueError, match="a grid of pixels needs 2 dimensions or more, got 1"):
        start("mlp", input_positions="grid", dim=1)


# Counting.


def test_parameters_by_hand():
    # 18 -> 5 -> 4 -> 5, biases; positions do not count
    assert parameter_count(start("mlp")) == (18 * 5 + 5) + (5 * 4 + 4) + (4 * 5 + 5)
    # 5 x 5 kernels from 2 channels to 5, to 4; a gain and an offset each; 4 -> 5
    assert parameter_count(start("conv")) == (25 * 2 * 5 + 2 * 5) + (25 * 5 * 4 + 2 * 4) + (4 * 5 + 5)
    assert parameter_count(mlp((1, 1, 1), (), (2,))) == 4


@every_model
@pytest.mark.parametrize("dim", [1, 3])
def test_the_number_of_parameters_does_not_depend_on_the_space(name, dim):
    assert parameter_count(start(name, dim=dim)) == parameter_count(start(name))


# Arguments and files.


def test_a_network_takes_the_options_that_it_reads():
    options = {"layers": [5, 4], "activation": "Tanh", "dim": 3, "input_positions": "grid", "epochs": 3}
    given = {"shape": (1, 2, 2), "classes": (3, 2)}
    common = {"shape": (1, 2, 2), "layers": (5, 4), "classes": (3, 2), "activation": "Tanh", "dim": 3}
    assert constructor_arguments("mlp", options, **given) == common | {"input_positions": "grid"}
    assert constructor_arguments("conv", options, **given) == common


def test_what_the_data_say_wins_over_an_option_of_that_name():
    options = {**COMMON, "input_positions": None, "shape": (9, 9, 9), "classes": [1]}
    found = constructor_arguments("mlp", options, shape=(1, 2, 2), classes=(3, 2))
    assert (found["shape"], found["classes"]) == ((1, 2, 2), (3, 2))


@pytest.mark.parametrize(("name", "changed"), [("mlp", {}), ("mlp", {"input_positions": "grid"}), ("conv", {"dim": 3})])
def test_a_network_knows_what_it_was_made_with(name, changed):
    arguments = ARGUMENTS[name] | changed
    assert arguments_of(build(name, arguments, 0)) == arguments
    assert arguments_of(MODELS[name](**arguments_of(build(name, arguments, 0)))) == arguments


@pytest.mark.parametrize(
    "network", [mlp(), conv(), start("mlp", input_positions="grid", dim=3)], ids=["mlp", "conv", "grid"]
)
def test_pack_and_unpack_give_the_network_back(network):
    again = unpack(pack(network), "here")
    assert type(again) is type(network)
    assert same_state(network, again)
    assert arguments_of(again) == arguments_of(network)
    assert not again.training
    images = torch.rand(2, *network.shape)
    assert torch.equal(network.eval()(images), again(images))
    for name, place in graph.places(network).items():
        assert torch.equal(place, graph.places(again)[name])


@every_model
def test_a_file_gives_the_network_back(name, tmp_path):
    model = start(name)
    runs.save(tmp_path / "model.pt", pack(model, task="MNIST"))
    assert same_state(spatial.load(tmp_path / "model.pt"), model)


@every_model
def test_pack_keeps_a_copy(name):
    model = start(name)
    packed = pack(model, task="MNIST")
    key = f"{next(iter(graph.placed(model)))}.weight"
    before = packed["state"][key].clone()
    with torch.no_grad():
        first(model).weight.zero_()
    assert torch.equal(packed["state"][key], before)
    assert packed["task"] == "MNIST"


def broken(kind=mlp, arguments=None, **changes):
    packed = pack(kind())
    return {**packed, "arguments": packed["arguments"] | (arguments or {}), **changes}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        broken(model="transformer"),
        broken(model="conv"),
        {**broken(), "arguments": {}},
        broken(arguments={"activation": "Step"}),
        broken(arguments={"layers": (6, 4)}),
        broken(arguments={"input_positions": "spiral"}),
        broken(arguments={"input_positions": "grid", "dim": 1}),
        broken(conv, arguments={"dim": 0}),
        broken(conv, arguments={"shape": ()}),
        broken(conv, arguments={"padding": 2}),
        broken(state={}),
        broken(state=3),
    ],
    ids=[
        "nothing",
        "list",
        "empty",
        "model",
        "another model",
        "no arguments",
        "activation",
        "layers",
        "input positions",
        "grid on a line",
        "no dimensions",
        "no shape",
        "unknown argument",
        "no state",
        "state",
    ],
)
def test_what_is_no_network_is_refused_by_file(content):
    with pytest.raises(UserError, match=r"here\.pt: not a network of this program"):
        unpack(content, "here.pt")


def test_every_model_has_a_test_case():
    assert list(ARGUMENTS) == list(models.MODELS)
