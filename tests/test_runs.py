import numpy as np
import pytest
import torch
from helpers import (
    NAMES,
    alexnet,
    configured,
    conv,
    lenet,
    mlp,
    reoptioned,
    same_state,
    split,
    train_options,
)

from spatial import graph, models, runs, splitting, storing
from spatial.errors import UserError
from spatial.runs import LAYOUT, VERSION, Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_paths_are_the_layouts(run):
    paths = {
        run.weights(0): "weights/seed-0.pt",
        run.resume(1): "resume/seed-1.pt",
        run.activations(0, "task", "train"): "activations/seed-0/task-train.npz",
        run.activations(3, "label", "test"): "activations/seed-3/label-test.npz",
        run.part("greedy", 0, "MNIST@permuted"): "parts/greedy/seed-0/MNIST@permuted.pt",
        run.extracted("greedy", 0, "MNIST@permuted"): "parts/greedy/seed-0/MNIST@permuted-extracted.pt",
        run.extracted("greedy", 0, "A").with_suffix(".onnx"): "parts/greedy/seed-0/A-extracted.onnx",
        run.owners("random", 2): "parts/random/seed-2/owners.npz",
        run.figures / "positions.png": "figures/positions.png",
        run.report: "figures/report.html",
        run.against(Run(run.folder / ".." / "control")): "against/control.json",
    }
    for path, expected in paths.items():
        assert path == run.folder / expected
        assert any(path.relative_to(run.folder).match(pattern) for pattern in LAYOUT)


@pytest.mark.parametrize(
    "name",
    [
        "config_file", "history", "positions", "scores", "transfer", "measures", "metrics", "environment", "timing",
        "variance", "variances",
    ],
)  # fmt: skip
def test_every_file_of_a_run_is_in_the_layout(run, name):
    assert getattr(run, name).name in LAYOUT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.write_text("a file"), "no such folder"),
        (lambda folder: folder.mkdir(), "not a run, it has no config.json"),
        (
            lambda folder: storing.save_json(folder / "config.json", {"version": 1, "options": {}}),
            "not a config.json of this program's version 2",
        ),
        (
            lambda folder: storing.save_json(folder / "config.json", [1]),
            "not a config.json of this program's version 2",
        ),
        (
            lambda folder: storing.save_json(folder / "config.json", {"version": VERSION}),
            "not a config.json of this program's version 2",
        ),
    ],
    ids=["missing", "file", "empty", "old version", "list", "no options"],
)
def test_what_is_no_run_is_refused(run, make, message):
    make(run.folder)
    with pytest.raises(UserError, match=f"run.*: {message}"):
        run.config()


OPTIONS = {  # what a config.json cannot say, and what it should
    "datasets": ["Alpha", None, [], [1], ["MNIST", 1], ["MNIST", "MNIST"], ["../../x"], ["MNSIT"],
                 ["\33[2J"], ["ImageNet", "MNIST"], ["MNIST@permuted@permuted"], {"MNIST": 1}, [["MNIST"]]],
    "input": [None, "mixed", ["mix"], 0],
    "root": [None, 3, "a\0b", "a\33[2J", "a\nb"],
    "seed": [None, -1, 2**31, 1.0, "0", True],
    "seeds": [0, -1, runs.MOST_SEEDS + 1, 10**100, 1.5, True, None],
    "epochs": [0, None, "2", 2**31],
    "holdout": [None, -1, True, 2.0],
    "resize": [0, -4, "8", 10**6, 8.0, False],
    "outputs": [None, "frei", ["free"]],
    "transport": [None, -1, True, "3"],
    "proximity": [None, -0.1, [], False],
    "norm": [None, "l3"],
    "transport_per": [None, "unit"],
    "model": [None, "transformer", 1, ["mlp"]],
    "locality": [None, "ring"],
    "trust_images": [None, 1, "yes"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values])
def test_an_option_that_cannot_be_is_named(run, name, value):
    with pytest.raises(UserError, match=r"run/config\.json: ") as error:
        configured(run, **{name: value}).options()
    assert str(error.value).isprintable() and (name in str(error.value) or "data set" in str(error.value))


def test_every_option_that_is_read_later_is_asked():
    assert set(OPTIONS) == set(runs.READ_LATER)


