"""The command line from end to end, in this process: five commands on generated images, and every mistake."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import generated
import numpy as np
import oracles
import pytest
import torch
from helpers import CLASSES, NAMES, command, small, train_options, tree

import spatial
from spatial import commands, models, runs, splitting
from spatial.commands import as_flags
from spatial.runs import Run
from spatial.tasks import load_tasks

PNG = b"\x89PNG\r\n\x1a\n"
ROOT = Path(__file__).parent.parent

CASES = [  # input, tasks, dimensions, further options
    ("mix", 1, 1, ("--activation", "Sigmoid", "--optimizer", "SGD", "--lr", "0.1", "--momentum", "0.5")),
    (
        "mix",
        2,
        2,
        (
            "--seeds",
            "2",
            "--transport",
            "1",
            "--proximity",
            "1",
            "--norm",
            "l1",
            "--transport-per",
            "neuron",
            "--outputs",
            "task",
        ),
    ),
    ("mix", 3, 3, ("--proximity", "1", "--where", "1", "--position-lr", "0.1")),
    ("concatenate", 2, 1, ("--outputs", "task", "--transport", "1", "--weight-decay", "0.01", "--optimizer", "AdamW")),
    ("concatenate", 3, 2, ("--activation", "Tanh", "--schedule", "cosine")),
    ("sequential", 1, 3, ("--seed", "7", "--layers", "9")),
    ("sequential", 2, 2, ("--order", "blocked", "--optimizer", "RMSprop")),
    ("sequential", 3, 1, ("--seeds", "2", "--activation", "GELU", "--outputs", "task")),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}-tasks-{case[2]}d")
def made(request, root, tmp_path_factory):
    """A run that all five commands have worked on."""
    input, tasks, dim, words = request.param
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--input", input, "--dim", str(dim), *words]
    assert command("train", folder, *small(root, *words, names=NAMES[:tasks])) == 0
    assert command("record", folder) == 0
    assert command("record", folder, "--subset", "test") == 0
    for method in splitting.METHODS:
        assert command("split", folder, "--method", method) == 0
    assert command("score", folder) == 0
    assert command("plot", folder) == 0
    return Run(folder)


def names_of(run):
    return run.options()["datasets"]


def test_every_file_of_the_layout_is_there(made):
    names, seeds = names_of(made), made.seeds()
    expected = {
        "config.json",
        "environment.json",
        "history.csv",
        "positions.npz",
        "scores.csv",
        "transfer.csv",
        "metrics.json",
    }
    expected |= {f"{folder}/seed-{seed}.pt" for folder in ("weights", "resume") for seed in seeds}
    expected |= {f"activations/seed-{seed}/task-{subset}.npz" for seed in seeds for subset in ("train", "test")}
    expected |= {f"figures/{kind}.png" for kind in ("positions", "activations", "curves")}
    expected |= {
        f"parts/{method}/seed-{seed}/{file}"
        for method in splitting.METHODS
        for seed in seeds
        for file in ("owners.npz", *(f"{name}.pt" for name in names))
    }
    assert {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()} == expected


def test_figures_are_pngs(made):
    assert all(path.read_bytes().startswith(PNG) for path in made.figures.iterdir())


def test_scores_have_a_row_per_seed_method_and_task(made):
    rows = runs.read_table(made.scores)
    assert list(rows[0]) == ["seed", "method", "task", "accuracy", "units"]
    assert Counter((row["seed"], row["method"], row["task"]) for row in rows) == Counter(
        (str(seed), method, name)
        for seed in made.seeds()
        for method in ("whole", *splitting.METHODS)
        for name in names_of(made)
    )


def test_transfer_has_every_part_on_every_task(made):
    rows = [row for row in runs.read_table(made.transfer) if row["method"] != "whole"]
    assert list(rows[0]) == ["seed", "method", "part", "task", "accuracy"]
    assert Counter((row["seed"], row["method"], row["part"], row["task"]) for row in rows) == Counter(
        (str(seed), method, part, task)
        for seed in made.seeds()
        for method in splitting.METHODS
        for part in names_of(made)
        for task in names_of(made)
    )


def test_a_tasks_score_is_its_own_parts_transfer(made):
    own = {
        (row["seed"], row["method"], row["task"]): row["accuracy"]
        for row in runs.read_table(made.scores)
        if row["method"] != "whole"
    }
    transfer = [row for row in runs.read_table(made.transfer) if row["method"] != "whole"]
    assert own == {
        (row["seed"], row["method"], row["task"]): row["accuracy"] for row in transfer if row["part"] == row["task"]
    }


def test_scores_are_those_of_the_networks_on_every_test_image(made):
    options = made.options()
    tasks = load_tasks(options["datasets"], options["root"], options["input"], "test")
    images, labels = tasks.batch(tasks.scoring_order())
    found = {(row["seed"], row["method"], row["task"]): float(row["accuracy"]) for row in runs.read_table(made.scores)}
    seed = made.seeds()[-1]
    for method in ("whole", *splitting.METHODS):
        for task, name in enumerate(names_of(made)):
            path = made.weights(seed) if method == "whole" else made.part(method, seed, name)
            with torch.no_grad():
                logits = spatial.load(path)(images)
            expected = oracles.accuracy(logits.tolist(), labels.tolist(), tasks.classes)[task]
            assert found[str(seed), method, name] == pytest.approx(expected, abs=1e-6)


def test_metrics_are_means_and_deviations_of_the_scores(made):
    metrics = runs.read_json(made.metrics)
    rows = runs.read_table(made.scores)
    assert set(metrics["accuracy"]) == {"whole", *splitting.METHODS}
    assert set(metrics["lost"]) == set(splitting.METHODS)
    for method, tasks in metrics["accuracy"].items():
        assert list(tasks) == [*names_of(made), "mean"]
        for name in tasks:
            values = by_seed(rows, method, name)
            assert_summary(tasks[name], values)
            if method != "whole":
                before = by_seed(rows, "whole", name)
                assert_summary(
                    metrics["lost"][method][name], [100 * (b - a) for b, a in zip(before, values, strict=True)]
                )


def by_seed(rows, method, name):
    """Accuracy of each seed; ``mean``: over its tasks."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    mine = [
        [
            float(row["accuracy"])
            for row in rows
            if (row["seed"], row["method"]) == (seed, method) and name in (row["task"], "mean")
        ]
        for seed in seeds
    ]
    return [sum(values) / len(values) for values in mine]


