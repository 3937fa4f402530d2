from copy import deepcopy
from random import Random

import oracles
import pytest
import torch
from helpers import hand_made, mlp, owner_lists, parameters

from spatial import graph
from spatial.splitting import METHODS, cut, owners

every_method = pytest.mark.parametrize("method", METHODS)
BACKWARDS = ("greedy", "balanced")

# Three tasks with 2, 1 and 1 outputs; rows of the last matrix are outputs, columns units of the second hidden layer.
# score:       unit 0  1  2  3     of task 0 (two outputs), 1, 2
#   task 0          3  1  2  0
#   task 1          2  5  2  0
#   task 2          1  4  1  0
THREE_TASKS = [
    [[1.0, 1.0], [1.0, -1.0], [0.5, 1.0]],
    [[1.0, 0.0, -2.0], [-3.0, 0.0, 1.0], [1.0, 0.0, 0.0], [100.0, 100.0, 100.0]],
    [[1.0, 1.0, -1.0, 0.0], [-2.0, 0.0, 1.0, 0.0], [2.0, -5.0, 2.0, 0.0], [-1.0, 4.0, 1.0, 0.0]],
]


def test_greedy_by_hand():
    # second layer: 3 beats 2 and 1; 5 beats 1 and 4; 2 ties with 2, the lower index; unit 3 feeds nothing
    # first layer: task 0 owns units 0 and 2, task 1 unit 1:
    # unit 0 feeds them with 1 + 1 against 3, unit 1 feeds unit 3 alone, unit 2 feeds 2 against 1
    assert owner_lists(hand_made(THREE_TASKS, (2, 1, 1)), "greedy") == [[1, -1, 0], [0, 1, 0, -1], [0, 0, 1, 2]]


def test_balanced_by_hand():
    # second layer, divided by 6, 9 and 6: unit 0 .5 .22 .17; unit 1 .17 .56 .67; unit 2 .33 .22 .17
    # first layer: task 0 owns units 0 and 2, task 2 unit 1: (2, 2) / 4 against (3, 1) / 4; task 1 owns nothing there
    assert owner_lists(hand_made(THREE_TASKS, (2, 1, 1)), "balanced") == [[2, -1, 0], [0, 2, 0, -1], [0, 0, 1, 2]]


@pytest.mark.parametrize("method", BACKWARDS)
def test_a_tie_goes_to_the_lower_index(method):
    even = [[[1.0], [1.0]], [[-2.0, 1.0], [2.0, -1.0], [2.0, 1.0]]]
    assert owner_lists(hand_made(even, (1, 1, 1)), method)[0] == [0, 0]


def test_a_task_with_larger_weights_takes_everything_from_greedy_but_not_from_balanced():
    loud = [[[1.0], [1.0]], [[1.0, 2.0], [40.0, 30.0]]]
    assert owner_lists(hand_made(loud, (1, 1)), "greedy")[0] == [1, 1]
    assert owner_lists(hand_made(loud, (1, 1)), "balanced")[0] == [1, 0]


@pytest.mark.parametrize(("method", "expected"), [("greedy", [0, 0]), ("balanced", [0, 0])])
def test_a_task_whose_weights_are_all_zero_owns_nothing(method, expected):
    silent = [[[1.0], [1.0]], [[1.0, 2.0], [0.0, 0.0]]]
    assert owner_lists(hand_made(silent, (1, 1)), method)[0] == expected


@pytest.mark.parametrize("method", BACKWARDS)
@pytest.mark.parametrize("seed", range(5))
def test_owners_are_the_oracles_on_random_networks(method, seed):
    random = Random(seed)

    def matrix(outs, ins):  # quarters, so that sums are exact and ties happen
        return [[random.choice([0, 0, *range(-4, 5)]) / 4 for _ in range(ins)] for _ in range(outs)]

    weights, classes = [matrix(9, 3), matrix(8, 9), matrix(7, 8), matrix(6, 7)], (3, 1, 2)
    expected = oracles.owners(weights, classes, method)
    assert len({owner for layer in expected[:-1] for owner in layer}) > 1
    assert owner_lists(hand_made(weights, classes), method) == expected


@pytest.mark.parametrize("method", BACKWARDS)
def test_owners_do_not_depend_on_the_seed(method):
    assert owner_lists(mlp(layers=(20, 10)), method, seed=0) == owner_lists(mlp(layers=(20, 10)), method, seed=1)


def test_random_draws_evenly_and_follows_its_seed():
    model = mlp(layers=(900, 600), classes=(3, 2, 2))
    drawn = owner_lists(model, "random", seed=4)
    for layer in drawn[:-1]:
        assert all(abs(layer.count(task) / len(layer) - 1 / 3) < 0.06 for task in range(3))
    assert drawn == owner_lists(model, "random", seed=4)
    assert drawn[0] != owner_lists(model, "random", seed=5)[0]
    assert drawn[0][:600] != drawn[1]


