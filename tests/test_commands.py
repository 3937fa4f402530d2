"""The command line from end to end, in this process: five commands on generated images, and every mistake."""

import contextlib
import io
import json
import shutil
import signal
from collections import Counter
from itertools import product
from pathlib import Path
from typing import NamedTuple

import generated
import numpy as np
import oracles
import pytest
import torch
from helpers import CLASSES, NAMES, command, narrow, small, train_options, tree

import spatial
from spatial import commands, experiment, graph, models, process, runs, splitting, storing
from spatial.commands import as_flags
from spatial.errors import UserError
from spatial.loading import load_tasks
from spatial.objective import parameter_groups
from spatial.runs import Run

PNG = b"\x89PNG\r\n\x1a\n"
ROOT = Path(__file__).parent.parent

CASES = {  # the tasks, and the options of `train`
    "one task, 1-D": ("Alpha", "--dim 1 --activation Sigmoid --optimizer SGD --lr 0.1 --momentum 0.5"),
    "two tasks, 2-D": (
        "Alpha Beta",
        "--seeds 2 --transport 1 --proximity 1 --norm l1 --transport-per neuron --outputs task --weight-penalty 0.1",
    ),
    "three tasks, 3-D": (
        "Alpha Beta Gamma",
        "--dim 3 --proximity 1 --where 0 1 --position-lr 0.1 --transport 1 --input-positions grid --resize 6",
    ),
    "concatenated, 1-D": (
        "Alpha Beta",
        "--input concatenate --dim 1 --outputs held --transport 1 --weight-decay 0.01 --optimizer AdamW",
    ),
    "one at a time, permuted": (
        "Alpha Alpha@permuted",
        "--input sequential --order blocked --optimizer RMSprop --holdout 20 --positions frozen --transport 1",
    ),
    "conv": (
        "Alpha Beta Gamma",
        "--model conv --layers 6 5 --activation Tanh --schedule cosine --positions shuffled --transport 1",
    ),
    "conv, concatenated, 3-D": (
        "Beta Gamma",
        "--model conv --layers 6 --input concatenate --dim 3 --outputs arbitrary --holdout 30",
    ),
    "conv, one at a time, 1-D": (
        "Alpha Beta Gamma",
        "--model conv --layers 5 6 --input sequential --dim 1 --seed 7 --seeds 2 --activation GELU --resize 6",
    ),
    "conv, one task": ("Gamma", "--model conv --layers 4 --weight-penalty 1 --schedule step"),
    "lenet": (
        "Alpha Beta",
        "--model lenet --resize 16 --locality plane --metric cityblock --decay sqrt --normalize --outputs task",
    ),
    "lenet, concatenated, no batch norm": (
        "Beta Gamma",
        "--model lenet --resize 16 --no-batch-norm --input concatenate --holdout 20 --transport 1 --position-lr 0.1",
    ),
    "mlp on a line": (
        "Alpha Beta Gamma",
        "--layers 5 9 9 --locality line --decay square --locality-on activations --transport 1 --proximity 1",
    ),
}


