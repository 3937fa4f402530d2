import oracles
import pytest
import torch
from helpers import hand_made, mlp
from torch import nn

from spatial import graph


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