def assert_summary(found, values):
    mean, deviation = oracles.mean_and_deviation(values)
    assert found["mean"] == pytest.approx(mean, abs=1e-4)
    assert found["std"] == (None if deviation is None else pytest.approx(deviation, abs=1e-3))


def test_units_are_those_that_a_part_keeps(made):
    for row in runs.read_table(made.scores):
        layers = made.options()["layers"]
        if row["method"] == "whole":
            assert int(row["units"]) == sum(layers)
        else:
            owners = list(runs.load_arrays(made.owners(row["method"], int(row["seed"]))).values())
            task = names_of(made).index(row["task"])
            assert [len(each) for each in owners[:-1]] == layers
            assert int(row["units"]) == sum((each == task).sum() for each in owners[:-1])


def test_parts_are_those_of_the_owners_in_their_folder(made):
    seed = made.seeds()[0]
    whole = made.network(seed)
    for method in splitting.METHODS:
        owners = list(runs.load_arrays(made.owners(method, seed)).values())
        for task, name in enumerate(names_of(made)):
            part = spatial.load(made.part(method, seed, name))
            for index, owner in enumerate(owners[:-1]):
                mine = torch.from_numpy(owner == task)
                assert part.linear[index].weight[~mine].abs().sum() == 0
                assert torch.equal(part.linear[index].bias[mine], whole.linear[index].bias[mine])
            assert runs.load_plain(made.part(method, seed, name))["task"] == name


