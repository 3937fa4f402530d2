import pytest
import torch
from torch import nn

import spatial
from spatial.layers import SpatialLinear


def test_it_computes_what_linear_computes():
    layer = SpatialLinear(5, 3)
    images = torch.randn(4, 5)
    assert torch.equal(layer(images), nn.functional.linear(images, layer.weight, layer.bias))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_output_neuron_has_a_place_that_learns(dim):
    layer = SpatialLinear(4, 6, dim=dim)
    assert layer.positions.shape == (6, dim)
    assert layer.positions.requires_grad
    assert "positions" in dict(layer.named_parameters())


def test_positions_start_standard_normal():
    places = SpatialLinear(1, 5000).positions
    assert places.mean().abs() < 0.05
    assert abs(places.std() - 1) < 0.05


def test_positions_do_not_enter_forward():
    layer = SpatialLinear(4, 3)
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.positions.grad is None


def test_without_bias():
    layer = SpatialLinear(4, 3, bias=False)
    assert layer.bias is None
    assert layer(torch.zeros(1, 4)).tolist() == [[0, 0, 0]]


def test_reset_positions_follows_its_generator():
    layer = SpatialLinear(2, 4)
    layer.reset_positions(torch.Generator().manual_seed(7))
    expected = torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(layer.positions, expected)


def test_a_space_without_dimensions_is_refused():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        SpatialLinear(2, 2, dim=0)


def test_its_repr_says_dim():
    assert "dim=3" in repr(SpatialLinear(2, 2, dim=3))


def test_the_package_gives_its_public_names():
    assert spatial.SpatialLinear is SpatialLinear
    assert {"SpatialLinear", "transport", "proximity", "load"} <= set(dir(spatial))
    with pytest.raises(AttributeError, match="has no attribute 'teleport'"):
        spatial.teleport  # noqa: B018
