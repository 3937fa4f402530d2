"""Tasks whose images are files: what is cut from them, in which order, by whichever processes."""

import multiprocessing
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from generated import write_tree
from PIL import Image
from torchvision import transforms

from spatial import process, streaming
from spatial.errors import Alone, UserError
from spatial.folders import index
from spatial.streaming import FileTasks, check_shared_memory, default_workers

SIZE = 32


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = write_tree(tmp_path_factory.mktemp("tree"), size=40)
    return index(root, trust=True)


@pytest.fixture
def tasks(found):
    return FileTasks(found.train, SIZE)


def epoch(tasks, number, size=5, seed=0):
    order = tasks.training_order(seed, number)
    batches = list(tasks.training_batches(order, size, seed, number))
    return order, torch.cat([each.images for each in batches]), torch.cat([each.labels for each in batches])


def test_it_is_one_task_of_the_folders_classes(tasks, found):
    assert tasks.classes == (3,) and tasks.sizes == (24,) and tasks.top == 5
    assert tasks.labels[0].tolist() == [*found.train.labels.tolist(), -1]


def test_images_are_scored_as_torchvision_cuts_their_middle(tasks, found):
    cut = transforms.Compose([transforms.Resize(round(SIZE * 256 / 224)), transforms.CenterCrop(SIZE)])
    index = tasks.scoring_order()
    images = torch.cat([each.images for each in tasks.batches(index, 7)])
    for row in (0, 11, 23):
        with Image.open(found.train.path(row)) as file:
            expected = np.array(cut(file.convert("RGB"))) / 255
        torch.testing.assert_close(images[row].permute(1, 2, 0).double(), torch.from_numpy(expected), atol=1e-7, rtol=0)
    assert images.shape == (24, 3, SIZE, SIZE) and images.dtype == torch.float32


def test_batches_come_channels_last(tasks):
    images = tasks.batch(tasks.scoring_order()[:4]).images
    assert images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def test_scored_batches_are_bounded(tasks, monkeypatch):
    monkeypatch.setattr(FileTasks, "most", 10)
    assert [len(each.labels) for each in tasks.batches(tasks.scoring_order(), 2000)] == [10, 10, 4]


def test_training_shows_every_image_once_with_its_label(tasks, found):
    order, _, labels = epoch(tasks, 1)
    assert sorted(order[:, 0].tolist()) == list(range(24))
    assert labels[:, 0].tolist() == found.train.labels[order[:, 0]].tolist()


def test_what_is_cut_depends_on_seed_epoch_and_image_alone(tasks):
    order, images, _ = epoch(tasks, 1)
    _, again, _ = epoch(tasks, 1, size=24)  # whatever the batches
    assert torch.equal(images, again)
    later = next(tasks.training_batches(order[7:9], 2, 0, 1)).images  # and wherever it begins
    assert torch.equal(later, images[7:9])
    for other in ((1, 1), (0, 2)):
        assert not torch.equal(next(tasks.training_batches(order[7:9], 2, *other)).images, later)


def test_drawing_leaves_torchs_generator_alone(tasks):
    before = torch.get_rng_state()
    epoch(tasks, 1)
    list(tasks.batches(tasks.scoring_order(), 5))
    assert torch.equal(before, torch.get_rng_state())


def test_half_of_the_images_are_mirrored_and_parts_differ(tmp_path):
    left = np.zeros((40, 40, 3), np.uint8)
    left[:, :20] = 255  # white to the left
    for subset in ("train", "val"):
        (tmp_path / subset / "a").mkdir(parents=True)
        Image.fromarray(left).save(tmp_path / subset / "a" / "0.png")
    tasks = FileTasks(index(tmp_path, trust=True).train, SIZE)
    row = torch.zeros(1, 1, dtype=torch.int64)
    seen = torch.cat([next(tasks.training_batches(row, 1, 0, number)).images for number in range(200)])
    edges = seen[:, 0, :, 0].mean(1) - seen[:, 0, :, -1].mean(1)
    mirrored, all_of_them = (edges < 0).sum(), (edges != 0).sum()
    assert 0.35 * all_of_them < mirrored < 0.65 * all_of_them
    assert len({each.mean().item() for each in seen}) > 50


