from copy import deepcopy
from importlib.util import find_spec
from itertools import product
from random import Random

import oracles
import pytest
import torch
from helpers import (
    LINE,
    PLANE,
    Flattened,
    alexnet,
    conv,
    hand_made,
    lenet,
    local,
    mlp,
    owner_lists,
    parameters,
    recordings,
    same_state,
    shrink,
    split,
)

import spatial
from spatial import graph, splitting, storing
from spatial.errors import UserError
from spatial.locality import locality_prior
from spatial.models import ACTIVATIONS, build, heads, pack, parameter_count
from spatial.positions import output_groups
from spatial.splitting import METHODS, Split, agreement, cut, extract, partition, scores

every_method = pytest.mark.parametrize("method", METHODS)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
BACKWARDS = ("greedy", "balanced")
CLASSES = (3, 1, 2)  # of three tasks

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


def three_tasks(activation="ReLU"):
    return hand_made(THREE_TASKS, (2, 1, 1), activation)


NETWORKS = {
    "mlp": lambda activation, classes: mlp((1, 2, 3), (7, 6), classes, activation),
    "conv": lambda activation, classes: conv((2, 5, 3), (7, 6), classes, activation),
    "grouped": lambda activation, classes: Flattened(classes, activation),
    "lenet": lambda activation, classes: lenet(layers=(7, 6), classes=classes, prior=LINE),
    "alexnet": lambda activation, classes: alexnet(layers=(7, 6), classes=classes, prior=LINE),
}


def network(kind, activation="ReLU", classes=CLASSES):
    return NETWORKS[kind](activation, classes)


every_network = pytest.mark.parametrize("kind", NETWORKS)
every_network_and_activation = pytest.mark.parametrize(
    ("kind", "activation"),
    [*product(("mlp", "conv", "grouped"), ACTIVATIONS), ("lenet", "ReLU"), ("alexnet", "ReLU")],
)


def images_for(model, count=4):
    return torch.rand(count, *model.shape)


def strengths(model):
    """``|w|`` of every connection under its batch norm, ``[out][in]``, by the oracle; None for the first layer."""
    result = [None]
    for edge in graph.connections(model):
        layer, norm = model.get_submodule(edge.target), graph.norm(model, edge.target)
        weight = layer.weight.tolist()
        if hasattr(layer, "prior"):
            weight = oracles.attenuated(weight, layer.prior.tolist(), layer.on)
        if norm is not None:
            weight = oracles.folded(weight, norm.weight.tolist(), norm.running_var.tolist(), norm.eps)
        if layer.weight.ndim == 2:
            weight = oracles.by_unit(weight, len(graph.positions(model)[edge.source]))
        result.append(oracles.strengths(oracles.ungrouped(weight, getattr(layer, "groups", 1))))
    return result


def multiplied(model, k, task, images):
    """Logits of the network itself, every hidden unit's activation multiplied by its factor as it is computed."""

    def by(factors):
        return lambda _, __, output: output * factors.view(-1, *[1] * (output.ndim - 2))

    model = deepcopy(model)
    for layer, module in model.activity.items():
        model.get_submodule(module).register_forward_hook(by(k[layer][task]))
    return model.eval()(images)


def chosen(model, owners):
    """The split that gives every hidden unit to the tasks of ``owners``, ``[layer][unit]``; -1 to none."""
    tasks = torch.arange(len(model.classes))[:, None]
    names = list(graph.placed(model))
    outputs = [task for task, number in enumerate(model.classes) for _ in range(number)]
    owned = {name: torch.tensor(each) for name, each in zip(names, [*owners, outputs], strict=True)}
    return Split({name: (tasks == own).float() for name, own in owned.items()}, owned)


def all_to(model, task):
    """Every hidden unit to one task."""
    return chosen(model, [[task] * len(place) for place in list(graph.positions(model).values())[:-1]])


# Scores and what is made of them.


def test_scores_by_hand():
    model = three_tasks()
    score = scores(model, "linear.1", split(model, "greedy").k)
    assert score.tolist() == [[3, 1, 2, 0], [2, 5, 2, 0], [1, 4, 1, 0]]
    assert splitting.largest(score).tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]  # 2 and 2: the lower index
    assert splitting.owner(score).tolist() == [0, 1, 0, -1]
    torch.testing.assert_close(splitting.shares(score), score / torch.tensor([[6.0], [9.0], [6.0]]))
    expected = torch.tensor([[1, 1 / 5, 1, 0], [2 / 3, 1, 1, 0], [1 / 3, 4 / 5, 1 / 2, 0]])
    torch.testing.assert_close(splitting.relative(score), expected)


def test_shares_of_a_task_whose_scores_are_all_zero_are_zero():
    assert splitting.shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0, 0]]


def test_a_unit_that_two_layers_read_has_the_scores_of_both():
    model = mlp(layers=(4, 4))
    k = split(model, "rescale").k
    alone = scores(model, "linear.0", k)
    model.connections = [*model.connections, ("linear.0", "linear.2")]
    torch.testing.assert_close(scores(model, "linear.0", k), alone + k["linear.2"] @ model.linear[2].weight.abs())


@every_network
@pytest.mark.parametrize("classes", [CLASSES, (2, 3)], ids=str)
def test_owners_through_convolutions_and_batch_norms_are_the_oracles(kind, classes):
    model = network(kind, classes=classes).double()
    weights = strengths(model)
    for method in BACKWARDS:
        assert owner_lists(model, method) == oracles.owners(weights, classes, method)


@every_network
def test_the_factors_of_rescale_are_the_oracles(kind):
    model = network(kind).double()
    expected = oracles.relative(strengths(model), CLASSES)
    for found, wanted in zip(split(model, "rescale").k.values(), expected, strict=True):
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


