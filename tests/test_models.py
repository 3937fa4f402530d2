import math
from itertools import pairwise

import oracles
import pytest
import torch
import torchvision
from helpers import LINE, PLANE, alexnet, conv, lenet, local, mlp, parameters, same_state
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

import spatial
from spatial import graph, models, storing
from spatial.errors import UserError
from spatial.layers import SpatialLinear
from spatial.locality import LocalityPriorLinear, locality_prior
from spatial.models import (
    ACTIVATIONS,
    INPUT_POSITIONS,
    MODELS,
    SMALLEST,
    AlexNet,
    LeNet,
    arguments_of,
    build,
    constructor_arguments,
    dense,
    heads,
    layers_as_wide_as_before,
    pack,
    parameter_count,
    unpack,
)
from spatial.positions import distance, line, output_places, pixel_grid, plane

COMMON = {"shape": (2, 3, 3), "layers": (5, 4), "classes": (3, 2), "activation": "ReLU", "dim": 2}
ARGUMENTS = {
    "mlp": COMMON | {"input_positions": None, "prior": None},
    "conv": COMMON,
    "lenet": {"shape": (2, 16, 16), "classes": (3, 2), "layers": (49, 49), "prior": None, "batch_norm": True},
    "alexnet": {
        "shape": (2, 63, 63), "classes": (3, 2), "layers": (25, 9), "dim": 2, "prior": None, "batch_norm": True,
    },
}  # fmt: skip
ACTIVATED = ("mlp", "conv")  # of any depth
SPATIAL = ("mlp", "conv", "alexnet")  # in any space
DENSE = ("lenet", "alexnet")  # end in two hidden dense layers, the second with a prior and a batch norm or without
PRIORS = (PLANE, LINE | {"normalize": True}, PLANE | {"on": "activations", "metric": "chebyshev"})
every_model = pytest.mark.parametrize("name", MODELS)
every_activated_model = pytest.mark.parametrize("name", ACTIVATED)
every_dense_model = pytest.mark.parametrize("name", DENSE)
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=str)


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


@every_activated_model
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
    logits = model(torch.rand(7, *model.shape))
    assert [(len(output), output.shape[1]) for output in seen.values()] == [(7, units) for units in model.layers]
    last = list(seen.values())[-1]
    head = list(graph.placed(model).values())[-1]
    torch.testing.assert_close(head(last.amax((2, 3)) if last.ndim == 4 else last), logits)


@every_activated_model
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
    fixed = [f"{layer}.positions" for layer in graph.on_sheet(start(name))]
    drawn = [
        key for key in one if not key.startswith("norm") and key not in fixed
    ]  # gains and offsets start at 1 and 0
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
        *((name, {"dim": dim}) for name in SPATIAL for dim in (1, 3)),
        *((name, {"activation": "Tanh"}) for name in ACTIVATED),
        *((name, {"outputs": outputs}) for name in MODELS for outputs in ("task", "held", "arbitrary")),
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
    assert not graph.on_sheet(model)
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


# LeNet.


def test_lenets_layers_by_hand():
    model = LeNet((1, 28, 28), (10,))
    assert list(graph.placed(model)) == ["linear.0", "linear.1", "linear.2"]
    assert graph.connections(model) == [("linear.0", "linear.1"), ("linear.1", "linear.2")]
    assert model.norms == {"linear.1": "norm"}
    assert model.activity == {"linear.0": "active.0", "linear.1": "active.1"}
    assert [tuple(each.weight.shape) for each in model.conv] == [(10, 1, 5, 5), (20, 10, 5, 5)]
    assert [tuple(each.weight.shape) for each in model.linear] == [(49, 320), (49, 49), (10, 49)]
    assert [type(each) for each in model.linear] == [SpatialLinear] * 3
    assert model.norm.num_features == 49
    assert [each.p for each in (model.dropout, model.dropout2d)] == [0.5, 0.5]
    assert not any(hasattr(each, "positions") for each in model.conv)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [((16, 16), 1), ((17, 19), 1), ((20, 20), 4), ((23, 24), 6), ((28, 28), 16), ((16, 28), 4), ((32, 32), 25)],
)  # two blocks: (16 - 4) / 2 = 6, (6 - 4) / 2 = 1; (28 - 4) / 2 = 12, (12 - 4) / 2 = 4; rounded down
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [(10,), (3, 1, 2)], ids=str)
def test_any_image_that_is_large_enough_gives_the_logits_of_all_tasks(size, pixels, channels, classes):
    model = start("lenet", shape=(channels, *size), classes=classes)
    assert model.linear[0].in_features == 20 * pixels
    for mode in (True, False):
        assert model.train(mode)(torch.rand(3, channels, *size)).shape == (3, sum(classes))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("lenet", size) for size in ((15, 15), (16, 15), (15, 28), (1, 1))),
        *(("alexnet", size) for size in ((62, 62), (63, 62), (62, 224), (1, 1))),
    ],
    ids=str,
)
def test_images_that_are_too_small_are_refused(name, size):
    assert SMALLEST == {"lenet": 16, "alexnet": 63}
    least, (height, width) = SMALLEST[name], size
    with pytest.raises(
        ValueError, match=rf"images must have {least} x {least} pixels or more, got \[{height}, {width}\]"
    ):
        start(name, shape=(1, *size))