def test_options_that_came_later_need_not_be_there(run):
    config = storing.read_json(configured(run).config_file)
    for name in runs.LATER:
        del config["options"][name]
    storing.save_json(run.config_file, config)
    assert run.options()["locality"] == "none" and not run.options()["trust_images"]


@pytest.mark.parametrize("data", [None, [], {"MNIST": None}, {"MNIST": []}, 3], ids=str)
def test_checksums_that_are_none_are_refused(run, data):
    storing.save_json(run.config_file, storing.read_json(configured(run).config_file) | {"data": data})
    with pytest.raises(UserError, match=r"config\.json: not a config\.json of this program's version 2"):
        run.config()


ANOTHER = r"weights/seed-0\.pt: is not the network that .*config\.json asks for"


def test_a_network_is_the_one_that_was_asked_for(run):
    made = {"mlp": mlp((1, 4, 4), (12, 8), (3, 2)), "conv": conv((1, 6, 6), (12, 8)), "lenet": lenet()}
    for name, network in made.items():
        configured(run, **train_options("data", "--model", name, names=("MNIST", "FashionMNIST")))
        if name != "lenet":
            reoptioned(run, layers=[12, 8])
        for other, stored in made.items():
            storing.save(run.weights(0), models.pack(stored))
            if name == other:
                assert same_state(run.network(0), network)
            else:
                with pytest.raises(UserError, match=ANOTHER):
                    run.network(0)


CHANGES = {"layers": [12, 9], "dim": 3, "activation": "Tanh", "datasets": ["MNIST"], "input_positions": "grid"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_of_other_options_is_refused(run, name):
    storing.save(configured(run).weights(0), models.pack(mlp((1, 4, 4), (12, 8), (3, 2))))
    run.network(0)
    with pytest.raises(UserError, match=ANOTHER):
        reoptioned(run, **{name: CHANGES[name]}).network(0)


def test_a_config_that_says_too_little_of_its_network_is_named(run):
    storing.save(configured(run).weights(0), models.pack(mlp((1, 4, 4), (12, 8), (3, 2))))
    config = storing.read_json(run.config_file)
    del config["options"]["activation"]
    storing.save_json(run.config_file, config)
    with pytest.raises(UserError, match=r"config\.json: does not say activation, which makes the network"):
        run.network(0)


@pytest.mark.parametrize("network", [mlp((1, 8, 8), (12, 8), (3, 4)), mlp((1, 4, 16), (12, 8), (4, 3))])
def test_a_network_of_other_images_is_refused(run, root, network):
    configured(run, datasets=NAMES[:2], root=str(root)).tasks("test")
    storing.save(run.weights(0), models.pack(network))
    with pytest.raises(UserError, match=r"weights/seed-0\.pt: is of other images than those of"):
        run.tasks("test")


def test_seeds_are_those_of_the_options(run):
    assert configured(run, seed=3, seeds=2).seeds() == [3, 4]


def test_an_untrained_seed_is_named(run):
    with pytest.raises(UserError, match=r"weights/seed-0\.pt: no such file, training has not finished"):
        run.network(0)


def test_methods_are_the_splits_that_every_seed_has(run):
    configured(run, seed=0, seeds=2)
    for method, seed in [("greedy", 0), ("greedy", 1), ("random", 0)]:
        storing.save_arrays(run.owners(method, seed), {"layer-0": np.arange(2)})
    assert run.methods() == ["greedy"]
    assert run.methods(complete=False) == ["random"]


# What `split` and `record` write.


@pytest.mark.parametrize("network", [mlp, conv, alexnet])
@pytest.mark.parametrize("method", splitting.METHODS)
def test_a_split_comes_back(run, network, method):
    model, made = network(), configured(run)
    k, owners = split(model, method)
    made.save_split(method, 3, k, owners)
    again_k, again_owners = made.split(method, 3, model)
    assert list(again_k) == list(again_owners) == list(graph.placed(model))
    for layer in k:
        assert torch.equal(again_k[layer], k[layer]) and torch.equal(again_owners[layer], owners[layer])
    stored = storing.load_arrays(run.owners(method, 3))
    assert set(stored) == {f"layer-{index}{end}" for index in range(3) for end in ("", "/k")}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: {name: each for name, each in arrays.items() if "k" not in name}, "cannot be read as arrays"),
        (lambda arrays: arrays | {"layer-1": np.zeros(4, int)}, r"layer-1 has the shape \(4,\)"),
        (lambda arrays: arrays | {"layer-0/k": np.zeros((3, 6))}, r"layer-0/k has the shape \(3, 6\)"),
        (lambda arrays: arrays | {"layer-2/k": np.zeros((2, 6))}, r"layer-2/k has the shape \(2, 6\)"),
    ],
    ids=["an older form", "units", "tasks", "outputs"],
)
def test_a_split_of_another_form_or_network_is_named(run, spoil, message):
    model = mlp()
    configured(run).save_split("greedy", 0, *split(model, "greedy"))
    storing.save_arrays(run.owners("greedy", 0), spoil(storing.load_arrays(run.owners("greedy", 0))))
    with pytest.raises(UserError, match=rf"parts/greedy/seed-0/owners\.npz: {message}"):
        run.split("greedy", 0, model)


