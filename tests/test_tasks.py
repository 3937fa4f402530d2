from collections import Counter

import oracles
import pytest
import torch
from helpers import coded_sets, codes, noise_tasks

from spatial.data import ImageSet
from spatial.metrics import evaluate
from spatial.tasks import INPUTS, ORDERS, UNLABELLED, Tasks, task_loss, task_losses

every_input = pytest.mark.parametrize("input", INPUTS)
SIZES, CLASSES = (7, 4, 1), (3, 2, 4)


@pytest.fixture
def sets():
    return coded_sets(SIZES, CLASSES)


def image_set(*images):
    """Images of given pixels, 1 x 1 x n, all of class 0."""
    return ImageSet(
        torch.tensor(images, dtype=torch.uint8)[:, None, None], torch.zeros(len(images), dtype=torch.int64), 2
    )


def test_mix_adds_pixels_beyond_the_range_of_bytes():
    tasks = Tasks([image_set([255, 51]), image_set([255, 0])], "mix")
    images, labels = tasks.batch(torch.tensor([[0, 0]]))
    torch.testing.assert_close(images, torch.tensor([[[[2.0, 0.2]]]]))
    assert labels.tolist() == [[0, 0]]


def test_concatenate_stacks_channels():
    tasks = Tasks([image_set([255, 51]), image_set([102, 0])], "concatenate")
    torch.testing.assert_close(tasks.batch(torch.tensor([[0, 0]])).images, torch.tensor([[[[1.0, 0.2]], [[0.4, 0.0]]]]))


def test_sequential_shows_one_image_and_asks_its_own_head():
    tasks = Tasks([image_set([255, 51]), image_set([102, 0])], "sequential")
    images, labels = tasks.batch(torch.tensor([[0, 1], [1, 0]]))  # 1: one past the last, the blank image
    torch.testing.assert_close(images, torch.tensor([[[[1.0, 0.2]]], [[[0.4, 0.0]]]]))
    assert labels.tolist() == [[0, UNLABELLED], [UNLABELLED, 0]]


@every_input
def test_blank_images_are_zero_and_ask_nothing(input, sets):
    tasks = Tasks(sets, input)
    images, labels = tasks.batch(tasks.blank[None])
    assert images.abs().max() == 0
    assert (labels == UNLABELLED).all()


@every_input
def test_batches_leave_images_and_labels_as_they_are(input, sets):
    before = [(each.images.clone(), each.labels.clone()) for each in sets]
    tasks = Tasks(sets, input)
    for _ in range(2):
        for images, labels in tasks.batches(tasks.scoring_order(), 3):
            images.zero_()
            labels.zero_()
    for each, (images, labels) in zip(sets, before, strict=True):
        assert torch.equal(each.images, images)
        assert torch.equal(each.labels, labels)
    assert not any((own[:-1] != each.labels).any() for own, each in zip(tasks.labels, sets, strict=True))


@every_input
def test_with_one_data_set_all_inputs_are_the_same(input):
    sets = coded_sets((5,), (3,))
    one, mix = Tasks(sets, input), Tasks(sets, "mix")
    for order in ("scoring_order", "training_order"):
        index, expected = (
            getattr(tasks, order)(*([0, 1] if order == "training_order" else [])) for tasks in (one, mix)
        )
        if order == "scoring_order":
            assert torch.equal(index, expected)
        assert sorted(index.flatten().tolist()) == list(range(5))
        assert torch.equal(one.batch(index).images, mix.batch(index).images)
        assert torch.equal(one.batch(index).labels, mix.batch(index).labels)


def test_an_unknown_input_is_refused(sets):
    with pytest.raises(ValueError, match="input must be one of mix, concatenate, sequential, got 'stack'"):
        Tasks(sets, "stack")


@pytest.mark.parametrize("input", ["mix", "concatenate"])
def test_a_training_epoch_shows_every_image_of_the_longest_once(input, sets):
    index = Tasks(sets, input).training_order(0, 1)
    assert index.shape == (7, 3)
    assert sorted(index[:, 0].tolist()) == list(range(7))