def in_functions(model, images):
    """LeNet's logits in evaluation mode, function by function, from its parameters."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    x = (images - 0.1307) / 0.3081
    for layer in (0, 1):
        x = F.conv2d(x, state[f"conv.{layer}.weight"], state[f"conv.{layer}.bias"])
        x = F.relu(F.max_pool2d(x, 2))
    return dense_part(model, x.flatten(1))


def dense_part(model, x):
    """The logits in evaluation mode, from what the first dense layer reads, function by function."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    x = F.relu(F.linear(x, state["linear.0.weight"], state["linear.0.bias"]))
    weight, bias = state["linear.1.weight"], state["linear.1.bias"]
    if model.prior is not None:
        given = {name: value for name, value in model.prior.items() if name != "on"}
        near = locality_prior(*reversed(weight.shape), **given).to(weight)
        gains = near.mean(1) if model.prior.get("on") == "activations" else None
        weight, bias = (near * weight, bias) if gains is None else (gains[:, None] * weight, gains * bias)
    x = F.linear(x, weight, bias)
    if model.batch_norm:
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(state[f"norm.{name}"] for name in names), eps=1e-5)
    return F.linear(F.relu(x), state["linear.2.weight"], state["linear.2.bias"])


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("prior", [None, *PRIORS], ids=str)
@pytest.mark.parametrize("layers", [(9, 9), (4, 16)], ids=str)
def test_lenet_in_evaluation_mode_is_its_functions(float64, batch_norm, prior, layers):
    model = lenet((2, 17, 20), layers, prior=prior, batch_norm=batch_norm)
    images = torch.rand(5, 2, 17, 20)
    torch.testing.assert_close(model(images), in_functions(model, images))
    with torch.no_grad():
        torch.testing.assert_close(model(images), in_functions(model, images))


