"""Training a run: what it writes, what it refuses, how it is continued."""

import json
import math
import shutil
from functools import reduce
from operator import getitem

import numpy as np
import oracles
import pytest
import torch
from generated import register
from helpers import NAMES, Interruption, command, history, results, small, train_options, tree

from spatial import graph, objective, resuming, runs, storing, training
from spatial.distributed import SOLO
from spatial.errors import UserError
from spatial.loading import load_tasks
from spatial.locality import LocalityPriorLinear
from spatial.positions import plane
from spatial.runs import Run

STEPS = 4  # an epoch of 120 images in batches of 32
both_ways = pytest.mark.parametrize("replicas", ["together", "sequential"])


@pytest.mark.parametrize(
    ("words", "checkpoints"),
    [
        (("--seeds", "2", "--replicas", "together"), {"resume/seed-0.pt"}),
        (("--seeds", "2", "--replicas", "sequential"), {"resume/seed-0.pt", "resume/seed-1.pt"}),
    ],
    ids=["together", "sequential"],
)
def test_the_files_of_the_layout(train, run, words, checkpoints):
    train(*words)
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    expected = {"config.json", "environment.json", "history.csv", "positions.npz", "resume/lock"}
    assert files == expected | {"weights/seed-0.pt", "weights/seed-1.pt"} | checkpoints
    for path in checkpoints:
        state = storing.load_plain(run.folder / path)
        assert state["seeds"] == ([0, 1] if "together" in words else [int(path[-4])])
        assert len(state["networks"]) == len(state["positions"]) == len(state["seeds"])


def test_config_is_the_same_for_the_same_command(train, run, tmp_path):
    train("--where", "1", "2", "--transport", "1")
    train("--where", "1", "2", "--transport", "1", folder=tmp_path / "again")
    assert run.config_file.read_bytes() == (tmp_path / "again" / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "replicas"),
    [
        ((), "sequential"),
        (("--seeds", "2"), "together"),
        (("--seeds", "2", "--replicas", "sequential"), "sequential"),
        (("--seeds", "2", "--model", "conv"), "sequential"),
        (("--seeds", "2", "--model", "conv", "--replicas", "together"), "together"),
    ],
    ids=str,
)
def test_config_says_every_option_and_the_datas_checksums(train, run, root, words, replicas):
    train(*words)
    config = json.loads(run.config_file.read_text())
    assert config["options"] == train_options(root, *words) | {"replicas": replicas}
    assert set(config["data"]) == set(NAMES[:2])
    assert all(len(sums) == 4 for sums in config["data"].values())


@both_ways
def test_history_is_tidy(train, run, replicas):
    train("--seeds", "2", "--seed", "5", "--replicas", replicas)
    rows = storing.read_table(run.history)
    assert [(row["seed"], row["epoch"], row["subset"]) for row in rows] == [
        (seed, epoch, subset) for seed in "56" for epoch in "12" for subset in ("train", "test")
    ]
    assert list(rows[0]) == [
        "seed",
        "epoch",
        "subset",
        "loss",
        "accuracy",
        "Alpha",
        "Beta",
        "transport",
        "proximity",
        "seconds",
        "weight_penalty",
    ]
    for row in rows:
        assert float(row["accuracy"]) == pytest.approx((float(row["Alpha"]) + float(row["Beta"])) / 2, abs=1e-5)
        assert all(0 <= float(row[name]) <= 1 for name in ("Alpha", "Beta", "proximity"))


@both_ways
def test_positions_of_every_epoch(train, run, replicas):
    train("--seeds", "2", "--proximity", "1", "--dim", "3", "--replicas", replicas)
    positions = storing.load_arrays(run.positions)
    assert {name: array.shape for name, array in positions.items()} == {
        f"seed-{seed}/layer-{layer}": (3, units, 3) for seed in (0, 1) for layer, units in enumerate((12, 8, 7))
    }
    final = [place.detach().numpy() for place in training.snapshot(run.network(1))]
    for layer, places in enumerate(final):
        assert np.array_equal(positions[f"seed-1/layer-{layer}"][-1], places)
        assert not np.array_equal(positions[f"seed-1/layer-{layer}"][0], places)


@both_ways
def test_seeds_differ_and_each_is_the_same_alone(train, run, tmp_path, replicas):
    train("--optimizer", "SGD", "--seeds", "2", "--replicas", replicas)
    train("--optimizer", "SGD", "--seed", "1", folder=tmp_path / "alone")
    alone = Run(tmp_path / "alone")
    first, second = run.network(0), run.network(1)
    assert not torch.equal(first.linear[0].weight, second.linear[0].weight)
    if replicas == "sequential":
        assert run.weights(1).read_bytes() == alone.weights(1).read_bytes()
    for name, value in alone.network(1).state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", ["", "--seeds 2 --replicas together", "--seeds 2 --replicas sequential"])
def test_two_runs_are_equal_bit_for_bit(train, run, tmp_path, words):
    options = ("--transport", "1", "--proximity", "1", "--outputs", "task", *words.split())
    train(*options)
    train(*options, folder=tmp_path / "again")
    assert results(run) == results(Run(tmp_path / "again"))


def test_the_weights_file_loads_and_names_its_tasks(train, run):
    train()
    content = storing.load_plain(run.weights(0))
    assert content["tasks"] == ["Alpha", "Beta"]
    assert content["model"] == "mlp"


def test_every_option_of_learning_reaches_fit(train, tmp_path, monkeypatch):
    given = []

    def fit(networks, learn, test, **options):
        assert len(networks) == len(options["seeds"])
        given.append(options)
        return iter(())

    monkeypatch.setattr(training, "fit", fit)
    train(
        *(
            "--input",
            "sequential",
            "--order",
            "blocked",
            "--epochs",
            "3",
            "--batch-size",
            "9",
            "--lr",
            "0.1",
            "--seed",
            "5",
        ),
        *(
            "--optimizer",
            "RMSprop",
            "--momentum",
            "0.3",
            "--weight-decay",
            "0.2",
            "--schedule",
            "cosine",
            "--where",
            "1",
        ),
        *("--transport", "4", "--proximity", "6", "--norm", "l1", "--transport-per", "neuron", "--position-lr", "0.7"),
        *("--weight-penalty", "8", "--outputs", "held"),
        *("--warmup", "1.5", "--accumulate", "3", "--precision", "bf16", "--save-every", "7"),
    )
    watch = given[0].pop("watch")
    assert (watch.epochs, watch.names, watch.several) == (3, ["Alpha", "Beta"], False)
    assert given == [
        {
            "seeds": [5], "epochs": 3, "batch_size": 9, "optimizer": "RMSprop", "lr": 0.1, "momentum": 0.3,
            "weight_decay": 0.2, "schedule": "cosine", "warmup": 1.5, "accumulate": 3, "precision": "bf16",
            "order": "blocked", "transport": 4.0, "proximity": 6.0, "where": [1], "norm": "l1", "per": "neuron",
            "weight_penalty": 8.0, "positions": "learned", "hold_outputs": True, "position_lr": 0.7, "compute": None,
            "network": None, "save_every": 7, "start": None, "world": SOLO,
        }
    ]  # fmt: skip
    train("--positions", "shuffled", "--transport", "1", "--outputs", "task", folder=tmp_path / "other")
    assert (given[1]["positions"], given[1]["hold_outputs"]) == ("shuffled", False)
    words = ("--seed", "5", "--seeds", "3", "--compile", "--proximity", "1", "--replicas")
    for replicas in ("together", "sequential"):
        train(*words, replicas, folder=tmp_path / replicas)
    assert [each["seeds"] for each in given[2:]] == [[5, 6, 7], [5], [6], [7]]
    assert all(callable(each["compute"]) for each in given[2:])
    assert [callable(each["network"]) for each in given[2:]] == [False, True, True, True]  # of several none is called
    assert len({each["network"] for each in given[3:]}) == 3  # every seed's own