@pytest.mark.parametrize(("workers", "stay"), [(1, True), (2, False)])
def test_workers_change_nothing(found, tasks, workers, stay):
    others = FileTasks(found.train, SIZE, workers=workers, stay=stay)
    for number in (1, 2):
        for ours, theirs in zip(epoch(tasks, number), epoch(others, number), strict=True):
            assert torch.equal(ours, theirs)
        expected = torch.cat([each.images for each in tasks.batches(tasks.scoring_order(), 5)])
        assert torch.equal(torch.cat([each.images for each in others.batches(others.scoring_order(), 5)]), expected)


def test_workers_stay_from_epoch_to_epoch(found):
    tasks = FileTasks(found.train, SIZE, workers=2, stay=True)
    seen = []
    for number in (1, 2):
        epoch(tasks, number)
        seen.append({child.pid for child in multiprocessing.active_children()})
    assert seen[0] == seen[1] and len(seen[0]) >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_fails_later_stops_and_is_named(tmp_path, workers):
    root = write_tree(tmp_path / "tree", size=40)
    tasks = FileTasks(index(root, trust=True).train, SIZE, workers=workers)
    path = root / "train/class-1/1-3.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Alone, match=r"class-1/1-3\.jpg: can no longer be decoded") as caught:
        epoch(tasks, 1)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(Alone, match=r"class-1/1-3\.jpg"):
        epoch(tasks, 1)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "RGBA", "I;16"])
def test_images_of_every_kind_become_three_channels(tmp_path, mode):
    for subset in ("train", "val"):
        (tmp_path / subset / "a").mkdir(parents=True)
        image = Image.new(mode, (50, 40), 1 if mode in ("L", "P", "1", "I;16") else tuple([9] * len(mode)))
        image.save(tmp_path / subset / "a" / ("0.tif" if mode in ("CMYK", "I;16") else "0.png"))
        Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / subset / "a" / "1.png")
    tasks = FileTasks(index(tmp_path).val, SIZE)
    images = tasks.batch(tasks.scoring_order()).images
    assert images.shape == (2, 3, SIZE, SIZE)
    assert (255 * images[1].amax((1, 2))).round().tolist() == [9, 8, 7]


def test_two_passes_at_once_are_refused(tasks):
    first = tasks.batches(tasks.scoring_order(), 5)
    next(first)
    next(tasks.batches(tasks.scoring_order(), 5))
    with pytest.raises(RuntimeError, match="gone through anew"):
        next(first)


def test_a_blank_image_is_refused(tasks):
    with pytest.raises(ValueError, match="blank"):
        list(tasks.batches(tasks.blank[None], 1))


def test_default_workers_are_the_cores_shared_out(monkeypatch):
    monkeypatch.setattr(process, "cores", lambda: 12)
    assert [default_workers(each) for each in (1, 4, 100)] == [12, 3, 1]
    monkeypatch.setattr(process, "cores", lambda: 64)
    assert default_workers() == 16


def test_too_little_shared_memory_is_said_with_what_would_do(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, "SHARED", tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 64 * 2**20))
    of_one = 2 * 256 * 3 * 64**2
    enough = 64 * 2**20 // of_one
    check_shared_memory(enough, 256, 64)
    check_shared_memory(0, 256, 224)
    with pytest.raises(UserError, match=f"--workers {enough + 1} needs .* 64 MiB free; use --workers {enough},"):
        check_shared_memory(enough + 1, 256, 64)
    with pytest.raises(UserError, match="--workers 0, or enlarge it"):
        check_shared_memory(1, 512, 224)
    monkeypatch.setattr(streaming, "SHARED", tmp_path / "none")
    check_shared_memory(enough + 1, 256, 64)