def test_lenet_normalises_its_images():
    model, seen = start("lenet"), []
    model.conv[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.zeros(3, 2, 16, 16)
    images[1], images[2] = 1, 0.1307
    model(images)
    for found, expected in zip(seen[0], (-0.42421, 2.82149, 0), strict=True):  # -0.1307 / 0.3081, 0.8693 / 0.3081
        torch.testing.assert_close(found, torch.full((2, 16, 16), float(expected)), atol=1e-5, rtol=0)


def test_lenet_drops_whole_channels_of_its_second_convolution_and_single_units_behind():
    model, seen = start("lenet", shape=(2, 28, 28)), []
    for module in (model.dropout2d, model.dropout):
        module.register_forward_pre_hook(lambda _, given: torch.ones_like(given[0]))
        module.register_forward_hook(lambda _, __, output: seen.append(output))
    model.train()(torch.rand(6, 2, 28, 28))
    channels, features, units = seen
    assert [tuple(each.shape) for each in seen] == [(6, 20, 8, 8), (6, 320), (6, 49)]
    assert torch.equal(channels, channels[:, :, :1, :1].expand_as(channels))
    assert set(channels.unique().tolist()) == set(features.unique().tolist()) == set(units.unique().tolist()) == {0, 2}
    assert features.view(6, 20, 16).std(2).min() > 0  # no channel is dropped as one


@every_dense_model
def test_without_its_batch_norm_a_network_has_none(name):
    with_norm, without = start(name), start(name, batch_norm=False)
    assert without.norms == {}
    assert graph.norm(without, "linear.1") is None
    gone = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert set(with_norm.state_dict()) - set(without.state_dict()) == {f"norm.{name}" for name in gone}
    assert all(torch.equal(with_norm.state_dict()[name], value) for name, value in without.state_dict().items())
    assert without.train()(torch.rand(1, *without.shape)).isfinite().all()  # a single image will do


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 20, 17)], ids=str)
@every_prior
@pytest.mark.parametrize("outputs", ["free", "task"])
def test_control_and_treatment_start_alike_but_for_the_prior(shape, prior, outputs):
    control, treated = (start("lenet", 3, outputs, shape=shape, prior=each) for each in (None, prior))
    assert type(control.linear[1]) is SpatialLinear and type(treated.linear[1]) is LocalityPriorLinear
    parameters = [dict(model.named_parameters()) for model in (control, treated)]
    assert list(parameters[0]) == list(parameters[1])
    assert list(control.state_dict()) == list(treated.state_dict())
    assert parameter_count(control) == parameter_count(treated)
    assert graph.on_sheet(control) == graph.on_sheet(treated) == ["linear.0", "linear.1"]
    sheets = {"linear.0.positions", "linear.1.positions"} if prior["topology"] == "line" else set()
    for name in parameters[0]:
        assert torch.equal(parameters[0][name], parameters[1][name]) is (name not in sheets)
        assert parameters[0][name].requires_grad is parameters[1][name].requires_grad
    images = torch.rand(4, *shape)
    assert not torch.allclose(control.eval()(images), treated.eval()(images), atol=1e-5)


@pytest.mark.parametrize("layers", [(49, 49), (49, 25), (16, 36), (1, 9)], ids=str)
@pytest.mark.parametrize("topology", ["plane", "line"])
@every_dense_model
def test_both_dense_layers_lie_on_the_sheet_of_the_prior(name, layers, topology):
    model = start(name, layers=layers, prior={"topology": topology})
    assert graph.on_sheet(model) == ["linear.0", "linear.1"]
    below, local = model.linear[0].positions, model.linear[1].positions
    torch.testing.assert_close(model.linear[1].prior, 1 / (1 + distance(local, below)))
    larger = local if layers[1] >= layers[0] else below
    assert torch.equal(larger, {"plane": plane, "line": line}[topology](max(layers)).float())


def test_without_a_prior_lenet_lies_on_a_plane_if_its_widths_are_its_own():
    """Others are those of extracted parts, which keep some places of their sheet."""
    control = start("lenet")
    for layer in (0, 1):
        assert torch.equal(control.linear[layer].positions, plane(49).float())
    for layers in ((9, 9), (49, 36), (36, 49), (5, 5)):
        assert graph.on_sheet(start("lenet", layers=layers)) == []


@pytest.mark.parametrize("layers", [(50, 50), (64, 50), (50, 64)], ids=str)
@every_dense_model
def test_a_plane_needs_square_widths(name, layers):
    with pytest.raises(ValueError, match=r"a plane needs square widths .*, got 50"):
        start(name, layers=layers, prior=PLANE)
    assert start(name, layers=layers, prior=LINE).linear[1].prior.shape == layers[::-1]


# AlexNet.


def test_alexnets_layers_by_hand():
    with torch.device("meta"):  # 61 million weights
        model = AlexNet((3, 224, 224), (1000,))
    assert list(graph.placed(model)) == ["linear.0", "linear.1", "linear.2"]
    assert graph.connections(model) == [("linear.0", "linear.1"), ("linear.1", "linear.2")]
    assert model.norms == {"linear.1": "norm"}
    assert model.activity == {"linear.0": "active.0", "linear.1": "active.1"}
    assert [tuple(each.weight.shape) for each in model.features if isinstance(each, nn.Conv2d)] == [
        (64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3),
    ]  # fmt: skip
    assert [tuple(each.weight.shape) for each in model.linear] == [(4096, 9216), (4096, 4096), (1000, 4096)]
    assert [type(each) for each in model.linear] == [SpatialLinear] * 3
    assert (model.norm.num_features, model.dropout.p) == (4096, 0.5)
    assert not any(hasattr(each, "positions") for each in model.features)
    assert parameter_count(model) == 61_100_840 + 2 * 4096  # torchvision's, and the batch norm's