# What holds of every method.


@every_method
@every_network
def test_every_method_gives_factors_and_owners_of_every_layer(method, kind):
    model = network(kind)
    k, owners = split(model, method)
    layers = graph.positions(model)
    assert list(k) == list(owners) == list(layers)
    for name, place in layers.items():
        assert k[name].shape == (3, len(place))
        assert owners[name].shape == (len(place),)
        assert owners[name].dtype == torch.long
        assert ((k[name] >= 0) & (k[name] <= 1)).all()
        owned = owners[name] >= 0
        assert (k[name][:, ~owned] == 0).all()  # a unit of nobody is in no part
        assert (k[name][owners[name][owned], torch.nonzero(owned).flatten()] == 1).all()
    *_, output = layers
    assert owners[output].tolist() == [0, 0, 0, 1, 2, 2]
    assert k[output].tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("method", ["greedy", "balanced", "activations", "clusters", "random"])
@every_network
def test_a_unit_is_in_the_part_of_its_owner_and_in_no_other(method, kind):
    model = network(kind)
    k, owners = split(model, method)
    for name, own in owners.items():
        assert torch.equal(k[name], (torch.arange(3)[:, None] == own).float())


@every_method
@pytest.mark.parametrize("make", [mlp, conv])
def test_with_one_task_every_unit_is_its_own(method, make):
    owned = owner_lists(make(layers=(6, 5), classes=(4,)), method)
    assert {owner for layer in owned for owner in layer} == {0}


@every_method
@pytest.mark.parametrize("make", [mlp, conv])
def test_a_network_without_hidden_layers_is_split(method, make):
    model = make(layers=(), classes=CLASSES)
    k = split(model, method).k
    images = images_for(model)
    for task, own in enumerate(heads(CLASSES)):
        assert torch.equal(cut(model, k, task)(images), model(images))
        torch.testing.assert_close(extract(model, k, task)(images), model(images)[:, own])


@every_method
@every_network
def test_splitting_and_cutting_leave_the_model_alone(method, kind):
    model = network(kind).train()
    before = deepcopy(model.state_dict())
    k = split(model, method).k
    kept = {name: each.clone() for name, each in k.items()}
    for task in range(3):
        cut(model, k, task)
        if kind != "grouped":
            extract(model, k, task)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(k[name], kept[name]) for name in k)
    assert model.training


@every_method
@pytest.mark.parametrize("kind", ["conv", "grouped", "lenet", "alexnet"])
def test_shrinking_the_weights_before_a_batch_norm_changes_no_split(method, kind):
    model = network(kind)
    one, other = split(model, method), split(shrink(model), method)
    for name in one.k:
        torch.testing.assert_close(one.k[name], other.k[name])
        assert torch.equal(one.owners[name], other.owners[name])


@every_method
@pytest.mark.parametrize("kind", ["mlp", "conv", "lenet", "alexnet"])
def test_double_networks_stay_double(method, kind):
    model = network(kind).double()
    k = split(model, method).k
    assert all(each.dtype == torch.float64 for each in k.values())
    images = images_for(model).double()
    small = extract(model, k, 2)(images)
    assert small.dtype == torch.float64
    torch.testing.assert_close(small, cut(model, k, 2)(images)[:, 4:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [*BACKWARDS, "rescale", "activations"])
def test_most_owners_do_not_depend_on_the_seed(method):
    model = mlp(layers=(20, 10))
    one, other = (METHODS[method](model, seed, recordings(model)).k for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["probability", "random", "clusters"])
def test_one_seed_gives_one_split_whatever_else_is_drawn(method):
    model = mlp(layers=(40, 30), classes=CLASSES)
    one = split(model, method, seed=3)
    torch.manual_seed(7)
    torch.rand(3)
    state = torch.random.get_rng_state()
    again = split(model, method, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one.k[name], again.k[name]) for name in one.k)


# Greedy and balanced.


def test_greedy_by_hand():
    # second layer: 3 beats 2 and 1; 5 beats 1 and 4; 2 ties with 2, the lower index; unit 3 feeds nothing
    # first layer: task 0 owns units 0 and 2, task 1 unit 1:
    # unit 0 feeds them with 1 + 1 against 3, unit 1 feeds unit 3 alone, unit 2 feeds 2 against 1
    assert owner_lists(three_tasks(), "greedy") == [[1, -1, 0], [0, 1, 0, -1], [0, 0, 1, 2]]


def test_balanced_by_hand():
    # second layer, divided by 6, 9 and 6: unit 0 .5 .22 .17; unit 1 .17 .56 .67; unit 2 .33 .22 .17
    # first layer: task 0 owns units 0 and 2, task 2 unit 1: (2, 2) / 4 against (3, 1) / 4; task 1 owns nothing there
    assert owner_lists(three_tasks(), "balanced") == [[2, -1, 0], [0, 2, 0, -1], [0, 0, 1, 2]]


@every_network
def test_grouped_by_the_tasks_own_outputs_is_balanced(kind):
    model = network(kind)
    by_group, by_task = splitting.grouped(model, output_groups(CLASSES)), split(model, "balanced")
    for layer, own in by_task.owners.items():
        assert torch.equal(by_group.owners[layer], own)
        assert torch.equal(by_group.k[layer], by_task.k[layer])


def test_groups_of_outputs_take_the_place_of_tasks():
    model, belongs = three_tasks(), torch.tensor([0, 1, 2, 0])  # as if output 3 were the first task's second
    *hidden, last = THREE_TASKS
    moved = hand_made([*hidden, [last[0], last[3], last[1], last[2]]], (2, 1, 1))
    owners = [own.tolist() for own in splitting.grouped(model, belongs).owners.values()]
    assert owners[:2] == owner_lists(moved, "balanced")[:2] != owner_lists(model, "balanced")[:2]
    assert owners[2] == belongs.tolist()