def test_a_split_that_was_not_made_is_named(run):
    with pytest.raises(UserError, match=r"parts/greedy/seed-0/owners\.npz: no such file"):
        configured(run).split("greedy", 0, mlp())


def test_extracted_networks_are_those_that_there_are(run):
    model = mlp()
    configured(run)
    assert run.extracted_networks("greedy", 0, model) == {}
    part = splitting.extract(model, split(model, "greedy").k, 1)
    storing.save(run.extracted("greedy", 0, "FashionMNIST"), models.pack(part, task="FashionMNIST"))
    (name, again), *others = run.extracted_networks("greedy", 0, model).items()
    images = torch.rand(3, 1, 4, 4)
    assert (name, others) == ("FashionMNIST", []) and torch.equal(again(images), part(images))


def recorded_arrays(model, rows):
    """Arrays as `record` writes them, each number another."""
    units = [len(place) for place in list(graph.positions(model).values())[:-1]]
    arrays = {"count": np.arange(rows)}
    for layer, n in enumerate(units):
        for start, measure in enumerate(("mean", "mean_abs", "variance")):
            arrays[f"layer-{layer}/{measure}"] = np.arange(rows * n).reshape(rows, n) + 100 * layer + 1000.0 * start
    return arrays


@pytest.mark.parametrize(("by", "rows"), [("task", 2), ("label", 5)])
@pytest.mark.parametrize("subset", ["train", "test"])
@pytest.mark.parametrize("network", [mlp, conv, alexnet])
def test_what_was_recorded_comes_back_by_measure_and_layer(run, network, by, rows, subset):
    model = network()
    arrays = recorded_arrays(model, rows)
    storing.save_arrays(run.activations(4, by, subset), arrays)
    found = run.recorded(by, subset, 4, model)
    assert list(found) == ["mean", "mean_abs", "variance"]
    for measure, layers in found.items():
        assert list(layers) == list(graph.placed(model))[:-1]
        for index, values in enumerate(layers.values()):
            assert np.array_equal(values.numpy(), arrays[f"layer-{index}/{measure}"])


def test_what_was_not_recorded_is_named_with_the_command(run):
    storing.save_arrays(run.activations(0, "task", "test"), recorded_arrays(mlp(), 2))
    with pytest.raises(UserError, match=r"task-train\.npz: no such file.*record .*run --by task --subset train"):
        run.recorded("task", "train", 0, mlp())
    with pytest.raises(UserError, match=r"label-test\.npz: no such file.*record .*run --by label --subset test"):
        run.recorded("label", "test", 0, mlp())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (recorded_arrays(mlp(), 3), r"layer-0/mean has the shape \(3, 6\)"),
        (recorded_arrays(mlp(layers=(6, 4)), 2), r"layer-1/mean has the shape \(2, 4\)"),
        (recorded_arrays(mlp(layers=(6,)), 2), "cannot be read as arrays"),
    ],
    ids=["tasks", "units", "layers"],
)
def test_what_was_recorded_of_another_network_is_named(run, arrays, message):
    storing.save_arrays(run.activations(0, "task", "train"), arrays)
    with pytest.raises(UserError, match=rf"activations/seed-0/task-train\.npz: {message}"):
        run.recorded("task", "train", 0, mlp())