def test_random_does_not_look_at_the_weights():
    assert owner_lists(mlp(layers=(20, 10), seed=0), "random") == owner_lists(mlp(layers=(20, 10), seed=1), "random")


@every_method
def test_every_method_gives_every_task_of_every_layer(method):
    model = mlp(layers=(6, 5), classes=(3, 2, 1))
    k = METHODS[method](model, 0)
    assert list(k) == list(graph.placed(model))
    assert [tuple(each.shape) for each in k.values()] == [(3, 6), (3, 5), (3, 6)]
    assert all(((each >= 0) & (each <= 1)).all() for each in k.values())
    assert owners(k)["linear.2"].tolist() == [0, 0, 0, 1, 1, 2]


@every_method
def test_with_one_task_every_unit_is_its_own(method):
    owned = owner_lists(mlp(layers=(6, 5), classes=(4,)), method)
    assert {owner for layer in owned for owner in layer} == {0}


@every_method
def test_splitting_and_cutting_leave_the_model_alone(method):
    model = mlp(classes=(3, 2, 1)).train()
    before = deepcopy(model.state_dict())
    k = METHODS[method](model, 0)
    kept = {name: each.clone() for name, each in k.items()}
    for task in range(3):
        cut(model, k, task)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(k[name], kept[name]) for name in k)
    assert model.training


def test_owner_of_a_unit_in_no_part_is_nobody():
    k = {"layer": torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])}
    assert owners(k)["layer"].tolist() == [-1, 0, 1, 0]


def all_to(model, task):
    """Every hidden unit to one task."""
    k = METHODS["greedy"](model, 0)
    for layer in list(k)[:-1]:
        k[layer] = torch.zeros_like(k[layer])
        k[layer][task] = 1
    return k


@pytest.mark.parametrize("activation", ["ReLU", "Sigmoid"])
def test_cutting_with_everything_owned_by_one_task_changes_nothing(activation):
    model, images = mlp(classes=(3, 2, 1), activation=activation), torch.rand(4, 1, 4, 4)
    part = cut(model, all_to(model, 1), 1)
    assert torch.equal(part(images), model(images))
    assert not part.training


@pytest.mark.parametrize("activation", ["ReLU", "Sigmoid", "Tanh", "GELU"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", [0, 1, 2])
def test_a_part_is_the_network_without_the_removed_units(method, task, activation):
    model = mlp((1, 2, 2), (7, 6), (3, 2, 2), activation)
    k = METHODS[method](model, 1)
    kept = [[unit for unit, owner in enumerate(layer) if owner == task] for layer in owners_of(k)[:-1]]
    images = torch.rand(3, 1, 2, 2)
    logits = cut(model, k, task)(images)
    assert logits.shape == (3, 7)  # outputs are never removed
    for image, found in zip(images, logits, strict=True):
        *_, expected = oracles.forward(*parameters(model), activation, image.flatten().tolist(), kept)
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


def owners_of(k):
    return [each.tolist() for each in owners(k).values()]


@every_method
def test_removed_units_leave_no_trace(method):
    model = mlp(layers=(9, 8), classes=(3, 2), activation="Sigmoid")
    k = METHODS[method](model, 0)
    removed = 0
    for task in (0, 1):
        part = cut(model, k, task)
        for layer in (0, 1):
            gone = k[f"linear.{layer}"][task] == 0
            removed += int(gone.sum())
            assert part.linear[layer].weight[gone].abs().sum() == 0
            assert part.linear[layer].bias[gone].abs().sum() == 0
            assert part.linear[layer + 1].weight[:, gone].abs().sum() == 0
            assert torch.equal(part.linear[layer].bias[~gone], model.linear[layer].bias[~gone])
        assert torch.equal(part.linear[2].bias, model.linear[2].bias)
    assert removed == 9 + 8  # every unit is gone from one part of the two


@pytest.mark.parametrize("activation", ["ReLU", "Sigmoid"])
def test_the_part_of_a_task_that_owns_nothing_is_a_constant(activation):
    model = mlp(classes=(3, 2), activation=activation)
    logits = cut(model, all_to(model, 0), 1)(torch.rand(5, 1, 4, 4))
    torch.testing.assert_close(logits, model.linear[2].bias.expand(5, 5))


def test_a_unit_that_feeds_nothing_is_in_no_part():
    model = hand_made(THREE_TASKS, (2, 1, 1), "Sigmoid")
    k = METHODS["greedy"](model, 0)
    for task in range(3):
        part = cut(model, k, task)
        assert part.linear[0].weight[1].abs().sum() == 0
        assert part.linear[1].weight[3].abs().sum() == part.linear[1].bias[3].abs() == 0
