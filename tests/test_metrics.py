import oracles
import pytest
import torch
from helpers import PerfectPredictor, coded_sets, mlp, noise_tasks

from spatial.metrics import Evaluation, Tally, evaluate, live, summary
from spatial.tasks import INPUTS, Tasks

every_input = pytest.mark.parametrize("input", INPUTS)
SIZES, CLASSES = (23, 9, 14), (3, 2, 4)


def score(model, tasks, batch_size=5):
    return evaluate(model, tasks.batches(tasks.scoring_order(), batch_size), tasks.classes)


@every_input
def test_a_perfect_predictor_scores_one_on_every_task(input):
    sets = coded_sets(SIZES, CLASSES)
    before = [each.labels.clone() for each in sets]
    tasks = Tasks(sets, input)
    result = score(PerfectPredictor(sets), tasks)
    assert result.accuracy == [1, 1, 1]
    assert result.loss < 1e-6
    assert all(torch.equal(each.labels, kept) for each, kept in zip(sets, before, strict=True))
    assert score(PerfectPredictor(sets), tasks).accuracy == [1, 1, 1]  # a second time too


@every_input
def test_a_predictor_that_knows_one_task_scores_one_on_it_only(input):
    sets = coded_sets(SIZES, CLASSES)
    wrong = [
        each if task == 1 else each._replace(labels=(each.labels + 1) % each.classes) for task, each in enumerate(sets)
    ]
    assert score(PerfectPredictor(wrong), Tasks(sets, input)).accuracy == [0, 1, 0]


@every_input
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluation_is_the_oracles(input, batch_size):
    tasks = noise_tasks(input, sizes=(20, 13), classes=(3, 2))
    model = mlp((2 if input == "concatenate" else 1, 4, 4))
    images, labels = tasks.batch(tasks.scoring_order())
    logits = model(images).tolist()
    result = score(model, tasks, batch_size)
    assert result.accuracy == pytest.approx(oracles.accuracy(logits, labels.tolist(), tasks.classes))
    assert result.loss == pytest.approx(oracles.task_loss(logits, labels.tolist(), tasks.classes), rel=1e-5)
    assert result.mean == pytest.approx(sum(result.accuracy) / 2)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(training):
    model, seen = mlp().train(training), []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_inference_mode_enabled())))
    score(model, noise_tasks())
    assert model.training is training
    assert set(seen) == {(False, True)}


def test_a_tally_weighs_batches_by_what_they_ask():
    tally = Tally((2, 2))
    right, wrong = torch.tensor([[9.0, 0.0, 9.0, 0.0]]), torch.tensor([[0.0, 9.0, 0.0, 9.0]])
    tally.add(torch.tensor(1.0), torch.cat([right, wrong, right]), torch.tensor([[0, -1], [0, -1], [-1, 0]]))
    tally.add(torch.tensor(5.0), right, torch.tensor([[0, -1]]))
    assert tally.result() == Evaluation(loss=2.0, accuracy=[pytest.approx(2 / 3), 1.0])


def test_a_tally_leaves_labels_alone_and_keeps_no_graph():
    labels, logits = torch.tensor([[0, -1], [-1, 1]]), torch.randn(2, 4, requires_grad=True)
    tally = Tally((2, 2))
    tally.add(logits.sum(), logits, labels)
    assert labels.tolist() == [[0, -1], [-1, 1]]
    assert not tally.loss.requires_grad


def test_live_units_are_the_oracles():
    readers = torch.randn(6, 9) * torch.tensor([1, 1, 1, 1, 1e-3, 0, 0.1, 0.05, 1])
    found = live(readers.abs().sum(0)).tolist()
    assert found == oracles.live(readers.tolist())
    assert True in found and False in found


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ([1.0, 1.0, 1.0], [True, True, True]),
        ([10.0, 10.0, 0.0, 0.5], [True, True, False, False]),  # the mean is 5.125
        ([0.0, 0.0], [False, False]),
        ([3.0], [True]),
    ],
)
def test_a_unit_is_live_above_a_tenth_of_the_mean(sums, expected):
    assert live(torch.tensor(sums)).tolist() == expected


@pytest.mark.parametrize("values", [[0.5], [0.25, 0.75], [0.1, 0.2, 0.4, 0.9]])
def test_summary_is_the_oracles(values):
    mean, deviation = oracles.mean_and_deviation(values)
    assert summary(values)["mean"] == pytest.approx(mean)
    assert summary(values)["std"] == (None if deviation is None else pytest.approx(deviation))


def test_a_unit_at_a_tenth_of_the_mean_is_silent():
    assert live(torch.tensor([1.9, 0.1], dtype=torch.float64)).tolist() == [True, False]  # the mean is 1
    assert live(torch.tensor([1.899, 0.101], dtype=torch.float64)).tolist() == [True, True]


def test_accuracies_are_exact_fractions():
    tally = Tally((2,))
    tally.add(torch.tensor(0.0), torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.tensor([[0]] * 3 + [[1]] * 7))
    assert tally.result().accuracy == [3 / 10]  # in float32 it would be 0.30000001