def test_every_option_of_the_network_reaches_it(train, run):
    train("--input", "concatenate", "--layers", "9", "--activation", "Tanh", "--dim", "3", "--outputs", "task")
    model = run.network(0)
    assert (model.shape, model.layers, model.classes) == ((2, 8, 8), (9,), (4, 3))
    assert (model.activation, model.dim) == ("Tanh", 3)
    start = storing.load_arrays(run.positions)["seed-0/layer-1"][0]
    assert start[:4, 0].max() < 0 < start[4:, 0].min()


def test_placed_inputs_reach_the_network_and_its_costs(train, run):
    train("--input-positions", "grid", "--where", "0", "--transport", "1", "--weight-penalty", "1", "--dim", "3")
    model = run.network(0)
    assert model.input_places.shape == (64, 3)
    assert graph.connections(model)[0] == ("input", "linear.0")
    assert float(history(run)[-1]["transport"]) > 0 < float(history(run)[-1]["weight_penalty"])
    start, *_, end = storing.load_arrays(run.positions)["seed-0/layer-0"]
    assert not np.array_equal(start, end)


def test_a_convolutional_run(train, run):
    train("--model", "conv", "--layers", "5", "4", "--input", "concatenate", "--dim", "3", "--activation", "GELU")
    model = run.network(0)
    assert storing.load_plain(run.weights(0))["model"] == "conv"
    assert (model.shape, model.layers, model.classes, model.dim) == ((2, 8, 8), (5, 4), (4, 3), 3)
    assert {name: array.shape for name, array in storing.load_arrays(run.positions).items()} == {
        f"seed-0/layer-{layer}": (3, units, 3) for layer, units in enumerate((5, 4, 7))
    }


LENET = ("--model", "lenet", "--resize", "16")
WHOLE_PRIOR = ("--metric", "cityblock", "--decay", "square", "--locality-on", "activations")


def test_a_lenet_run(train, run):
    train(*LENET, "--locality", "plane", *WHOLE_PRIOR, "--no-batch-norm", "--input", "concatenate", "--seeds", "2")
    model = run.network(1)
    assert storing.load_plain(run.weights(1))["model"] == "lenet"
    assert (model.shape, model.layers, model.classes, model.batch_norm) == ((2, 16, 16), (49, 49), (4, 3), False)
    assert model.prior == {
        "topology": "plane", "metric": "cityblock", "decay": "square", "normalize": False, "on": "activations",
    }  # fmt: skip
    positions = storing.load_arrays(run.positions)
    assert {name: array.shape for name, array in positions.items()} == {
        f"seed-{seed}/layer-{layer}": (3, units, 2) for seed in (0, 1) for layer, units in enumerate((49, 49, 7))
    }
    for name in ("seed-0/layer-0", "seed-0/layer-1", "seed-1/layer-1"):
        assert np.array_equal(positions[name], np.stack([plane(49).float().numpy()] * 3))


def test_an_mlp_run_with_a_prior(train, run):
    train("--layers", "5", "9", "9", "--locality", "line", "--transport", "1", "--proximity", "1")
    model = run.network(0)
    assert model.prior["topology"] == "line" and model.prior["metric"] == "euclidean"
    assert isinstance(model.linear[2], LocalityPriorLinear)
    assert graph.on_sheet(model) == ["linear.1", "linear.2"]
    for layer, stays in enumerate((False, True, True, False)):
        start, *_, end = storing.load_arrays(run.positions)[f"seed-0/layer-{layer}"]
        assert np.array_equal(start, end) is stays


ALEXNET = ("--model", "alexnet", "--resize", "63")  # of 49 units a dense layer


def test_an_alexnet_run(train, run):
    train(*ALEXNET, "--locality", "plane", *WHOLE_PRIOR, "--no-batch-norm", "--input", "concatenate", "--epochs", "1")
    model = run.network(0)
    assert storing.load_plain(run.weights(0))["model"] == "alexnet"
    assert (model.shape, model.layers, model.classes, model.batch_norm) == ((2, 63, 63), (49, 49), (4, 3), False)
    assert model.prior == {
        "topology": "plane", "metric": "cityblock", "decay": "square", "normalize": False, "on": "activations",
    }  # fmt: skip
    positions = storing.load_arrays(run.positions)
    assert {name: array.shape for name, array in positions.items()} == {
        f"seed-0/layer-{layer}": (2, units, 2) for layer, units in enumerate((49, 49, 7))
    }
    for name in ("seed-0/layer-0", "seed-0/layer-1"):
        assert np.array_equal(positions[name], np.stack([plane(49).float().numpy()] * 2))


def test_without_a_prior_the_places_of_an_alexnet_are_learned(train, run):
    train(*ALEXNET, "--epochs", "1", "--dim", "3", "--transport", "1")
    positions = storing.load_arrays(run.positions)
    assert {name: array.shape for name, array in positions.items()} == {
        f"seed-0/layer-{layer}": (2, units, 3) for layer, units in enumerate((49, 49, 7))
    }
    assert not any(np.array_equal(*places) for places in positions.values())


@pytest.mark.parametrize(
    ("words", "least", "size"),
    [
        ("--model lenet", 16, 8),
        ("--model lenet --resize 15 --input sequential", 16, 15),
        ("--model alexnet", 63, 8),
        ("--model alexnet --resize 62 --input concatenate", 63, 62),
    ],
)
def test_nothing_is_written_of_images_that_are_too_small(train, run, words, least, size):
    model = words.split()[1]
    message = f"--model {model} needs images of {least} x {least} pixels or more, got {size} x {size}; try --resize"
    with pytest.raises(UserError, match=message):
        train(*words.split())
    assert not run.folder.exists()