@every_network
def test_a_joined_networks_outputs_are_their_own_groups(kind):
    model, belongs = network(kind), torch.tensor([2, 0, 1, 0, 2, 1])
    images = torch.rand(5, *model.shape)
    k = splitting.grouped(model, belongs).k
    parts = [cut(model, k, group) for group in range(3)]
    logits = splitting.Joined(parts, belongs)(images)
    for output, group in enumerate(belongs.tolist()):
        assert torch.equal(logits[:, output], parts[group](images)[:, output])
    assert not torch.equal(logits, model.eval()(images))
    assert torch.equal(splitting.Joined([model] * 3, belongs)(images), model(images))


def test_greedy_on_two_channels_by_hand():
    model = conv((1, 1, 1), (2, 2), (1, 1))
    with torch.no_grad():
        model.conv[1].weight.zero_()
        model.conv[1].weight[0, 0, 0, :2] = torch.tensor([1.0, -1.0])  # taps of channel 0: 2, times 2 / 2
        model.conv[1].weight[1, 0, 4, 4] = 3.0  # times 1 / 2
        model.conv[1].weight[:, 1, 2, 2] = torch.tensor([1.0, 4.0])
        model.norm[1].weight.copy_(torch.tensor([-2.0, 1.0]))
        model.norm[1].running_var.fill_(4)
        model.linear.weight.copy_(torch.tensor([[1.0, 1.0], [-0.5, 2.0]]))
    assert owner_lists(model, "greedy") == [[0, 1], [0, 1], [0, 1]]
    model.norms = {}
    assert owner_lists(model, "greedy") == [[1, 1], [0, 1], [0, 1]]  # unfolded, 3 beats 2


@pytest.mark.parametrize("method", BACKWARDS)
def test_a_tie_goes_to_the_lower_index(method):
    even = [[[1.0], [1.0]], [[-2.0, 1.0], [2.0, -1.0], [2.0, 1.0]]]
    assert owner_lists(hand_made(even, (1, 1, 1)), method)[0] == [0, 0]


def test_a_task_with_larger_weights_takes_everything_from_greedy_but_not_from_balanced():
    loud = [[[1.0], [1.0]], [[1.0, 2.0], [40.0, 30.0]]]
    assert owner_lists(hand_made(loud, (1, 1)), "greedy")[0] == [1, 1]
    assert owner_lists(hand_made(loud, (1, 1)), "balanced")[0] == [1, 0]


@pytest.mark.parametrize("method", [*BACKWARDS, "clusters"])
def test_a_task_whose_weights_are_all_zero_owns_nothing(method):
    silent = [[[1.0], [1.0]], [[1.0, 2.0], [0.0, 0.0]]]
    assert owner_lists(hand_made(silent, (1, 1)), method)[0] == [0, 0]


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


# Rescale and probability.


def test_rescale_by_hand():
    k, owners = split(three_tasks(), "rescale")
    r = [[1, 1 / 5, 1, 0], [2 / 3, 1, 1, 0], [1 / 3, 4 / 5, 1 / 2, 0]]
    torch.testing.assert_close(k["linear.1"], torch.tensor(r))
    # unit 0 of the first layer feeds units 0, 1, 2 with 1, 3, 1; unit 2 feeds them with 2, 1, 0; unit 1 feeds nothing
    score = torch.tensor([[row[0] + 3 * row[1] + row[2], 0, 2 * row[0] + row[1]] for row in r])
    torch.testing.assert_close(k["linear.0"], score / torch.tensor([14 / 3, 1, 7 / 3]))  # task 1 has the largest
    assert [own.tolist() for own in owners.values()] == [[1, -1, 1], [0, 1, 0, -1], [0, 0, 1, 2]]


def test_probability_by_hand():
    for seed in range(20):
        k, owners = split(three_tasks(), "probability", seed)
        assert k["linear.1"][0, [0, 2]].tolist() == k["linear.1"][1, [1, 2]].tolist() == [1, 1]  # r is 1
        assert k["linear.1"][:, 3].tolist() == [0, 0, 0]  # feeds nothing
        assert owners["linear.1"].tolist() == [0, 1, 0, -1]


@every_network
@pytest.mark.parametrize("seed", range(3))
def test_probability_keeps_the_largest_and_draws_from_what_was_drawn_above(kind, seed):
    model = network(kind)
    k, owners = split(model, "probability", seed)
    for layer in list(k)[:-1]:
        r = splitting.relative(scores(model, layer, k))  # of the drawn k above
        assert set(k[layer].unique().tolist()) <= {0, 1}
        assert (k[layer][r == 1] == 1).all()
        assert (k[layer][r == 0] == 0).all()
        assert torch.equal(owners[layer], splitting.owner(scores(model, layer, k)))


def test_probability_draws_each_unit_as_often_as_its_r_says():
    r = torch.tensor([0.05, 0.3, 0.8])
    units = 2000
    weights = [[[1.0]] * 3 * units, [[2.0] * 3 * units, (2 * r).repeat(units).tolist()]]
    model = hand_made(weights, (1, 1))
    k = split(model, "probability").k["linear.0"]
    assert (k[0] == 1).all()
    assert k[1].view(units, 3).mean(0).tolist() == pytest.approx(r.tolist(), abs=0.035)


