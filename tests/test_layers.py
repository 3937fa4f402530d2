import pytest
import torch
from torch import nn

import spatial
from spatial.costs import relax
from spatial.layers import SpatialConv2d, SpatialLinear
from spatial.locality import LocalityPriorLinear, locality_prior
from spatial.positions import SHEETS

both_layers = pytest.mark.parametrize(
    "layer", [SpatialLinear, lambda *given, **named: SpatialConv2d(*given, 3, **named)], ids=["linear", "conv"]
)


def test_it_computes_what_linear_computes():
    layer = SpatialLinear(5, 3)
    images = torch.randn(4, 5)
    assert torch.equal(layer(images), nn.functional.linear(images, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((3,), {}),
        ((3, 2, 1), {}),  # stride, padding
        (((3, 1), (1, 2), (0, 1), 2), {}),  # dilation
        ((3, 1, 1, 1, 2), {}),  # groups
        ((3, 1, 0, 1, 1, False), {}),  # bias
        ((3, 1, 1, 1, 1, True, "circular"), {}),
        ((3,), {"stride": 2, "padding": "valid", "groups": 2, "bias": False}),
    ],
    ids=str,
)
def test_a_convolution_computes_what_conv2d_computes(positional, named):
    layer, plain = SpatialConv2d(4, 6, *positional, dim=3, **named), nn.Conv2d(4, 6, *positional, **named)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "positions"})
    images = torch.randn(2, 4, 9, 7)
    assert torch.equal(layer(images), plain(images))
    for option in ("stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(layer, option) == getattr(plain, option)
    assert layer.positions.shape == (6, 3)  # one per output channel


def test_a_convolution_is_given_torchs_weights():
    torch.manual_seed(5)
    layer = SpatialConv2d(2, 3, 3)
    torch.manual_seed(5)
    assert torch.equal(layer.weight, nn.Conv2d(2, 3, 3).weight)


@both_layers
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_output_has_a_place_that_learns(layer, dim):
    layer = layer(4, 6, dim=dim)
    assert layer.positions.shape == (6, dim)
    assert layer.positions.requires_grad
    assert "positions" in dict(layer.named_parameters())


def test_positions_have_the_layers_device_and_type():
    assert SpatialConv2d(4, 6, 1, dtype=torch.float64).positions.dtype == torch.float64
    assert SpatialConv2d(4, 6, 1, device="meta").positions.device.type == "meta"


@both_layers
def test_places_are_in_a_plane_by_default(layer):
    assert layer(4, 6).positions.shape == (6, 2)
    assert layer(4, 6).dim == 2


@both_layers
def test_positions_start_standard_normal(layer):
    places = layer(1, 5000).positions
    assert places.mean().abs() < 0.05
    assert abs(places.std() - 1) < 0.05


@pytest.mark.parametrize(("layer", "shape"), [(SpatialLinear(4, 3), (2, 4)), (SpatialConv2d(4, 3, 1), (2, 4, 2, 2))])
def test_positions_do_not_enter_forward(layer, shape):
    layer(torch.randn(shape)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.positions.grad is None


def test_without_bias():
    layer = SpatialLinear(4, 3, bias=False)
    assert layer.bias is None
    assert layer(torch.zeros(1, 4)).tolist() == [[0, 0, 0]]
    assert SpatialConv2d(4, 3, 1, bias=False).bias is None


@both_layers
def test_reset_positions_follows_its_generator(layer):
    layer = layer(2, 4)
    weight = layer.weight.clone()
    layer.reset_positions(torch.Generator().manual_seed(7))
    expected = torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(layer.positions, expected)
    assert torch.equal(layer.weight, weight)


@both_layers
def test_reset_parameters_leaves_the_positions_alone(layer):
    layer = layer(2, 4)
    before = layer.positions.clone()
    layer.reset_parameters()
    assert torch.equal(layer.positions, before)


@both_layers
@pytest.mark.parametrize("dim", [0, -1])
def test_a_space_without_dimensions_is_refused(layer, dim):
    with pytest.raises(ValueError, match=f"dim must be at least 1, got {dim}"):
        layer(2, 2, dim=dim)


# On a sheet.


@both_layers
@pytest.mark.parametrize(("topology", "wider"), [("line", 1), ("line", 13), ("plane", 1), ("plane", 25), ("plane", 4)])
def test_on_a_sheet_units_have_the_sheets_places(layer, topology, wider):
    layer = layer(2, 9, dim=3)
    weight = layer.weight.clone()
    assert not layer.on_sheet
    layer.place_on_sheet(topology, 9, wider)
    expected = SHEETS[topology].places(9, SHEETS[topology].span(max(9, wider)))
    assert torch.equal(layer.positions, expected.float())
    assert layer.on_sheet and layer.dim == 2
    assert torch.equal(layer.weight, weight)
    assert "positions" in dict(layer.named_parameters())


@both_layers
def test_on_a_sheet_places_have_the_layers_type_and_no_gradient(layer):
    layer = layer(2, 9).double()
    layer.place_on_sheet("plane", 9)
    assert layer.positions.dtype == torch.float64
    assert not layer.positions.requires_grad
    assert not SpatialLinear(2, 2).on_sheet


@pytest.mark.parametrize(("topology", "units"), [("plane", 8), ("line", 0), ("ring", 9)])
def test_a_sheet_that_cannot_be_leaves_the_places_alone(topology, units):
    layer = SpatialLinear(2, 8)
    before = layer.positions
    with pytest.raises((ValueError, KeyError)):
        layer.place_on_sheet(topology, units)
    assert layer.positions is before and not layer.on_sheet


@pytest.mark.parametrize("make", [SpatialLinear, LocalityPriorLinear])
def test_reset_leaves_a_sheet_as_it_is_but_the_generator_moves_on_all_the_same(make):
    states = []
    for on_sheet in (True, False):
        layer, draws = make(9, 9) if on_sheet else SpatialLinear(9, 9), torch.Generator().manual_seed(7)
        if on_sheet:
            layer.place_on_sheet("plane", 9)
        before = layer.positions.clone()
        layer.reset_positions(draws)
        assert torch.equal(layer.positions, before) is on_sheet
        states.append(draws.get_state())
    assert torch.equal(*states)


def test_its_repr_says_dim():
    assert "in_features=2, out_features=2, bias=True, dim=3" in repr(SpatialLinear(2, 2, dim=3))
    assert "kernel_size=(3, 3), stride=(1, 1), dim=1" in repr(SpatialConv2d(2, 2, 3, dim=1))


def test_the_package_gives_its_public_names():
    assert spatial.SpatialLinear is SpatialLinear
    assert spatial.SpatialConv2d is SpatialConv2d
    assert spatial.relax is relax
    assert spatial.LocalityPriorLinear is LocalityPriorLinear
    assert spatial.locality_prior is locality_prior
    assert {"SpatialConv2d", "SpatialLinear", "transport", "proximity", "relax", "load"} <= set(dir(spatial))
    assert {"LocalityPriorLinear", "locality_prior"} <= set(dir(spatial))
    with pytest.raises(AttributeError, match="has no attribute 'teleport'"):
        spatial.teleport  # noqa: B018