def map_arrays(seeds=(0, 1), layers=("layer-0/line", "layer-0/plane", "layer-1/line"), inputs=6):
    """Arrays as `score` writes them, each number another, the first of every array an empty map's."""
    arrays = {}
    for number, name in enumerate(f"seed-{seed}/{layer}" for seed in seeds for layer in layers):
        arrays[name] = 100.0 * number + np.arange(inputs)
        arrays[name][0] = np.nan
    return arrays | {"labels": np.stack([np.arange(inputs) % 4, np.arange(inputs) % 3 - 1], 1)}


def test_what_score_measured_of_maps_comes_back_by_layer_and_seed(run):
    arrays = map_arrays(seeds=(3, 4))
    storing.save_arrays(configured(run, seed=3, seeds=2).variances, arrays)
    labels, found = run.map_variances()
    assert np.array_equal(labels, arrays.pop("labels"))
    assert list(found) == ["layer-0/line", "layer-0/plane", "layer-1/line"]
    assert all(list(each) == [3, 4] for each in found.values())
    for layer, seeds in found.items():
        for seed, values in seeds.items():
            assert np.array_equal(values, arrays[f"seed-{seed}/{layer}"], equal_nan=True)


def test_without_maps_there_are_no_variances(run):
    labels, found = configured(run).map_variances()
    assert (len(labels), found) == (0, {})


def without(arrays, *ends):
    return {name: each for name, each in arrays.items() if not name.endswith(ends)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: without(arrays, "labels"),
        lambda arrays: arrays | {"labels": arrays["labels"][:, 0]},
        lambda arrays: arrays | {"labels": arrays["labels"][:-1]},
        lambda arrays: arrays | {"labels": arrays["labels"].astype(float)},
        lambda arrays: without(arrays, "seed-1/layer-0/line", "seed-1/layer-0/plane", "seed-1/layer-1/line"),
        lambda arrays: without(arrays, "seed-1/layer-0/plane"),
        lambda arrays: without(arrays, "seed-0/layer-1/line"),
        lambda arrays: arrays | {"seed-2/layer-0/line": np.zeros(6)},
        lambda arrays: arrays | {"seed-0/layer-0/plane": np.zeros(5)},
        lambda arrays: arrays | {"seed-0/layer-0/plane": np.zeros((6, 1))},
        lambda arrays: arrays | {"seed-0/layer-0/plane": np.zeros(6, int)},
        lambda arrays: arrays | {"seed-0/layer-0/plane": np.array(["far"] * 6)},
        lambda arrays: {"labels": arrays["labels"]},
        lambda arrays: map_arrays(seeds=(1, 0)),
        lambda arrays: {},
    ],
    ids=[
        "no labels", "one column of labels", "fewer labels", "labels as floats", "a seed is missing",
        "a sheet is missing", "a layer of the first seed is missing", "a foreign seed", "another shape",
        "another dimension", "whole numbers", "words", "no maps", "seeds in another order", "nothing",
    ],
)  # fmt: skip
def test_variances_that_do_not_fit_the_run_are_named(run, spoil):
    storing.save_arrays(configured(run, seeds=2).variances, spoil(map_arrays()))
    with pytest.raises(UserError, match=r"variance\.npz: (does not fit the run; make it again with|cannot be read)"):
        run.map_variances()