def test_recorded_activity_has_a_row_per_task(made):
    seed, options = made.seeds()[0], made.options()
    recorded = runs.load_arrays(made.activations(seed, "test"))
    assert recorded["count"].tolist() == [40, 33, 26][: len(names_of(made))]
    for layer, units in enumerate(options["layers"]):
        for measure in ("mean", "mean_abs", "variance"):
            assert recorded[f"layer-{layer}/{measure}"].shape == (len(names_of(made)), units)
        assert (recorded[f"layer-{layer}/mean_abs"] > 0).any()


def test_the_networks_fit_their_tasks(made):
    classes = CLASSES[: len(names_of(made))]
    model = made.network(made.seeds()[0])
    options = made.options()
    channels = len(classes) if options["input"] == "concatenate" else 1
    assert model.classes == classes
    assert model.shape == (channels, 8, 8)
    assert model.linear[-1].positions.shape == (sum(classes), options["dim"])


def test_doing_it_again_changes_nothing(made, capsys):
    before = tree(made.folder)
    for words in (
        ["record", "--subset", "train"],
        ["split", "--method", "balanced"],
        ["score"],
        ["plot", "--kind", "curves"],
    ):
        assert command(words[0], made.folder, *words[1:]) == 0
    assert tree(made.folder) == before


# A trained network, for what is left.


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command("train", folder, *small(root)) == 0
    return folder


def test_score_without_a_split_says_how_to_get_one(trained, capsys):
    assert command("score", trained) == 0
    out = capsys.readouterr().out
    assert "whole" in out and "Alpha" in out
    assert f"no split yet: python main.py split {trained}" in out
    assert runs.read_json(trained / "metrics.json")["lost"] == {}
    assert (trained / "transfer.csv").read_text().startswith("seed,method,part,task,accuracy\n")


def test_the_score_table_shows_every_method(made, capsys):
    command("score", made.folder)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["accuracy,", "whole", *sorted(splitting.METHODS)]


def test_plot_says_what_it_drew_and_what_it_left_out(trained, capsys):
    assert command("plot", trained) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("positions left out: ") and lines[0].endswith(f"python main.py split {trained}")
    assert lines[1].startswith("activations left out: ") and lines[1].endswith(f"python main.py record {trained}")
    assert lines[2:] == [str(trained / "figures" / "curves.png")]


def test_record_and_score_find_data_that_have_moved(trained, root, tmp_path, capsys):
    for name in NAMES[:2]:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).symlink_to(root / name)
    assert command("record", trained, "--root", tmp_path / "moved") == 0
    assert command("score", trained, "--root", tmp_path / "moved") == 0


def test_a_permuted_data_set_is_another_task(root, tmp_path):
    assert command("train", tmp_path / "run", *small(root, names=("Alpha", "Alpha@permuted"))) == 0
    assert command("split", tmp_path / "run") == 0
    assert command("score", tmp_path / "run") == 0
    assert (tmp_path / "run" / "parts" / "greedy" / "seed-0" / "Alpha@permuted.pt").is_file()


def test_split_says_that_a_task_owns_nothing(trained, capsys, monkeypatch):
    def all_to_the_first(model, seed):
        k = {layer: torch.zeros_like(each) for layer, each in splitting.greedy(model, seed).items()}
        for each in list(k.values())[:-1]:
            each[0] = 1
        return k

    monkeypatch.setitem(splitting.METHODS, "greedy", all_to_the_first)
    assert command("split", trained, "--method", "greedy") == 0
    out = capsys.readouterr().out
    assert "of 20 hidden units Alpha 20, Beta 0, no task 0" in out
    assert "Beta owns no unit, the output of its part is a constant" in out


# How words become options.


