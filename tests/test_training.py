import math
from copy import deepcopy
from dataclasses import replace
from itertools import product

import oracles
import pytest
import torch
from generated import make, register
from helpers import LINE, PLANE, SHEETED, alexnet, coded_sets, codes, conv, fit_alone, lenet, local, mlp, noise_tasks
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from spatial import data, distributed, graph, kernels, models, training
from spatial.costs import NORMS, PER, model_costs, model_weight_penalty
from spatial.data import ImageSet
from spatial.errors import UserError
from spatial.seeds import derive, generator, seeded
from spatial.tasks import INPUTS, Tasks, task_loss
from spatial.training import OPTIMIZERS, POSITIONS, SCHEDULES, Diverged, Point, fit, snapshot


def train(model, tasks=None, **options):
    """Fits to the end; returns the epochs and where training stands after the last."""
    tasks = noise_tasks() if tasks is None else tasks
    options = {"seed": 0, "epochs": 2, "batch_size": 8, **options}
    results = list(fit_alone(model, tasks, tasks, **options))
    return [epoch for epoch, _ in results], results[-1][1] if results else None


def places(model):
    return [place.detach().clone() for place in graph.positions(model).values()]


def state_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def weights(model):
    """All that the function is made of, in one row: positions left out."""
    named = model.named_parameters()
    return torch.cat([parameter.detach().flatten() for name, parameter in named if not name.endswith("positions")])


def places_by_epoch(model, tasks=None, **options):
    """Where the units are at the start and after every epoch."""
    tasks = noise_tasks() if tasks is None else tasks
    start = snapshot(model)
    options = {"seed": 0, "epochs": 3, "batch_size": 8, **options}
    return [start, *(snapshot(model) for _ in fit_alone(model, tasks, tasks, **options))]


@pytest.mark.parametrize(
    ("costs", "read"),
    [
        ({}, set()),
        ({"transport": 1.0}, {0, 1, 2}),
        ({"proximity": 1.0}, {0, 1, 2}),
        ({"transport": 1.0, "where": [2]}, {1, 2}),
        ({"transport": 1.0, "where": [0, 1]}, {0, 1}),
        ({"proximity": 1.0, "where": [0]}, {0}),
        ({"proximity": 1.0, "where": [2, 0]}, {0, 2}),
        ({"transport": 1.0, "proximity": 1.0, "where": [1]}, {0, 1}),
    ],
    ids=str,
)
def test_positions_move_exactly_where_a_cost_reads_them(costs, read):
    model = mlp()
    before = places(model)
    train(model, weight_decay=0.5, optimizer="AdamW", **costs)
    for index, (old, place) in enumerate(zip(before, graph.positions(model).values(), strict=True)):
        assert place.requires_grad is (index in read)
        assert torch.equal(old, place) is (index not in read)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_positions_are_never_decayed(optimizer):
    model = mlp((1, 4, 4), (1,), (1,))  # a layer of one unit has no crowding: its gradient is exactly 0
    tasks = noise_tasks(sizes=(16,), classes=(1,))
    before, weight = places(model), model.linear[0].weight.detach().clone()
    train(model, tasks, optimizer=optimizer, weight_decay=0.5, proximity=1.0)
    assert all(map(torch.equal, before, places(model)))
    assert model.linear[0].weight.norm() < weight.norm()


def test_a_larger_position_lr_moves_positions_further_in_proportion():
    steps = {}
    for rate in (0.01, 0.03):
        model = mlp()
        before = places(model)
        train(model, optimizer="SGD", lr=0.1, position_lr=rate, proximity=1.0, epochs=1, batch_size=100)
        steps[rate] = torch.cat(places(model)) - torch.cat(before)
    torch.testing.assert_close(steps[0.03], 3 * steps[0.01], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", [mlp, conv])
@pytest.mark.parametrize("where", [None, [2], [1, 2]], ids=str)
@pytest.mark.parametrize(("norm", "per"), list(product(NORMS, PER)))
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_descends_the_sum_of_the_task_and_the_three_costs(network, where, norm, per, decay):
    model, tasks = network(), noise_tasks(sizes=(8, 8))
    by_hand = deepcopy(model).train()
    train(
        model, tasks, epochs=1, optimizer="SGD", lr=0.1, position_lr=0.2, weight_decay=decay,
        transport=3.0, proximity=2.0, weight_penalty=4.0, where=where, norm=norm, per=per,
    )  # fmt: skip
    images, labels = tasks.batch(tasks.training_order(0, 1))
    task = task_loss(by_hand(images), labels, tasks.classes)  # first: a batch norm's statistics are in the costs
    wires, crowd = model_costs(by_hand, where, norm, per).transport, model_costs(by_hand, where).proximity
    (task + 3.0 * wires + 2.0 * crowd + 4.0 * model_weight_penalty(by_hand, where, norm)).backward()
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            place = name.endswith("positions")
            parameter -= 0.2 * gradient if place else 0.1 * (gradient + decay * parameter)
    for (name, trained), expected in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, msg=lambda text, name=name: f"{name}: {text}")


def penalty(readers, norm):
    """``W`` of the connections between placed layers, by the oracle: every distance is 1."""
    terms = [oracles.transport(w, [[1.0]] * len(w), [[0.0]] * len(w[0]), norm, "connection") for w in readers]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("where", [None, [1], [0, 2]], ids=str)