SPACES = [  # what must change neither the weights' start nor the batches
    (),
    ("--transport", "2", "--proximity", "1", "--norm", "l1"),
    ("--weight-penalty", "3"),
    ("--positions", "frozen", "--transport", "1"),
    ("--positions", "shuffled", "--transport", "1", "--proximity", "1"),
    ("--outputs", "held", "--dim", "3"),
    ("--outputs", "arbitrary", "--transport", "1", "--position-lr", "0.1"),
]


@pytest.fixture
def watched_start(monkeypatch):
    """What every run that is trained starts with, positions left out, and the labels of each of its steps."""
    starts, seen = [], []
    fit, loss = training.fit, objective.task_loss

    def started(networks, *given, **options):
        (made,) = networks
        starts.append({name: each.clone() for name, each in made.state_dict().items() if "positions" not in name})
        seen.append([])
        return fit(networks, *given, **options)

    def watched(logits, labels, classes):
        seen[-1].append(labels.tolist())
        return loss(logits, labels, classes)

    monkeypatch.setattr(training, "fit", started)
    monkeypatch.setattr(objective, "task_loss", watched)
    return starts, seen


def assert_alike(starts, seen, steps):
    assert len(starts) > 1 and all(len(each) == steps for each in seen)
    for start, batches in zip(starts[1:], seen[1:], strict=True):
        assert list(start) == list(starts[0])
        assert all(torch.equal(start[name], value) for name, value in starts[0].items())
        assert batches == seen[0]


@pytest.mark.parametrize(
    ("model", "steps"),
    [(("--model", "mlp"), STEPS), (("--model", "conv"), STEPS - 1)],
    ids=["mlp", "conv"],
)
def test_runs_of_one_seed_start_alike_and_see_the_same_whatever_the_space(train, tmp_path, watched_start, model, steps):
    for number, words in enumerate(SPACES):
        train(*model, "--epochs", "1", *words, folder=tmp_path / str(number))
    assert_alike(*watched_start, steps)


PRIORS = [  # neither
    (),
    ("--locality", "plane"),
    ("--locality", "line", "--decay", "sqrt"),
    ("--locality", "plane", "--metric", "cityblock", "--decay", "square", "--normalize"),
    ("--locality", "plane", "--metric", "chebyshev", "--locality-on", "activations"),
    ("--locality", "plane", "--transport", "2", "--weight-penalty", "1", "--outputs", "task"),
]


@pytest.mark.parametrize(
    ("model", "steps"), [(("--layers", "9", "9"), STEPS), (LENET, STEPS - 1)], ids=["mlp", "lenet"]
)  # fmt: skip
def test_runs_of_one_seed_start_alike_and_see_the_same_whatever_the_prior(train, tmp_path, watched_start, model, steps):
    for number, words in enumerate(PRIORS):
        train(*model, "--epochs", "1", *words, folder=tmp_path / str(number))
    assert_alike(*watched_start, steps)
    trained = [runs.load(Run(tmp_path / str(number)).weights(0)).linear[1].weight for number in range(len(PRIORS))]
    assert not any(torch.equal(trained[0], other) for other in trained[1:])


@pytest.mark.parametrize("positions", ["frozen", "shuffled"])
def test_positions_that_are_not_learned_are_written_all_the_same(train, run, positions):
    train("--positions", positions, "--transport", "1")
    for start, first, second in storing.load_arrays(run.positions).values():
        assert sorted(start.tolist()) == sorted(first.tolist()) == sorted(second.tolist())
        assert np.array_equal(start, first) is np.array_equal(first, second) is (positions == "frozen")


def test_a_task_of_which_nothing_was_met_has_empty_cells(train, run):
    """A batch norm drops the last incomplete batch, of the last tasks in a blocked epoch."""
    words = ("--model", "conv", "--input", "sequential", "--order", "blocked", "--batch-size", "200")
    train(*words, names=NAMES)
    first = history(run)[0]
    assert "nan" not in run.history.read_text()
    assert first["Alpha"] != "" and (first["Gamma"], first["accuracy"]) == ("", "")


# Images held out of training.


def test_a_run_with_a_holdout_is_scored_on_the_images_held_out(train, run, capsys):
    train("--holdout", "30")
    rows = history(run)
    assert [row["subset"] for row in rows] == ["train", "holdout"] * 2
    assert "scored holdout  Alpha" in capsys.readouterr().out
    options = run.options()
    every, tested = (load_tasks(NAMES[:2], options["root"], "mix", subset) for subset in ("train", "test"))
    learned, held = (run.tasks(subset) for subset in ("train", "test"))
    assert (learned.sizes, held.sizes) == ((90, 70), (30, 30))
    for task in (0, 1):  # together they are the training images, and none is a test image
        parts = sorted([*learned.images[task][:-1].tolist(), *held.images[task][:-1].tolist()])
        assert parts == sorted(every.images[task][:-1].tolist())
        assert not any(image in tested.images[task].tolist() for image in held.images[task][:-1].tolist())
    images, labels = held.batch(held.scoring_order())
    with torch.no_grad():
        logits = run.network(0)(images)
    by_hand = oracles.accuracy(logits.tolist(), labels.tolist(), held.classes)
    assert [float(rows[-1][name]) for name in NAMES[:2]] == pytest.approx(by_hand, abs=1e-5)
    by_hand = oracles.task_loss(logits.tolist(), labels.tolist(), held.classes)
    assert float(rows[-1]["loss"]) == pytest.approx(by_hand, rel=1e-4)


def test_with_a_holdout_test_images_change_nothing(train, run, root, tmp_path, monkeypatch):
    """Alpha once more, its training images the same and its test images others."""
    train("--holdout", "30", names=NAMES[:1])
    register(monkeypatch, tmp_path / "other", "Alpha", classes=4, train=120, test=11, seed=0)
    other = Run(tmp_path / "run-2")
    train("--holdout", "30", "--root", str(tmp_path / "other"), names=NAMES[:1], folder=other.folder)
    assert history(run) == history(other)
    assert run.weights(0).read_bytes() == other.weights(0).read_bytes()


def test_resized_images_reach_the_network(train, run):
    train("--resize", "5", names=("Alpha", "Large"))  # of 8 and of 10 pixels
    assert run.network(0).shape == (1, 5, 5)
    assert run.tasks("test").images[1].shape[1:] == (1, 5, 5)


@pytest.mark.parametrize("flags", [{}, {"resume": False}], ids=str)
@pytest.mark.parametrize("there", ["notes.txt", "config.json"])
def test_a_folder_that_is_not_empty_is_refused(train, run, there, flags):
    run.folder.mkdir()
    (run.folder / there).write_text("{}")
    with pytest.raises(
        UserError,
        match="run: exists and is not empty; the same command with --resume continues it, --overwrite starts it anew",
    ):
        train(**flags)
    assert tree(run.folder) == {run.folder / there: b"{}"}