def test_probability_draws_each_seed_as_often_as_its_r_says():
    model, r = three_tasks(), torch.tensor([[1, 1 / 5, 1, 0], [2 / 3, 1, 1, 0], [1 / 3, 4 / 5, 1 / 2, 0]])
    drawn = torch.stack([split(model, "probability", seed).k["linear.1"] for seed in range(400)])
    torch.testing.assert_close(drawn.mean(0), r, atol=0.08, rtol=0)
    assert len({tuple(each.flatten().tolist()) for each in drawn}) > 10


def test_probability_draws_tasks_and_layers_apart():
    weights = [[[1.0]] * 200, [[1.0] * 200] * 200, [[2.0] * 200, [1.0] * 200, [1.0] * 200]]
    k = split(hand_made(weights, (1, 1, 1)), "probability").k
    assert not torch.equal(k["linear.1"][1], k["linear.1"][2])
    assert not torch.equal(k["linear.0"][1], k["linear.1"][1])
    assert not torch.equal(k["linear.0"][1], k["linear.0"][2])


# Activations.


def test_activations_by_hand():
    model = mlp(layers=(4, 3), classes=(2, 1, 1))
    recorded = {
        "linear.0": torch.tensor([[0.1, 0.0, 0.5, 0.2], [0.2, 0.0, 0.5, 0.3], [0.0, 0.0, 0.1, 0.4]]),
        "linear.1": torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float64),
    }
    owners = METHODS["activations"](model, 0, recorded).owners
    assert [own.tolist() for own in owners.values()] == [[1, -1, 0, 2], [1, -1, 0], [0, 0, 1, 2]]


def test_activations_do_not_look_at_the_weights():
    recorded = recordings(mlp(classes=CLASSES))
    one, other = (METHODS["activations"](mlp(classes=CLASSES, seed=seed), 0, recorded) for seed in (0, 1))
    assert all(torch.equal(one.owners[name], other.owners[name]) for name in one.owners)


@pytest.mark.parametrize("make", [mlp, conv])
def test_activations_need_recordings(make):
    with pytest.raises(ValueError, match="activations needs what was recorded on training images"):
        METHODS["activations"](make(), 0, None)
    assert splitting.RECORDED == ("activations",)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in splitting.RECORDED])
def test_the_other_methods_do_without_recordings(method):
    model = conv(classes=CLASSES)
    one, other = METHODS[method](model, 3, None), split(model, method, 3)
    assert all(torch.equal(one.k[name], other.k[name]) for name in one.k)


# Clusters.


def islands(places, weights, classes=None):
    """A network of one hidden layer at the given places, each output reading its units by a row of ``weights``."""
    model = hand_made([[[1.0]] * len(places), weights], classes or [1] * len(weights))
    with torch.no_grad():
        model.linear[0].positions.copy_(torch.tensor(places))
    return model


def cells(model, seed=0):
    """The clusters of the only hidden layer, as sets of units."""
    member = partition(model, seed)["linear.0"].tolist()
    return sorted([unit for unit, each in enumerate(member) if each == cell] for cell in set(member))


LEFT, RIGHT = [[-2.0, 0.0], [-2.1, 0.1], [-1.9, 0.0]], [[2.0, 0.0], [2.2, 0.1], [1.9, -0.1]]


@pytest.mark.parametrize("seed", range(3))
def test_two_islands_by_hand(seed):
    # the right island feeds task 0 with 1 + 1 + 2 of 5, the left one task 1 with 6 of 7; unit 1 alone prefers task 0
    model = islands(LEFT + RIGHT, [[0.0, 1.0, 0.0, 1.0, 1.0, 2.0], [3.0, 0.5, 2.5, 0.5, 0.0, 0.5]])
    assert cells(model, seed) == [[0, 1, 2], [3, 4, 5]]
    assert owner_lists(model, "clusters", seed) == [[1, 1, 1, 0, 0, 0], [0, 1]]


def test_clusters_weigh_tasks_by_their_shares():
    # task 1 is loud: 40 + 30 against 1 + 2; of its own sum it has more on the left
    model = islands([LEFT[0], RIGHT[0]], [[1.0, 2.0], [40.0, 30.0]])
    assert owner_lists(model, "clusters")[0] == [1, 0]


def test_two_clusters_may_belong_to_one_task():
    # shares of each island: task 0 .4 .4 .2; task 1 .2 .3 .5; task 2 .4 .3 .3; a tie goes to the lower index
    model = islands([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [[4.0, 4.0, 2.0], [2.0, 3.0, 5.0], [4.0, 3.0, 3.0]])
    assert cells(model) == [[0], [1], [2]]
    assert owner_lists(model, "clusters") == [[0, 0, 1], [0, 1, 2]]


def test_silent_units_join_the_nearest_centre_and_do_not_move_it():
    far = [[100.0, 0.0], [-0.5, 0.0]]
    loud = [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.001], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]]
    model = islands(LEFT + RIGHT + far, loud)
    assert cells(model) == [[0, 1, 2, 7], [3, 4, 5, 6]]
    assert owner_lists(model, "clusters")[0] == [0, 0, 0, 1, 1, 1, 1, 0]