def test_the_weight_penalty_is_the_oracles_and_is_descended(norm, where):
    model = mlp((1, 2, 2), (3, 2), (1,))
    tasks = noise_tasks(sizes=(4,), classes=(1,), size=2)  # one class: the task's gradient is exactly 0
    before = [linear.weight.tolist() for linear in model.linear]
    charged = [1, 2] if where is None else [layer for layer in where if layer > 0]
    places_before = places(model)
    (epoch,), _ = train(
        model, tasks, epochs=1, optimizer="SGD", lr=0.1, weight_penalty=3.0, where=where, norm=norm, position_lr=1.0
    )
    assert all(map(torch.equal, places(model), places_before))
    assert torch.equal(model.linear[0].weight, torch.tensor(before[0]))
    for layer in (1, 2):
        for j, row in enumerate(before[layer]):
            for i, value in enumerate(row):
                ends = []
                for change in (1e-4, -1e-4):
                    row[i] = value + change
                    ends.append(penalty([before[index] for index in charged], norm) if layer in charged else 0.0)
                row[i] = value
                expected = value - 0.1 * 3.0 * (ends[0] - ends[1]) / 2e-4
                assert model.linear[layer].weight[j, i].item() == pytest.approx(expected, abs=1e-5)
    after = penalty([model.linear[index].weight.tolist() for index in charged], norm)
    assert epoch.weight_penalty == pytest.approx(after, rel=1e-5)
    assert epoch.train.loss == 0


# Positions that are not learned.


def test_frozen_positions_stay_and_the_weights_feel_them():
    trained = {}
    for name, options in {
        "regular": {},
        "frozen": {"positions": "frozen", "transport": 3.0},
        "learned": {"transport": 3.0},
    }.items():
        trained[name] = mlp()
        before = places(trained[name])
        options = {"proximity": 1.0, **options} if options else {}
        train(trained[name], epochs=1, batch_size=100, optimizer="SGD", lr=0.1, **options)
        if name != "learned":
            assert all(map(torch.equal, before, places(trained[name])))
            assert not any(place.requires_grad for place in graph.positions(trained[name]).values())
    torch.testing.assert_close(weights(trained["frozen"]), weights(trained["learned"]))  # after a single step
    assert not torch.allclose(weights(trained["frozen"]), weights(trained["regular"]), atol=1e-5)


def rows(place):
    """A layer's places whatever units they are of."""
    return sorted(place.tolist())