def test_an_empty_folder_is_fine(train, run):
    run.folder.mkdir()
    assert train() == 0


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}, {"resume": True, "overwrite": True}], ids=str)
def test_a_folder_that_is_no_run_is_never_touched(train, run, flags):
    (run.folder / "weights").mkdir(parents=True)
    (run.folder / "weights" / "mine.pt").write_text("precious")
    before = tree(run.folder)
    with pytest.raises(UserError, match="not a run"):
        train(**flags)
    assert tree(run.folder) == before


def test_overwrite_starts_anew_and_keeps_what_is_not_its_own(train, run):
    train("--seeds", "2", "--replicas", "sequential")
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "scores.csv").write_text("stale")
    train("--layers", "6", overwrite=True)
    assert (run.folder / "notes.txt").read_text() == "mine"
    assert not run.scores.exists() and not run.weights(1).exists() and not run.resume(1).exists()
    assert len(training.snapshot(run.network(0))) == 2


def test_overwrite_with_wrong_options_removes_nothing(train, run, root):
    train()
    before = tree(run.folder)
    with pytest.raises(UserError):
        train(names=("Alpha", "Nowhere"), overwrite=True)
    with pytest.raises(UserError):
        train(names=("Alpha", "Large"), overwrite=True)
    assert tree(run.folder) == before


@pytest.mark.parametrize("names", [("Alpha", "Betta"), ("Alpha", "Alpha"), ("Alpha", "Large")], ids=str)
def test_nothing_is_written_when_the_data_are_wrong(train, run, names):
    with pytest.raises(UserError):
        train(names=names)
    assert not run.folder.exists()


