"""What is minimised: which parameters learn, and at which rate; what they are charged."""

import pytest
import torch
from helpers import SHEETED, conv, mlp, noise_tasks

from spatial import graph
from spatial.costs import model_costs, model_weight_penalty
from spatial.objective import Objective, Together, parameter_groups
from spatial.tasks import INPUTS, task_loss

every_sheet = pytest.mark.parametrize("make", SHEETED.values(), ids=SHEETED)


def test_positions_have_a_rate_of_their_own():
    groups = parameter_groups(mlp(), lr=0.1, weight_decay=0.2, position_lr=0.3, transport=1.0, proximity=0.0, where=[1])
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups] == [
        (6, 0.1, 0.2),
        (2, 0.3, 0.0),
    ]


def test_positions_learn_at_the_rate_of_the_weights_by_default():
    groups = parameter_groups(mlp(), lr=0.1, weight_decay=0.2, position_lr=None, transport=0.0, proximity=1.0)
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(6, 0.1), (3, 0.1)]


@every_sheet
def test_places_on_a_sheet_are_in_no_group(make):
    model = make()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.2, position_lr=0.3, transport=1.0, proximity=1.0)
    given = {id(parameter) for group in groups for parameter in group["params"]}
    fixed = {id(graph.positions(model)[name]) for name in graph.on_sheet(model)}
    assert fixed and given == {id(parameter) for parameter in model.parameters()} - fixed


CHARGES = {"transport": 3.0, "proximity": 2.0, "weight_penalty": 4.0, "norm": "l1", "per": "neuron"}


def batch_of(tasks, size=12):
    return tasks.batch(tasks.training_order(0, 1)[:size])


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("where", [None, [1, 2]], ids=str)
def test_the_loss_is_the_sum_of_the_task_and_the_three_costs(make, where):
    model, tasks = make(), noise_tasks()
    images, labels = batch_of(tasks)
    loss, task, logits = Objective(model, tasks.classes, where=where, **CHARGES)(images, labels)
    assert torch.equal(logits, model(images)) and torch.equal(task, task_loss(logits, labels, tasks.classes))
    wires, crowd = model_costs(model, where, "l1", "neuron")
    expected = task + 3 * wires + 2 * crowd + 4 * model_weight_penalty(model, where, "l1")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_losses_of_a_steps_parts_add_up_to_its_own(float64, input, replicas):
    """Each part's is its share of the task; one of them is charged."""
    tasks = noise_tasks(input)
    models = [mlp((2 if input == "concatenate" else 1, 4, 4), seed=seed) for seed in range(replicas)]
    objective = Objective(models[0], tasks.classes, **CHARGES)
    if replicas > 1:
        objective = Together(objective, models)
    index = torch.stack([tasks.training_order(seed, 1)[:12] for seed in range(replicas)])
    index = index if replicas > 1 else index[0]
    whole, *_ = objective(*tasks.batch(index))
    parts = index.split([3, 3, 3, 3] if input == "mix" else [6, 4, 2], -2)
    losses = [
        objective(*tasks.batch(part), part.shape[-2] / 12, number == len(parts) - 1)[0]
        for number, part in enumerate(parts)
    ]
    torch.testing.assert_close(sum(losses), whole)
    assert whole.shape == ((replicas,) if replicas > 1 else ())
    uncharged, task, _ = objective(*tasks.batch(index), 0.5, False)
    torch.testing.assert_close(uncharged, 0.5 * task)


def test_logits_may_be_computed_by_something_else():
    model, tasks, given = mlp(), noise_tasks(), []

    def network(images):
        given.append(len(images))
        return 2 * model(images)

    images, labels = batch_of(tasks)
    loss, task, logits = Objective(model, tasks.classes, network=network)(images, labels)
    assert given == [12]
    torch.testing.assert_close(logits, 2 * model(images))
    assert loss is task