@pytest.mark.parametrize("network", [mlp, conv])
def test_shuffled_positions_are_permuted_in_each_layer_at_every_epoch(network):
    seen = places_by_epoch(network((1, 4, 4), (9, 7)), positions="shuffled", transport=1.0, proximity=1.0)
    for epoch, taken in enumerate(seen):
        for layer, place in enumerate(taken):
            assert rows(place) == rows(seen[0][layer])
            assert not any(torch.equal(place, earlier[layer]) for earlier in seen[:epoch])
    again = places_by_epoch(network((1, 4, 4), (9, 7)), positions="shuffled", transport=1.0, optimizer="SGD")
    assert all(
        torch.equal(a, b) for one, other in zip(seen, again, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_layers_of_one_width_are_shuffled_each_in_its_own_way():
    model = mlp((1, 4, 4), (8, 8), (4, 4))
    with torch.no_grad():
        for place in graph.positions(model).values():
            place.copy_(torch.arange(16.0).view(8, 2))
    training.shuffle(model, 0, 1)
    first = places(model)
    assert len({tuple(place.flatten().tolist()) for place in first}) == 3
    training.shuffle(model, 1, 1)
    assert not any(map(torch.equal, first, places(model)))


def test_shuffling_draws_from_no_other_generator():
    """A shuffled run without an effect of its positions is a regular one: the same start, the same batches."""
    regular, shuffled = mlp(), mlp()
    train(regular, epochs=3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(shuffled, epochs=3, positions="shuffled", proximity=1.0)  # of which weights feel nothing
    assert torch.equal(weights(regular), weights(shuffled))
    assert torch.equal(torch.get_rng_state(), state)


def test_held_outputs_stay_and_hidden_units_move():
    start, *_, end = places_by_epoch(mlp(outputs="held"), transport=1.0, proximity=1.0, hold_outputs=True)
    assert [torch.equal(a, b) for a, b in zip(start, end, strict=True)] == [False, False, True]


def test_held_outputs_are_charged_all_the_same():
    """The weights into them, and the units that feed them, feel where they are."""
    held, free = mlp(), mlp()
    for model, hold in ((held, True), (free, False)):
        train(model, epochs=1, batch_size=100, optimizer="SGD", transport=2.0, hold_outputs=hold)
    torch.testing.assert_close(held.linear[2].weight, free.linear[2].weight)
    torch.testing.assert_close(held.linear[1].positions, free.linear[1].positions)


def test_unknown_positions_are_refused():
    with pytest.raises(ValueError, match="positions must be one of learned, frozen, shuffled, got 'fixed'"):
        train(mlp(), positions="fixed")


@pytest.mark.parametrize("network", [mlp, conv])
@pytest.mark.parametrize("positions", POSITIONS)
def test_resuming_is_the_same_bit_for_bit_whatever_the_positions(network, positions):
    options = {
        "epochs": 4, "transport": 1.0, "proximity": 1.0, "weight_penalty": 1.0, "positions": positions,
        "hold_outputs": True,
    }  # fmt: skip
    whole, tasks, points = network(), noise_tasks(), []
    for _, point in fit_alone(whole, tasks, tasks, seed=0, batch_size=8, **options):
        points.append((deepcopy(whole.state_dict()), deepcopy(point)))
    resumed = network(seed=5)
    resumed.load_state_dict(points[1][0])
    train(resumed, tasks, start=points[1][1], **options)
    assert state_equal(whole, resumed)


# Sheets.

every_sheet = pytest.mark.parametrize("make", SHEETED.values(), ids=SHEETED)


def tasks_for(model, **options):
    return noise_tasks(size=model.shape[-1], **options)


@every_sheet
@pytest.mark.parametrize(
    "costs",
    [
        {"transport": 1.0},
        {"proximity": 1.0, "position_lr": 0.1},
        {"transport": 1.0, "proximity": 1.0, "weight_penalty": 1.0, "norm": "l1", "per": "neuron"},
        {"transport": 1.0, "where": [1, 2], "hold_outputs": True},
    ],
    ids=str,
)
def test_places_on_a_sheet_are_never_learned(make, costs):
    model = make()
    stay, before = graph.on_sheet(model), places(model)
    stay += list(graph.placed(model))[-1:] if "hold_outputs" in costs else []
    train(model, tasks_for(model), optimizer="AdamW", weight_decay=0.5, **costs)
    for old, (name, place) in zip(before, graph.positions(model).items(), strict=True):
        assert torch.equal(old, place) is (name in stay)
        assert place.requires_grad is not (name in stay)


@every_sheet
def test_places_on_a_sheet_are_never_shuffled(make):
    model = make()
    fixed, before = graph.on_sheet(model), places(model)
    training.shuffle(model, 0, 1)
    for old, (name, place) in zip(before, graph.positions(model).items(), strict=True):
        assert torch.equal(old, place) is (name in fixed)
        assert rows(old) == rows(place)


@pytest.mark.parametrize(
    "model",
    [  # no batch norm: statistics would move before the cost
        local(),
        lenet(prior=LINE, batch_norm=False),
        lenet(batch_norm=False),
        alexnet(prior=PLANE, batch_norm=False),
    ],
    ids=SHEETED,
)
def test_places_on_a_sheet_are_charged_all_the_same(model):
    """Weights along long wires shrink: a step descends the transport cost of where the units are."""
    by_hand, tasks = deepcopy(model).train(), tasks_for(model, sizes=(4, 4), classes=(1, 1))
    model_costs(by_hand, [1], "l1").transport.backward()
    before = model.linear[1].weight.detach().clone()
    with torch.no_grad():
        model.linear[-1].weight.zero_()  # so no gradient of the task reaches the layer
    train(model, tasks, epochs=1, optimizer="SGD", lr=0.1, transport=3.0, where=[1], norm="l1")
    expected = before - 0.1 * 3.0 * by_hand.linear[1].weight.grad
    assert by_hand.linear[1].weight.grad.abs().max() > 1e-5
    torch.testing.assert_close(model.linear[1].weight, expected)


# Dropout.


def masks(model, **options):
    """What every dropout lets through, step by step, whatever reaches it."""
    seen, hooks = [], []
    for module in (each for each in model.modules() if isinstance(each, _DropoutNd)):
        hooks.append(module.register_forward_pre_hook(lambda _, given: torch.ones_like(given[0])))
        hooks.append(
            module.register_forward_hook(
                lambda module, _, output: seen.append(output.detach().clone()) if module.training else None
            )
        )
    train(model, tasks_for(model), **options)
    for hook in hooks:
        hook.remove()
    return seen


PRIORS = (None, PLANE, LINE, PLANE | {"on": "activations", "normalize": True})


def named(value):
    return getattr(value, "__name__", str(value))


DROPPED = {lenet: [(8, 20, 2, 2), (8, 20), (8, 49)], alexnet: [(8, 9216), (8, 9)]}  # what the masks of a step are of
every_dropping = pytest.mark.parametrize("make", DROPPED)


@every_dropping
@pytest.mark.parametrize("prior", PRIORS[1:], ids=str)
def test_one_seed_drops_the_same_whatever_the_prior(prior, make):
    control, treated = masks(make()), masks(make(prior=prior))
    assert [tuple(mask.shape) for mask in control[: len(DROPPED[make])]] == DROPPED[make]
    assert len(control) == 2 * 3 * len(DROPPED[make])  # epochs, steps, dropouts
    assert all(map(torch.equal, control, treated))


@pytest.mark.parametrize("options", [{"transport": 1.0, "proximity": 1.0}, {"lr": 0.1, "optimizer": "SGD"}], ids=str)
def test_one_seed_drops_the_same_whatever_is_charged(options):
    assert all(map(torch.equal, masks(lenet()), masks(lenet(), **options)))


@every_dropping
def test_another_seed_another_epoch_and_another_step_drop_something_else(make):
    one, other = masks(make()), masks(make(), seed=1)
    assert not any(map(torch.equal, one, other))
    for each in range(len(DROPPED[make])):
        drops = [tuple(mask.flatten().tolist()) for mask in one[each :: len(DROPPED[make])]]
        assert len(set(drops)) == len(drops) == 6


def test_half_of_everything_is_dropped():
    dropped = torch.cat([mask.flatten() for mask in masks(lenet(), epochs=8)])
    assert set(dropped.tolist()) == {0, 2}
    assert abs((dropped == 0).float().mean() - 0.5) < 0.03


@pytest.mark.parametrize("make", [lenet, mlp, alexnet])
def test_between_two_epochs_the_global_generator_is_as_it_was(make):
    model = make()
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    for _ in fit_alone(model, tasks_for(model), tasks_for(model), seed=0, epochs=2, batch_size=8):
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_draws_between_two_epochs_change_nothing():
    quiet, disturbed = lenet(prior=PLANE), lenet(prior=PLANE)
    train(quiet, tasks_for(quiet), epochs=3)
    for _ in fit_alone(disturbed, tasks_for(disturbed), tasks_for(disturbed), seed=0, epochs=3, batch_size=8):
        torch.rand(7)
    assert state_equal(quiet, disturbed)


def test_a_step_that_fails_leaves_the_global_generator_as_it_was():
    model = lenet()
    model.active[0].register_forward_hook(lambda *_: torch.full((8, 49), math.nan))
    state = torch.random.get_rng_state()
    with pytest.raises(Diverged):
        train(model, tasks_for(model))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("make", "prior"), [*((lenet, prior) for prior in PRIORS), (alexnet, PLANE)], ids=named)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_with_dropout_resuming_after_an_epoch_is_the_same_bit_for_bit(prior, optimizer, make):
    whole, points = make(prior=prior), []
    options = {"epochs": 3, "optimizer": optimizer, "lr": 0.02, "weight_decay": 0.01, "transport": 1.0}
    options["momentum"] = 0.5 if optimizer in training.MOMENTUM else 0.0
    tasks = tasks_for(whole)
    for _, point in fit_alone(whole, tasks, tasks, seed=0, batch_size=8, **options):
        points.append((deepcopy(whole.state_dict()), deepcopy(point)))
    resumed = make(prior=prior, seed=5)
    resumed.load_state_dict(points[0][0])
    torch.manual_seed(3)
    train(resumed, tasks, start=points[0][1], **options)
    assert state_equal(whole, resumed)
    assert not torch.equal(points[0][0]["linear.1.weight"], whole.linear[1].weight)


# Batch norm.


def batches_met(model, tasks, **options):
    """How many images each training step, and each scoring step, has."""
    met = {True: [], False: []}
    hook = model.register_forward_pre_hook(lambda module, given: met[module.training].append(len(given[0])))
    train(model, tasks, **{"epochs": 1, **options})
    hook.remove()
    return met[True], met[False]


@pytest.mark.parametrize(
    ("input", "batch_size", "of_mlp", "of_conv"),
    [
        ("mix", 10, [10, 10, 4], [10, 10]),
        ("mix", 12, [12, 12], [12, 12]),
        ("mix", 23, [23, 1], [23]),
        ("mix", 24, [24], [24]),
        ("mix", 25, [24], [24]),  # the only one
        ("concatenate", 10, [10, 10, 4], [10, 10]),
        ("sequential", 20, [20, 20, 8], [20, 20]),
        ("sequential", 100, [48], [48]),
    ],
)
def test_with_a_batch_norm_the_last_incomplete_batch_is_dropped(input, batch_size, of_mlp, of_conv):
    tasks = noise_tasks(input)
    shape = (2 if input == "concatenate" else 1, 4, 4)
    scored = [48 if input == "sequential" else 24]
    assert batches_met(mlp(shape), tasks, batch_size=batch_size) == (of_mlp, scored)
    assert batches_met(conv(shape), tasks, batch_size=batch_size) == (of_conv, scored)


@pytest.mark.parametrize(("batch_norm", "met"), [(True, [10, 10]), (False, [10, 10, 4])])
@every_dropping
def test_the_last_incomplete_batch_is_dropped_only_with_the_batch_norm(batch_norm, met, make):
    model = make(batch_norm=batch_norm)
    assert batches_met(model, tasks_for(model), batch_size=10) == (met, [24])


def test_a_task_of_which_every_image_is_dropped_does_not_stop_training():
    tasks = noise_tasks("sequential", sizes=(8, 8, 8), classes=(3, 2, 2))
    train(conv(classes=(3, 2, 2)), tasks, batch_size=15, order="blocked")


@pytest.mark.parametrize(
    ("schedule", "done", "epochs", "factor"),
    [
        ("constant", 0, 10, 1), ("constant", 9.9, 10, 1),
        ("linear", 0, 10, 1), ("linear", 5, 10, 1), ("linear", 6, 10, 0.8),
        ("linear", 7.5, 10, 0.5), ("linear", 10, 10, 0), ("linear", 2, 3, 2 / 3),
        ("step", 0, 90, 1), ("step", 29.99, 90, 1), ("step", 30, 90, 0.1),
        ("step", 59.9, 90, 0.1), ("step", 60, 90, 0.01), ("step", 89, 90, 0.01),
        ("cosine", 0, 8, 1), ("cosine", 4, 8, 0.5), ("cosine", 2, 8, (1 + math.sqrt(0.5)) / 2), ("cosine", 8, 8, 0),
    ],
)  # fmt: skip
def test_schedules_at_points_worked_by_hand(schedule, done, epochs, factor):
    assert SCHEDULES[schedule](done, epochs) == pytest.approx(factor)


def test_every_schedule_starts_at_the_full_rate():
    assert {name: schedule(0, 5) for name, schedule in SCHEDULES.items()} == dict.fromkeys(SCHEDULES, 1)


def test_the_schedule_acts_step_by_step_on_both_rates(monkeypatch):
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, *given, **options):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(*given, **options)

    monkeypatch.setitem(OPTIMIZERS, "SGD", Watched)
    train(
        mlp(),
        noise_tasks(sizes=(16, 16)),
        optimizer="SGD",
        schedule="linear",
        lr=0.1,
        position_lr=0.2,
        proximity=1.0,
        epochs=2,
        batch_size=4,
    )
    factors = [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [first for first, _ in rates] == pytest.approx([0.1 * factor for factor in factors])
    assert [second for _, second in rates] == pytest.approx([0.2 * factor for factor in factors])


@pytest.mark.parametrize(
    ("warmup", "at", "factor"),  # 4 epochs of 10 steps; `at` in steps from the start
    [
        (0, 0, 1), (1, 0, 0.1), (1, 4, 0.5), (1, 9, 1), (1, 10, 1), (2, 0, 0.05), (2, 19, 1), (2.5, 9, 0.4), (4, 39, 1),
        (0.1, 0, 1), (0.05, 0, 1),
    ],
)  # fmt: skip
def test_a_warm_up_rises_to_the_full_rate(warmup, at, factor):
    epoch, step = divmod(at, 10)
    assert training.rate("constant", warmup, epoch, step, 10, 4) == pytest.approx(factor)
    for schedule in ("linear", "cosine"):  # a factor of what the rate would be without
        assert training.rate(schedule, warmup, epoch, step, 10, 4) == pytest.approx(
            factor * SCHEDULES[schedule](at / 10, 4)
        )


def test_a_warm_up_acts_step_by_step_on_both_rates(monkeypatch):
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, *given, **options):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(*given, **options)

    monkeypatch.setitem(OPTIMIZERS, "SGD", Watched)
    options = {"optimizer": "SGD", "lr": 0.1, "position_lr": 0.2, "proximity": 1.0, "warmup": 1.5, "batch_size": 4}
    train(mlp(), noise_tasks(sizes=(16, 16)), **options)
    factors = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1]
    assert [first for first, _ in rates] == pytest.approx([0.1 * factor for factor in factors])
    assert [second for _, second in rates] == pytest.approx([0.2 * factor for factor in factors])