def test_nothing_is_written_without_the_device(train, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        train("--device", "cuda")
    assert not run.folder.exists()


def test_resume_needs_a_folder(train, run):
    with pytest.raises(UserError, match="run: no such folder, there is nothing to --resume"):
        train(resume=True)
    assert not run.folder.exists()


def test_resume_and_overwrite_start_a_run_that_is_not_there(train, run):
    assert train(resume=True, overwrite=True) == 0
    assert run.weights(0).is_file()


@pytest.mark.parametrize(
    ("words", "differences"),
    [
        (("--lr", "0.01"), ["--lr was 0.005 and is 0.01"]),
        (("--layers", "12", "9"), ["--layers was 12 8 and is 12 9"]),
        (("--where", "1", "--proximity", "2"), ["--where was unset and is 1", "--proximity was 0.0 and is 2.0"]),
        (("--epochs", "1"), ["--epochs was 2 and is 1"]),
        (
            ("--schedule", "linear", "--epochs", "3"),
            ["--schedule was constant and is linear", "--epochs was 2 and is 3"],
        ),
        (
            ("--seeds", "3", "--batch-size", "16"),
            ["--seeds was 1 and is 3", "--batch-size was 32 and is 16", "--replicas was sequential and is together"],
        ),
        (("--model", "conv"), ["--model was mlp and is conv"]),
        (
            ("--positions", "frozen", "--transport", "1"),
            ["--positions was learned and is frozen", "--transport was 0.0 and is 1.0"],
        ),
        (("--weight-penalty", "2"), ["--weight-penalty was 0.0 and is 2.0"]),
        (("--outputs", "arbitrary"), ["--outputs was free and is arbitrary"]),
        (("--input-positions", "grid"), ["--input-positions was unset and is grid"]),
        (("--holdout", "20"), ["--holdout was 0 and is 20"]),
        (
            ("--layers", "9", "9", "--locality", "plane"),
            [
                "--layers was 12 8 and is 9 9",
                "--locality was none and is plane",
                "--metric was unset and is euclidean",
                "--decay was unset and is linear",
                "--normalize was unset and is False",
                "--locality-on was unset and is connections",
            ],
        ),
        (("--resize", "6"), ["--resize was unset and is 6"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_resume_names_every_option_that_differs(train, run, words, differences):
    train()
    before = tree(run.folder)
    with pytest.raises(UserError, match="--resume needs") as caught:
        train(*words, resume=True)
    assert str(caught.value).count(" and is ") == len(differences)
    assert all(difference in str(caught.value) for difference in differences)
    assert tree(run.folder) == before


def test_resume_notices_other_data(train, run, monkeypatch):
    train()
    state = storing.load_plain(run.resume(0))
    state["data"]["Beta"] = dict.fromkeys(state["data"]["Beta"], "0" * 64)
    storing.save(run.resume(0), state)
    with pytest.raises(UserError, match="the files of Beta have changed"):
        train(resume=True)


@both_ways
def test_a_finished_run_says_so_and_stays_as_it_is(train, run, capsys, monkeypatch, replicas):
    train("--seeds", "2", "--replicas", replicas)
    before = tree(run.folder)
    capsys.readouterr()
    counter = Interruption(monkeypatch)
    assert train("--seeds", "2", "--replicas", replicas, resume=True) == 0
    assert "finished already, nothing to do" in capsys.readouterr().out
    assert counter.steps == 0
    assert tree(run.folder) == before


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_epochs_may_grow(train, run, tmp_path, schedule, monkeypatch):
    train("--schedule", schedule)
    counter = Interruption(monkeypatch)
    train("--schedule", schedule, "--epochs", "4", resume=True)
    assert counter.steps == 2 * STEPS
    train("--schedule", schedule, "--epochs", "4", folder=tmp_path / "whole")
    assert results(run) == results(Run(tmp_path / "whole"))


@both_ways
def test_grown_epochs_of_several_seeds_read_as_if_never_stopped(train, run, tmp_path, replicas):
    words = ("--seeds", "2", "--replicas", replicas)
    train(*words)
    train(*words, "--epochs", "3", resume=True)
    train(*words, "--epochs", "3", folder=tmp_path / "whole")
    assert results(run) == results(Run(tmp_path / "whole"))


def test_what_was_made_of_earlier_weights_goes_when_training_goes_on(train, run):
    train()
    made = (run.scores, run.measures, run.timing, run.metrics, run.owners("greedy", 0), run.figures / "positions.png")
    for stale in (*made, run.extracted("greedy", 0, "Alpha"), run.activations(0, "label", "test")):
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_text("stale")
    train("--epochs", "3", resume=True)
    assert not any(path.exists() for path in (*made, run.parts, run.folder / "activations"))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_epochs_may_not_grow_where_the_schedule_depends_on_them(train, run, schedule):
    train("--schedule", schedule)
    before = tree(run.folder)
    with pytest.raises(UserError, match="--epochs was 2 and is 4"):
        train("--schedule", schedule, "--epochs", "4", resume=True)
    assert tree(run.folder) == before


COSTLY = (
    "--seeds",
    "2",
    "--epochs",
    "3",
    "--transport",
    "1",
    "--proximity",
    "1",
    "--position-lr",
    "0.02",
    "--schedule",
    "linear",
)


@pytest.fixture(params=["together", "sequential"])
def costly(request):
    """Words that train two seeds, side by side or one after the other."""
    return (*COSTLY, "--replicas", request.param)


def passes(words):
    """How often the data are gone through where one pass serves the seeds that are trained side by side."""
    return 3 if "together" in words else 2 * 3


@pytest.fixture
def interrupted(train, run, monkeypatch, costly):
    """A run of two seeds, stopped in the middle of the (one after the other: the second seed's) second epoch."""
    with monkeypatch.context() as patch:
        Interruption(patch, at=(passes(costly) - 2) * STEPS + 3)
        with pytest.raises(KeyboardInterrupt):
            train(*costly)
    return run


SPATIAL = ("--weight-penalty", "1", "--transport", "1", "--proximity", "1")


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "conv", "--holdout", "20", "--schedule", "cosine", "--outputs", "held", *SPATIAL),
        ("--model", "conv", "--positions", "shuffled", "--optimizer", "SGD", *SPATIAL),
        ("--positions", "shuffled", "--seeds", "2", "--replicas", "together", *SPATIAL),
        ("--positions", "shuffled", "--seeds", "2", "--replicas", "sequential", *SPATIAL),
        ("--model", "conv", "--seeds", "2", "--replicas", "together", "--optimizer", "AdamW", *SPATIAL),
        ("--positions", "frozen", "--input-positions", "grid", "--resize", "6", *SPATIAL),
        (*LENET, "--locality", "plane", "--schedule", "linear", "--batch-norm"),
        (*LENET, "--optimizer", "Adam", "--holdout", "20", *SPATIAL),
        (*LENET, "--locality", "line", "--no-batch-norm", "--positions", "shuffled", *SPATIAL),
        ("--layers", "9", "9", "--locality", "plane", "--decay", "sqrt", *SPATIAL),
        (*ALEXNET, "--locality", "plane", "--schedule", "linear", "--warmup", "1"),
    ],
    ids=" ".join,
)
def test_whatever_is_interrupted_comes_to_the_same_bit_for_bit(train, run, tmp_path, monkeypatch, words):
    words = ("--epochs", "3", *words)
    with monkeypatch.context() as patch:
        Interruption(patch, at=6)  # in the second epoch, of 3 or 4 steps
        with pytest.raises(KeyboardInterrupt):
            train(*words)
    assert len(history(run)) == (4 if "together" in words else 2)
    train(*words, resume=True)
    whole = Run(tmp_path / "whole")
    train(*words, folder=whole.folder)
    assert results(run) == results(whole)
    if "conv" in words:  # three epochs of three batches
        resumed, states = (
            [network["state"] for network in storing.load_plain(each.resume(0))["networks"]] for each in (run, whole)
        )
        assert len(resumed) == len(states) == (2 if "together" in words else 1)
        for one, other in zip(resumed, states, strict=True):
            assert torch.equal(one["norm.1.running_var"], other["norm.1.running_var"])
            assert one["norm.0.num_batches_tracked"].item() == 9


@pytest.mark.parametrize(
    ("words", "at", "rows", "steps"),
    [  # where it is interrupted, the epochs that are finished then, and the steps that are left
        ("--positions shuffled --transport 1 --schedule cosine", 4, 0, 10),
        ("--positions shuffled --transport 1 --schedule cosine", 7, 1, 6),
        ("--seeds 2 --replicas together --proximity 1 --optimizer AdamW", 8, 1, 6),
        ("--seeds 2 --replicas sequential --weight-penalty 1", 4 * STEPS + 3, 4, 6),
        ("--model conv --warmup 1.5 --accumulate 2", 2 * 6, 1, 4),  # of 3 steps an epoch, in two parts each
        ("--model lenet --resize 16 --locality plane", 6, 1, 4),
        ("--model alexnet --resize 63 --precision bf16 --proximity 1", 6, 1, 4),
    ],
)
def test_an_epoch_that_is_interrupted_goes_on_from_its_last_checkpoint(
    train, run, tmp_path, monkeypatch, words, at, rows, steps
):
    words = (*words.split(), "--epochs", "3", "--save-every", "2")
    with monkeypatch.context() as patch:
        Interruption(patch, at)
        with pytest.raises(KeyboardInterrupt):
            train(*words)
    assert len(history(run)) == rows * (4 if "together" in words else 2)
    last = storing.load_plain(max((run.folder / "resume").iterdir()))
    assert (last["step"], len(last["processes"]), last["count"]) == (2, 1, 1)
    with monkeypatch.context() as patch:
        counter = Interruption(patch)
        train(*words, resume=True)
        assert counter.steps == steps * (2 if "--accumulate" in words else 1)
    whole = Run(tmp_path / "whole")
    train(*words, folder=whole.folder)
    assert results(run) == results(whole)


def test_how_often_is_saved_may_change_on_the_way(train, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Interruption(patch, at=STEPS + 3)
        with pytest.raises(KeyboardInterrupt):
            train("--transport", "1", "--save-every", "2")
    assert storing.load_plain(run.resume(0))["step"] == 2
    train("--transport", "1", "--save-every", "1", resume=True)
    assert run.options()["save_every"] == 1
    plain = Run(tmp_path / "plain")
    train("--transport", "1", folder=plain.folder)
    assert history(run) == history(plain)
    assert run.weights(0).read_bytes() == plain.weights(0).read_bytes()
    assert run.positions.read_bytes() == plain.positions.read_bytes()


def test_a_checkpoint_of_several_processes_is_not_gone_on_from_by_one(train, run):
    train()
    storing.save(run.resume(0), storing.load_plain(run.resume(0)) | {"count": 4})
    before = tree(run.folder)
    with pytest.raises(UserError, match="--resume needs what it was started with: 4 processes trained it and now ther"):
        train("--epochs", "3", resume=True)
    assert tree(run.folder) == before


def test_what_a_global_generator_draws_changes_no_dropout(train, run, tmp_path):
    """Two runs of one seed, trained after different draws."""
    train(*LENET)
    torch.rand(5)
    other = Run(tmp_path / "other")
    train(*LENET, folder=other.folder)
    assert results(run) == results(other)


def test_an_interrupted_run_holds_its_finished_epochs(interrupted, costly):
    finished = [("0", "1"), ("1", "1")] if "together" in costly else [("0", "1"), ("0", "2"), ("0", "3"), ("1", "1")]
    assert [(row["seed"], row["epoch"]) for row in history(interrupted)][::2] == finished
    assert interrupted.weights(0).is_file() is ("sequential" in costly)
    assert not interrupted.weights(1).exists()
    assert interrupted.resume(0).is_file()
    assert interrupted.resume(1).is_file() is ("sequential" in costly)
    assert not list(interrupted.folder.rglob("*.tmp"))


@pytest.mark.parametrize("flags", [{"resume": True}, {"resume": True, "overwrite": True}], ids=str)
def test_resuming_comes_to_the_same_bit_for_bit(train, interrupted, costly, tmp_path, flags, monkeypatch):
    measured = seconds(interrupted)
    counter = Interruption(monkeypatch)
    train(*costly, **flags)
    assert counter.steps == 2 * STEPS  # no finished epoch is computed twice
    assert measured.items() <= seconds(interrupted).items()
    train(*costly, folder=tmp_path / "whole")
    assert results(interrupted) == results(Run(tmp_path / "whole"))


def seconds(run):
    """What every row says of time, by what the row is of."""
    return {(row["seed"], row["epoch"], row["subset"]): row["seconds"] for row in storing.read_table(run.history)}


def test_history_is_rebuilt_from_the_checkpoints(train, interrupted, costly, tmp_path):
    lines = interrupted.history.read_text().splitlines(keepends=True)
    interrupted.history.write_text("".join(lines[:-3]) + lines[-3][:5])  # cut off while it was written
    train(*costly, resume=True)
    train(*costly, folder=tmp_path / "whole")
    assert history(interrupted) == history(Run(tmp_path / "whole"))


def test_config_is_not_what_options_are_compared_with(train, interrupted, costly):
    storing.save_json(interrupted.config_file, {})
    train(*costly, resume=True)
    assert interrupted.options()["epochs"] == 3


def test_a_run_without_a_checkpoint_resumes_from_the_start(train, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Interruption(patch, at=2)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert run.config_file.is_file() and not run.resume(0).exists()
    train(resume=True)
    train(folder=tmp_path / "whole")
    assert results(run) == results(Run(tmp_path / "whole"))


def test_resume_and_overwrite_start_a_finished_run_anew(train, run, monkeypatch):
    train()
    before = results(run)
    run.scores.write_text("stale")
    counter = Interruption(monkeypatch)
    train(resume=True, overwrite=True)
    assert counter.steps == 2 * STEPS
    assert results(run) == before
    assert not run.scores.exists()


def test_resume_and_overwrite_start_a_changed_run_anew(train, interrupted, costly, monkeypatch):
    counter = Interruption(monkeypatch)
    train(*costly, "--lr", "0.01", resume=True, overwrite=True)
    assert counter.steps == passes(costly) * STEPS
    assert interrupted.options()["lr"] == 0.01


def test_resume_and_overwrite_start_anew_when_the_program_has_changed(train, interrupted, costly, monkeypatch):
    monkeypatch.setattr(runs, "code_checksums", lambda: {"costs.py": "another"})
    counter = Interruption(monkeypatch)
    train(*costly, resume=True, overwrite=True)
    assert counter.steps == passes(costly) * STEPS


def test_resume_alone_continues_with_a_changed_program(train, interrupted, costly, monkeypatch):
    monkeypatch.setattr(runs, "code_checksums", lambda: {"costs.py": "another"})
    counter = Interruption(monkeypatch)
    train(*costly, resume=True)
    assert counter.steps == 2 * STEPS


def test_a_checkpoint_of_another_version_is_named_or_discarded(train, run):
    train()
    before = results(run)
    storing.save(run.resume(0), storing.load_plain(run.resume(0)) | {"version": 1})
    with pytest.raises(
        UserError, match=r"seed-0\.pt: not a checkpoint of this program's version 2; --overwrite starts"
    ):
        train(resume=True)
    train(resume=True, overwrite=True)
    assert results(run) == before


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "weights"])
def test_a_checkpoint_that_cannot_be_read_is_named(train, run, content):
    train()
    run.resume(0).write_bytes(run.weights(0).read_bytes() if content is None else content)
    with pytest.raises(UserError, match=r"resume/seed-0\.pt: (cannot be read|not a checkpoint)"):
        train(resume=True)


def test_resume_and_overwrite_start_anew_from_a_checkpoint_that_cannot_be_read(train, run):
    train()
    before = results(run)
    run.resume(0).write_bytes(b"garbage")
    train(resume=True, overwrite=True)
    assert results(run) == before


def test_weights_without_a_checkpoint_are_not_trained_away(train, run):
    train()
    run.resume(0).unlink()
    before = tree(run.folder)
    with pytest.raises(UserError, match="has weights but no resume/ to --resume from; --overwrite starts it anew"):
        train(resume=True)
    assert tree(run.folder) == before


def test_divergence_keeps_the_last_good_state(train, run, monkeypatch):
    loss = objective.task_loss
    steps = []

    def diverging(*given):
        steps.append(1)
        return loss(*given) * (float("inf") if len(steps) > STEPS else 1)

    monkeypatch.setattr(objective, "task_loss", diverging)
    with pytest.raises(UserError, match="not finite at epoch 2, step 1 of 4"):
        train()
    assert storing.load_plain(run.resume(0))["epoch"] == 1
    assert len(history(run)) == 2
    assert not run.weights(0).exists()


def test_an_interruption_exits_130_in_one_line(root, run, capsys, monkeypatch):
    Interruption(monkeypatch, at=2)
    assert command("train", run.folder, *small(root)) == 130
    assert capsys.readouterr().err == "main.py train: interrupted; the same command with --resume continues it\n"


@both_ways
def test_progress_is_one_plain_line_an_epoch(train, capsys, replicas):
    train("--seeds", "2", "--replicas", replicas)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    order = [(seed, epoch) for seed in (0, 1) for epoch in (1, 2)]  # as they come to their ends
    if replicas == "together":
        order.sort(key=lambda each: each[1])
    assert [line.split("  ")[:2] for line in lines] == [[f"seed {seed}", f"epoch {epoch}/2"] for seed, epoch in order]
    assert err == ""


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True, "overwrite": True}])
def test_a_clones_results_alone_do_not_stand_in_the_way(run, train, flags):
    """Git keeps a run's results, so a fresh clone has them without config.json, checkpoints and weights."""
    for path in (run.metrics, run.scores, run.figures / "curves.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier run")
    assert train(**flags) == 0
    assert run.weights(0).is_file() and not run.metrics.exists() and not run.figures.exists()