def test_damaged_variances_are_named(run):
    configured(run).variances.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"variance\.npz: cannot be read as arrays"):
        run.map_variances()


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ("none", [], ["plane"]), ("plane", [], ["plane"]), ("line", [], ["line"]),
        ("none", ["line"], ["line"]), ("line", ["none"], ["line"]), ("plane", ["line"], ["line", "plane"]),
        ("none", ["none"], ["plane"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_is_about_the_sheets_of_its_prior_or_its_controls(tmp_path, own, others, expected):
    made = [configured(Run(tmp_path / str(index)), locality=prior) for index, prior in enumerate([own, *others])]
    assert sorted(made[0].sheets(*made[1:])) == expected


def test_a_run_has_its_folders_name(tmp_path, monkeypatch):
    (tmp_path / "local").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "local", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "local")
    assert {Run(each).name for each in (".", tmp_path / "local", "../local/", "../linked")} == {"local"}


@pytest.mark.parametrize(
    ("options", "subset", "sizes", "side"),
    [
        ({}, "train", (120, 100), 8), ({}, "test", (40, 33), 8),
        ({"holdout": 30}, "train", (90, 70), 8), ({"holdout": 30, "resize": 5}, "test", (30, 30), 5),
    ],
    ids=str,
)  # fmt: skip
def test_tasks_are_those_of_the_options(run, root, options, subset, sizes, side):
    options |= {"datasets": NAMES[:2]}
    tasks = configured(run, root=str(root), **options).tasks(subset)
    assert (tasks.sizes, tasks.classes, tasks.images[0].shape[2:]) == (sizes, (4, 3), (side, side))
    elsewhere = configured(run, root="nowhere", **options).tasks(subset, str(root))
    assert all(map(torch.equal, tasks.images, elsewhere.images))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([], True),
        (["notes.txt"], False),
        (["config.json", "notes.txt"], True),
        (["resume/seed-0.pt", "notes.txt"], True),
        (["metrics.json", "scores.csv", "figures/curves.png"], True),  # what a clone has of a committed run
        (["scores.csv", "variance.csv", "variance.npz", "against/control.json"], True),
        (["figures/curves.svg", "figures/curves.pdf", "figures/.report.html.tmp"], True),
        (["metrics.json", "figures/curves.html"], False),
        (["metrics.json", ".mine.tmp"], False),
        (["environment.json", ".config.json.tmp", "weights/.seed-0.pt.tmp"], True),  # what a kill at the start leaves
    ],
)
def test_a_run_has_a_config_or_checkpoints_or_nothing_foreign(run, made, expected):
    for name in made:
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text("")
    assert run.is_run() is expected


def fill(run, *names):
    for name in names:
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(name)


def files(run):
    return {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}


def test_clear_removes_the_layout_and_nothing_else(run):
    strangers = {
        "mine.txt", "notes/weights.pt", "weights-of-another", "figures/mine.html", "parts/greedy/notes.md",
        "parts/greedy/seed-0/mine.npz", "activations/seed-0/mine-train.npz", "activations/mine.npz", "weights/mine.pt",
        "seed-0.pt", "mine.gif", "measures.json", "timing.csv", "parts/greedy/mine.onnx", "against/mine.csv",
        "variances.csv",
    }  # fmt: skip
    own = {
        "config.json", "environment.json", "timing.json", "history.csv", "positions.npz", "scores.csv", "transfer.csv",
        "measures.csv", "metrics.json", "weights/seed-0.pt", "weights/seed-12.pt", "resume/seed-1.pt",
        "activations/seed-0/task-train.npz", "activations/seed-0/task-test.npz", "activations/seed-0/label-train.npz",
        "activations/seed-1/label-test.npz", "parts/greedy/seed-0/MNIST@permuted.pt", "parts/greedy/seed-0/owners.npz",
        "parts/random/seed-0/MNIST@permuted-extracted.pt", "parts/random/seed-0/A-extracted.onnx",
        "parts/random/seed-0/.A.pt.tmp", "figures/a.png", "figures/b.gif",
        "figures/c.svg", "figures/d.pdf", "figures/report.html",
        "figures/.b.gif.tmp", ".measures.csv.tmp", "variance.csv", "variance.npz", "against/control.json",
    }  # fmt: skip
    fill(run, *strangers, *own)
    run.clear()
    assert files(run) == strangers | {"config.json"}
    assert {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_dir()} == {
        "notes", "figures", "parts", "parts/greedy", "parts/greedy/seed-0", "activations", "activations/seed-0",
        "weights", "against",
    }  # fmt: skip


def test_clear_may_keep_the_checkpoints(run):
    fill(run, "config.json", "weights/seed-0.pt", "resume/seed-0.pt")
    run.clear(keep="resume")
    assert files(run) == {"config.json", "resume/seed-0.pt"}


def test_clear_copes_with_a_linked_folder(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run.folder.mkdir()
    (run.folder / "weights").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    fill(run, "weights/seed-0.pt", "config.json")
    run.clear()
    assert not run.weights(0).exists()
    assert run.config_file.exists()


def test_code_checksums_cover_every_source_file():
    sums = runs.code_checksums()
    assert {"costs.py", "commands/train.py", "__init__.py"} <= set(sums)
    assert all(len(each) == 64 for each in sums.values())