# A step in parts.


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("input", "size", "parts"), [("mix", 8, 4), ("sequential", 12, 3), ("concatenate", 10, 2)])
def test_a_step_in_parts_is_a_step(float64, optimizer, input, size, parts):
    """Of the last, smaller step too; each task's images asked for differ from part to part."""
    tasks, options = noise_tasks(input), {"optimizer": optimizer, "lr": 0.01, "weight_decay": 0.1, "batch_size": size}
    options |= {"transport": 2.0, "proximity": 1.0, "weight_penalty": 0.5, "position_lr": 0.02}
    shape = (2 if input == "concatenate" else 1, 4, 4)
    whole, divided = mlp(shape), mlp(shape)
    wanted, _ = train(whole, tasks, **options)
    met = []
    hook = divided.register_forward_pre_hook(lambda model, given: met.append(len(given[0])) if model.training else None)
    found, _ = train(divided, tasks, accumulate=parts, **options)
    hook.remove()
    assert met[:parts] == [size // parts] * parts
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(divided.state_dict()[name], value, rtol=1e-7, atol=1e-9, msg=name)
    for one, other in zip(found, wanted, strict=True):
        assert one.train.loss == pytest.approx(other.train.loss)
        assert one.train.accuracy == other.train.accuracy
        assert one.transport == pytest.approx(other.transport)


def test_a_batch_norm_sees_one_part_after_the_other():
    model = conv()
    assert batches_met(model, noise_tasks(), batch_size=12, accumulate=3) == ([4] * 6, [24])
    assert model.norm[0].num_batches_tracked == 6


def test_costs_of_a_step_in_parts_are_computed_once():
    calls = []

    def compute(*given):
        calls.append(0)
        return kernels.compute(*given)

    train(mlp(), transport=1.0, accumulate=4, compute=compute)
    assert len(calls) == 2 * 3  # epochs, steps


# Precision.


def test_short_products_leave_weights_costs_and_losses_as_they_are():
    short, full, seen = mlp(), mlp(), []
    hook = short.register_forward_hook(lambda model, _, logits: seen.append((model.training, logits.dtype)))
    (epoch,), _ = train(short, epochs=1, precision="bf16")
    hook.remove()
    (other,), _ = train(full, epochs=1)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}  # scores are those of `score`
    assert {value.dtype for value in short.state_dict().values()} == {torch.float32}
    assert not state_equal(short, full)
    assert epoch.train.loss != other.train.loss
    assert epoch.train.loss == pytest.approx(other.train.loss, rel=0.02)
    assert epoch.test.loss == pytest.approx(other.test.loss, rel=0.02)