def torchvisions(model):
    """torchvision's own AlexNet with the weights of one of ours that has neither prior nor batch norm."""
    with torch.device("meta"):
        whole = torchvision.models.AlexNet()
        whole.features[0] = nn.Conv2d(model.shape[0], 64, 11, 4, 2)
        for place, layer in zip((1, 4, 6), model.linear, strict=True):
            whole.classifier[place] = nn.Linear(layer.in_features, layer.out_features)
    state = {name: value for name, value in model.state_dict().items() if name.startswith("features")}
    for place, layer in zip((1, 4, 6), model.linear, strict=True):
        state |= {f"classifier.{place}.weight": layer.weight, f"classifier.{place}.bias": layer.bias}
    whole.load_state_dict(state, assign=True)
    return whole.eval()


@pytest.mark.parametrize("shape", [(3, 63, 63), (3, 80, 97), (3, 224, 224), (1, 63, 63), (2, 64, 63)], ids=str)
def test_alexnet_in_evaluation_mode_is_torchvisions(shape):
    model = alexnet(shape, (49, 36), batch_norm=False)
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if shape[0] != 3:
        means, deviations = [0.449] * shape[0], [0.226] * shape[0]  # their means
    images = torch.rand(2, *shape)
    with torch.no_grad():
        expected = torchvisions(model)(transforms.Normalize(means, deviations)(images))
        torch.testing.assert_close(model(images), expected)
    assert expected.std(0).max() > 1e-4


def test_alexnet_has_torchvisions_layers_in_torchvisions_order():
    with torch.device("meta"):
        ours, theirs = AlexNet((3, 63, 63), (2,)), torchvision.models.AlexNet()
    assert repr(ours.features) == repr(theirs.features) and repr(ours.avgpool) == repr(theirs.avgpool)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("prior", [None, *PRIORS], ids=str)
@pytest.mark.parametrize("layers", [(9, 9), (4, 16)], ids=str)
def test_alexnets_dense_part_is_its_functions(batch_norm, prior, layers):
    model, read = alexnet(layers=layers, prior=prior, batch_norm=batch_norm).double(), []
    model.linear[0].register_forward_pre_hook(lambda _, given: read.append(given[0].detach()))
    images = torch.rand(3, *model.shape, dtype=torch.float64)
    found = model(images)
    assert read[0].shape == (3, 9216)
    torch.testing.assert_close(found, dense_part(model, read[0]))
    with torch.no_grad():
        torch.testing.assert_close(model(images), found)


def test_alexnet_normalises_its_images():
    seen = []
    for channels in (3, 2):
        model = start("alexnet", shape=(channels, 63, 63))
        model.features[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].amax((0, 2, 3)).tolist()))
        model.eval()(torch.ones(1, channels, 63, 63))
        assert not {"mean", "deviation"} & set(model.state_dict())
    assert seen[0] == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rel=1e-6)
    assert seen[1] == pytest.approx([0.551 / 0.226] * 2, rel=1e-6)  # means of 0.485, 0.456, 0.406 and of deviations


def test_alexnet_drops_single_units_before_both_dense_layers():
    model, seen = start("alexnet"), []
    model.dropout.register_forward_pre_hook(lambda _, given: torch.ones_like(given[0]))
    model.dropout.register_forward_hook(lambda _, __, output: seen.append(output))
    model.train()(torch.rand(2, *model.shape))
    assert [tuple(each.shape) for each in seen] == [(2, 9216), (2, 25)]
    assert all(set(each.unique().tolist()) == {0, 2} for each in seen)
    assert seen[0].view(2, 256, 36).std(2).min() > 0  # no channel is dropped as one


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(63, 63), (63, 90), (100, 71)], ids=str)
def test_any_image_that_is_large_enough_for_alexnet_gives_the_logits_of_all_tasks(channels, size):
    model = start("alexnet", shape=(channels, *size), classes=(3, 1, 2))
    for mode in (True, False):
        assert model.train(mode)(torch.rand(2, channels, *size)).shape == (2, 6)