def test_an_epochs_checkpoint_is_written_before_its_row(run, train, monkeypatch):
    rows_before = []
    save = storing.save

    def watched(path, content):
        if path.parent.name == "resume":
            rows_before.append(run.history.read_text().count("train"))
        save(path, content)

    monkeypatch.setattr(storing, "save", watched)
    train()
    assert rows_before == [0, 1]


def test_of_one_data_set_all_inputs_are_the_same(train, tmp_path):
    weights = []
    for input in ("mix", "concatenate", "sequential"):
        train("--input", input, names=NAMES[:1], folder=tmp_path / input)
        weights.append(runs.load(Run(tmp_path / input).weights(0)).state_dict())
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", 3),
        ("epoch", "2"),
        ("history", {}),
        ("seed", 0),  # as it was before seeds were trained side by side
        ("seeds", 0),
        ("seeds", {0: 0}),
        ("networks", {"model": "mlp"}),
        ("networks", [{"model": "mlp"}]),
        ("networks", [3]),
        ("networks", None),
        ("positions", 0),
        ("step", "0"),
        ("step", 1),  # without what its process needs
        ("processes", None),
        ("processes", [{}]),  # at an epoch's end
        ("count", None),
    ],
)
def test_a_checkpoint_of_another_shape_is_named_or_discarded(run, train, name, value):
    train()
    state = storing.load_plain(run.resume(0))
    if value is None and name != "networks":  # as it was before epochs were interrupted
        del state[name]
    elif value is None:  # a network that is one, but not this run's
        state["networks"][0]["arguments"]["activation"] = "Tanh"
    elif name == "seed":
        state = {each: state[each] for each in state if each not in ("seeds", "networks")}
        state |= {"seed": 0, "network": {}}
    else:
        state[name] = value
    storing.save(run.resume(0), state)
    with pytest.raises(UserError, match=r"seed-0\.pt"):
        train(resume=True)
    assert train(resume=True, overwrite=True) == 0