@pytest.mark.parametrize("network", [mlp, conv, local])
@pytest.mark.parametrize("per", PER)
def test_short_products_change_no_cost(network, per):
    """One class: the task's gradient is exactly 0, what is descended are the costs alone."""
    tasks, trained = noise_tasks(sizes=(16,), classes=(1,)), []
    for precision in training.PRECISIONS:
        model = network(classes=(1,))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # its statistics would be of short products
        options = {"transport": 3.0, "proximity": 2.0, "weight_penalty": 1.0, "per": per, "norm": "l1"}
        train(model, tasks, precision=precision, optimizer="SGD", **options)
        trained.append(model)
    assert state_equal(*trained)
    assert not state_equal(trained[0], network(classes=(1,)))


def test_what_computes_the_network_is_called_in_training_alone():
    model, other, sizes = mlp(), mlp(), []

    def network(images):
        sizes.append(len(images))
        return model(images)

    epochs, _ = train(model, network=network, batch_size=10)
    assert sizes == [10, 10, 4] * 2
    wanted, _ = train(other, batch_size=10)
    assert state_equal(model, other) and [each.test for each in epochs] == [each.test for each in wanted]


# Going on in the midst of an epoch.


def halfway(models, tasks, **options):
    """Every yield of training, with copies of the networks as they were then."""
    seeds = range(len(models))
    found = fit(models, tasks, tasks, seeds=seeds, **{"epochs": 2, "batch_size": 8, **options})
    return [([deepcopy(model.state_dict()) for model in models], deepcopy(point)) for point in found]


@pytest.mark.parametrize(
    ("save_every", "steps"),
    [(1, [1, 2, 0]), (2, [2, 0]), (3, [0]), (4, [0]), (None, [0])],  # 3 steps: the last is the epoch's end
)
def test_training_also_yields_in_the_midst_of_an_epoch(save_every, steps):
    model, plain, tasks = mlp(), mlp(), noise_tasks()
    points = [point for _, point in halfway([model], tasks, save_every=save_every)]
    ends = [epoch + (step == 0) for epoch in (0, 1) for step in steps]
    assert [(point.epoch, point.step) for point in points] == list(zip(ends, 2 * steps, strict=True))
    for point in points:
        assert len(point.results) == (point.step == 0)
        assert [each["step"] for each in point.processes] == ([point.step] if point.step else [])
    wanted, _ = train(plain, tasks)
    assert state_equal(model, plain)
    assert [replace(point.results[0], seconds=(0, 0)) for point in points if point.results] == [
        replace(epoch, seconds=(0, 0)) for epoch in wanted
    ]