@every_prior
@pytest.mark.parametrize("outputs", ["free", "task"])
def test_alexnets_with_and_without_a_prior_start_alike_but_for_it(prior, outputs):
    control, treated = (start("alexnet", 3, outputs, layers=(9, 9), prior=each) for each in (None, prior))
    assert type(control.linear[1]) is SpatialLinear and type(treated.linear[1]) is LocalityPriorLinear
    assert list(control.state_dict()) == list(treated.state_dict())
    assert parameter_count(control) == parameter_count(treated)
    assert (graph.on_sheet(control), graph.on_sheet(treated)) == ([], ["linear.0", "linear.1"])
    sheets = {"linear.0.positions", "linear.1.positions"}
    parameters = [dict(model.named_parameters()) for model in (control, treated)]
    for name in parameters[0]:
        assert torch.equal(parameters[0][name], parameters[1][name]) is (name not in sheets)
        assert parameters[0][name].requires_grad and parameters[1][name].requires_grad is (name not in sheets)
    images = torch.rand(2, *control.shape)
    assert not torch.allclose(control.eval()(images), treated.eval()(images), atol=1e-5)


@pytest.mark.parametrize("dim", [1, 3])
def test_an_alexnet_with_a_prior_in_another_space_than_its_sheets_is_refused(dim):
    with pytest.raises(ValueError, match=f"a prior's sheet has 2 dimensions, got {dim}"):
        start("alexnet", prior=PLANE, dim=dim)


# What every network allows.


@every_model
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_network_can_be_made_where_nothing_is_computed(name, device):
    with torch.device(device):
        model = MODELS[name](**ARGUMENTS[name])
    assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {device}
    assert list(graph.positions(model)) == list(graph.positions(start(name)))
    assert parameter_count(model) == parameter_count(start(name))


@every_model
def test_files_hold_no_other_order_of_memory_than_their_own(name):
    """Networks whose images come channels last are packed as others are."""
    model = start(name)
    plain = pack(model)["state"]
    turned = pack(model.to(memory_format=torch.channels_last))["state"]
    assert list(plain) == list(turned)
    for key, value in plain.items():
        assert turned[key].is_contiguous() and torch.equal(value, turned[key])
        assert value.untyped_storage().nbytes() == turned[key].untyped_storage().nbytes()
    if name != "mlp":
        assert not all(value.is_contiguous() for value in model.state_dict().values())


# A prior in a fully connected network.


def test_a_dense_layer_is_placed_with_a_prior_or_without():
    plain, local = dense(5, 9, dim=3), dense(4, 9, prior=PLANE | {"decay": "square"})
    assert type(plain) is SpatialLinear and plain.positions.shape == (9, 3)
    assert type(local) is LocalityPriorLinear and local.decay == "square"
    assert (local.in_features, local.out_features) == (4, 9)


@pytest.mark.parametrize(
    ("layers", "local", "on_sheet"),
    [
        ((128, 64, 64, 49, 49), [2, 4], [1, 2, 3, 4]),
        ((64, 64), [1], [0, 1]),
        ((9, 9, 9), [1, 2], [0, 1, 2]),
        ((9, 9, 4, 9, 9, 16), [1, 4], [0, 1, 3, 4]),
        ((18, 9, 9), [2], [1, 2]),  # the inputs are 18 pixels
        ((9, 9, 5), [1], [0, 1]),  # the outputs are 5
    ],
    ids=str,
)
@every_prior
def test_hidden_layers_as_wide_as_the_one_before_them_get_the_prior(layers, local, on_sheet, prior):
    model = start("mlp", layers=layers, prior=prior)
    assert layers_as_wide_as_before(layers) == local
    assert [index for index, each in enumerate(model.linear) if isinstance(each, LocalityPriorLinear)] == local
    assert graph.on_sheet(model) == [f"linear.{index}" for index in on_sheet]
    for index in local:
        layer, below = model.linear[index], model.linear[index - 1]
        given = {name: value for name, value in prior.items() if name != "on"}
        assert torch.equal(layer.prior, locality_prior(layers[index], layers[index], **given))
        assert torch.equal(layer.positions, below.positions)
        assert torch.equal(layer.positions, {"plane": plane, "line": line}[prior["topology"]](layers[index]).float())
    assert model(torch.rand(4, 2, 3, 3)).shape == (4, 5)


def test_equal_neighbours_by_hand():
    assert layers_as_wide_as_before(()) == layers_as_wide_as_before((5,)) == layers_as_wide_as_before((5, 4, 5)) == []
    assert layers_as_wide_as_before((5, 5)) == [1]
    assert layers_as_wide_as_before((4, 4, 4, 5, 5)) == [1, 2, 4]