def test_underscores_are_as_good_as_hyphens(root):
    hyphens = train_options(root, "--batch-size", "8", "--weight-decay", "0.1", "--transport-per", "neuron")
    assert train_options(root, "--batch_size", "8", "--weight_decay=0.1", "--transport_per", "neuron") == hyphens
    assert hyphens["batch_size"] == 8


def test_underscores_in_values_are_kept():
    assert as_flags(["train", "my_run", "--root", "a_b", "--root=c_d"]) == [
        "train",
        "my_run",
        "--root",
        "a_b",
        "--root=c_d",
    ]


@pytest.mark.parametrize("option", ["--momentum", "--where", "--order", "--position_lr"])
def test_none_means_unset(root, option):
    assert train_options(root, option, "None") == train_options(root)


def test_defaults_are_those_of_the_design():
    args = vars(commands.parse(["train", "RUN"]))
    expected = {
        "datasets": ["MNIST", "FashionMNIST"], "input": "mix", "order": None, "root": "data",
        "model": "mlp", "layers": [128, 128], "activation": "ReLU", "dim": 2, "outputs": "free",
        "transport": 0, "proximity": 0, "norm": "l2", "transport_per": "connection", "where": None,
        "epochs": 10, "batch_size": 256, "optimizer": "Adam", "lr": 5e-3, "weight_decay": 0, "schedule": "constant",
        "seed": 0, "seeds": 1, "device": "auto", "resume": False, "overwrite": False,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


# Mistakes.


@pytest.fixture(scope="module")
def world(root, trained, tmp_path_factory):
    """Folders to go wrong in."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "stranger").mkdir()
    (folder / "stranger" / "notes.txt").write_text("mine")
    (folder / "file").write_text("a file")
    untrained = Run(folder / "untrained")
    runs.save_json(untrained.config_file, {"version": runs.VERSION, "options": Run(trained).options(), "data": {}})
    broken = Run(folder / "broken")
    runs.save_json(broken.config_file, {"version": runs.VERSION, "options": Run(trained).options(), "data": {}})
    broken.weights(0).parent.mkdir()
    broken.weights(0).write_text("seed,epoch\n")
    plain = Run(folder / "plain")  # trained, and nothing else done
    assert command("train", plain.folder, *small(root)) == 0
    split = Run(folder / "split")
    assert command("train", split.folder, *small(root)) == 0
    assert command("split", split.folder, "--method", "balanced") == 0
    return folder


def assert_mistake(world, capsys, words, fragment):
    """The command exits with status 2 and one line that says ``fragment``, and changes nothing."""
    before = tree(world)
    capsys.readouterr()
    status = command(*words)
    out, err = capsys.readouterr()
    prog = f"main.py {words[0]}" if words and words[0] in ("train", "record", "split", "score", "plot") else "main.py"
    assert status == 2
    assert err.startswith(f"{prog}: error: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert fragment in err
    assert out == ""
    assert tree(world) == before


WORDS = [  # what is typed after `main.py`, and what is said
    ("", "a command is missing: train, record, split, score, plot"),
    ("--verbose", "--verbose"),
    ("trian runs/x", "unknown command 'trian': did you mean train?"),
    ("teach runs/x", "unknown command 'teach'"),
    ("train", "RUN is missing"),
    ("train --epochs 3", "RUN is missing"),
    ("plot", "RUN is missing"),
    ("score --root data", "RUN is missing"),
    ("train new --optimiser Adam", "unknown option '--optimiser': did you mean --optimizer?"),
    ("train new --batch_sice 8", "did you mean --batch-size?"),
    ("train new --epoch 3", "unknown option '--epoch': did you mean --epochs?"),
    ("train new --epoch=3", "unknown option '--epoch': did you mean --epochs?"),
    ("plot new --kinds curves", "unknown option '--kinds': did you mean --kind?"),
    ("split new --extract", "unknown option '--extract'"),
    ("train new another", "unexpected argument 'another'"),
    ("train new --lr", "--lr: expected one argument"),
    ("train new --layers", "--layers: expected at least one argument"),
    ("train new --optimizer Adma", "--optimizer: invalid choice: 'Adma' (choose from"),
    ("train new --norm l3", "--norm: invalid choice: 'l3' (choose from"),
    ("train new --model cnn", "--model: invalid choice: 'cnn' (choose from"),
    ("train new --activation relu", "--activation: invalid choice: 'relu' (choose from"),
    ("train new --schedule exp", "--schedule: invalid choice: 'exp' (choose from"),
    ("train new --outputs held", "--outputs: invalid choice: 'held' (choose from"),
    ("train new --transport-per layer", "--transport-per: invalid choice: 'layer' (choose from"),
    ("train new --input stack", "--input: invalid choice: 'stack' (choose from"),
    ("train new --device tpu", "--device: invalid choice: 'tpu' (choose from"),
    ("record plain --subset all", "--subset: invalid choice: 'all' (choose from"),
    ("split plain --method rescale", "--method: invalid choice: 'rescale' (choose from"),
    ("plot plain --kind curve", "--kind: invalid choice: 'curve' (choose from"),
    ("train new --lr fast", "--lr: 'fast' is not a number (give a number above 0)"),
    ("train new --lr nan", "--lr: nan is out of range (give a number above 0)"),
    ("train new --lr inf", "--lr: inf is out of range (give a number above 0)"),
    ("train new --lr 0", "--lr: 0 is out of range (give a number above 0)"),
    ("train new --lr -1", "--lr: -1 is out of range (give a number above 0)"),
    ("train new --position-lr 0 --proximity 1", "--position-lr: 0 is out of range (give a number above 0)"),
    ("train new --transport -1", "--transport: -1 is out of range (give a number of at least 0)"),
    ("train new --transport 1e999", "--transport: 1e999 is out of range (give a number of at least 0)"),
    ("train new --proximity nan", "--proximity: nan is out of range (give a number of at least 0)"),
    ("train new --weight-decay -0.1", "--weight-decay: -0.1 is out of range (give a number of at least 0)"),
    ("train new --momentum much", "--momentum: 'much' is not a number (give a number of at least 0)"),
    ("train new --epochs 0", "--epochs: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --epochs 1.5", "--epochs: '1.5' is not a whole number (give a whole number from 1 to 2,147,483,647)"),
    ("train new --epochs ten", "--epochs: 'ten' is not a whole number"),
    ("train new --batch-size 0", "--batch-size: 0 is out of range"),
    ("train new --layers 12 0", "--layers: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --dim 0", "--dim: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --seeds 0", "--seeds: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --seed -1", "--seed: -1 is out of range (give a whole number from 0 to 2,147,483,647)"),
    ("train new --where -1", "--where: -1 is out of range (give a whole number from 0 to 2,147,483,647)"),
    ("plot plain --seed one", "--seed: 'one' is not a whole number"),
]


@pytest.mark.parametrize(("words", "fragment"), WORDS, ids=[words or "nothing" for words, _ in WORDS])
def test_a_wrong_command_line_is_one_line(world, capsys, monkeypatch, words, fragment):
    monkeypatch.chdir(world)
    assert_mistake(world, capsys, words.split(), fragment)


TRAINING = [  # after `train new` and a command line that is right, and what is said
    ("--datasets Alpha Betta", "unknown data set 'Betta': did you mean Beta?"),
    ("--datasets alpha", "unknown data set 'alpha': did you mean Alpha?"),
    ("--datasets Alpha Beta Alpha", "data set Alpha is given twice"),
    ("--datasets Alpha Large", "--input mix needs images of one size, got Alpha 1x8x8, Large 1x10x10"),
    ("--datasets Alpha Large --input concatenate", "--input concatenate needs images of one size"),
    ("--where 3", "--where 3: there is no such layer, give 0 to 2 (2 is the output layer)"),
    ("--where 0 9", "--where 9: there is no such layer"),
    ("--layers 5 --where 2", "--where 2: there is no such layer, give 0 to 1"),
    ("--transport 1 --where 0", "--transport: no charged connection"),
    ("--where 1 2 1", "--where 1 2 1: a layer is given twice"),
    ("--order blocked", "--order is read only with --input sequential, got --input mix"),
    ("--order random --input concatenate", "--order is read only with --input sequential, got --input concatenate"),
    ("--momentum 0.9", "--momentum is read only by --optimizer SGD or RMSprop, got Adam"),
    ("--momentum 0 --optimizer AdamW", "--momentum is read only by --optimizer SGD or RMSprop, got AdamW"),
    ("--position-lr 0.1", "--position-lr is read only where positions are learned"),
    ("--position-lr 0.1 --transport 0 --proximity 0", "--position-lr is read only where positions are learned"),
    ("--device cuda", "--device cuda: there is none here; use --device cpu"),
    ("--resume", "new: no such folder, there is nothing to --resume"),
]


@pytest.mark.parametrize(("words", "fragment"), TRAINING, ids=[words for words, _ in TRAINING])
def test_training_that_cannot_be_is_one_line(world, root, capsys, monkeypatch, words, fragment):
    monkeypatch.chdir(world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert_mistake(world, capsys, ["train", "new", *small(root), *words.split()], fragment)


FOLDERS = [  # what is typed, DATA standing for a command line that is right, and what is said
    ("train stranger DATA", "stranger: exists and is not empty; --resume continues it, --overwrite starts it anew"),
    ("train stranger DATA --overwrite", "stranger: not a run"),
    ("train stranger DATA --resume", "stranger: not a run"),
    ("train plain DATA", "plain: exists and is not empty"),
    ("train plain DATA --resume --lr 0.1", "--lr was 0.005 and is 0.1"),
    ("train file DATA", "file: is a file, not a folder"),
    ("train file/run DATA", "file"),
    ("record missing", "missing: no such folder (make it with: python main.py train missing)"),
    ("split missing", "missing: no such folder"),
    ("score missing", "missing: no such folder"),
    ("plot missing", "missing: no such folder"),
    ("record stranger", "stranger: not a run, it has no config.json"),
    ("split stranger", "stranger: not a run, it has no config.json"),
    ("score stranger", "stranger: not a run, it has no config.json"),
    ("plot stranger", "stranger: not a run, it has no config.json"),
    ("record file", "file"),
    ("plot file", "file"),
    ("record untrained", "untrained/weights/seed-0.pt: no such file, training has not finished"),
    ("split untrained", "untrained/weights/seed-0.pt: no such file, training has not finished"),
    ("score untrained", "untrained/weights/seed-0.pt: no such file, training has not finished"),
    ("plot untrained", "untrained/weights/seed-0.pt: no such file, training has not finished"),
    ("split broken", "broken/weights/seed-0.pt: cannot be read as a file of tensors"),
    ("plot plain --kind positions", "plain: nothing to draw this from yet; first run: python main.py split plain"),
    ("plot plain --kind activations", "plain: nothing to draw this from yet; first run: python main.py record plain"),
    ("plot plain --method greedy", "first run: python main.py split plain"),
    ("plot split --method greedy", "unknown split of this run 'greedy'"),
    ("plot split --method balencd", "did you mean balanced"),
    ("plot split --seed 3", "--seed 3: split has the seeds 0"),
]


@pytest.mark.parametrize(("words", "fragment"), FOLDERS, ids=[words for words, _ in FOLDERS])
def test_a_wrong_folder_is_one_line(world, root, capsys, monkeypatch, words, fragment):
    monkeypatch.chdir(world)
    right = small(root)
    argv = [part for word in words.split() for part in (right if word == "DATA" else [word])]
    assert_mistake(world, capsys, argv, fragment)


@pytest.mark.parametrize("name", ["record", "score"])
def test_data_that_are_not_there_are_one_line(trained, tmp_path, capsys, name):
    assert_mistake(trained, capsys, [name, trained, "--root", tmp_path / "nowhere"], "Alpha")


SCRIPT = """
import os, sys
sys.path[:0] = [{tests!r}, {root!r}]
import generated, main, pytest, signal
from pathlib import Path
with pytest.MonkeyPatch.context() as patch:
    generated.register(patch, Path({data!r}), "Alpha", train=400, test=40)
    from spatial import training
    loss, steps = training.task_loss, []
    def interrupted(*given):
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*given)
    training.task_loss = interrupted
    import runpy
    sys.argv = ["main.py", "train", {run!r}, "--datasets", "Alpha", "--root", {data!r}]
    sys.argv += ["--epochs", "500", "--batch-size", "100", "--device", "cpu"]
    runpy.run_path({main!r}, run_name="__main__")
