"""Images of files on a GPU: they arrive as they are on a CPU, and AlexNet goes through every command."""

import pytest
import torch
from generated import write_tree
from helpers import Interruption, command, history, narrow

from spatial.folders import index
from spatial.runs import Run
from spatial.streaming import FileTasks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.fixture
def files(tmp_path):
    return index(write_tree(tmp_path / "tree", size=70), trust=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_files_come_to_the_gpu_as_they_are(files, workers):
    here, there = (FileTasks(files.train, 64, device, workers=workers) for device in ("cpu", "cuda"))
    for ours, theirs in zip(
        here.training_batches(here.training_order(0, 1), 5, 0, 1),
        there.training_batches(there.training_order(0, 1), 5, 0, 1),
        strict=True,
    ):
        assert theirs.images.is_cuda and theirs.images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(theirs.images.cpu(), ours.images)
        assert torch.equal(theirs.labels.cpu(), ours.labels)


@pytest.mark.parametrize("words", ["", "--precision bf16", "--compile", "--accumulate 2", "--locality plane"])
def test_alexnet_trains_stops_and_resumes_on_a_gpu(files, tmp_path, monkeypatch, words):
    given = ["--model", "alexnet", "--root", files.train.folder.parent, "--resize", "64", "--batch-size", "8"]
    given += ["--epochs", "2", "--workers", "1", "--save-every", "1", "--device", "cuda", *words.split()]
    with narrow():
        with monkeypatch.context() as patch:
            Interruption(patch, at=8 if "accumulate" in words else 4)
            assert command("train", tmp_path / "run", *given) == 130
        assert command("train", tmp_path / "run", *given, "--resume") == 0
    assert [row["epoch"] for row in history(Run(tmp_path / "run"))] == ["1", "1", "2", "2"]
    for line in ("record --by label --subset test", "score", "plot"):
        name, *rest = line.split()
        assert command(name, tmp_path / "run", *rest) == 0