MIDST = {
    "mlp": ([mlp], {"transport": 1.0, "proximity": 1.0, "optimizer": "AdamW", "schedule": "cosine", "warmup": 1}),
    "together": ([mlp, mlp], {"transport": 1.0, "optimizer": "SGD", "momentum": 0.5}),
    "shuffled": ([mlp], {"transport": 1.0, "positions": "shuffled"}),
    "conv": ([conv], {"transport": 1.0, "accumulate": 2}),
    "lenet": ([lenet], {"optimizer": "SGD", "momentum": 0.5, "schedule": "linear"}),
    "alexnet": ([alexnet], {"lr": 1e-3, "precision": "bf16"}),
}


@pytest.mark.parametrize("case", MIDST)
def test_resuming_in_the_midst_of_an_epoch_is_the_same_bit_for_bit(case):
    makes, options = MIDST[case]
    whole = [make(seed=seed) for seed, make in enumerate(makes)]
    tasks = tasks_for(whole[0])
    points = halfway(whole, tasks, save_every=1, **options)
    for states, start in points[1], points[4]:  # after the second step of the first epoch, and of the second
        assert start.step == 2
        resumed = [make(seed=5 + seed) for seed, make in enumerate(makes)]
        for model, state in zip(resumed, states, strict=True):
            model.load_state_dict(state)
        torch.manual_seed(3)
        random = torch.get_rng_state()
        rest = halfway(resumed, tasks, start=deepcopy(start), **options)
        assert torch.equal(torch.get_rng_state(), random)
        assert all(map(state_equal, whole, resumed))
        for (_, found), (_, wanted) in zip(reversed(rest), (points[5], points[2]), strict=False):
            assert (found.epoch, found.step) == (wanted.epoch, 0)
            for one, other in zip(found.results, wanted.results, strict=True):
                assert replace(one, seconds=(0, 0)) == replace(other, seconds=(0, 0))
                assert one.seconds[0] > 0
        assert len(rest) == 2 - start.epoch


def test_the_seconds_of_an_epoch_go_on_where_it_does():
    (states, start), *_ = halfway([mlp()], noise_tasks(), save_every=1)
    start.processes[0]["seconds"] = 1000.0
    resumed = mlp()
    resumed.load_state_dict(states[0])
    (first, second), _ = train(resumed, start=start)
    assert 1000 < first.seconds[0] < 1100 and second.seconds[0] < 100


@pytest.mark.parametrize("save_every", [1, 2, None])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_loss_that_is_not_finite_is_of_its_step_whatever_is_saved(save_every, resumed):
    model, steps = mlp(), []
    start = halfway([mlp()], noise_tasks(), save_every=1)[0][1] if resumed else None  # one step is done

    def spoil(module, given, output):
        if module.training:
            steps.append(1)
        return output * float("nan") if module.training and len(steps) == 3 - resumed else output

    model.register_forward_hook(spoil)
    saved = 2 if save_every else 1 if resumed else 0
    kept = f"; the checkpoint of epoch 1, step {saved}, is kept" if saved else ""
    with pytest.raises(Diverged, match=f"not finite at epoch 1, step 3 of 3{kept}; smaller"):
        halfway([model], noise_tasks(), save_every=save_every, start=start)


@pytest.fixture
def learnable(monkeypatch, tmp_path):
    """A task that an epoch teaches."""
    entry, files = make(classes=3, train=240, test=60)
    (tmp_path / "Learnable").mkdir()
    for name, content in files.items():
        (tmp_path / "Learnable" / name).write_bytes(content)
    monkeypatch.setitem(data.DATASETS, "Learnable", entry)
    loaded = data.load("Learnable", tmp_path)
    return Tasks([loaded.train], "mix"), Tasks([loaded.test], "mix")


@pytest.fixture(scope="module")
def two_learnable(tmp_path_factory):
    """Two data sets of different sizes and numbers of classes that a few epochs teach."""
    sets, folder = [], tmp_path_factory.mktemp("learnable")
    with pytest.MonkeyPatch.context() as patch:
        for seed, (name, classes) in enumerate((("First", 3), ("Second", 2))):
            register(patch, folder, name, classes=classes, train=96 - 20 * seed, test=40, seed=seed)
            sets.append(data.load(name, folder))
    return sets


@pytest.mark.parametrize("network", [mlp, conv])
@pytest.mark.parametrize("input", INPUTS)
def test_every_network_learns_every_input(two_learnable, network, input):
    learn, score = (Tasks([getattr(each, subset) for each in two_learnable], input) for subset in ("train", "test"))
    shape = (2 if input == "concatenate" else 1, 8, 8)
    model = network(shape, (10, 8), (3, 2))
    start = training.evaluate(model, score.batches(score.scoring_order(), 100), score.classes)
    epochs = [
        epoch
        for epoch, _ in fit_alone(
            model, learn, score, seed=0, epochs=4, batch_size=16, lr=0.02, transport=0.1, proximity=0.1
        )
    ]
    assert epochs[-1].train.loss < epochs[0].train.loss
    assert epochs[-1].test.loss < 0.7 * start.loss
    assert min(epochs[-1].test.accuracy) > 0.6


@pytest.mark.parametrize("network", [mlp, conv])
@pytest.mark.parametrize("positions", POSITIONS)
def test_double_precision_stays(float64, network, positions):
    model = network()
    (epoch,), _ = train(model, epochs=1, transport=1.0, proximity=1.0, weight_penalty=1.0, positions=positions)
    assert {value.dtype for value in model.state_dict().values() if value.ndim} == {torch.float64}
    assert epoch.transport == pytest.approx(model_costs(model).transport.item(), rel=1e-12)