@pytest.mark.parametrize("input", ["mix", "concatenate"])
def test_a_shorter_set_is_resampled_with_every_image_before_any_again(input):
    column = Tasks(coded_sets((23, 9), (3, 2)), input).training_order(0, 1)[:, 1].tolist()
    assert sorted(column[:9]) == sorted(column[9:18]) == list(range(9))
    assert len(set(column[18:])) == 5
    assert column[:9] != column[9:18]


@pytest.mark.parametrize("order", ORDERS)
def test_a_sequential_epoch_shows_one_image_at_a_time(order, sets):
    tasks = Tasks(sets, "sequential")
    index = tasks.training_order(0, 1, order)
    shown = index != tasks.blank
    assert (shown.sum(1) == 1).all()
    assert shown.sum(0).tolist() == [7, 7, 7]
    for task, size in enumerate(SIZES):
        times = Counter(index[shown[:, task], task].tolist())
        assert len(times) == size
        assert max(times.values()) - min(times.values()) <= 1


def test_blocked_order_shows_task_after_task(sets):
    tasks = Tasks(sets, "sequential")
    index = tasks.training_order(0, 1, "blocked")
    assert (index != tasks.blank).int().argmax(1).tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert index[:7, 0].tolist() != list(range(7))  # shuffled within the task


def test_random_order_mixes_the_tasks(sets):
    tasks = Tasks(sets, "sequential")
    shown = (tasks.training_order(0, 1, "random") != tasks.blank).int().argmax(1).tolist()
    assert shown != sorted(shown)