"""


def test_sigterm_exits_143_and_keeps_the_finished_epochs(tmp_path):
    script = SCRIPT.format(
        tests=str(ROOT / "tests"),
        root=str(ROOT),
        data=str(tmp_path / "data"),
        run=str(tmp_path / "run"),
        main=str(ROOT / "main.py"),
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 143, ended.stderr
    assert "Traceback" not in ended.stderr
    assert runs.load_plain(Run(tmp_path / "run").resume(0))["epoch"] == 1


def test_generated_files_are_what_the_commands_read(root):
    assert sorted(path.name for path in (root / "Alpha" / "raw").iterdir()) == sorted(generated.FILES)
    assert json.loads(json.dumps(train_options(root)))["datasets"] == ["Alpha", "Beta"]


def copied(trained, tmp_path):
    """A trained run to spoil, split and recorded."""
    run = Run(shutil.copytree(trained, tmp_path / "run"))
    assert command("split", run.folder) == command("record", run.folder) == 0
    return run


SPOILED = {
    "config without options": ("score", lambda run: runs.save_json(run.config_file, {"version": 1, "options": {}})),
    "config with a wrong type": ("split", lambda run: edit_config(run, seeds="2")),
    "owners of another network": ("score", lambda run: runs.save_arrays(run.owners("greedy", 0), wrong_layers())),
    "owners of another network, drawn": (
        "plot --kind positions",
        lambda run: runs.save_arrays(run.owners("greedy", 0), wrong_layers()),
    ),
    "history without columns": ("plot --kind curves", lambda run: run.history.write_text("seed,epoch\n0,1\n")),
    "history cut short": ("plot --kind curves", lambda run: run.history.write_text(run.history.read_text()[:-30])),
    "activations of something else": (
        "plot --kind activations",
        lambda run: runs.save_arrays(run.activations(0, "train"), wrong_layers()),
    ),
}


def edit_config(run, **options):
    config = run.config()
    runs.save_json(run.config_file, {**config, "options": {**config["options"], **options}})


def wrong_layers():
    return {f"layer-{index}": np.zeros(2, int) for index in range(3)}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_one_line_that_names_it(trained, tmp_path, capsys, case):
    words, spoil = SPOILED[case]
    run = copied(trained, tmp_path)
    spoil(run)
    capsys.readouterr()
    name, *options = words.split()
    assert command(name, run.folder, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"main.py {name}: error: {run.folder}/") and error.count("\n") == 1


def test_an_unfinished_split_is_named(trained, tmp_path, capsys):
    run = copied(trained, tmp_path)
    run.owners("greedy", 0).unlink()
    assert command("score", run.folder) == 0
    assert (
        f"greedy: left out, it is unfinished: python main.py split {run.folder} --method greedy"
        in capsys.readouterr().out
    )


def test_a_network_too_large_for_the_memory_is_one_line(root, tmp_path, capsys, monkeypatch):
    def build(*given):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(models, "build", build)
    assert command("train", tmp_path / "run", *small(root)) == 2
    assert capsys.readouterr().err == (
        "main.py train: error: not enough memory; a smaller network or --batch-size may help\n"
    )