@pytest.mark.parametrize("layers", [(), (9,), (9, 4), (9, 4, 9)], ids=str)
def test_a_prior_that_no_layer_can_have_is_refused(layers):
    message = rf"a prior needs a hidden layer as wide as the one before it, got \[{', '.join(map(str, layers))}\]"
    with pytest.raises(ValueError, match=message):
        start("mlp", layers=layers, prior=PLANE)


@pytest.mark.parametrize("layers", [(50, 50), (9, 9, 8, 8)], ids=str)
def test_a_plane_of_equal_widths_that_are_not_square_is_refused(layers):
    with pytest.raises(ValueError, match=f"a plane needs square widths .*, got {layers[-1]}"):
        start("mlp", layers=layers, prior=PLANE)
    assert start("mlp", layers=layers, prior=LINE).linear[-2].prior.shape == (layers[-1],) * 2


@pytest.mark.parametrize("dim", [1, 3])
def test_a_prior_in_another_space_than_its_sheets_is_refused(dim):
    with pytest.raises(ValueError, match=f"a prior's sheets have 2 dimensions, got {dim}"):
        start("mlp", layers=(9, 9), prior=PLANE, dim=dim)


@every_prior
def test_a_fully_connected_control_and_treatment_start_alike_but_for_the_prior(prior):
    control, treated = (start("mlp", 3, layers=(7, 9, 9, 5), prior=each) for each in (None, prior))
    assert list(dict(control.named_parameters())) == list(dict(treated.named_parameters()))
    assert parameter_count(control) == parameter_count(treated)
    for name, value in control.state_dict().items():
        sheet = name in ("linear.1.positions", "linear.2.positions")
        assert torch.equal(value, treated.state_dict()[name]) is not sheet


@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_prior
def test_an_mlp_with_a_prior_is_the_oracles(float64, activation, prior):
    model = mlp((2, 2, 3), (4, 4), (3, 2), activation, prior=prior)
    weights, biases = parameters(model)
    given = {"metric": "euclidean", "decay": "linear", "normalize": False, "on": "connections"} | prior
    near = oracles.locality_prior(4, 4, *(given[name] for name in ("topology", "metric", "decay", "normalize")))
    weights[1] = oracles.attenuated(weights[1], near, given["on"])
    if given["on"] == "activations":
        biases[1] = [sum(row) / 4 * bias for row, bias in zip(near, biases[1], strict=True)]
    image = torch.rand(1, 2, 2, 3)
    *_, logits = oracles.forward(weights, biases, activation, image.flatten().tolist())
    for mode in (True, False, False):
        assert model.train(mode)(image)[0].tolist() == pytest.approx(logits, rel=1e-9)


# Counting.


def test_parameters_by_hand():
    # 18 -> 5 -> 4 -> 5, biases; positions do not count
    assert parameter_count(start("mlp")) == (18 * 5 + 5) + (5 * 4 + 4) + (4 * 5 + 5)
    # 5 x 5 kernels from 2 channels to 5, to 4; a gain and an offset each; 4 -> 5
    assert parameter_count(start("conv")) == (25 * 2 * 5 + 2 * 5) + (25 * 5 * 4 + 2 * 4) + (4 * 5 + 5)
    assert parameter_count(mlp((1, 1, 1), (), (2,))) == 4
    # 5 x 5 kernels from 2 channels to 10, to 20; 20 -> 9 -> 9 -> 5; a gain and an offset each of the last
    convolutions = (25 * 2 * 10 + 10) + (25 * 10 * 20 + 20)
    model = start("lenet", layers=(9, 9))
    assert parameter_count(model) == convolutions + (20 * 9 + 9) + (9 * 9 + 9) + (9 * 5 + 5) + 2 * 9
    assert parameter_count(start("lenet", layers=(9, 9), batch_norm=False)) == parameter_count(model) - 2 * 9
    # kernels of 11 x 11 from 2 channels to 64, of 5 x 5 to 192, of 3 x 3 to 384, to 256, to 256; 6 x 6 pixels of each
    channels, taps = (2, 64, 192, 384, 256, 256), (121, 25, 9, 9, 9)
    convolutions = sum(n * a * b + b for n, (a, b) in zip(taps, pairwise(channels), strict=True))
    model = start("alexnet", layers=(9, 9))
    assert parameter_count(model) == convolutions + (9216 * 9 + 9) + (9 * 9 + 9) + (9 * 5 + 5) + 2 * 9


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("dim", [1, 3])
def test_the_number_of_parameters_does_not_depend_on_the_space(name, dim):
    assert parameter_count(start(name, dim=dim)) == parameter_count(start(name))