def test_fewer_live_places_than_tasks_make_fewer_clusters():
    places = [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]
    model = islands(places, [[1.0, 1.0, 2.0, 0.0], [2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])  # unit 3 is silent
    assert cells(model) == [[0, 1], [2, 3]]
    one = islands([[1.0, 1.0]] * 3, [[1.0, 1.0, 1.0]] * 3)
    assert cells(one) == [[0, 1, 2]]
    assert owner_lists(one, "clusters")[0] == [0, 0, 0]


def test_places_that_all_but_coincide_make_no_noise():  # scikit-learn would warn, which is an error here
    model = islands([[0.0, 0.0], [1e-9, 0.0], [1.0, 0.0]], [[1.0, 1.0, 1.0]] * 3)
    assert sorted(unit for cell in cells(model) for unit in cell) == [0, 1, 2]


def test_a_layer_without_live_units_counts_all_and_belongs_to_nobody():
    model = islands(LEFT + RIGHT, [[0.0] * 6] * 2)
    assert cells(model) == [[0, 1, 2], [3, 4, 5]]
    assert owner_lists(model, "clusters")[0] == [-1] * 6


def test_one_unit_is_one_cluster():
    assert cells(islands([[1.0, 2.0]], [[1.0], [2.0]])) == [[0]]


@every_network
def test_the_partition_knows_nothing_of_the_tasks(kind):
    model = network(kind)
    before = partition(model, 0)
    *_, output = graph.placed(model).values()
    with torch.no_grad():
        order = torch.tensor([5, 3, 1, 0, 4, 2])
        output.weight.copy_(output.weight[order])
    model.classes = (1, 4, 1)
    after = partition(model, 0)
    assert list(before) == list(graph.placed(model))[:-1]
    assert all(torch.equal(before[name], after[name]) for name in before)


@every_network
def test_clusters_are_given_away_whole(kind):
    model = network(kind)
    owners, member = split(model, "clusters").owners, partition(model, 0)
    for layer, cell in member.items():
        assert cell.dtype == torch.long
        assert len(cell.unique()) == 3
        assert all(len(owners[layer][cell == each].unique()) == 1 for each in cell.unique())


def test_the_owners_of_clusters_are_the_oracles():
    model = mlp(layers=(12, 9), classes=CLASSES)
    weights, member = parameters(model)[0], partition(model, 0)
    above = oracles.owners(weights, CLASSES, "balanced")
    for index, (layer, cell) in enumerate(member.items()):
        readers = weights[index + 1]
        sums = {}  # by cluster, then task
        for task in range(3):
            score = [
                sum(abs(row[unit]) for row, own in zip(readers, above[index + 1], strict=True) if own == task)
                for unit in range(len(cell))
            ]
            for unit, each in enumerate(cell.tolist()):
                sums.setdefault(each, [0.0] * 3)[task] += score[unit] / sum(score) if sum(score) else 0.0
        expected = [sums[each].index(max(sums[each])) for each in cell.tolist()]
        assert split(model, "clusters").owners[layer].tolist() == expected


# Agreement.


def test_agreement_by_hand():
    # clusters {0 1 2} and {3 4 5}; greedy gives units 0 and 1 to task 0, balanced unit 2 too; unit 6 is silent
    # greedy: of 15 pairs 6 are together in a cluster, 1 + 6 in an owner, 1 + 3 in both; chance 6 * 7 / 15 = 2.8
    loud = [[2.0, 2.0, 1.0, 0.1, 0.1, 0.1, 0.0], [1.0, 1.0, 1.5, 3.0, 3.0, 3.0, 0.0]]
    model = islands([*LEFT, *RIGHT, [0.0, 9.0]], loud)
    assert owner_lists(model, "greedy")[0] == [0, 0, 1, 1, 1, 1, -1]
    assert owner_lists(model, "balanced")[0] == [0, 0, 0, 1, 1, 1, -1]
    found = agreement(model, 0)["linear.0"]
    assert found["greedy"] == pytest.approx((4 - 2.8) / ((6 + 7) / 2 - 2.8))
    assert found["balanced"] == pytest.approx(1)


@every_network
def test_agreement_is_the_oracles(kind):
    model = network(kind)
    found = agreement(model, 4)
    member, readers = partition(model, 4), dict(zip(graph.placed(model), strengths(model)[1:], strict=False))
    assert list(found) == list(member)
    for layer, by_method in found.items():
        alive = [unit for unit, lives in enumerate(oracles.live(readers[layer])) if lives]
        assert list(by_method) == ["greedy", "balanced"]
        for method, value in by_method.items():
            owners = split(model, method).owners[layer].tolist()
            cell = member[layer].tolist()
            expected = oracles.adjusted_rand([cell[unit] for unit in alive], [owners[unit] for unit in alive])
            assert value == pytest.approx(expected)


def test_agreement_of_fewer_than_two_live_units_is_undefined():
    assert agreement(islands([[1.0, 2.0]], [[1.0], [2.0]]), 0) == {"linear.0": {"greedy": None, "balanced": None}}
    silent = islands(LEFT, [[0.0] * 3] * 2)
    assert agreement(silent, 0) == {"linear.0": {"greedy": None, "balanced": None}}


# Random.


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


# Cutting.


@every_network_and_activation
def test_cutting_with_everything_owned_by_one_task_changes_nothing(activation, kind):
    model = network(kind, activation).eval()
    images = images_for(model)
    part = cut(model, all_to(model, 1).k, 1)
    assert torch.equal(part(images), model(images))
    assert not part.training


@every_method
@every_network_and_activation
def test_a_part_is_the_network_with_multiplied_activations(kind, method, activation):
    model = network(kind, activation)
    k = split(model, method, 1).k
    images = images_for(model)
    for task in range(3):
        logits = cut(model.train(), k, task)(images)
        assert logits.shape == (4, 6)  # outputs are never removed
        torch.testing.assert_close(logits, multiplied(model, k, task, images), rtol=1e-4, atol=1e-5)


@every_activation
@pytest.mark.parametrize("method", [name for name in METHODS if name != "rescale"])
def test_a_part_is_the_network_without_the_removed_units(method, activation):
    model = mlp((1, 2, 2), (7, 6), (3, 2, 2), activation)
    k = split(model, method, 1).k
    images = torch.rand(3, 1, 2, 2)
    for task in range(3):
        kept = [torch.nonzero(each[task]).flatten().tolist() for each in list(k.values())[:-1]]
        for image, found in zip(images, cut(model, k, task)(images), strict=True):
            *_, expected = oracles.forward(*parameters(model), activation, image.flatten().tolist(), kept)
            assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("activation", ["ReLU", "Sigmoid"])
@every_method
def test_a_convolutional_part_is_the_network_without_the_removed_channels(method, activation):
    model = conv((1, 3, 4), (5, 4), CLASSES, activation)
    k = split(model, method, 1).k
    image = torch.rand(1, 3, 4)
    norms = [
        [*(each.tolist() for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)), norm.eps]
        for norm in model.norm
    ]
    for task in range(3):
        factors = [each[task].tolist() for each in list(k.values())[:-1]]
        expected = oracles.conv_forward(
            [layer.weight.tolist() for layer in model.conv],
            norms,
            model.linear.weight.tolist(),
            model.linear.bias.tolist(),
            activation,
            image.tolist(),
            kept=[[unit for unit, factor in enumerate(layer) if factor > 0] for layer in factors],
            factors=factors,
        )
        assert cut(model, k, task)(image[None])[0].tolist() == pytest.approx(expected, abs=1e-4)