@every_input
@pytest.mark.parametrize("order", ORDERS)
def test_orders_differ_by_seed_and_by_epoch_only(input, order, sets):
    tasks = Tasks(sets, input)
    orders = [tasks.training_order(seed, epoch, order) for seed, epoch in [(0, 1), (0, 2), (1, 1), (0, 1)]]
    assert torch.equal(orders[0], orders[3])
    assert not any(torch.equal(orders[a], orders[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


def test_orders_leave_the_global_generator_alone(sets):
    before = torch.random.get_rng_state()
    tasks = Tasks(sets, "sequential")
    tasks.training_order(0, 1)
    tasks.scoring_order()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tasks_of_one_size_are_paired_differently():
    index = Tasks(coded_sets((9, 9), (3, 2)), "mix").training_order(0, 1)
    assert index[:, 0].tolist() != index[:, 1].tolist()


def test_an_unknown_order_is_refused(sets):
    with pytest.raises(ValueError, match="order must be one of random, blocked, got 'sorted'"):
        Tasks(sets, "mix").training_order(0, 1, "sorted")


@every_input
def test_the_scoring_order_holds_every_image_of_every_task(input, sets):
    tasks = Tasks(sets, input)
    batches = list(tasks.batches(tasks.scoring_order(), 4))
    seen = torch.cat([codes(batch.images, 3) for batch in batches])
    for task, (size, labels) in enumerate(zip(SIZES, tasks.labels, strict=True)):
        mine = seen[:, task]
        assert set(mine[mine >= 0].tolist()) == set(range(size))
        asked = torch.cat([batch.labels for batch in batches])[:, task]
        once = torch.tensor([image >= 0 and image not in mine[:row] for row, image in enumerate(mine)])
        assert torch.equal(asked, torch.where(once, labels[mine], UNLABELLED))  # shown again, but asked once


@every_input
def test_a_shorter_task_is_scored_once_an_image(input):
    """Its first image is the only right one: 1 of 3, however often the images are shown."""
    sets = coded_sets((5, 3), (2, 2))
    tasks = Tasks([sets[0], sets[1]._replace(labels=torch.tensor([1, 0, 0]))], input)

    class Guess(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(images), 1)

    assert evaluate(Guess(), tasks.batches(tasks.scoring_order(), 4), tasks.classes).accuracy[1] == pytest.approx(1 / 3)


def test_the_scoring_order_is_fixed_and_no_mere_alignment():
    tasks = Tasks(coded_sets((20, 20), (3, 2)), "mix")
    index = tasks.scoring_order()
    torch.manual_seed(99)
    assert torch.equal(index, tasks.scoring_order())
    assert index[:, 0].tolist() == list(range(20))
    assert sorted(index[:, 1].tolist()) == list(range(20))
    assert index[:, 1].tolist() != list(range(20))


@every_input
def test_alone_shows_one_task_and_blanks_the_others(input, sets):
    tasks = Tasks(sets, input)
    for task, size in enumerate(SIZES):
        seen = codes(tasks.batch(tasks.alone(task)).images, 3)
        assert seen[:, task].tolist() == list(range(size))
        assert (seen[:, [other for other in range(3) if other != task]] == -1).all()


def test_batches_cover_the_index_in_order(sets):
    tasks = Tasks(sets, "mix")
    index = tasks.training_order(0, 1)
    batches = list(tasks.batches(index, 3))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), tasks.batch(index).labels)


@every_input
def test_images_in_memory_are_learned_from_as_they_are_scored(input, sets):
    tasks = Tasks(sets, input)
    index = tasks.training_order(0, 2)
    for learned, plain in zip(tasks.training_batches(index, 3, 0, 2), tasks.batches(index, 3), strict=True):
        assert all(map(torch.equal, learned, plain))
    assert tasks.top is None


@pytest.mark.parametrize("asked", ["all", "one each", "some"])
def test_task_loss_is_the_oracles(asked):
    classes, logits = (3, 1, 4), 3 * torch.randn(6, 8, dtype=torch.float64)
    labels = torch.stack([torch.randint(number, (6,)) for number in classes], 1)
    if asked == "one each":
        labels[torch.arange(3) != torch.arange(6)[:, None] % 3] = UNLABELLED
    if asked == "some":
        labels[:4, 0] = labels[2, 1] = UNLABELLED
    expected = oracles.task_loss(logits.tolist(), labels.tolist(), classes)
    assert task_loss(logits, labels, classes).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("asked", ["all", "one each", "one task"])
def test_task_losses_are_the_oracles(asked):
    classes, logits = (3, 1, 4), 3 * torch.randn(6, 8, dtype=torch.float64)
    labels = torch.stack([torch.randint(number, (6,)) for number in classes], 1)
    if asked == "one each":
        labels[torch.arange(3) != torch.arange(6)[:, None] % 3] = UNLABELLED
    if asked == "one task":
        labels[:, :2] = UNLABELLED
    found = [loss.item() for loss in task_losses(logits, labels, classes)]
    assert found == pytest.approx(oracles.task_losses(logits.tolist(), labels.tolist(), classes), rel=1e-12)
    total = task_loss(logits, labels, classes) * (labels != UNLABELLED).sum()
    assert sum(found) == pytest.approx(total.item(), rel=1e-12)


def test_task_loss_of_full_labels_is_the_mean_over_tasks():
    logits, labels = torch.randn(5, 5), torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0], [2, 1]])
    alone = [
        torch.nn.functional.cross_entropy(logits[:, own], labels[:, task])
        for task, own in enumerate([slice(3), slice(3, 5)])
    ]
    torch.testing.assert_close(task_loss(logits, labels, (3, 2)), sum(alone) / 2)


def test_an_image_asks_its_own_head_only():
    logits = torch.randn(3, 5, requires_grad=True)
    task_loss(logits, torch.tensor([[1, -1], [-1, 0], [2, -1]]), (3, 2)).backward()
    asked = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]])
    assert torch.equal(logits.grad != 0, asked.bool())


def test_the_loss_of_short_logits_is_computed_in_single_precision():
    logits, labels = torch.randn(50, 5).bfloat16(), torch.randint(2, (50, 2))
    loss = task_loss(logits, labels, (3, 2))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task_loss(logits.float(), labels, (3, 2)))
    assert task_loss(logits.double(), labels, (3, 2)).dtype == torch.float64


def test_task_loss_leaves_labels_alone():
    labels = torch.tensor([[1, -1], [-1, 1]])
    task_loss(torch.randn(2, 5), labels, (3, 2))
    assert labels.tolist() == [[1, -1], [-1, 1]]


def test_noise_tasks_are_what_the_other_tests_think():
    tasks = noise_tasks(sizes=(24, 10))
    assert tasks.sizes == (24, 10)
    assert tasks.batch(tasks.blank[None]).images.shape == (1, 1, 4, 4)