@pytest.mark.slow
def test_on_real_images_the_spatial_network_can_be_cut(tmp_path):
    """Fetches MNIST and Fashion-MNIST; 3 epochs, a minute."""
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    costs = "--norm l1 --transport 3 --transport-per neuron --proximity 3 --outputs task --position-lr 0.015"
    learning = "--layers 300 300 --epochs 3 --schedule linear"
    assert command("train", run, "--root", data, *costs.split(), *learning.split()) == 0
    assert command("split", run) == command("split", run, "--method", "random") == command("score", run) == 0
    metrics = storing.read_json(Run(tmp_path / "run").metrics)
    assert metrics["accuracy"]["whole"]["mean"]["mean"] > 0.85
    assert metrics["lost"]["greedy"]["mean"]["mean"] < 1 < 10 < metrics["lost"]["random"]["mean"]["mean"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_comes_to_the_cpus_network_and_resumes(train, tmp_path, monkeypatch):
    costs = ("--transport", "1", "--proximity", "1")
    for device in ("cpu", "cuda"):
        train("--device", device, *costs, folder=tmp_path / device)
    with monkeypatch.context() as patch:
        Interruption(patch, at=STEPS + 2)
        with pytest.raises(KeyboardInterrupt):
            train("--device", "cuda", *costs, folder=tmp_path / "interrupted")
    train("--device", "cuda", *costs, folder=tmp_path / "interrupted", resume=True)
    cpu, *others = (runs.load(Run(tmp_path / name).weights(0)).state_dict() for name in ("cpu", "cuda", "interrupted"))
    for other in others:
        assert all(torch.allclose(cpu[name], other[name], atol=1e-3) for name in cpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("default:.*deterministic")  # of what torch cannot
@pytest.mark.parametrize("words", [("--transport", "1", "--proximity", "1"), ("--model", "conv"), LENET], ids=str)
def test_a_gpu_comes_to_the_same_twice_and_across_resuming(train, tmp_path, monkeypatch, words):
    words = (*words, "--device", "cuda", "--deterministic", "--epochs", "2")
    for name in ("one", "other"):
        train(*words, folder=tmp_path / name)
    with monkeypatch.context() as patch:
        Interruption(patch, at=STEPS + 2)
        with pytest.raises(KeyboardInterrupt):
            train(*words, folder=tmp_path / "interrupted")
    train(*words, folder=tmp_path / "interrupted", resume=True)
    one, *others = (results(Run(tmp_path / name)) for name in ("one", "other", "interrupted"))
    assert others == [one, one]


# Checkpoints that are not the program's.

GOES_ON = {  # options of runs that stop in the midst of an epoch, and whose checkpoints are as they must be
    "adam": "--transport 1 --proximity 1",
    "positions unread": "",
    "positions of a layer": "--proximity 1 --where 1",
    "a layer of one unit": "--layers 12 1 --proximity 1 --transport 1",
    "layers of one unit": "--layers 1 1 --proximity 1",
    "frozen": "--positions frozen --transport 1",
    "shuffled": "--positions shuffled --transport 1",
    "held": "--outputs held --transport 1 --proximity 1",
    "momentum": "--optimizer SGD --momentum 0.9 --transport 1",
    "plain": "--optimizer SGD",
    "rms": "--optimizer RMSprop --momentum 0.5 --proximity 1",
    "rms without momentum": "--optimizer RMSprop",
    "decay": "--optimizer AdamW --weight-decay 0.1 --proximity 1",
    "one by one": "--input sequential",
    "side by side": "--seeds 3 --replicas together --transport 1 --proximity 1",
    "side by side, one by one": "--seeds 2 --replicas together --input sequential --optimizer SGD",
    "convolutions": "--model conv --layers 3 4 --proximity 1",
    "a sheet": "--layers 4 9 9 --locality plane --transport 1",
    "bfloat16": "--precision bf16 --proximity 1",
    "small steps": "--accumulate 2 --transport 1 --transport-per neuron",
}


@pytest.mark.parametrize("words", GOES_ON.values(), ids=list(GOES_ON))
def test_every_checkpoint_of_the_program_is_one_to_go_on_from(train, run, monkeypatch, words):
    wrong, asked = [], resuming._wrong
    monkeypatch.setattr(resuming, "_wrong", lambda *given: wrong.append(asked(*given)) or wrong[-1])
    every = ("--save-every 1", words)
    for step in (2, 3, 2):  # in the first epoch, and some at its end or in the second
        with monkeypatch.context() as patch:
            Interruption(patch, at=step)
            with pytest.raises(KeyboardInterrupt):
                train(*every, resume=run.folder.exists())
    train(*every, resume=True)
    train(*every, resume=True)
    assert wrong == [""] * len(wrong) and len(wrong) >= 3


WEIGHT = ("networks", 0, "state", "linear.0.weight")
PROCESS = ("processes", 0)
GONE = object()
# a part of a checkpoint of an epoch and two steps, what it becomes (of what it was), and what is said of it
SPOILED = {
    "an earlier epoch": (("epoch",), 0, "history should hold two rows"),
    "a later epoch": (("epoch",), 2, "no place in a run of 2 epochs"),
    "an epoch far away": (("epoch",), 10**12, "no place"),
    "an epoch beyond numbers": (("epoch",), 10**500, "not a checkpoint"),
    "a step too many": (("step",), 4, "no place in a run of 2 epochs of 4 steps"),
    "a step before the first": (("step",), -1, "not a checkpoint"),
    "another step than its sums'": (("step",), 3, "processes 0 step should be 3"),
    "sums of another step": ((*PROCESS, "step"), 3, "processes 0 step should be 2"),
    "no process": (("processes",), [], "processes should hold 1, got 0"),
    "many processes": (("count",), 10**12, "processes trained it and now there are 1"),
    "a row too few": (("history", 0), GONE, "history should hold two rows"),
    "a row of another seed": (("history", 1, "seed"), 7, "history 1 seed should be 0"),
    "a row twice": (("history", 1, "subset"), "train", "history 1 subset should be 'test'"),
    "a row without a task": (("history", 1, "Beta"), GONE, "history 1 should hold"),
    "a row with a word": (("history", 1, "loss"), "low", "loss should be of type float"),
    "a row without a number": (("history", 1, "loss"), math.nan, "loss should be a number, got nan"),
    "a row beyond numbers": (("history", 1, "Alpha"), math.inf, "Alpha should be a number"),
    "positions as they were once": (("positions", 0), lambda path: [[each[0] for each in path]], "positions 0 should"),
    "positions of an epoch": (("positions", 0, 1), lambda places: places[:1].clone(), "[2, 8, 2]"),
    "positions in space": (("positions", 0, 0), torch.zeros(2, 12, 3), "positions 0 0 should"),
    "positions without end": (("positions", 0, 0), torch.full((2, 12, 2), math.inf), "not finite"),
    "weights of another shape": (WEIGHT, lambda weight: weight.T.contiguous(), "torch.float32 of the shape [12, 64]"),
    "weights of another type": (WEIGHT, lambda weight: weight.double(), "torch.float32 of the shape [12, 64]"),
    "weights that are NaN": (WEIGHT, lambda weight: weight * math.nan, "holds NaN"),
    "weights without end": (WEIGHT, lambda weight: weight + math.inf, "not finite"),
    "weights that are a number": (WEIGHT, 3.0, "should be of type Tensor"),
    "no weights": (WEIGHT, GONE, "networks 0 state should hold"),
    "another network": (("networks", 0, "arguments", "activation"), "Tanh", "activation should be 'ReLU'"),
    "another kind of network": (("networks", 0, "model"), "conv", "model should be 'mlp'"),
    "an optimizer of nothing": (("optimizer",), {}, "optimizer should hold"),
    "an optimizer of fewer": (("optimizer", 0), GONE, "optimizer should hold"),
    "an optimizer of more": (("optimizer",), lambda state: state | {99: {}}, "optimizer should hold"),
    "an optimizer of another kind": (("optimizer", 0, "exp_avg"), GONE, "optimizer 0 should hold"),
    "an optimizer of another shape": (("optimizer", 0, "exp_avg"), torch.zeros(3), "exp_avg should be"),
    "an optimizer with a list": (("optimizer", 0, "step"), [1.0], "step should be of type Tensor"),
    "an optimizer that is NaN": (("optimizer", 1, "exp_avg_sq"), lambda each: each * math.nan, "exp_avg_sq holds NaN"),
    "an optimizer as it was once": (("optimizer",), lambda each: {"state": each}, "optimizer should hold"),
    "no draws": ((*PROCESS, "random"), torch.zeros(7, dtype=torch.uint8), "random should be"),
    "draws that are none": ((*PROCESS, "random"), lambda each: each * 0 + 255, "random is no state of a generator"),
    "draws of a device": ((*PROCESS, "random of the device"), torch.zeros(16), "should be of type NoneType"),
    "sums of other tasks": ((*PROCESS, "tally", "asked"), torch.zeros(3, dtype=torch.int64), "asked should be"),
    "no sums": ((*PROCESS, "tally"), {}, "tally should hold"),
    "more right than asked": ((*PROCESS, "tally", "asked"), lambda each: each * 0, "more right answers than"),
    "no time": ((*PROCESS, "seconds"), math.nan, "seconds should be a number"),
    "an option of tensors": (("options", "lr"), torch.zeros(3), "--lr was Tensor and is 0.005"),
    "an option of dictionaries": (("options", "layers"), {"a": 1}, "--layers was dict and is 12 8"),
    "an option with codes": (("options", "model"), "\33[2J", r"--model was \x1b[2J and is mlp"),
    "an option that is unknown": (("options",), lambda known: known | {"\33[2J": 1}, r"'\x1b[2J' was 1 and is unset"),
    "an option without a name": (("options",), lambda known: known | {3: 1}, "not a checkpoint"),
    "a truth for a number": (("options", "seeds"), True, "--seeds was True and is 1"),
    "an option beyond numbers": (("options", "epochs"), 10**500, "--epochs was int and is 2"),
    "checksums of tensors": (("data", "Alpha"), torch.zeros(2), "the files of Alpha have changed"),
    "seeds beyond numbers": (("seeds",), [10**500], "not a checkpoint"),
    "of another seed's name": (("seeds",), [1], "not a checkpoint"),
}


@pytest.fixture(scope="module")
def halfway(root, tmp_path_factory):
    """A run that was interrupted in its second epoch: its folder, the words of its command line, and its results."""
    folder = tmp_path_factory.mktemp("halfway") / "run"
    words = small(root, "--save-every", "2", "--transport", "1", "--proximity", "1")
    with pytest.MonkeyPatch.context() as patch:
        Interruption(patch, at=STEPS + 4)
        assert command("train", folder, *words) == 130
    whole = shutil.copytree(folder, folder.with_name("whole"))
    assert command("train", whole, *words, "--resume") == 0
    return folder, words, results(Run(whole))


@pytest.mark.parametrize(("where", "value", "message"), SPOILED.values(), ids=list(SPOILED))
def test_a_checkpoint_that_is_spoiled_is_one_line_or_discarded(halfway, run, capsys, where, value, message):
    folder, words, expected = halfway
    shutil.copytree(folder, run.folder)
    state = storing.load_plain(run.resume(0))
    *outer, last = where
    part = reduce(getitem, outer, state)
    if value is GONE:
        del part[last]
    else:
        part[last] = value(part[last]) if callable(value) else value
    storing.save(run.resume(0), state)
    before = tree(run.folder)
    capsys.readouterr()
    assert command("train", run.folder, *words, "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py train: error: ") and error.count("\n") == 1 and error[:-1].isprintable()
    assert message in error
    assert tree(run.folder) == before
    assert command("train", run.folder, *words, "--resume", "--overwrite") == 0
    assert results(run) == expected


def test_a_checkpoint_that_is_not_spoiled_goes_on(halfway, run):
    folder, words, expected = halfway
    shutil.copytree(folder, run.folder)
    storing.save(run.resume(0), storing.load_plain(run.resume(0)))
    assert command("train", run.folder, *words, "--resume") == 0
    assert results(run) == expected