@every_method
@pytest.mark.parametrize("kind", ["mlp", "conv", "grouped", "lenet", "alexnet"])
def test_removed_units_leave_no_trace(method, kind):
    model = network(kind, "Sigmoid")
    k = split(model, method).k
    for task in range(3):
        part = cut(model, k, task)
        for edge in graph.connections(model):
            gone = k[edge.source][task] == 0
            layer, before = part.get_submodule(edge.source), model.get_submodule(edge.source)
            assert layer.weight[gone].abs().sum() == 0
            if layer.bias is not None:
                assert layer.bias[gone].abs().sum() == 0
                assert torch.equal(layer.bias[~gone], before.bias[~gone])
            if (norm := graph.norm(part, edge.source)) is not None:
                whole = graph.norm(model, edge.source)
                for name, empty in {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 1}.items():
                    assert (getattr(norm, name)[gone] == empty).all()
                    assert torch.equal(getattr(norm, name)[~gone], getattr(whole, name)[~gone])
            assert graph.weight(part, edge)[:, gone].abs().sum() == 0
            assert torch.equal(layer.positions, before.positions)
        *_, output = graph.placed(model)
        assert torch.equal(part.get_submodule(output).bias, model.get_submodule(output).bias)


def test_a_convolutions_bias_is_removed_with_its_channel():
    model = Flattened()
    part = cut(model, chosen(model, [[0, 1, 0, 1], [1, 0, 0, 0, 1, 1]]).k, 0)
    assert (part.first.bias == 0).tolist() == [False, True, False, True]
    assert (part.grouped.bias == 0).tolist() == [True, False, False, False, True, True]
    assert (part.first.weight.flatten(1).abs().sum(1) == 0).tolist() == [False, True, False, True]
    read = part.output.weight.view(5, 6, 6).abs().sum((0, 2))  # all features of a channel
    assert (read == 0).tolist() == [True, False, False, False, True, True]


@every_network_and_activation
def test_the_part_of_a_task_that_owns_nothing_is_a_constant(activation, kind):
    model = network(kind, activation)
    *_, output = graph.placed(model).values()
    logits = cut(model, all_to(model, 0).k, 1)(images_for(model))
    torch.testing.assert_close(logits, output.bias.expand(4, 6))


@pytest.mark.parametrize("method", [*BACKWARDS, "rescale", "probability"])
def test_a_unit_that_feeds_nothing_is_in_no_part(method):
    model = three_tasks("Sigmoid")
    k = split(model, method).k
    for task in range(3):
        part = cut(model, k, task)
        assert part.linear[0].weight[1].abs().sum() == 0
        assert part.linear[1].weight[3].abs().sum() == part.linear[1].bias[3].abs() == 0


def test_a_channel_that_feeds_nothing_is_in_no_part():
    model = conv(classes=CLASSES, activation="Sigmoid")
    with torch.no_grad():
        model.linear.weight[:, 2] = 0
        model.norm[1].weight[3] = 0  # so nothing reaches channel 3, though it is read
    for method in ("greedy", "balanced", "rescale", "probability"):
        k, owners = split(model, method)
        assert owners["conv.1"][2] == -1
        assert owners["conv.1"][3] >= 0
        assert k["conv.1"][:, 2].tolist() == [0, 0, 0]


# Extracting.


def equal_to_its_part(model, k, task, images):
    """The extracted part, once it is known to equal the cut network's own slice."""
    small, own = extract(model, k, task), heads(model.classes)[task]
    found, expected = small(images), cut(model, k, task)(images)[:, own]
    assert found.shape == (len(images), model.classes[task])
    assert (found - expected).abs().max() <= 1e-5
    return small


@every_activation
@every_method
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_an_extracted_part_is_the_cut_networks_own_task(kind, method, activation):
    model = network(kind, activation)
    k = split(model, method, 2).k
    for task in range(3):
        small = equal_to_its_part(model.train(), k, task, images_for(model, 7))
        assert type(small) is type(model)
        assert not small.training
        kept = [max(1, int((each[task] > 0).sum())) for each in list(k.values())[:-1]]
        assert small.layers == tuple(kept)
        assert small.classes == (CLASSES[task],)
        assert small.activation == activation


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("layers", [(9,), (6, 5, 4, 7)], ids=str)
@pytest.mark.parametrize("make", [mlp, conv])
def test_any_depth_and_space_can_be_extracted(make, layers, dim):
    model = make((2, 4, 3), layers, CLASSES, dim=dim, seed=dim)
    for method in ("balanced", "rescale"):
        k = split(model, method).k
        for task in range(3):
            small = equal_to_its_part(model, k, task, images_for(model))
            assert small.dim == dim