# Arguments and files.


CHOSEN = {  # options of a command line, whatever the model
    "layers": [5, 5], "activation": "Tanh", "dim": 3, "input_positions": "grid", "epochs": 3, "batch_norm": None,
    "locality": "none", "metric": None, "decay": None, "normalize": None, "locality_on": None,
}  # fmt: skip


def test_a_network_takes_the_options_that_it_reads():
    given = {"shape": (1, 2, 2), "classes": (3, 2)}
    common = given | {"layers": (5, 5), "activation": "Tanh", "dim": 3}
    assert constructor_arguments("mlp", CHOSEN, **given) == common | {"input_positions": "grid", "prior": None}
    assert constructor_arguments("conv", CHOSEN, **given) == common
    lenet = given | {"layers": (5, 5), "prior": None, "batch_norm": False}
    assert constructor_arguments("lenet", CHOSEN | {"batch_norm": False}, **given) == lenet
    assert constructor_arguments("alexnet", CHOSEN | {"batch_norm": True}, **given) == lenet | {
        "batch_norm": True, "dim": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mlp", "lenet", "alexnet"])
def test_the_options_of_a_prior_are_the_arguments_of_its_layer(name):
    options = CHOSEN | {
        "locality": "line", "metric": "cityblock", "decay": "sqrt", "normalize": True, "locality_on": "activations",
        "dim": 2, "layers": [9, 9], "batch_norm": True, "input_positions": None,
    }  # fmt: skip
    found = constructor_arguments(name, options, shape=(1, 63, 63), classes=(3, 2))
    assert found["prior"] == {
        "topology": "line", "metric": "cityblock", "decay": "sqrt", "normalize": True, "on": "activations",
    }  # fmt: skip
    layer = build(name, found, 0).linear[1]
    assert (layer.topology, layer.metric, layer.decay, layer.normalize, layer.on) == tuple(found["prior"].values())


def test_what_the_data_say_wins_over_an_option_of_that_name():
    options = {**CHOSEN, "shape": (9, 9, 9), "classes": [1], "prior": "a word"}
    found = constructor_arguments("mlp", options, shape=(1, 2, 2), classes=(3, 2))
    assert (found["shape"], found["classes"], found["prior"]) == ((1, 2, 2), (3, 2), None)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mlp", {}),
        ("mlp", {"input_positions": "grid"}),
        ("mlp", {"layers": (9, 9), "prior": PLANE}),
        ("conv", {"dim": 3}),
        ("lenet", {}),
        ("lenet", {"layers": (7, 5), "prior": LINE, "batch_norm": False}),
        ("alexnet", {"dim": 3}),
        ("alexnet", {"layers": (7, 5), "prior": LINE, "batch_norm": False}),
    ],
    ids=str,
)
def test_a_network_knows_what_it_was_made_with(name, changed):
    arguments = ARGUMENTS[name] | changed
    assert arguments_of(build(name, arguments, 0)) == arguments
    assert arguments_of(MODELS[name](**arguments_of(build(name, arguments, 0)))) == arguments


@pytest.mark.parametrize(
    "network",
    [
        mlp(), conv(), start("mlp", input_positions="grid", dim=3), local(), lenet(), lenet(prior=LINE),
        lenet(layers=(9, 4), prior=PLANE | {"on": "activations", "normalize": True}, batch_norm=False),
        alexnet(dim=3), alexnet(prior=LINE), alexnet((3, 63, 70), (9, 4), prior=PLANE, batch_norm=False),
    ],
    ids=[
        "mlp", "conv", "grid", "local", "lenet", "lenet on a line", "lenet on activations", "alexnet",
        "alexnet on a line", "alexnet on a plane",
    ],
)  # fmt: skip
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
    assert graph.on_sheet(again) == graph.on_sheet(network)


