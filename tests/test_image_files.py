"""All commands on a folder of image files: ``--datasets ImageNet``, AlexNet, and training that stops in mid-epoch."""

import json
import os
import re
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import write_tree
from helpers import Interruption, command, configured, history, narrow, results
from PIL import Image

from experiments.imagenet.small import tree as small_tree
from spatial import commands, data, runs, storing, streaming
from spatial.runs import Run

SIZE = 63


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes, 24 images to train and 12 to score."""
    return write_tree(tmp_path_factory.mktemp("tree"), size=70)


def words(root, *more):
    given = [each for line in more for each in line.split()]
    known = ["--datasets", "ImageNet", "--root", root, "--batch-size", 8, "--device", "cpu", "--epochs", 2]
    return [*known, *([] if "--workers" in given or "--datasets" in given else ["--workers", 0]), *given]


MLP = "--model mlp --layers 9 9 --resize 16"
LENET = "--model lenet --resize 16"
ALEXNET = f"--model alexnet --resize {SIZE}"


@pytest.fixture(
    scope="module",
    params=[pytest.param("", marks=pytest.mark.slow, id="control"), pytest.param("--locality plane", id="local")],
)
def alexnet(request, root, tmp_path_factory):
    """AlexNet with narrow dense layers, trained, recorded, cut and scored; the second beside a control of its own."""
    run = Run(tmp_path_factory.mktemp("runs") / ("local" if request.param else "control"))
    with narrow():
        assert command("train", run.folder, *words(root, ALEXNET, request.param)) == 0
    for line in ("record --by label --subset test", "record", "split --method balanced --extract", "score"):
        name, *rest = line.split()
        assert command(name, run.folder, *rest) == 0
    return run


def test_alexnet_goes_through_every_command(alexnet, capsys):
    assert command("plot", alexnet.folder) == 0
    out, _ = capsys.readouterr()
    drawn = {path.name for path in alexnet.figures.iterdir()}
    local = alexnet.name == "local"
    assert drawn == {
        *("positions.png", "wiring.png", "activations.png", "labels.png", "curves.png", "scores.png", "transfer.png"),
        *("maps.png", "variance.png", "filters.png", "trajectory.gif"), *(["prior.png"] if local else []),
    }  # fmt: skip
    assert ("prior left out" in out) is not local
    network = alexnet.network(0)
    assert network.layers == (49, 49) and network.classes == (3,) and network.shape == (3, SIZE, SIZE)
    assert (network.prior is not None) is local


def test_accuracy_among_five_stands_beside_the_first(alexnet):
    """Of three classes every label is among the five."""
    assert {row["top5"] for row in history(alexnet)} == {"1"}
    rows = storing.read_table(alexnet.scores, ("accuracy", "top5"))
    assert [row["method"] for row in rows] == ["whole", "balanced"] and {row["top5"] for row in rows} == {1.0}
    assert json.loads(alexnet.metrics.read_text())["top5"]["whole"]["ImageNet"]["mean"] == 1


def test_the_last_epochs_score_is_the_scores(alexnet):
    last = [row for row in history(alexnet) if row["subset"] == "test"][-1]
    (whole, _) = storing.read_table(alexnet.scores)
    assert last["accuracy"] == whole["accuracy"] and last["loss"] == whole["loss"]


def test_maps_of_every_image_are_measured(alexnet):
    labels, found = alexnet.map_variances()
    assert labels[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert {"layer-0/plane", "layer-1/plane"} <= set(found)


def test_recording_counts_every_label(alexnet):
    with np.load(alexnet.activations(0, "label", "test")) as recorded:
        assert recorded["count"].tolist() == [4, 4, 4] and recorded["layer-1/mean"].shape == (3, 49)


def test_config_names_the_images(alexnet, root):
    known = alexnet.config()["data"]["ImageNet"]
    assert set(known) == {"train", "val"} and all(re.fullmatch("[0-9a-f]{64}", each) for each in known.values())


def test_scoring_asks_for_the_images_of_training(alexnet, root, tmp_path, capsys):
    other = tmp_path / "tree"
    shutil.copytree(root, other)
    assert command("score", alexnet.folder, "--root", other) == 0  # a copy, elsewhere
    (other / "val/class-0/0-0.jpg").unlink()
    capsys.readouterr()
    assert command("score", alexnet.folder, "--root", other) == 2
    assert "its images are not those that the run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        f"{MLP} --optimizer SGD --lr 0.05 --transport 1 --proximity 1 --schedule cosine --warmup 0.5",
        f"{LENET} --locality plane --schedule linear",
        f"{LENET} --accumulate 2 --weight-penalty 1 --optimizer AdamW --momentum None",
        f"{MLP} --seeds 2 --positions shuffled --transport 1",
        f"{LENET} --precision bf16 --holdout 6 --no-batch-norm",
    ],
)
@pytest.mark.parametrize("at", [2, 5])
def test_what_stops_in_mid_epoch_goes_on_bit_for_bit(root, tmp_path, monkeypatch, line, at):
    """Checkpoints after every step: nothing but the step that was stopped is computed again."""
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    given = words(root, line, "--save-every 1")
    at = 2 * at if "accumulate" in line else at
    with monkeypatch.context() as patch:
        Interruption(patch, at=at)
        assert command("train", run.folder, *given) == 130
    counted = Interruption(monkeypatch)
    assert command("train", run.folder, *given, "--resume") == 0
    again = counted.steps
    assert command("train", whole.folder, *given) == 0
    parts = 2 if "accumulate" in line else 1
    assert again == counted.steps - again - (at - 1) // parts * parts
    assert results(run) == results(whole)


@pytest.mark.parametrize("free", ["--workers 1", "--trust-images", "--save-every 2"])
def test_what_changes_no_result_may_differ_when_resuming(root, tmp_path, monkeypatch, free):
    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        Interruption(patch, at=5)
        assert command("train", run.folder, *words(root, LENET)) == 130
    assert command("train", run.folder, *words(root, LENET, free), "--resume") == 0
    whole = Run(tmp_path / "whole")
    assert command("train", whole.folder, *words(root, LENET)) == 0
    assert run.weights(0).read_bytes() == whole.weights(0).read_bytes() and history(run) == history(whole)


def test_accumulating_is_the_whole_batchs_gradient(root, tmp_path):
    """Without batch norm and dropout; costs are charged once."""
    line = f"{MLP} --optimizer SGD --lr 0.05 --transport 1 --proximity 1 --norm l1 --transport-per neuron"
    states = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        assert command("train", folder, *words(root, line, f"--accumulate {parts}")) == 0
        states.append(storing.load_plain(folder / "weights/seed-0.pt")["state"])
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=0, atol=1e-6)


def test_held_out_images_are_scored_as_images_are_scored(root, tmp_path):
    assert command("train", tmp_path / "run", *words(root, MLP, "--holdout 5")) == 0
    run = Run(tmp_path / "run")
    tasks, learned = run.tasks("test", workers=0), run.tasks("train", workers=0)
    assert tasks.sizes == (5,) and learned.sizes == (19,)
    assert {row["subset"] for row in history(run)} == {"train", "holdout"}


def test_unreadable_images_are_named_and_left_out(root, tmp_path, capsys):
    other = tmp_path / "tree"
    write_tree(other, classes=1, train=60, val=4, size=20)
    broken = other / "train/class-0/0-7.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    assert command("train", tmp_path / "run", *words(other, MLP, "--epochs 1")) == 0
    assert "0-7.jpg" in capsys.readouterr().err
    run = Run(tmp_path / "run")
    assert run.config()["data"]["ImageNet"]["left out"] == ["train/class-0/0-7.jpg"]
    assert run.tasks("train", workers=0).sizes == (59,)
    (other / "train/class-0/0-8.jpg").write_bytes(b"")
    assert command("train", tmp_path / "none", *words(other, MLP)) == 2
    assert "2 of 60" in capsys.readouterr().err.splitlines()[-1]


def test_an_image_that_breaks_while_training_stops_it(root, tmp_path, capsys):
    other = tmp_path / "tree"
    shutil.copytree(root, other)
    broken = other / "train/class-1/1-2.jpg"
    broken.write_bytes(broken.read_bytes()[:-40] + b"\0" * 40)
    broken.write_bytes(broken.read_bytes()[:200])
    assert command("train", tmp_path / "run", *words(other, MLP, "--trust-images")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "class-1/1-2.jpg: can no longer be decoded" in error
    assert not (tmp_path / "run/weights").exists()


def empty(folder):
    folder.mkdir(parents=True)


def unknown_class(folder):
    write_tree(folder, size=20)
    (folder / "val/class-2").rename(folder / "val/class-9")


def class_without_images(folder):
    write_tree(folder, size=20)
    for subset in ("train", "val"):
        empty(folder / subset / "class-5")


def three_images(folder):
    write_tree(folder, train=1, val=1, size=20)


def without_val(folder):
    write_tree(folder, size=20)
    shutil.rmtree(folder / "val")


@pytest.mark.parametrize(
    ("make", "line", "message"),
    [
        (None, MLP, r"tree: no such folder"),
        (empty, MLP, r"tree: .*train.* and val"),
        (without_val, MLP, r"tree: .*val"),
        (class_without_images, MLP, r"class-5"),
        (unknown_class, MLP, r"class-9"),
        (write_tree, f"{MLP} --datasets ImageNet MNIST", r"ImageNet is trained alone"),
        (write_tree, f"{MLP} --datasets Imagenet", r"unknown data set 'Imagenet': did you mean ImageNet\?"),
        (write_tree, f"{MLP} --datasets ImageNet@permuted", r"unknown data set 'ImageNet@permuted'"),
        (write_tree, f"{MLP} --holdout 24", r"--holdout 24: ImageNet has 24 training images"),
        (
            write_tree,
            "--model alexnet --resize 62",
            r"alexnet needs images of 63 x 63 pixels or more, got 62 x 62; try ",
        ),
        (write_tree, f"{MLP} --replicas together --seeds 2", r"--replicas together: networks read ImageNet's files"),
        (write_tree, "--model alexnet --replicas together --seeds 2", r"--replicas together: alexnet has dropout"),
        (write_tree, f"{MLP} --accumulate 3", r"--accumulate 3: --batch-size 8 does not divide; give 6 or 9"),
        (write_tree, "--model alexnet --accumulate 8", r"--batch-size 8 --accumulate 8: the batch norm .* needs 2"),
        (
            three_images,
            f"{LENET} --accumulate 2",
            r"batch norm .* needs 2 images at once: 3 training images",
        ),
        (write_tree, f"{MLP} --warmup 3", r"--warmup 3 is longer than --epochs 2"),
        (write_tree, "--model alexnet --layers 9 9", r"--layers is read only by --model mlp or conv, got alexnet"),
        (write_tree, "--model alexnet --activation GELU", r"--activation is read only by --model mlp or conv"),
        (write_tree, "--model alexnet --input-positions grid", r"--input-positions is read only by --model mlp"),
        (write_tree, "--model alexnet --where 3 --transport 1", r"--where 3: there is no such layer, give 0 to 2"),
        (write_tree, "--model alexnet --locality plane --dim 3", r"--locality plane needs --dim 2, got 3"),
        (write_tree, f"{MLP} --workers -1", r"argument --workers: -1 is out of range"),
        (write_tree, f"{MLP} --save-every 0", r"argument --save-every: 0 is out of range"),
        (write_tree, f"{MLP} --precision fp16", r"argument --precision: unknown value 'fp16'"),
    ],
)
def test_a_mistake_gets_one_line_and_loses_nothing(make, line, message, tmp_path, capsys):
    folder = tmp_path / "tree"
    if make is not None:
        make(folder, **({"size": 70} if make is write_tree else {}))
    assert command("train", tmp_path / "run", *words(folder, line)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and error.startswith("main.py train: error: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--trust-images", "--workers 2", "--workers 0"])
def test_options_of_image_files_are_refused_elsewhere(option, tmp_path, capsys):
    assert command("train", tmp_path / "run", *option.split()) == 2
    assert f"{option.split()[0]} is read only with --datasets ImageNet" in capsys.readouterr().err


def test_too_little_shared_memory_is_refused_before_training(root, tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda _: usage(0, 0, 2**20))
    given = words(root, MLP, "--workers 3")
    assert command("train", tmp_path / "run", *given) == 2
    assert "--workers 3 needs" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_network_is_refused(root, tmp_path, capsys):
    """Its options say one thing, its weights another."""
    run = Run(tmp_path / "run")
    assert command("train", run.folder, *words(root, LENET)) == 0
    state = storing.load_plain(run.resume(0))
    state["networks"][0]["arguments"] |= {"batch_norm": False}
    del state["networks"][0]["state"]["norm.weight"]
    storing.save(run.resume(0), state)
    before = run.resume(0).read_bytes()
    assert command("train", run.folder, *words(root, LENET), "--epochs", 3, "--resume") == 2
    assert capsys.readouterr().err.count("\n") == 1 and run.resume(0).read_bytes() == before


def test_a_loader_process_that_is_killed_is_reported_in_a_line(root, tmp_path, monkeypatch, capsys):
    def killed(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(streaming.FileTasks, "training_batches", killed)
    assert command("train", tmp_path / "run", *words(root, MLP)) == 2
    error = capsys.readouterr().err
    assert "a process that decodes images has ended" in error and error.count("\n") == 1


@pytest.mark.parametrize("command_", ["record", "score"])
def test_workers_are_refused_of_images_in_memory(command_, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "load_sets", lambda *_, **__: [data.DataSet("A", None, None, {})])
    configured(Run(tmp_path / "run"))
    monkeypatch.setattr(Run, "network", lambda *_: None)
    assert command(command_, tmp_path / "run", "--workers", 2) == 2
    assert "--workers is read only of runs on ImageNet" in capsys.readouterr().err


def test_fetching_says_that_imagenet_is_the_users_own(capsys):
    assert data.main(["data", "ImageNet"]) == 2
    assert "train --datasets ImageNet --root PATH reads your own folder" in capsys.readouterr().err


# The script for a GPU box.

SCRIPT = Path(__file__).parent.parent / "experiments/imagenet/run.sh"


def script(tmp_path, *arms, **settings):
    """What run.sh would call, python standing still."""
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    known = {"PATH": os.environ["PATH"], "PYTHON": str(stub), "ROOT": "/data/imagenet", "RUNS": str(tmp_path / "runs")}
    return subprocess.run(["bash", str(SCRIPT), *arms], env=known | settings, capture_output=True, text=True)


def test_the_script_calls_every_command_of_both_arms(tmp_path):
    lines = [line.split() for line in script(tmp_path).stdout.splitlines()]
    assert [line[1] for line in lines] == 2 * ["train", "record", "score", "plot", "plot"]
    for (main, *words), arm in zip(lines, 5 * ["control"] + 5 * ["local"], strict=True):
        assert main == "main.py" and words[1] == str(tmp_path / "runs" / arm)
        options = vars(commands.parse(words))
        if words[0] == "train":
            filled = commands.train.filled(options)
            commands.train.check(filled)
            recipe = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 256, "epochs": 90}
            assert recipe.items() <= filled.items() and filled["schedule"] == "step" and filled["seeds"] == 3
            assert filled["locality"] == ("plane" if arm == "local" else "none")


def test_the_script_takes_gpus_recipe_and_further_options(tmp_path):
    (tmp_path / "runs/local").mkdir(parents=True)
    (tmp_path / "runs/local/config.json").touch()
    (tmp_path / "runs/control").mkdir()
    (tmp_path / "runs/control/scores.csv").touch()
    ended = script(tmp_path, "local", GPUS="4", RECIPE="seed", SEEDS="1", OPTIONS="--workers 24")
    train, _, score, *_ = ended.stdout.splitlines()
    assert train.startswith("-m torch.distributed.run --standalone --nproc-per-node 4 main.py train ")
    assert train.endswith("--lr 0.1 --seeds 1 --precision bf16 --compile --save-every 1000 --resume --workers 24")
    assert score.endswith(f"--against {tmp_path / 'runs/control'}")


@pytest.mark.parametrize(
    ("arms", "settings", "message"),
    [
        (["Control"], {}, "run.sh: error: an arm is control or local, got Control"),
        ([], {"RECIPE": "mine"}, "run.sh: error: RECIPE is ours or seed, got mine"),
        ([], {"ROOT": ""}, "say where ImageNet is: ROOT=/data/imagenet"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(tmp_path, arms, settings, message):
    ended = script(tmp_path, *arms, **settings)
    assert ended.returncode and message in ended.stderr and ended.stdout == ""


# The small run's folder of images.


@pytest.fixture
def two_tasks(monkeypatch):
    def loaded(names, root):
        sets = []
        for seed, name in enumerate(names):
            random = torch.Generator().manual_seed(seed)
            parts = []
            for count in (12, 6):
                images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=random)
                parts.append(data.ImageSet(images, torch.arange(count) % 3, 3))
            sets.append(data.DataSet(name, *parts, {}))
        return sets

    monkeypatch.setattr(small_tree, "load_all", loaded)
    monkeypatch.setattr(small_tree, "COUNTS", {"train": 3, "val": 1})


@pytest.mark.parametrize(("full", "counts"), [(False, {"train": 18, "val": 6}), (True, {"train": 24, "val": 12})])
def test_the_small_folder_has_the_images_that_it_says(two_tasks, tmp_path, full, counts):
    assert small_tree.tree(tmp_path / "tree", "data", full) == counts
    for subset, count in counts.items():
        files = list((tmp_path / "tree" / subset).rglob("*.jpg"))
        assert len(files) == count and len({path.parent for path in files}) == 6
    sample = tmp_path / "tree/train/FashionMNIST-1/00004.jpg"
    with Image.open(sample) as image:
        assert image.size == (64, 64) and image.mode == "L"
        (_, fashion) = small_tree.load_all(small_tree.TASKS, "data")
        expected = data.resized(fashion, 64).train.images[4, 0].float()
        assert (torch.from_numpy(np.array(image)).float() - expected).abs().mean() < 8  # JPEG


def test_the_small_folder_is_never_written_over(two_tasks, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["tree.py", str(tmp_path)])
    assert small_tree.main() == 2
    assert "not an empty folder" in capsys.readouterr().err