@every_method
def test_a_network_with_placed_inputs_can_be_extracted(method):
    arguments = {"shape": (2, 2, 3), "layers": (7, 6), "classes": CLASSES, "dim": 3, "input_positions": "grid"}
    model = build("mlp", arguments, 0)
    k = split(model, method).k
    for task in range(3):
        small = equal_to_its_part(model, k, task, images_for(model))
        assert torch.equal(small.input_places, model.input_places)
        assert graph.connections(small) == graph.connections(model)


@pytest.mark.parametrize("kind", ["mlp", "conv", "lenet", "alexnet"])
def test_extracted_units_keep_their_places(kind):
    model = network(kind)
    k, owners = split(model, "random")
    for task in range(3):
        places = graph.positions(extract(model, k, task))
        for layer, place in graph.positions(model).items():
            if (owners[layer] == task).any():
                assert torch.equal(places[layer], place[owners[layer] == task])


@every_activation
@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_task_without_units_in_a_layer_has_a_constant_output(kind, empty, activation):
    model = network(kind, activation)
    owners = [[0, 1, 2, 0, 1, 2, 2], [2, 0, 1, 1, 0, 2]]
    for layer in empty:
        owners[layer] = [0 if own == 1 else own for own in owners[layer]]
    k = chosen(model, owners).k
    images = images_for(model)
    small = equal_to_its_part(model, k, 1, images)
    assert (small(images) == small(images)[0]).all()
    assert small.layers == tuple(1 if layer in empty else 2 for layer in (0, 1))


def test_the_parameters_of_extracted_parts_by_hand():
    model = mlp((1, 2, 3), (5, 4), CLASSES)
    k = chosen(model, [[0, 1, 1, 2, -1], [0, 0, 1, 1]]).k
    assert parameter_count(extract(model, k, 0)) == (6 * 1 + 1) + (1 * 2 + 2) + (2 * 3 + 3)
    assert parameter_count(extract(model, k, 1)) == (6 * 2 + 2) + (2 * 2 + 2) + (2 * 1 + 1)
    assert parameter_count(extract(model, k, 2)) == (6 * 1 + 1) + (1 * 1 + 1) + (1 * 2 + 2)  # one unit of weight 0
    model = conv((2, 3, 3), (5, 4), CLASSES)
    k = chosen(model, [[0, 1, 1, 2, -1], [0, 0, 1, 1]]).k
    assert parameter_count(extract(model, k, 1)) == (25 * 2 * 2 + 2 * 2) + (25 * 2 * 2 + 2 * 2) + (2 * 1 + 1)


def test_rescaled_parts_keep_every_unit_that_has_a_factor():
    small = extract(three_tasks(), split(three_tasks(), "rescale").k, 2)
    assert small.layers == (2, 3)  # units 1 and 3 feed nothing


@pytest.mark.parametrize("kind", ["mlp", "conv", "lenet", "alexnet"])
@pytest.mark.parametrize("method", ["balanced", "rescale"])
def test_an_extracted_part_survives_its_file(kind, method, tmp_path):
    model = network(kind, "Tanh")
    small = extract(model, split(model, method).k, 2)
    storing.save(tmp_path / "part-extracted.pt", pack(small, task="Gamma"))
    again = spatial.load(tmp_path / "part-extracted.pt")
    assert same_state(small, again)
    images = images_for(model)
    assert torch.equal(small(images), again(images))


def test_extracting_twice_gives_the_same_network():
    model = network("conv")
    k = split(model, "rescale").k
    one = extract(model, k, 0)
    torch.manual_seed(9)
    assert same_state(one, extract(model, k, 0))


# Extracting from networks on sheets, with a locality prior or without.

SHEETED = {
    "control": lambda: lenet(classes=CLASSES),
    "plane": lambda: lenet(layers=(9, 16), classes=CLASSES, prior=PLANE),
    "line, normalized": lambda: lenet(layers=(7, 6), classes=CLASSES, prior=LINE | {"normalize": True}),
    "on activations": lambda: lenet(classes=CLASSES, prior=PLANE | {"on": "activations"}),
    "no batch norm": lambda: lenet(classes=CLASSES, prior=PLANE, batch_norm=False),
    "oblong colours": lambda: lenet((3, 17, 20), classes=CLASSES, prior=LINE),
    "alexnet": lambda: alexnet(layers=(9, 16), classes=CLASSES, prior=PLANE),
    "alexnet's control": lambda: alexnet((3, 63, 63), (7, 8), CLASSES, dim=3),
    "mlp": lambda: local((6, 9, 9), classes=CLASSES, activation="Tanh"),
    "mlp on activations": lambda: local((9, 9, 9), classes=CLASSES, prior=PLANE | {"on": "activations"}),
    "mlp on two lines": lambda: local((5, 5, 7, 8, 8), classes=CLASSES, prior=LINE),
}
every_sheet = pytest.mark.parametrize("make", SHEETED.values(), ids=SHEETED)


@every_sheet
@every_method
def test_a_part_of_a_network_on_sheets_is_the_network_with_multiplied_activations(make, method):
    model = make()
    k, images = split(model, method, 1).k, images_for(model)
    for task in range(3):
        expected = multiplied(model, k, task, images)
        torch.testing.assert_close(cut(model.train(), k, task)(images), expected, rtol=1e-4, atol=1e-5)