@pytest.mark.parametrize(("optimizer", "lr"), [("Adam", 5e-3), ("AdamW", 5e-3), ("SGD", 0.05), ("RMSprop", 5e-3)])
def test_every_optimizer_learns(optimizer, lr, learnable):
    train_tasks, test_tasks = learnable
    model = mlp((1, 8, 8), (16,), (3,))
    epochs = [
        epoch
        for epoch, _ in fit_alone(
            model, train_tasks, test_tasks, seed=0, epochs=2, batch_size=16, optimizer=optimizer, lr=lr
        )
    ]
    start = training.evaluate(mlp((1, 8, 8), (16,), (3,)), test_tasks.batches(test_tasks.scoring_order(), 60), (3,))
    assert epochs[0].test.loss < 0.8 * start.loss
    assert epochs[1].test.accuracy[0] > 0.9
    assert epochs[1].train.loss < epochs[0].train.loss


def test_every_optimizer_is_in_the_test_above():
    (mark,) = (mark for mark in test_every_optimizer_learns.pytestmark if mark.name == "parametrize")
    assert [name for name, _ in mark.args[1]] == list(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", training.MOMENTUM)
def test_momentum_is_passed_on(optimizer):
    plain, heavy = mlp(), mlp()
    train(plain, optimizer=optimizer, lr=0.01)
    train(heavy, optimizer=optimizer, lr=0.01, momentum=0.9)
    assert not torch.equal(plain.linear[0].weight, heavy.linear[0].weight)


def test_an_epoch_says_what_it_came_to():
    model, tasks = mlp(), noise_tasks()
    epochs, _ = train(model, tasks, transport=1.0, norm="l1", per="neuron", where=[1, 2])  # measured, charged or not
    last = epochs[-1]
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert last.transport == pytest.approx(model_costs(model, [1, 2], "l1", "neuron").transport.item())
    assert last.proximity == pytest.approx(model_costs(model, [1, 2]).proximity.item())
    assert last.weight_penalty == pytest.approx(model_weight_penalty(model, [1, 2], "l1").item())
    assert last.test == training.evaluate(model, tasks.batches(tasks.scoring_order(), 100), tasks.classes)
    assert all(seconds > 0 for seconds in last.seconds)


def test_training_results_are_those_of_the_batches_as_they_were_met():
    model, tasks = mlp(), noise_tasks(sizes=(8, 8))
    start = training.evaluate(deepcopy(model), [tasks.batch(tasks.training_order(0, 1))], tasks.classes)
    (epoch,), _ = train(model, tasks, epochs=1, transport=5.0)  # one step: the loss before it, without the costs
    assert epoch.train.loss == pytest.approx(start.loss)
    assert epoch.train.accuracy == start.accuracy


def seen_by(model, tasks, **options):
    """The images that a model is trained on, in order, as codes."""
    shown = []
    hook = model.register_forward_pre_hook(
        lambda module, given: shown.append(codes(given[0], 2)) if module.training else None
    )
    train(model, tasks, **options)
    hook.remove()
    return torch.cat(shown)


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({}, {"transport": 2.0, "norm": "l1", "per": "neuron"}),
        ({}, {"proximity": 2.0, "position_lr": 0.1, "where": [1]}),
        ({"outputs": "task"}, {"transport": 1.0, "proximity": 1.0}),
        ({"dim": 3}, {"transport": 1.0}),
        ({"layers": (9,)}, {"optimizer": "SGD"}),
        ({"outputs": "held"}, {"transport": 1.0, "hold_outputs": True}),
        ({"outputs": "arbitrary"}, {"weight_penalty": 2.0}),
        ({}, {"transport": 1.0, "positions": "frozen"}),
        ({}, {"transport": 1.0, "proximity": 1.0, "positions": "shuffled"}),
    ],
    ids=str,
)
def test_runs_of_one_seed_see_the_same_batches(input, network, options):
    tasks = Tasks(coded_sets((13, 9), (3, 2), size=4), input)
    shape = (2 if input == "concatenate" else 1, 4, 4)
    regular = seen_by(mlp(shape), tasks)
    assert torch.equal(regular, seen_by(mlp(shape, **network), tasks, **options))
    half = len(regular) // 2
    assert not torch.equal(regular[:half], regular[half:])  # the two epochs
    assert not torch.equal(regular, seen_by(mlp(shape), tasks, seed=1))


def test_a_blocked_epoch_trains_on_task_after_task():
    tasks = Tasks(coded_sets((13, 9), (3, 2), size=4), "sequential")
    shown = seen_by(mlp(), tasks, epochs=1, order="blocked")
    assert (shown[:, 0] >= 0).tolist() == [True] * 13 + [False] * 13
    assert (seen_by(mlp(), tasks, epochs=1)[:, 0] >= 0).tolist() != [True] * 13 + [False] * 13


def test_a_training_epoch_shows_every_image():
    shown = seen_by(mlp(), Tasks(coded_sets((13, 9), (3, 2), size=4), "mix"), epochs=1)
    assert sorted(shown[:, 0].tolist()) == list(range(13))
    assert set(shown[:, 1].tolist()) == set(range(9))


def test_training_leaves_labels_alone():
    sets = coded_sets((13, 9), (3, 2), size=4)
    before = [each.labels.clone() for each in sets]
    train(mlp(), Tasks(sets, "sequential"))
    assert all(torch.equal(each.labels, kept) for each, kept in zip(sets, before, strict=True))


