"""From the names of data sets to tasks."""

import pytest
import torch
from generated import archived

from spatial import data
from spatial.data import DataSet, ImageSet
from spatial.errors import UserError
from spatial.loading import input_shape, load_sets, load_tasks
from spatial.tasks import INPUTS

every_input = pytest.mark.parametrize("input", INPUTS)


def named(name, *shape):
    empty = ImageSet(torch.zeros(1, *shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), 2)
    return DataSet(name, empty, empty, {})


@pytest.mark.parametrize(
    ("input", "shape"), [("mix", (1, 8, 8)), ("concatenate", (3, 8, 8)), ("sequential", (1, 8, 8))]
)
def test_the_shape_of_an_input(input, shape):
    assert input_shape([named(name, 1, 8, 8) for name in "ABC"], input) == shape


def test_concatenate_takes_grey_beside_coloured_images():
    assert input_shape([named("Grey", 1, 8, 8), named("Colour", 3, 8, 8)], "concatenate") == (4, 8, 8)


@pytest.mark.parametrize(
    ("input", "other", "said"),
    [
        ("mix", (1, 9, 9), "1x9x9; try --resize 9"),
        ("mix", (3, 8, 8), "3x8x8; use data sets with as many channels"),
        ("concatenate", (1, 8, 9), "1x8x9; try --resize 9"),
        ("concatenate", (3, 5, 7), "3x5x7; try --resize 8"),
        ("sequential", (1, 9, 9), "1x9x9; try --resize 9"),
    ],
)
def test_images_that_do_not_fit_are_named_with_their_sizes(input, other, said):
    with pytest.raises(UserError, match=f"--input {input} needs images of one size, got Small 1x8x8, Odd {said}$"):
        input_shape([named("Small", 1, 8, 8), named("Odd", *other)], input)


@pytest.fixture
def colour(monkeypatch, tmp_path):
    """A folder with small CIFAR10, and KMNIST of 4 x 5 pixels."""
    for name in ("CIFAR10", "KMNIST"):
        entry, archives, _ = archived(name)
        monkeypatch.setitem(data.DATASETS, name, entry)
        (tmp_path / name).mkdir()
        for file, content in archives.items():
            (tmp_path / name / file).write_bytes(content)
    return tmp_path


@every_input
@pytest.mark.parametrize("subset", ["train", "test"])
def test_load_tasks_resizes_and_colours(colour, input, subset):
    tasks = load_tasks(["KMNIST", "CIFAR10"], colour, input, subset, resize=6)
    batch = tasks.batch(tasks.alone(0))
    assert batch.images.shape == (10 if subset == "train" else 5, 4 if input == "concatenate" else 3, 6, 6)
    grey = data.resized(data.load("KMNIST", colour), 6)
    expected = getattr(grey, subset).images / 255
    if input == "concatenate":
        torch.testing.assert_close(batch.images[:, :1], expected)
        assert batch.images[:, 1:].max() == 0
    else:  # the grey image counts for every channel
        torch.testing.assert_close(batch.images, expected.expand(-1, 3, -1, -1))


@every_input
def test_loaded_sets_have_one_shape(colour, input):
    names = ["KMNIST", "CIFAR10", "KMNIST@permuted"]
    assert input_shape(load_sets(names, colour, input, resize=6), input) == (5 if input == "concatenate" else 3, 6, 6)
    with pytest.raises(UserError, match="try --resize 32"):
        input_shape(load_sets(names, colour, input), input)


def test_sets_are_as_they_are_unless_asked_otherwise(root):
    for got, plain in zip(
        load_sets(["Alpha", "Beta"], root, "mix"), data.load_all(["Alpha", "Beta"], root), strict=True
    ):
        assert torch.equal(got.train.images, plain.train.images)
        assert torch.equal(got.test.images, plain.test.images)
        assert got.checksums == plain.checksums


def test_held_out_images_are_the_test_images(root):
    plain = data.load("Alpha", root)
    held, permuted = load_sets(["Alpha", "Alpha@permuted"], root, "mix", holdout=20)
    assert (len(held.train.images), len(held.test.images)) == (100, 20)
    both = torch.cat([held.train.images, held.test.images]).flatten(1)
    assert sorted(both.tolist()) == sorted(plain.train.images.flatten(1).tolist())  # disjoint, together everything
    shown = {tuple(image) for image in both.tolist()}
    assert not shown & {tuple(image) for image in plain.test.images.flatten(1).tolist()}
    assert torch.equal(held.test.labels, permuted.test.labels)
    assert torch.equal(held.test.images.flatten(1).sort(1).values, permuted.test.images.flatten(1).sort(1).values)
    tasks = load_tasks(["Alpha", "Alpha@permuted"], root, "mix", "test", holdout=20)
    assert torch.equal(tasks.images[0][:-1], held.test.images)
    assert tasks.sizes == (20, 20)


def test_a_holdout_of_everything_is_refused(root):
    with pytest.raises(UserError, match="--holdout 100: Beta has 100 training images, leave some to train on"):
        load_sets(["Alpha", "Beta"], root, "mix", holdout=100)


@pytest.mark.parametrize("subset", ["train", "test"])
def test_load_tasks_gives_a_subset(root, subset):
    tasks = load_tasks(["Alpha", "Beta"], root, "mix", subset)
    assert tasks.sizes == {"train": (120, 100), "test": (40, 33)}[subset]
    assert tasks.classes == (4, 3)