@every_sheet
@every_method
def test_what_is_extracted_from_sheets_is_the_cut_networks_own_task(make, method):
    model = make()
    k = split(model, method, 2).k
    before = deepcopy(model.state_dict())
    for task in range(3):
        small = equal_to_its_part(model.train(), k, task, images_for(model, 7))
        assert type(small) is type(model) and not small.training
        assert small.prior is None  # it is in the weights
        assert small.layers == tuple(max(1, int((each[task] > 0).sum())) for each in list(k.values())[:-1])
        assert small.classes == (CLASSES[task],)
        assert graph.connections(small) == graph.connections(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@every_sheet
def test_what_is_extracted_from_sheets_keeps_its_places_and_survives_its_file(make, tmp_path):
    model = make()
    images = images_for(model)
    k, owners = split(model, "random", 1)
    for task in range(3):
        small = extract(model, k, task)
        for layer, place in graph.positions(small).items():
            if (owners[layer] == task).any():
                assert torch.equal(place, graph.positions(model)[layer][owners[layer] == task])
        storing.save(tmp_path / "part-extracted.pt", pack(small, task="Gamma"))
        again = spatial.load(tmp_path / "part-extracted.pt")
        assert same_state(small, again)
        assert torch.equal(small(images), again(images))


@pytest.mark.parametrize(("make", "convolutions"), [(lenet, "conv"), (alexnet, "features")])
def test_what_has_no_places_is_copied_whole(make, convolutions):
    model = make(classes=CLASSES, prior=PLANE)
    k = split(model, "balanced").k
    for task in range(3):
        for part in (cut(model, k, task), extract(model, k, task)):
            assert same_state(getattr(part, convolutions), getattr(model, convolutions))
            assert getattr(part, convolutions) is not getattr(model, convolutions)
            for name in ("dropout", "dropout2d"):
                assert hasattr(part, name) is hasattr(model, name)
                assert getattr(part, name, model.dropout).p == 0.5


def test_a_priors_weights_are_extracted_by_hand():
    model = lenet(layers=(4, 4), classes=(1, 1), prior=PLANE, batch_norm=False)
    k = chosen(model, [[0, 1, 1, 0], [0, 0, 1, 0]]).k
    small = extract(model, k, 0)
    near = locality_prior(4, 4) * model.linear[1].weight
    torch.testing.assert_close(small.linear[1].weight, near[[0, 1, 3]][:, [0, 3]])
    assert torch.equal(small.linear[1].bias, model.linear[1].bias[[0, 1, 3]])
    assert torch.equal(small.linear[2].weight, model.linear[2].weight[[0]][:, [0, 1, 3]])


@pytest.mark.parametrize("prior", [None, PLANE])
def test_the_parameters_of_parts_extracted_from_lenet_by_hand(prior):
    model = lenet(layers=(4, 4), classes=CLASSES, prior=prior)
    k = chosen(model, [[0, 1, 1, 2], [1, 0, 1, 1]]).k
    convolutions = (25 * 1 * 10 + 10) + (25 * 10 * 20 + 20)
    assert parameter_count(extract(model, k, 1)) == convolutions + (20 * 2 + 2) + (2 * 3 + 3) + 2 * 3 + (3 * 1 + 1)


@pytest.mark.parametrize("prior", [None, PLANE])
def test_the_parameters_of_parts_extracted_from_alexnet_by_hand(prior):
    model = alexnet(layers=(4, 4), classes=CLASSES, prior=prior)
    k = chosen(model, [[0, 1, 1, 2], [1, 0, 1, 1]]).k
    convolutions = parameter_count(model) - (9216 * 4 + 4) - (4 * 4 + 4) - 2 * 4 - (4 * 6 + 6)
    assert parameter_count(extract(model, k, 1)) == convolutions + (9216 * 2 + 2) + (2 * 3 + 3) + 2 * 3 + (3 * 1 + 1)


@every_sheet
@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)], ids=str)
def test_a_task_without_units_on_a_sheet_has_a_constant_output(make, empty):
    model = make()
    widths = [len(place) for place in list(graph.positions(model).values())[:-1]]
    owners = [[0 if layer in empty else unit % 3 for unit in range(units)] for layer, units in enumerate(widths)]
    images = images_for(model)
    small = equal_to_its_part(model, chosen(model, owners).k, 1, images)
    assert (small(images) == small(images)[0]).all()


# ONNX.


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime",
)
@pytest.mark.parametrize("kind", ["mlp", "conv", "lenet", "alexnet"])
def test_an_exported_part_runs_elsewhere(kind):
    import onnxruntime

    splitting.check_onnx()
    model = network(kind, "GELU")
    small = extract(model, split(model, "rescale").k, 2)
    session = onnxruntime.InferenceSession(splitting.to_onnx(small), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["images"]
    assert [each.name for each in session.get_outputs()] == ["logits"]
    for batch in (1, 2, 5):
        images = images_for(model, batch)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        assert found.shape == (batch, 2)
        assert (torch.from_numpy(found) - small(images)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("onnx", "onnxscript"), "--onnx needs onnx and onnxscript: python -m pip install onnx onnxscript$"),
        (("onnxscript",), "--onnx needs onnxscript: python -m pip install onnxscript$"),
        (("onnx",), "--onnx needs onnx: python -m pip install onnx$"),
    ],
    ids=str,
)
def test_missing_packages_are_named(monkeypatch, missing, message):
    monkeypatch.setattr(splitting, "find_spec", lambda name: None if name in missing else object())
    with pytest.raises(UserError, match=message):
        splitting.check_onnx()


def test_nothing_is_said_where_the_packages_are_there(monkeypatch):
    monkeypatch.setattr(splitting, "find_spec", lambda name: object())
    splitting.check_onnx()