def said(*words):
    """Runs a command that succeeds; returns what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command(*words) == 0
    return out.getvalue()


class Made(NamedTuple):
    """A run that four commands have worked on, and what they said."""

    run: Run
    split: str
    score: str


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def all_made(request, root, tmp_path_factory):
    names, words = request.param
    folder = tmp_path_factory.mktemp("runs") / "run"
    said("train", folder, *small(root, *words.split(), names=names.split()))
    for by in ("task", "label"):
        for subset in ("train", "test"):
            said("record", folder, "--by", by, "--subset", subset)
    split = said("split", folder, "--method", *splitting.METHODS, "--extract")
    return Made(Run(folder), split, said("score", folder))


@pytest.fixture(scope="module")
def made(all_made):
    return all_made.run


def names_of(run):
    return run.options()["datasets"]


def tasks_of(run):
    """The images that are scored, and their labels, by way of the options."""
    options = run.options()
    kept = {name: options[name] for name in ("holdout", "resize")}
    return load_tasks(options["datasets"], options["root"], options["input"], "test", **kept)


def sheets_of(run):
    """The layers that lie on a sheet."""
    return graph.on_sheet(run.network(run.seeds()[0]))


def every_split(run):
    """Each split of each network: method, seed, network, k and owners by layer."""
    for seed in run.seeds():
        network = run.network(seed)
        for method in splitting.METHODS:
            yield method, seed, network, *run.split(method, seed, network)


def test_every_file_of_the_layout_is_there(made):
    names, seeds = names_of(made), made.seeds()
    expected = {
        "config.json",
        "environment.json",
        "timing.json",
        "history.csv",
        "positions.npz",
        "scores.csv",
        "transfer.csv",
        "measures.csv",
        "metrics.json",
        "resume/lock",
    }
    expected |= {f"weights/seed-{seed}.pt" for seed in seeds}
    together = made.options()["replicas"] == "together"
    expected |= {f"resume/seed-{seed}.pt" for seed in (seeds[:1] if together else seeds)}
    expected |= {
        f"activations/seed-{seed}/{by}-{subset}.npz"
        for seed in seeds
        for by in ("task", "label")
        for subset in ("train", "test")
    }
    expected |= {
        f"parts/{method}/seed-{seed}/{file}"
        for method in splitting.METHODS
        for seed in seeds
        for file in ("owners.npz", *(f"{name}{kind}.pt" for name in names for kind in ("", "-extracted")))
    }
    if sheets_of(made):
        expected |= {"variance.csv", "variance.npz"}
    assert {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()} == expected


def measured(made):
    """The splits, and the groups of arbitrary outputs."""
    return [*splitting.METHODS, *(["groups"] if made.options()["outputs"] == "arbitrary" else [])]


def test_scores_have_a_row_per_seed_method_and_task(made):
    rows = storing.read_table(made.scores)
    assert list(rows[0]) == ["seed", "method", "task", "accuracy", "units", "parameters", "loss"]
    assert rows[0]["method"] == "whole"
    assert Counter((row["seed"], row["method"], row["task"]) for row in rows) == Counter(
        (str(seed), method, name)
        for seed in made.seeds()
        for method in ("whole", *measured(made))
        for name in names_of(made)
    )


def test_the_whole_networks_scores_are_those_of_its_last_epoch(made):
    last = {row["seed"]: row for row in storing.read_table(made.history) if row["subset"] != "train"}
    assert {row["subset"] for row in last.values()} == {"holdout" if made.options()["holdout"] else "test"}
    for row in storing.read_table(made.scores):
        if row["method"] == "whole":
            assert row["accuracy"] == last[row["seed"]][row["task"]]


def test_transfer_has_every_part_on_every_task(made):
    rows = [row for row in storing.read_table(made.transfer) if row["method"] != "whole"]
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
        for row in storing.read_table(made.scores)
        if row["method"] not in ("whole", "groups")
    }
    transfer = [row for row in storing.read_table(made.transfer) if row["method"] != "whole"]
    assert own == {
        (row["seed"], row["method"], row["task"]): row["accuracy"] for row in transfer if row["part"] == row["task"]
    }


def accuracies(path, images, labels, classes):
    with torch.no_grad():
        logits = spatial.load(path)(images)
    return oracles.accuracy(logits.tolist(), labels.tolist(), classes)


def test_scores_are_those_of_the_networks_on_every_scored_image(made):
    tasks = tasks_of(made)
    images, labels = tasks.batch(tasks.scoring_order())
    found = {
        (row["seed"], row["method"], row["task"]): float(row["accuracy"]) for row in storing.read_table(made.scores)
    }
    seed = made.seeds()[-1]
    for method in ("whole", *splitting.METHODS):
        for task, name in enumerate(names_of(made)):
            path = made.weights(seed) if method == "whole" else made.part(method, seed, name)
            expected = accuracies(path, images, labels, tasks.classes)[task]
            assert found[str(seed), method, name] == pytest.approx(expected, abs=1e-6)


def test_an_extracted_part_scores_on_its_task_as_the_part_does(made):
    tasks = tasks_of(made)
    images, labels = tasks.batch(tasks.scoring_order())
    rows = [row for row in storing.read_table(made.scores) if row["method"] in splitting.METHODS]
    for row in rows:
        task = names_of(made).index(row["task"])
        path = made.extracted(row["method"], int(row["seed"]), row["task"])
        found = accuracies(path, images, labels[:, task : task + 1], tasks.classes[task : task + 1])
        assert float(row["accuracy"]) == pytest.approx(found[0], abs=1e-6)
        assert storing.load_plain(path)["task"] == row["task"]


def test_parameters_are_those_of_the_extracted_parts(made):
    for row in storing.read_table(made.scores):
        if row["method"] == "groups":
            assert row["parameters"] == ""
            continue
        whole = row["method"] == "whole"
        seed = int(row["seed"])
        path = made.weights(seed) if whole else made.extracted(row["method"], seed, row["task"])
        counted = {
            name: each.numel()
            for name, each in storing.load_plain(path)["state"].items()
            if not {"positions", "running_mean", "running_var", "num_batches_tracked"} & set(name.split("."))
        }
        assert int(row["parameters"]) == sum(counted.values())


def test_metrics_are_means_and_deviations_of_the_scores(made):
    metrics = storing.read_json(made.metrics)
    rows = storing.read_table(made.scores)
    assert list(metrics) == ["accuracy", "lost", "parameters", "measures", "loss", "variance"]
    assert list(metrics["accuracy"]) == list(metrics["parameters"]) == ["whole", *measured(made)]
    assert set(metrics["lost"]) == set(metrics["measures"]) == set(measured(made))
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


def refuse_constant(word):
    raise ValueError(f"{word} is no JSON")


def test_metrics_are_json_without_nan(made):
    content = json.loads(made.metrics.read_text(), parse_constant=refuse_constant)
    values = list(leaves(content))
    assert all(value is None or isinstance(value, float) for value in values)
    assert len(values) > 20


def leaves(content):
    for value in content.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def test_measures_have_a_row_per_seed_method_and_layer(made):
    rows = storing.read_table(made.measures)
    names = names_of(made)
    assert list(rows[0]) == [
        "seed", "method", "layer", "units", "live", *(f"live_{name}" for name in names), "places", "purity", "kappa",
        "silhouette", "crossing", "wire", "ari_greedy", "ari_balanced",
    ]  # fmt: skip
    options = made.options()
    units = [*options["layers"], sum(made.network(made.seeds()[0]).classes)]
    assert Counter((row["seed"], row["method"], row["layer"], row["units"]) for row in rows) == Counter(
        (str(seed), method, str(layer), str(n))
        for seed in made.seeds()
        for method in measured(made)
        for layer, n in enumerate(units)
    )
    for row in rows:
        assert 0 <= int(row["places"]) <= int(row["live"]) <= int(row["units"])
        inner = int(row["layer"]) < len(units) - 1
        assert (row["ari_greedy"] != "") is (row["ari_balanced"] != "") is (row["method"] == "clusters" and inner)
        assert (row["wire"] != "") is (row["layer"] != "0" or options["input_positions"] == "grid")
        assert (row["crossing"] == "") >= (row["layer"] == "0")
        if len(names) == 1:
            assert row["kappa"] == row["silhouette"] == ""


def test_metrics_hold_the_measures_means_and_null_where_there_is_none(made):
    rows = storing.read_table(made.measures)
    for method, layers in storing.read_json(made.metrics)["measures"].items():
        for layer, measures in layers.items():
            mine = [row for row in rows if (row["method"], f"layer-{row['layer']}") == (method, layer)]
            assert len(mine) == len(made.seeds())
            for name, found in measures.items():
                values = [float(row[name]) for row in mine if row[name] != ""]
                if values:
                    assert found["mean"] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-6)
                else:
                    assert found == {"mean": None, "std": None}


def test_timing_has_a_ratio_for_each_part(made):
    rows = storing.read_json(made.timing)["inference"]
    assert Counter((row["seed"], row["method"], row["part"]) for row in rows) == Counter(
        (seed, method, name) for seed in made.seeds() for method in splitting.METHODS for name in names_of(made)
    )
    for row in rows:
        assert row["ratio"] == row["part_seconds"] / row["whole_seconds"] > 0


def test_units_are_those_that_a_part_keeps(made):
    found = {(row["seed"], row["method"], row["task"]): int(row["units"]) for row in storing.read_table(made.scores)}
    for method, seed, network, k, owners in every_split(made):
        assert [len(each) for each in owners.values()] == [*made.options()["layers"], sum(network.classes)]
        for task, name in enumerate(names_of(made)):
            assert found[str(seed), "whole", name] == sum(made.options()["layers"])
            assert found[str(seed), method, name] == sum((each[task] > 0).sum() for each in list(k.values())[:-1])


def test_parts_are_those_of_the_factors_in_their_folder(made):
    for method, seed, whole, k, _ in every_split(made):
        for task, name in enumerate(names_of(made)):
            part = spatial.load(made.part(method, seed, name))
            for layer in list(k)[:-1]:
                gone = k[layer][task] == 0
                assert part.get_submodule(layer).weight[gone].abs().sum() == 0
                biased = [graph.norm(each, layer) or each.get_submodule(layer) for each in (part, whole)]
                assert torch.equal(biased[0].bias[~gone], biased[1].bias[~gone])
                assert biased[0].bias[gone].abs().sum() == 0
            assert storing.load_plain(made.part(method, seed, name))["task"] == name


def test_split_says_what_every_part_keeps(all_made):
    run, lines = all_made.run, all_made.split.splitlines()
    names = names_of(run)
    expected = [f"parts: {run.parts / method}" for method in splitting.METHODS]
    for method, seed, network, k, owners in every_split(run):
        hidden = list(k)[:-1]
        shares = [
            f"{name} {sum(int((k[layer][task] > 0).sum()) for layer in hidden)}" for task, name in enumerate(names)
        ]
        nobody = sum(int((owners[layer] == -1).sum()) for layer in hidden)
        total = sum(run.options()["layers"])
        start = f"{method}, seed {seed}:"
        expected.append(f"{start} of {total} hidden units {', '.join(shares)}, no task {nobody}")
        for task, name in enumerate(names):
            small = models.parameter_count(spatial.load(run.extracted(method, seed, name)))
            expected.append(f"{start} {name} extracted, {small:,} of {models.parameter_count(network):,} parameters")
            if empty := [str(number) for number, layer in enumerate(hidden) if not k[layer][task].any()]:
                constant = f"{name} owns no unit of layer {', '.join(empty)}, the output of its part is a constant"
                expected.append(f"{start} {constant}")
        if method == "clusters":
            for number, agreed in enumerate(splitting.agreement(network, seed).values()):
                words = ", ".join(f"{other} {agreed[other]:.2f}" for other in ("greedy", "balanced"))
                expected.append(f"clusters, seed {seed}, layer {number}: adjusted Rand index with {words}")
    assert lines.pop() == f"next: python main.py score {run.folder}   # score the whole network and its parts"
    assert sorted(lines) == sorted(expected)


@pytest.mark.parametrize("subset", ["train", "test"])
@pytest.mark.parametrize("by", ["task", "label"])
def test_recorded_activity_has_a_row_per_group(made, by, subset):
    seed, options = made.seeds()[0], made.options()
    network = made.network(seed)
    recorded = storing.load_arrays(made.activations(seed, by, subset))
    sizes = dict(zip((*NAMES, "Alpha@permuted"), [(120, 40), (100, 33), (80, 26), (120, 40)], strict=True))
    held = options["holdout"]
    counts = [(sizes[name][0] - held if subset == "train" else held or sizes[name][1]) for name in options["datasets"]]
    heads = models.heads(network.classes)
    if by == "task":
        assert recorded["count"].tolist() == counts
    else:
        assert [recorded["count"][own].sum() for own in heads] == counts
    rows = len(counts) if by == "task" else sum(network.classes)
    for layer, units in enumerate(options["layers"]):
        for measure in ("mean", "mean_abs", "variance"):
            assert recorded[f"layer-{layer}/{measure}"].shape == (rows, units)
        assert (recorded[f"layer-{layer}/mean_abs"] > 0).any()
    assert list(made.recorded(by, subset, seed, network)) == ["mean", "mean_abs", "variance"]


def test_the_networks_fit_their_tasks(made):
    model = made.network(made.seeds()[0])
    options = made.options()
    sizes = dict(zip(NAMES, CLASSES, strict=True)) | {"Alpha@permuted": 4}
    classes = tuple(sizes[name] for name in options["datasets"])
    channels = len(classes) if options["input"] == "concatenate" else 1
    side = options["resize"] or 8
    assert model.classes == classes
    assert model.shape == (channels, side, side)
    assert list(graph.positions(model).values())[-1].shape == (sum(classes), options["dim"] or 2)


def test_score_shows_every_method_then_the_measures_then_the_extracted_parts(all_made):
    lines = all_made.score.splitlines()
    methods = list(splitting.METHODS)
    judged = measured(all_made.run)
    if held := all_made.run.options()["holdout"]:
        assert lines.pop(0) == f"scored on {held} held-out training images of each task"
    layers = len(all_made.run.options()["layers"])
    maps = sheets_of(all_made.run)
    sheet = "line" if all_made.run.options()["locality"] == "line" else "plane"
    spread = ["activation", *[sheet] * len(maps)] if maps else []
    rows = [method for method in judged for _ in range(layers)]
    first = ["accuracy,", "whole", *judged, "measures", *rows, *spread, "extracted", "whole", *methods, "next:"]
    assert [line.split()[0] for line in lines] == first


def test_doing_it_again_changes_nothing_but_the_timing(made):
    before = tree(made.folder)
    said("record", made.folder, "--subset", "train", "--by", "label")
    said("split", made.folder, "--method", "balanced", "clusters", "balanced", "--extract")
    said("score", made.folder)
    after = tree(made.folder)
    assert after.pop(made.timing) != before.pop(made.timing)
    assert after == before


def test_alexnet_from_end_to_end(root, tmp_path):
    """Once, by itself: its convolutions are many times those of the others."""
    run = Run(tmp_path / "run")
    words = "--model alexnet --resize 63 --epochs 1 --locality line --transport 1 --warmup 0.5 --holdout 6"
    with narrow():
        said("train", run.folder, *small(root, *words.split(), names=("Beta", "Gamma")))
    for line in (["record"], ["record", "--by", "label"], ["split", "--extract"], ["score"]):
        said(line[0], run.folder, *line[1:])
    model = run.network(0)
    assert (type(model), model.shape, model.layers, model.classes) == (models.AlexNet, (1, 63, 63), (49, 49), (3, 5))
    assert storing.load_arrays(run.activations(0, "label", "train"))["layer-0/mean_abs"].shape == (8, 49)
    tasks = run.tasks("test")
    images, labels = tasks.batch(tasks.scoring_order())
    rows = [row for row in storing.read_table(run.scores) if row["method"] in ("whole", "greedy")]
    assert [(row["method"], row["task"]) for row in rows] == [
        (method, name) for method in ("whole", "greedy") for name in ("Beta", "Gamma")
    ]
    for row in rows:
        task = ("Beta", "Gamma").index(row["task"])
        whole = row["method"] == "whole"
        path = run.weights(0) if whole else run.extracted("greedy", 0, row["task"])
        own = slice(None) if whole else slice(task, task + 1)
        found = accuracies(path, images, labels[:, own], tasks.classes[own])
        assert float(row["accuracy"]) == pytest.approx(found[task if whole else 0], abs=1e-6)
    measured = {(row["method"], row["layer"]) for row in storing.read_table(run.measures)}
    assert measured == {("greedy", str(layer)) for layer in range(3)}


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
    assert out.splitlines()[-1] == f"next: python main.py split {trained}   # cut it into one network per task"
    assert storing.read_json(trained / "metrics.json")["lost"] == {}
    assert (trained / "transfer.csv").read_text().startswith("seed,method,part,task,accuracy\n")


def test_plot_says_what_it_drew(trained, capsys):
    assert command("plot", trained, "--kind", "curves") == 0
    drawn = trained / "figures" / "curves.png"
    assert str(drawn) in capsys.readouterr().out.splitlines()
    assert drawn.read_bytes().startswith(PNG)


def test_splits_that_were_not_extracted_have_no_parameters(root, tmp_path):
    run = Run(tmp_path / "run")
    said("train", run.folder, *small(root))
    assert "extracted" not in said("split", run.folder, "--method", "random", "balanced")
    assert "extracted" not in said("score", run.folder)
    rows = storing.read_table(run.scores)
    assert {(row["method"], row["parameters"] == "") for row in rows} == {
        ("whole", False), ("random", True), ("balanced", True),
    }  # fmt: skip
    assert storing.read_json(run.timing) == {"inference": []}
    nothing = {"mean": None, "std": None}
    assert storing.read_json(run.metrics)["parameters"]["random"] == {"Alpha": nothing, "Beta": nothing}


@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_an_exported_part_computes_what_the_extracted_one_does(root, tmp_path, model):
    from onnxruntime import InferenceSession

    run = Run(tmp_path / "run")
    said("train", run.folder, *small(root, "--model", model, "--layers", "5", names=("Beta@permuted",)))
    said("split", run.folder, "--method", "greedy", "--extract", "--onnx")
    (exported,) = run.parts.rglob("*.onnx")
    assert exported == run.extracted("greedy", 0, "Beta@permuted").with_suffix(".onnx")
    images = torch.rand(7, 1, 8, 8)
    (logits,) = InferenceSession(exported.read_bytes()).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = run.extracted_networks("greedy", 0, run.network(0))["Beta@permuted"](images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_export_without_its_packages_writes_nothing(trained, capsys, monkeypatch):
    monkeypatch.setattr(splitting, "find_spec", lambda name: None)
    words = ["split", trained, "--extract", "--onnx"]
    assert_mistake(trained, capsys, words, "--onnx needs onnx and onnxscript: python -m pip install onnx onnxscript")


@pytest.mark.parametrize(("model", "layers"), [("mlp", [128, 128]), ("conv", [16, 32])])
def test_layers_are_the_models_where_none_are_given(root, tmp_path, model, layers):
    words = small(root, "--model", model, "--epochs", "1", "--batch-size", "128")
    at = words.index("--layers")
    said("train", tmp_path / "run", *words[:at], *words[at + 3 :])
    run = Run(tmp_path / "run")
    assert run.options()["layers"] == layers
    assert [len(place) for place in graph.positions(run.network(0)).values()] == [*layers, 7]


def test_a_charge_of_the_first_layer_alone_needs_placed_inputs(root, tmp_path):
    words = ["--input-positions", "grid", "--where", "0", "--transport", "1", "--weight-penalty", "1"]
    said("train", tmp_path / "run", *small(root, *words))
    assert not (tmp_path / "run" / "scores.csv").exists()


def test_record_and_score_find_data_that_have_moved(trained, root, tmp_path, capsys):
    for name in NAMES[:2]:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).symlink_to(root / name)
    assert command("record", trained, "--root", tmp_path / "moved") == 0
    assert command("score", trained, "--root", tmp_path / "moved") == 0


def test_split_says_that_a_task_owns_nothing(trained, capsys, monkeypatch):
    def all_to_the_first(model, seed, recorded):
        k, owners = splitting.greedy(model, seed)
        *hidden, _ = k
        ones = {layer: torch.stack([torch.ones_like(k[layer][0]), torch.zeros_like(k[layer][0])]) for layer in hidden}
        return splitting.Split(k | ones, owners | {layer: torch.zeros_like(owners[layer]) for layer in hidden})

    monkeypatch.setitem(splitting.METHODS, "greedy", all_to_the_first)
    assert command("split", trained, "--method", "greedy") == 0
    out = capsys.readouterr().out
    assert "of 20 hidden units Alpha 20, Beta 0, no task 0" in out
    assert "Beta owns no unit of layer 0, 1, the output of its part is a constant" in out
    assert "Alpha owns no unit" not in out


# How words become options.


def test_underscores_are_as_good_as_hyphens(root):
    hyphens = train_options(root, "--batch-size", "8", "--weight-decay", "0.1", "--transport-per", "neuron")
    assert train_options(root, "--batch_size", "8", "--weight_decay=0.1", "--transport_per", "neuron") == hyphens
    assert hyphens["batch_size"] == 8


def test_underscores_in_values_are_kept():
    assert as_flags(["train", "my_run", "--root", "a_b", "--root=c_d"], ["--root"]) == [
        "train",
        "my_run",
        "--root",
        "a_b",
        "--root=c_d",
    ]


@pytest.mark.parametrize(
    "option", ["--momentum", "--where", "--order", "--position_lr", "--resize", "--input_positions"]
)
def test_none_means_unset(root, option):
    assert train_options(root, option, "None") == train_options(root)


def test_defaults_are_those_of_the_design():
    args = commands.train.filled(vars(commands.parse(["train", "RUN"])))
    expected = {
        "datasets": ["MNIST", "FashionMNIST"], "input": "mix", "order": None, "root": "data",
        "model": "mlp", "layers": [128, 128], "activation": "ReLU", "dim": 2, "outputs": "free", "positions": "learned",
        "input_positions": None, "weight_penalty": 0, "holdout": 0, "resize": None, "position_lr": None,
        "transport": 0, "proximity": 0, "norm": "l2", "transport_per": "connection", "where": None,
        "epochs": 10, "batch_size": 256, "optimizer": "Adam", "lr": 5e-3, "weight_decay": 0, "schedule": "constant",
        "warmup": 0, "accumulate": 1, "precision": "fp32", "save_every": None, "workers": None, "trust_images": False,
        "seed": 0, "seeds": 1, "replicas": "auto", "compile": False, "device": "auto", "resume": False,
        "overwrite": False,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
    assert [vars(commands.parse(["record", "RUN"]))[name] for name in ("by", "subset", "root")] == [
        "task",
        "train",
        None,
    ]
    split = vars(commands.parse(["split", "RUN"]))
    assert [split[name] for name in ("method", "extract", "onnx")] == [["greedy"], False, False]


def by_default(*words):
    """The options of a command line of these words alone."""
    args = vars(commands.parse(["train", "RUN", *words]))
    return commands.train.filled({name: value for name, value in args.items() if name not in ("parser", "run_command")})


MLP = {
    "datasets": ["MNIST", "FashionMNIST"], "layers": [128, 128], "activation": "ReLU", "dim": 2, "epochs": 10,
    "batch_size": 256, "optimizer": "Adam", "lr": 5e-3, "momentum": None, "weight_decay": 0, "schedule": "constant",
    "batch_norm": None, "locality": "none", "metric": None, "decay": None, "normalize": None, "locality_on": None,
}  # fmt: skip
LENET = MLP | {
    "datasets": ["MNIST"], "layers": [49, 49], "activation": None, "dim": None, "batch_size": 64, "optimizer": "SGD",
    "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4, "batch_norm": True,
}  # fmt: skip
ALEXNET = LENET | {
    "datasets": ["ImageNet"], "layers": [4096, 4096], "dim": 2, "epochs": 90, "batch_size": 256, "momentum": 0.9,
    "schedule": "step",
}  # fmt: skip
PRIOR = {"metric": "euclidean", "decay": "linear", "normalize": False, "locality_on": "connections"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", MLP),
        ("--model mlp --locality none", MLP),
        ("--model conv", MLP | {"layers": [16, 32]}),
        ("--model lenet", LENET),
        ("--model lenet --locality plane", LENET | PRIOR | {"locality": "plane"}),
        ("--model lenet --locality line", LENET | PRIOR | {"locality": "line"}),
        ("--locality plane --layers 9 9", MLP | PRIOR | {"locality": "plane", "layers": [9, 9]}),
        (
            "--model lenet --locality plane --metric chebyshev --decay square --locality-on activations",
            LENET | {
                "locality": "plane", "metric": "chebyshev", "decay": "square", "normalize": False,
                "locality_on": "activations",
            },
        ),
        (
            "--locality line --layers 7 7 --decay sqrt --normalize",
            MLP | PRIOR | {"locality": "line", "layers": [7, 7], "decay": "sqrt", "normalize": True},
        ),
        ("--model lenet --no-batch-norm", LENET | {"batch_norm": False}),
        ("--model lenet --batch-norm", LENET),
        ("--model lenet --optimizer Adam", LENET | {"optimizer": "Adam", "momentum": None}),
        ("--model lenet --optimizer RMSprop", LENET | {"optimizer": "RMSprop"}),
        ("--model lenet --momentum 0 --weight-decay 0", LENET | {"momentum": 0, "weight_decay": 0}),
        ("--model lenet --datasets KMNIST MNIST --epochs 3", LENET | {"datasets": ["KMNIST", "MNIST"], "epochs": 3}),
        ("--model lenet --schedule step", LENET | {"schedule": "step"}),
        ("--model alexnet", ALEXNET),
        ("--model alexnet --locality plane --metric cityblock", ALEXNET | PRIOR | {
            "locality": "plane", "metric": "cityblock",
        }),
        ("--model alexnet --dim 3 --no-batch-norm", ALEXNET | {"dim": 3, "batch_norm": False}),
        ("--model alexnet --schedule cosine --warmup 5", ALEXNET | {"schedule": "cosine", "warmup": 5}),
        ("--model alexnet --datasets CIFAR10 --epochs 3", ALEXNET | {"datasets": ["CIFAR10"], "epochs": 3}),
        ("--model alexnet --optimizer AdamW", ALEXNET | {"optimizer": "AdamW", "momentum": None}),
        ("--optimizer SGD", MLP | {"optimizer": "SGD", "momentum": 0}),
        ("--optimizer RMSprop --momentum 0.9", MLP | {"optimizer": "RMSprop", "momentum": 0.9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_given_is_the_models_default(words, expected):
    options = by_default(*words.split())
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("model", ["lenet", "alexnet"])
@pytest.mark.parametrize("name", ["normalize", "batch-norm", "compile"])
@pytest.mark.parametrize(("spelling", "value"), [("--{}", True), ("--no-{}", False)])
def test_what_is_on_or_off_is_spelled_as_dvc_does(model, name, spelling, value):
    """DVC renders ``batch_norm: false`` as ``--no-batch_norm``."""
    for each in (name, name.replace("-", "_")):
        options = by_default("--model", model, "--locality", "plane", spelling.format(each))
        assert options[name.replace("-", "_")] is value


def test_dvc_renders_a_prior_as_one_would_type_it():
    rendered = "--model lenet --locality plane --metric None --decay sqrt --no-normalize --locality_on activations"
    typed = "--model lenet --locality plane --decay sqrt --locality-on activations"
    assert by_default(*rendered.split()) == by_default(*typed.split())
    control = "--model lenet --locality none --metric None --decay None --normalize None --locality_on None"
    assert by_default(*control.split()) == by_default("--model", "lenet")


def test_a_control_may_say_that_the_prior_it_has_not_is_not_normalized():
    """So that one line of a params.yaml serves it too."""
    assert by_default("--model", "lenet", "--no-normalize") == by_default("--model", "lenet")


SHEETS = [
    "", "--layers 9 9", "--model conv --layers 9 9", "--model lenet", "--model lenet --locality plane",
    "--model lenet --locality line --no-batch-norm", "--model alexnet", "--model alexnet --dim 3",
    "--model alexnet --locality plane", "--model alexnet --locality line --no-batch-norm",
    *(
        f"--locality {locality} --layers {layers}"
        for locality in ("plane", "line")
        for layers in ("9 9", "1 1", "128 64 64 49 49", "9 9 9", "4 4 5 9 9", "9 9 4 9 9 16", "16 4 4 16")
    ),
    "--locality line --layers 50 50 7", "--locality line --layers 5 5 5 2 2",
]  # fmt: skip


@pytest.mark.parametrize("words", SHEETS)
def test_layers_that_lie_on_a_sheet_are_those_of_the_network(words):
    with narrow():
        options = by_default(*words.split())
    commands.train.check(options)
    model = network_of(options)
    names = list(graph.placed(model))
    assert [names[index] for index in sorted(commands.train.sheet_layers(options))] == graph.on_sheet(model)


def network_of(options):
    size = models.SMALLEST.get(options["model"], 16)
    arguments = models.constructor_arguments(options["model"], options, shape=(1, size, size), classes=(3, 2))
    return models.build(options["model"], arguments, 0, options["outputs"])


@pytest.mark.parametrize("locality", ["plane", "line"])
def test_widths_are_refused_exactly_where_the_network_cannot_be_made(locality):
    for depth, widths in ((1, range(1, 10)), (2, (1, 2, 4, 8, 9, 50)), (3, (1, 2, 4, 5)), (4, (3, 4))):
        for layers in product(widths, repeat=depth):
            options = by_default("--locality", locality, "--layers", *map(str, layers))
            accepted = True
            try:
                commands.train.check(options)
            except UserError:
                accepted = False
            if accepted:
                network_of(options)
            else:
                with pytest.raises(ValueError, match=r"a prior needs|a plane needs"):
                    network_of(options)


@pytest.mark.parametrize(
    "words",
    [
        "--layers 12 8", "--layers 12 8 --input-positions grid", "--layers 9 9 --locality plane",
        "--layers 4 9 9 --locality line", "--layers 9 9 4 9 9 --locality plane", "--model lenet",
        "--model lenet --locality plane", "--model conv --layers 5 5",
        "--layers 9 9 --locality line --input-positions grid", "--model alexnet", "--model alexnet --locality line",
    ],
)  # fmt: skip
def test_costs_and_rates_are_refused_exactly_where_no_place_would_be_learned(words):
    """What nothing reads by the command line is what training gives no rate of its own."""
    with narrow():
        places = network_of(by_default(*words.split()))
    last = len(graph.placed(places)) - 1
    wheres = [None, [0], [1], [last], [0, 1], [1, last], [0, last]]
    for where, outputs, transport, proximity in product(wheres, ("free", "held"), (0, 1), (0, 1)):
        given = ["--outputs", outputs, "--transport", str(transport), "--proximity", str(proximity)]
        given += [] if where is None else ["--where", *map(str, where)]
        names = list(graph.placed(places))

        def learned(transport, proximity, where=where, outputs=outputs, names=names):
            groups = parameter_groups(
                places, lr=0.1, weight_decay=0.0, position_lr=0.2, transport=transport, proximity=proximity,
                where=where, held=names[-1:] if outputs == "held" else (),
            )  # fmt: skip
            return len(groups) == 2

        if transport and where == [0] and "grid" not in words:
            expected = "--transport: no charged connection"
        elif proximity and not learned(0, 1):
            expected = "--proximity: nothing would read it"
        else:
            expected = None if learned(transport, proximity) else "--position-lr is read only where"
        assert refusal(*words.split(), *given, "--position-lr", "0.2").startswith(expected or "nothing"), given
        without = "nothing" if expected is None or "position-lr" in expected else expected
        assert refusal(*words.split(), *given).startswith(without), given
        if transport and not proximity and without == "nothing":
            for positions in ("frozen", "shuffled"):
                expected = "nothing" if learned(1, 0) else f"--positions {positions}: nothing would read it"
                if (positions, outputs) != ("shuffled", "held"):
                    assert refusal(*words.split(), *given, "--positions", positions).startswith(expected), given


def refusal(*words):
    """What is said of options that cannot be, and of others that nothing is."""
    try:
        commands.train.check(by_default(*words))
    except UserError as error:
        return str(error)
    return "nothing"


# Mistakes.


@pytest.fixture(scope="module")
def world(root, trained, tmp_path_factory):
    """Folders to go wrong in."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "stranger").mkdir()
    (folder / "stranger" / "notes.txt").write_text("mine")
    (folder / "file").write_text("a file")
    untrained = Run(folder / "untrained")
    storing.save_json(untrained.config_file, {"version": runs.VERSION, "options": Run(trained).options(), "data": {}})
    broken = Run(folder / "broken")
    storing.save_json(broken.config_file, {"version": runs.VERSION, "options": Run(trained).options(), "data": {}})
    broken.weights(0).parent.mkdir()
    broken.weights(0).write_text("seed,epoch\n")
    old = Run(folder / "old")
    storing.save_json(old.config_file, {"version": 1, "options": Run(trained).options(), "data": {}})
    said("train", folder / "plain", *small(root))  # and nothing else done
    said("train", folder / "split", *small(root))
    said("split", folder / "split", "--method", "balanced")
    said("train", folder / "tested", *small(root))
    said("record", folder / "tested", "--subset", "test")
    said("record", folder / "tested", "--by", "label")
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
    ("split new --extrakt", "unknown option '--extrakt': did you mean --extract?"),
    ("split plain --onnx", "--onnx exports the extracted parts: give --extract too"),
    ("split plain --method", "--method: expected at least one argument"),
    ("split plain --method greedy balancd", "--method: unknown value 'balancd': did you mean balanced?"),
    ("split plain --method greedy activations", "python main.py record plain --by task --subset train"),
    ("split tested --method activations random", "python main.py record tested --by task --subset train"),
    ("split tested --method activations --extract", "tested/activations/seed-0/task-train.npz: no such file"),
    ("record plain --by class", "--by: unknown value 'class': known are label, task"),
    ("train new another", "unexpected argument 'another'"),
    ("train new --lr", "--lr: expected one argument"),
    ("train new --layers", "--layers: expected at least one argument"),
    ("train new --optimizer Adma", "--optimizer: unknown value 'Adma': "),
    ("train new --norm l3", "--norm: unknown value 'l3': "),
    ("train new --model cnn", "--model: unknown value 'cnn': "),
    ("train new --activation relu", "--activation: unknown value 'relu': "),
    ("train new --schedule exp", "--schedule: unknown value 'exp': "),
    ("train new --outputs hold", "--outputs: unknown value 'hold': did you mean held?"),
    ("train new --positions fixed", "--positions: unknown value 'fixed': known are frozen, learned, shuffled"),
    ("train new --input-positions line", "--input-positions: unknown value 'line': known are grid"),
    ("train new --transport-per layer", "--transport-per: unknown value 'layer': "),
    ("train new --locality grid", "--locality: unknown value 'grid': known are line, none, plane"),
    ("train new --metric l2", "--metric: unknown value 'l2': known are chebyshev, cityblock, euclidean"),
    ("train new --decay squared", "--decay: unknown value 'squared': did you mean square?"),
    ("train new --locality-on weights", "--locality-on: unknown value 'weights': "),
    ("train new --locality", "--locality: expected one argument"),
    ("train new --normalise", "unknown option '--normalise': did you mean --normalize?"),
    ("train new --model lenett", "--model: unknown value 'lenett': did you mean lenet?"),
    ("train new --model alex", "--model: unknown value 'alex': did you mean alexnet?"),
    ("train new --precision fp16", "--precision: unknown value 'fp16': "),
    ("train new --accumulate 0", "--accumulate: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --save-every 0", "--save-every: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --warmup -1", "--warmup: -1 is out of range (give a number of at least 0)"),
    ("train new --warmup soon", "--warmup: 'soon' is not a number (give a number of at least 0)"),
    ("train new --workers 1025", "--workers: 1025 is out of range (give a whole number from 0 to 1,024)"),
    ("score plain --workers -1", "--workers: -1 is out of range (give a whole number from 0 to 1,024)"),
    ("record plain --device tpu", "--device: unknown value 'tpu': "),
    ("train new --input stack", "--input: unknown value 'stack': "),
    ("train new --device tpu", "--device: unknown value 'tpu': "),
    ("train new --device GPU", "--device: unknown value 'GPU': did you mean cuda?"),
    ("split plain plain", "unexpected argument 'plain': it is neither RUN, which is one folder and comes first, nor"),
    ("record plain --subset all", "--subset: unknown value 'all': "),
    ("plot plain --kind curve", "--kind: unknown value 'curve': "),
    ("train new --lr fast", "--lr: 'fast' is not a number (give a number above 0)"),
    ("train new --lr nan", "--lr: 'nan' is not a number (give a number above 0)"),
    ("train new --lr inf", "--lr: 'inf' is not a number (give a number above 0)"),
    ("train new --lr 1e39", "--lr: 1e39 is out of range (give a number above 0; float32 holds 1e-38 to 1e+38)"),
    ("train new --lr 5e-324", "--lr: 5e-324 is out of range (give a number above 0; float32 holds 1e-38 to 1e+38)"),
    ("train new --lr 1_0.5", "--lr: '1_0.5' is not a number (give a number above 0; write 10.5)"),
    ("train new --lr 0,01", "--lr: '0,01' is not a number (give a number above 0; write 0.01)"),
    ("train new --lr 0x1", "--lr: '0x1' is not a number (give a number above 0)"),
    ("train new --lr 0", "--lr: 0 is out of range (give a number above 0)"),
    ("train new --lr -1", "--lr: -1 is out of range (give a number above 0)"),
    ("train new --position-lr 0 --proximity 1", "--position-lr: 0 is out of range (give a number above 0)"),
    ("train new --transport -1", "--transport: -1 is out of range (give a number of at least 0)"),
    ("train new --transport 1e999", "--transport: 1e999 is out of range (give a number of at least 0; float32"),
    ("train new --proximity nan", "--proximity: 'nan' is not a number (give a number of at least 0)"),
    ("train new --weight-decay -0.1", "--weight-decay: -0.1 is out of range (give a number of at least 0)"),
    ("train new --momentum much", "--momentum: 'much' is not a number (give a number from 0 to 1)"),
    ("train new --momentum 1.5", "--momentum: 1.5 is out of range (give a number from 0 to 1)"),
    ("train new --weight-penalty -1", "--weight-penalty: -1 is out of range (give a number of at least 0)"),
    ("train new --holdout -1", "--holdout: -1 is out of range (give a whole number from 0 to 2,147,483,647)"),
    ("train new --holdout 0.1", "--holdout: '0.1' is not a whole number"),
    ("train new --resize 0", "--resize: 0 is out of range (give a whole number from 1 to 10,000)"),
    ("train new --epochs 0", "--epochs: 0 is out of range (give a whole number from 1 to 2,147,483,647)"),
    ("train new --epochs 1.5", "--epochs: '1.5' is not a whole number (give a whole number from 1 to 2,147,483,647)"),
    ("train new --epochs ten", "--epochs: 'ten' is not a whole number"),
    ("train new --epochs 1e3", "(give a whole number from 1 to 2,147,483,647; write 1000)"),
    ("train new --epochs 1_000", "--epochs: '1_000' is not a whole number (give"),
    ("train new --epochs +5", "2,147,483,647; write 5)"),
    ("train new --epochs ١٢", "2,147,483,647; write 12)"),
    ("train new --epochs 0x10", "--epochs: '0x10' is not a whole number (give a whole number from 1 to 2,147,483,647)"),
    ("train new --layers 12,8", "1,000,000; separate numbers by spaces)"),
    ("train new --resume=yes", "--resume: takes no value, got 'yes'"),
    ("train new --bogus None", "unknown option '--bogus'"),
    ("record plain --lr None", "unknown option '--lr'"),
    ("train new --root ~/data", "--root: '~/data': the shell has left the ~ as it is; write the folder out"),
    ("train new --root file/data", "--root: file: is a file, not a folder"),
    ("score plain --root=", "--root: '' is not a folder's name"),
    ("score file", "RUN: file: is a file, not a folder"),
    ("split file/run", "RUN: file: is a file, not a folder"),
    ("plot plain --against file", "--against: file: is a file, not a folder"),
    ("train new --batch-size 0", "--batch-size: 0 is out of range"),
    ("train new --layers 12 0", "--layers: 0 is out of range (give a whole number from 1 to 1,000,000)"),
    ("train new --dim 0", "--dim: 0 is out of range (give a whole number from 1 to 10,000)"),
    ("train new --seeds 0", "--seeds: 0 is out of range (give a whole number from 1 to 10,000)"),
    ("train new --seed -1", "--seed: -1 is out of range (give a whole number from 0 to 2,147,483,647)"),
    ("train new --replicas side --seeds 2", "--replicas: unknown value 'side': known are auto, sequential, together"),
    ("train new --replicas", "--replicas: expected one argument"),
    ("train new --compiled", "unknown option '--compiled': did you mean --compile?"),
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
    ("--model conv --input-positions grid", "--input-positions is read only by --model mlp, got conv"),
    ("--input-positions grid --dim 1", "--input-positions grid needs --dim 2 or more, got 1"),
    ("--positions frozen", "--positions frozen is a control of the transport cost: give --transport too"),
    ("--positions shuffled", "--positions shuffled is a control of the transport cost: give --transport too"),
    ("--positions frozen --proximity 1", "--positions frozen is a control of the transport cost"),
    ("--positions frozen --weight-penalty 1", "--positions frozen is a control of the transport cost"),
    ("--positions shuffled --outputs held --transport 1", "--positions shuffled moves the outputs"),
    (
        "--positions frozen --transport 1 --position-lr 0.1",
        "--position-lr is read only where positions are learned: give --transport or --proximity, and --positions",
    ),
    ("--positions frozen --transport 1 --proximity 1", "--proximity is read only where positions are learned"),
    (
        "--outputs held --proximity 1 --where 2",
        "--proximity: nothing would read it, the places of --where 2 are never learned (on a sheet, or outputs held)",
    ),
    ("--position-lr 0.1 --weight-penalty 1", "--position-lr is read only where positions are learned"),
    ("--weight-penalty 1 --where 0", "--weight-penalty: no charged connection"),
    ("--model conv --transport 1 --where 0", "--transport: no charged connection"),
    ("--model conv --layers 4 --where 2", "--where 2: there is no such layer, give 0 to 1"),
    ("--model conv --batch-size 1", "--batch-size 1: the batch norm of --model conv needs 2 images or more"),
    ("--model lenet --layers 49 49", "--layers is read only by --model mlp or conv, got lenet"),
    ("--model lenet --activation ReLU", "--activation is read only by --model mlp or conv, got lenet"),
    ("--model lenet --dim 2", "--dim is read only by --model mlp or conv or alexnet, got lenet"),
    ("--model lenet --input-positions grid", "--input-positions is read only by --model mlp, got lenet"),
    ("--batch-norm", "--batch-norm is read only by --model lenet or alexnet, got mlp"),
    ("--no-batch-norm", "--batch-norm is read only by --model lenet or alexnet, got mlp"),
    ("--model conv --no-batch-norm", "--batch-norm is read only by --model lenet or alexnet, got conv"),
    ("--model lenet --batch-size 1", "--batch-size 1: the batch norm of --model lenet needs 2 images or more"),
    ("--model lenet --batch-norm --batch-size 1", "--batch-size 1: the batch norm of --model lenet needs 2 images"),
    ("--model lenet", "--model lenet needs images of 16 x 16 pixels or more, got 8 x 8; try --resize 28"),
    ("--model lenet --resize 15", "--model lenet needs images of 16 x 16 pixels or more, got 15 x 15; try --resize 28"),
    ("--model alexnet --layers 9 9", "--layers is read only by --model mlp or conv, got alexnet"),
    ("--model alexnet --activation ReLU", "--activation is read only by --model mlp or conv, got alexnet"),
    ("--model alexnet --input-positions grid", "--input-positions is read only by --model mlp, got alexnet"),
    ("--model alexnet --locality plane --dim 3", "--locality plane needs --dim 2, got 3"),
    ("--model alexnet --batch-size 1", "--batch-size 1: the batch norm of --model alexnet needs 2 images or more"),
    ("--model alexnet", "--model alexnet needs images of 63 x 63 pixels or more, got 8 x 8; try --resize 63"),
    ("--model alexnet --resize 62", "needs images of 63 x 63 pixels or more, got 62 x 62; try --resize 63"),
    (
        "--model alexnet --locality plane --proximity 1 --where 0 1",
        "--proximity: nothing would read it, the places of --where 0 1 are never learned",
    ),
    (
        "--model lenet --optimizer Adam --momentum 0.5",
        "--momentum is read only by --optimizer SGD or RMSprop, got Adam",
    ),
    ("--model conv --locality plane", "--locality is read only by --model mlp or lenet or alexnet, got conv"),
    ("--metric euclidean", "--metric is read only with --locality line or plane"),
    ("--decay linear", "--decay is read only with --locality line or plane"),
    ("--normalize", "--normalize is read only with --locality line or plane"),
    ("--locality-on connections", "--locality-on is read only with --locality line or plane"),
    ("--model lenet --locality none --decay sqrt", "--decay is read only with --locality line or plane"),
    (
        "--layers 9 9 --locality line --metric euclidean",
        "--metric is read only with --locality plane: on a line all metrics are the same",
    ),
    (
        "--locality plane",
        "--locality plane needs a hidden layer as wide as the one before it, got --layers 12 8",
    ),
    (
        "--model lenet --locality plane --normalize --locality-on activations",
        "--normalize makes every gain of --locality-on activations 1: nothing would be left of the prior",
    ),
    ("--locality line --layers 9", "--locality line needs a hidden layer as wide as the one before it, got --layers 9"),
    (
        "--locality plane --layers 50 50",
        "--locality plane needs layers of square widths, got 50; the nearest are 49 and 64",
    ),
    (
        "--locality plane --layers 9 9 5 2 2",
        "--locality plane needs layers of square widths, got 2; the nearest are 1 and 4",
    ),
    ("--locality line --layers 9 9 --dim 3", "--locality line needs --dim 2, got 3"),
    ("--locality plane --layers 9 9 --dim 1", "--locality plane needs --dim 2, got 1"),
    (
        "--locality plane --layers 9 9 --proximity 1 --where 1 0",
        "--proximity: nothing would read it, the places of --where 0 1 are never learned (on a sheet, or outputs held)",
    ),
    (
        "--model lenet --proximity 1 --outputs held",
        "--proximity: nothing would read it, the places of --where 0 1 2 are never learned",
    ),
    (
        "--model lenet --transport 1 --where 1 --position-lr 0.1",
        "--position-lr is read only where positions are learned: give --transport or --proximity of a layer that is "
        "neither on a sheet nor held",
    ),
    (
        "--model lenet --transport 1 --where 1 --positions shuffled",
        "--positions shuffled: nothing would read it, the layers that --transport charges lie on sheets and are never",
    ),
    (
        "--layers 9 9 --locality plane --transport 1 --where 1 --positions frozen",
        "--positions frozen: nothing would read it",
    ),
    ("--model lenet --position-lr 0.1", "--position-lr is read only where positions are learned"),
    ("--model lenet --transport 1 --where 0", "--transport: no charged connection"),
    ("--replicas together", "--replicas together is read only with --seeds 2 or more"),
    ("--replicas sequential --seeds 1", "--replicas sequential is read only with --seeds 2 or more"),
    (
        "--compile --seeds 2 --replicas together --weight-penalty 1",
        "--compile: nothing would read it, of --replicas together only --transport and --proximity are",
    ),
    ("--root new", "--root new: lies in the run's folder, which holds nothing but the run; keep the data elsewhere"),
    ("--root new/data", "--root new/data: lies in the run's folder"),
    (
        "--model lenet --resize 16 --seeds 2 --replicas together",
        "--replicas together: lenet has dropout, which every seed must draw by itself",
    ),
    (
        "--model alexnet --resize 63 --seeds 2 --replicas together",
        "--replicas together: alexnet has dropout, which every seed must draw by itself",
    ),
    ("--accumulate 3", "--accumulate 3: --batch-size 32 does not divide; give 30 or 33, for example"),
    ("--accumulate 33", "--accumulate 33: --batch-size 32 does not divide; give 33, for example"),
    (
        "--model conv --accumulate 32",
        "--batch-size 32 --accumulate 32: the batch norm of --model conv needs 2 images or more",
    ),
    ("--warmup 2.5", "--warmup 2.5 is longer than --epochs 2"),
    ("--workers 0", "--workers is read only with --datasets ImageNet: other images are held in memory"),
    ("--workers 2", "--workers is read only with --datasets ImageNet: other images are held in memory"),
    ("--trust-images", "--trust-images is read only with --datasets ImageNet: other images are held in memory"),
    ("--datasets Alpha ImageNet", "--datasets Alpha ImageNet: ImageNet is trained alone, its images stay in files"),
    ("--holdout 100", "--holdout 100: Beta has 100 training images, leave some to train on"),
    ("--layers 1000000 1000000", "--layers 1000000 1000000: training needs 29,80"),
    ("--layers 100 --dim 10000 --seeds 10000", "--seeds 10000: training needs "),
    ("--resize 10000", "--resize 10000: the images need "),
    ("--holdout 1000", "--holdout 1000: Alpha has 120 training images"),
    ("--device cuda", "--device cuda: there is none here; use --device cpu"),
    ("--resume", "new: no such folder, there is nothing to --resume"),
]