@every_model
def test_a_file_gives_the_network_back(name, tmp_path):
    model = start(name)
    storing.save(tmp_path / "model.pt", pack(model, task="MNIST"))
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
        broken(lenet, arguments={"layers": (9,)}),
        broken(lenet, arguments={"shape": (1, 15, 15)}),
        broken(lenet, arguments={"batch_norm": False}),
        broken(lenet, arguments={"prior": {"topology": "ring"}}),
        broken(lenet, arguments={"prior": {"radius": 1}}),
        broken(lenet, arguments={"prior": 3}),
        broken(alexnet, arguments={"layers": (9, 9, 9)}),
        broken(alexnet, arguments={"shape": (1, 62, 63)}),
        broken(alexnet, arguments={"shape": (3, 63, 63)}),
        broken(alexnet, arguments={"prior": PLANE, "dim": 3}),
        broken(local, arguments={"layers": (4, 9, 8)}),
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
        "lenet with a layer too few",
        "images too small",
        "no batch norm",
        "topology",
        "unknown argument of a prior",
        "prior",
        "alexnet with a layer too many",
        "images too small for alexnet",
        "images of other channels",
        "a prior in space",
        "nothing to put a prior on",
        "no state",
        "state",
    ],
)
def test_what_is_no_network_is_refused_by_file(content):
    with pytest.raises(UserError, match=r"here\.pt: not a network of this program"):
        unpack(content, "here.pt")


def test_every_model_has_a_test_case():
    assert list(ARGUMENTS) == list(models.MODELS)
    for names, argument in ((ACTIVATED, "activation"), (SPATIAL, "dim"), (DENSE, "batch_norm")):
        assert {name for name in MODELS if argument in ARGUMENTS[name]} == set(names)


ENORMOUS = {  # arguments that would take terabytes
    "units": broken(arguments={"layers": (10**6, 10**6)}),
    "classes": broken(arguments={"classes": (10**9,)}),
    "dimensions": broken(arguments={"dim": 10**10}),
    "pixels": broken(arguments={"shape": (1, 10**6, 10**6)}),
    "layers": broken(arguments={"layers": (1,) * 10**6}),
    "units on a line": broken(arguments={"layers": (10**6, 10**6), "prior": {"topology": "line"}}),
    "pixels with places": broken(arguments={"shape": (1, 10**6, 10**6), "input_positions": "grid"}),
    "maps": broken(lenet, arguments={"shape": (1, 10**7, 10**7)}),
}


def largest(call, *given):
    """Bytes of the largest tensor that a call makes on the CPU."""

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for each in made if isinstance(made, tuple | list) else [made]:
                if isinstance(each, torch.Tensor) and each.device.type == "cpu":
                    self.largest = max(self.largest, each.nbytes)
            return made

    with Sizes() as sizes, pytest.raises(UserError, match=r"here\.pt: not a network of this program"):
        call(*given)
    return sizes.largest


@pytest.mark.parametrize("content", ENORMOUS.values(), ids=list(ENORMOUS))
def test_no_memory_is_taken_for_what_is_not_there(content):
    assert largest(unpack, content, "here.pt") < 10**4


def test_many_places_of_few_pixels_are_refused():
    content = pack(mlp(shape=(1, 2**14, 1), layers=(1,), dim=2**15, classes=(1,)))
    content["arguments"]["input_positions"] = "grid"
    with pytest.raises(UserError, match=r"here\.pt: its pixels have too many places"):
        unpack(content, "here.pt")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    content = pack(mlp())
    content["state"]["linear.1.weight"][2, 3] = value
    with pytest.raises(UserError, match=r"here\.pt: "):
        unpack(content, "here.pt")


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.int64])
def test_numbers_of_another_type_are_refused(kind):
    content = pack(mlp())
    content["state"]["linear.1.bias"] = content["state"]["linear.1.bias"].to(kind)
    with pytest.raises(UserError, match=r"state linear\.1\.bias should be torch\.float32 of the shape \[5\]"):
        unpack(content, "here.pt")


@pytest.mark.parametrize("sizes", [{"classes": (7, -2)}, {"layers": (6, 5.0)}, {"classes": (3, 2, 0)}])
def test_sizes_that_are_none_are_refused(sizes):
    content = pack(mlp())
    content["arguments"] |= sizes
    with pytest.raises(UserError, match=r"here\.pt: not a network of this program"):
        unpack(content, "here.pt")