def test_training_does_not_depend_on_the_global_generator():
    one, other = mlp(), mlp()
    train(one, transport=1.0)
    torch.manual_seed(12345)
    train(other, transport=1.0)
    assert state_equal(one, other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resuming_in_the_middle_is_the_same_bit_for_bit(optimizer, schedule):
    momentum = 0.5 if optimizer in training.MOMENTUM else 0.0
    options = {
        "epochs": 4, "optimizer": optimizer, "schedule": schedule, "lr": 0.01, "momentum": momentum,
        "weight_decay": 0.01, "transport": 1.0, "proximity": 1.0, "position_lr": 0.03,
    }  # fmt: skip
    whole, tasks = mlp(), noise_tasks("sequential")
    points = []
    for _, point in fit_alone(whole, tasks, tasks, seed=0, batch_size=8, **options):
        points.append((deepcopy(whole.state_dict()), deepcopy(point)))
    resumed = mlp(seed=5)
    resumed.load_state_dict(points[1][0])
    epochs, _ = train(resumed, tasks, start=points[1][1], **options)
    assert [epoch.number for epoch in epochs] == [3, 4]
    assert state_equal(whole, resumed)


def test_nothing_is_left_to_do_after_the_last_epoch():
    model = mlp()
    before = deepcopy(model)
    assert train(model, start=Point(2, 0, None, [])) == ([], None)
    assert state_equal(model, before)


def test_a_loss_that_is_not_finite_stops_at_its_epoch_and_step():
    model = mlp()
    training_steps = []

    def spoil(module, given, output):
        training_steps.append(module.training)
        return output * float("nan") if module.training and sum(training_steps) == 5 else output

    model.register_forward_hook(spoil)
    with pytest.raises(Diverged, match=r"not finite at epoch 2, step 2 of 3; the checkpoint of epoch 1 is kept"):
        train(model)
    assert issubclass(Diverged, UserError)


def test_a_last_step_that_ruins_the_network_is_no_good_epoch():
    with pytest.raises(Diverged, match="epoch 1"):
        train(mlp(), batch_size=100, epochs=1, optimizer="SGD", lr=1e38)


def test_snapshot_is_a_copy_of_every_layers_places():
    model = mlp(dim=3)
    taken = snapshot(model)
    assert [tuple(each.shape) for each in taken] == [(6, 3), (5, 3), (5, 3)]
    before = taken[0].clone()
    with torch.no_grad():
        model.linear[0].positions.add_(1)
    assert torch.equal(taken[0], before)


def test_the_device_by_name():
    assert distributed.device("cpu") == torch.device("cpu")
    assert distributed.device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {name}: there is none here; use --device cpu"):
        distributed.device(name)


def test_generators_are_told_apart_by_seed_and_use():
    uses = [
        (0, "weights"),
        (0, "positions"),
        (1, "weights"),
        (0, "order", 1),
        (0, "order", 2),
        (0, "order", 1, 0),
        (10, "order"),
    ]
    assert len({derive(*use) for use in uses}) == len(uses)
    assert derive(0, "weights") == 133441691874178746  # for ever: published tables must stay repeatable
    assert generator(0, "order").initial_seed() == derive(0, "order")


def test_seeded_draws_are_those_of_their_use_and_leave_no_trace():
    drawn = {}
    for use in [(0, "dropout", 1), (0, "dropout", 2), (1, "dropout", 1), (0, "weights")]:
        torch.rand(3)
        state = torch.random.get_rng_state()
        with seeded(*use):
            drawn[use] = tuple(torch.rand(4).tolist())
        assert torch.equal(torch.random.get_rng_state(), state)
        assert drawn[use] == tuple(torch.rand(4, generator=generator(*use)).tolist())
    assert len(set(drawn.values())) == len(drawn)


def test_seeded_draws_leave_no_trace_where_something_fails():
    state = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(0, "dropout"):
        torch.rand(1 // 0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seeded_draws_leave_no_trace_on_a_gpu(device):
    torch.rand(3, device="cuda")
    states = torch.random.get_rng_state(), torch.cuda.get_rng_state()
    with seeded(0, "dropout", device=device):
        one = torch.rand(4, device=device)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    with seeded(0, "dropout", device=device):
        assert torch.equal(torch.rand(4, device=device), one)


def test_image_sets_of_the_helpers_are_bytes():
    assert all(isinstance(each, ImageSet) and each.images.dtype == torch.uint8 for each in coded_sets((3,), (2,)))


# Memory.


def bytes_of(model):
    return sum(each.nbytes for each in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_memory_needed_counts_weights_gradients_and_what_the_optimizer_keeps(name, momentum):
    if momentum and name not in training.MOMENTUM:
        pytest.skip("reads no momentum")
    model = mlp()
    for each in model.parameters():
        each.grad = torch.ones_like(each)
    optimizer = OPTIMIZERS[name](model.parameters(), **({"momentum": momentum} if momentum else {}))
    optimizer.step()
    kept = [each for state in optimizer.state_dict()["state"].values() for each in state.values()]
    expected = 2 * bytes_of(model) + sum(each.nbytes for each in kept if torch.is_tensor(each) and each.ndim)
    assert training.memory_needed(model, name, momentum) == expected
    assert training.memory_needed(model, name, momentum, replicas=3) == 3 * expected
    assert training.memory_needed(model, name, momentum, checkpoint=True) == 2 * expected


def test_the_memory_needed_counts_inputs_and_what_is_made_of_them():
    model = mlp((1, 4, 4), (6, 5), (3, 2))
    alone = training.memory_needed(model, "SGD")
    training_step = 4 * (16 + 6 + 5 + 5 + 6)
    assert training.memory_needed(model, "SGD", rows=7) == alone + 7 * training_step
    assert training.memory_needed(model, "SGD", replicas=2, rows=7) == 2 * alone + 14 * training_step
    assert training.memory_needed(model, "SGD", rows=1, scored=100) == alone + 100 * 4 * (16 + 6)


@pytest.mark.parametrize("make", [mlp, conv, lenet, alexnet, local], ids=lambda make: make.__name__)
def test_an_outline_needs_the_memory_of_its_network(make):
    model = make()
    name = next(name for name, kind in models.MODELS.items() if type(model) is kind)
    outline = models.outline(name, models.arguments_of(model))
    assert {each.device.type for each in (*outline.parameters(), *outline.buffers())} == {"meta"}
    prior = sum(each.nbytes for name, each in model.named_buffers() if name.endswith(("prior", "gain")))
    for rows in (0, 9):
        needed = [training.memory_needed(each, "Adam", rows=rows) for each in (model, outline)]
        assert needed[0] == needed[1] + 4 * prior