@pytest.mark.parametrize(("words", "fragment"), TRAINING, ids=[words for words, _ in TRAINING])
def test_training_that_cannot_be_is_one_line(world, root, capsys, monkeypatch, words, fragment):
    monkeypatch.chdir(world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(process, "memory", lambda: 2**34)
    assert_mistake(world, capsys, ["train", "new", *small(root, *words.split())], fragment)


@pytest.mark.parametrize("words", ["--model conv", "--model lenet --resize 16", "--model alexnet --resize 63"])
def test_a_batch_norm_with_a_single_image_is_one_line(root, tmp_path, capsys, words):
    words = small(root, *words.split(), "--holdout", "119", names=("Alpha",))
    assert_mistake(tmp_path, capsys, ["train", tmp_path / "run", *words], "batch norm")


def test_without_its_batch_norm_lenet_learns_from_a_single_image(root, tmp_path):
    words = ["--model", "lenet", "--resize", "16", "--no-batch-norm", "--batch-size", "1", "--holdout", "119"]
    said("train", tmp_path / "run", *small(root, *words, names=("Alpha",)))


FOLDERS = [  # what is typed, DATA standing for a command line that is right, and what is said
    (
        "train stranger DATA",
        "stranger: exists and is not empty; the same command with --resume continues it, --overwrite starts it anew",
    ),
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
    ("record old", "old/config.json: not a config.json of this program's version 2"),
    ("split old", "old/config.json: not a config.json of this program's version 2"),
    ("score old", "old/config.json: not a config.json of this program's version 2"),
    ("plot old", "old/config.json: not a config.json of this program's version 2"),
    ("train plain DATA --resume --model conv", "--model was mlp and is conv"),
    (
        "train plain DATA --resume --outputs held --holdout 9",
        "--holdout was 0 and is 9; --outputs was free and is held",
    ),
    ("plot split --method balencd", "did you mean balanced"),
    ("plot split --seed 3", "--seed 3: split has the seeds 0"),
    ("plot split --kind curves --method balanced", "--method balanced is not read by --kind curves"),
    ("plot split --kind scores curves --seed 0", "--seed 0 is not read by --kind scores curves"),
    ("plot split --against plain --method balanced", "--method balanced is not read by --kind maps variance filters"),
    ("plot split --kind curves --against plain", "--against is read only by --kind maps variance filters, got curves"),
    ("plot split --against plain", "there is nothing to draw: plain: no hidden layer lies on a sheet"),
    ("score split --against ./split", "--against split: is the run itself"),
    ("score split --against plain", "plain/scores.csv: no such file; make it with: python main.py score plain"),
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


def test_generated_files_are_what_the_commands_read(root):
    assert sorted(path.name for path in (root / "Alpha" / "raw").iterdir()) == sorted(generated.FILES)
    assert json.loads(json.dumps(train_options(root)))["datasets"] == ["Alpha", "Beta"]


@pytest.fixture(scope="module")
def worked_on(root, tmp_path_factory):
    """A trained run, split and recorded."""
    run = Run(tmp_path_factory.mktemp("worked-on") / "run")
    said("train", run.folder, *small(root))
    said("record", run.folder)
    said("record", run.folder, "--subset", "test")
    said("split", run.folder, "--extract")
    return run.folder


def copied(worked_on, tmp_path):
    """A run to spoil."""
    return Run(shutil.copytree(worked_on, tmp_path / "run"))


SPOILED = {
    "config of an older version": (
        "score",
        lambda run: storing.save_json(run.config_file, run.config() | {"version": 1}),
    ),
    "config without options": ("score", lambda run: storing.save_json(run.config_file, {"version": 2, "options": {}})),
    "config with a wrong type": ("split", lambda run: edit_config(run, seeds="2")),
    "config of an older form": ("record", lambda run: edit_config(run, holdout=None)),
    "owners of another network": ("score", lambda run: storing.save_arrays(run.owners("greedy", 0), wrong_layers())),
    "owners of an older form": (
        "score",
        lambda run: edit_owners(run, lambda arrays: {name: arrays[name] for name in arrays if "k" not in name}),
    ),
    "owners of other tasks": (
        "score",
        lambda run: edit_owners(run, lambda arrays: arrays | {"layer-1/k": np.ones((3, 8))}),
    ),
    "owners of another network, drawn": (
        "plot --kind positions",
        lambda run: storing.save_arrays(run.owners("greedy", 0), wrong_layers()),
    ),
    "owners that are words": ("score", lambda run: edit_owners(run, lambda arrays: as_type(arrays, "layer-0", str))),
    "owners without a task": ("score", lambda run: edit_owners(run, lambda arrays: plus(arrays, "layer-0", 7))),
    "owners between tasks": ("plot --kind positions", lambda run: edit_owners(run, lambda a: plus(a, "layer-0", 0.5))),
    "factors that are no numbers": ("score", lambda run: edit_owners(run, lambda a: plus(a, "layer-0/k", np.nan))),
    "factors above 1": ("plot --kind wiring", lambda run: edit_owners(run, lambda a: plus(a, "layer-1/k", 0.1))),
    "activations that are no numbers": (
        "split --method activations",
        lambda run: edit_activations(run, plus(recorded(run), "layer-0/mean_abs", np.nan)),
    ),
    "activations below 0": (
        "plot --kind activations",
        lambda run: edit_activations(run, plus(recorded(run), "layer-1/mean_abs", -9)),
    ),
    "activations that are words": (
        "split --method activations",
        lambda run: edit_activations(run, as_type(recorded(run), "layer-0/mean_abs", str)),
    ),
    "a part of another network": (
        "score",
        lambda run: run.part("greedy", 0, "Beta").write_bytes(run.extracted("greedy", 0, "Beta").read_bytes()),
    ),
    "an extracted part of another task": (
        "score",
        lambda run: run.extracted("greedy", 0, "Beta").write_bytes(run.extracted("greedy", 0, "Alpha").read_bytes()),
    ),
    "transfer without a part": ("plot --kind transfer", lambda run: without_last_row(run, run.transfer)),
    "scores without a task": ("plot --kind scores", lambda run: without_last_row(run, run.scores)),
    "a part that is none": ("score", lambda run: run.part("greedy", 0, "Beta").write_text("part")),
    "an extracted part that is none": ("score", lambda run: run.extracted("greedy", 0, "Beta").write_text("part")),
    "no part": ("score", lambda run: run.part("greedy", 0, "Beta").unlink()),
    "history without columns": ("plot --kind curves", lambda run: run.history.write_text("seed,epoch\n0,1\n")),
    "history cut short": ("plot --kind curves", lambda run: run.history.write_text(run.history.read_text()[:-30])),
    "activations of something else": ("split --method activations", lambda run: edit_activations(run, wrong_layers())),
    "activations of something else, drawn": (
        "plot --kind activations",
        lambda run: edit_activations(run, wrong_layers()),
    ),
    "activations of other tasks": (
        "split --method greedy activations",
        lambda run: edit_activations(run, wrong_rows(run)),
    ),
}


def as_type(arrays, name, kind):
    return arrays | {name: arrays[name].astype(kind)}


def plus(arrays, name, change):
    return arrays | {name: arrays[name] + change}


def recorded(run):
    return storing.load_arrays(run.activations(0, "task", "train"))


def without_last_row(run, path):
    assert command("score", run.folder) == 0
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def edit_owners(run, change):
    storing.save_arrays(run.owners("greedy", 0), change(storing.load_arrays(run.owners("greedy", 0))))


def edit_activations(run, arrays):
    for subset in ("train", "test"):
        storing.save_arrays(run.activations(0, "task", subset), arrays)


def wrong_rows(run):
    arrays = storing.load_arrays(run.activations(0, "task", "train"))
    return {name: each[:1] for name, each in arrays.items()}


def edit_config(run, **options):
    config = run.config()
    storing.save_json(run.config_file, {**config, "options": {**config["options"], **options}})


def wrong_layers():
    return {f"layer-{index}": np.zeros(2, int) for index in range(3)}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_one_line_that_names_it(worked_on, tmp_path, capsys, case):
    words, spoil = SPOILED[case]
    run = copied(worked_on, tmp_path)
    spoil(run)
    before = tree(run.folder)
    name, *options = words.split()
    assert command(name, run.folder, *options) == 2
    error = capsys.readouterr().err
    assert tree(run.folder) == before
    assert error.startswith(f"main.py {name}: error: {run.folder}/") and error.count("\n") == 1


def test_scores_of_other_splits_than_there_are_are_not_drawn(worked_on, tmp_path, capsys):
    run = copied(worked_on, tmp_path)
    assert command("score", run.folder) == 0
    assert command("split", run.folder, "--method", "random") == 0
    capsys.readouterr()
    assert command("plot", run.folder, "--kind", "scores") == 2
    assert "is of other splits than there are now; make it again with: python main.py score" in capsys.readouterr().err


def test_an_unfinished_split_is_named(worked_on, tmp_path, capsys):
    run = copied(worked_on, tmp_path)
    run.owners("greedy", 0).unlink()
    assert command("score", run.folder) == 0
    assert (
        f"greedy: left out, it is unfinished: python main.py split {run.folder} --method greedy"
        in capsys.readouterr().out
    )


def test_an_unfinished_extraction_does_not_stop_scoring(worked_on, tmp_path, capsys):
    run = copied(worked_on, tmp_path)
    run.extracted("greedy", 0, "Alpha").unlink()
    assert command("score", run.folder) == 0
    assert [(row["method"], row["task"]) for row in storing.read_table(run.scores) if row["parameters"] == ""] == [
        ("greedy", "Alpha")
    ]


def test_a_network_too_large_for_the_memory_is_one_line(root, tmp_path, capsys, monkeypatch):
    def build(*given):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(experiment, "build", build)
    assert command("train", tmp_path / "run", *small(root)) == 2
    assert capsys.readouterr().err == (
        "main.py train: error: not enough memory; a smaller network, --batch-size or --resize may help\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_of_which_torch_makes_an_error_ends_in_order(tmp_path, capsys, monkeypatch, number, status, said):
    """functorch, left in the middle, puts a failed assertion of its own in the interruption's place."""

    def run(_):
        try:
            process.stop(number, None)
        except KeyboardInterrupt:
            raise RuntimeError("INTERNAL ASSERT FAILED at DynamicLayer.cpp") from None

    monkeypatch.setattr(commands.train, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(process, "asked", None)
    assert command("train", tmp_path / "run") == status
    assert capsys.readouterr().err == f"main.py train: {said}; the same command with --resume continues it\n"


@pytest.mark.slow
def test_lenet_learns_real_digits_with_the_prior_and_without(tmp_path):
    words = ["--root", str(tmp_path / "data"), "--model", "lenet", "--epochs", "1", "--device", "cpu"]
    for name, own in (("control", []), ("local", ["--locality", "plane"])):
        assert command("train", str(tmp_path / name), *words, *own) == 0
    assert command("score", str(tmp_path / "control")) == 0
    assert command("score", str(tmp_path / "local"), "--against", str(tmp_path / "control")) == 0
    found = storing.read_json(tmp_path / "local" / "against" / "control.json")
    accuracy = found["accuracy"]["whole"]["MNIST"]
    assert accuracy["a"] > 0.9 and accuracy["b"] > 0.9
    assert found["variance"]["layer-1"]["plane"]["images"]["seed-0"]["n"] == 10_000
