import os
import pickle
import zipfile

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
    tree,
)

import spatial
from spatial import graph, models, runs, splitting
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


def test_replacing_writes_all_at_once(tmp_path):
    path = tmp_path / "new" / "file"
    with runs.replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert tree(tmp_path) == {path.parent: None, path: b"half"}


def test_an_exception_while_replacing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), runs.replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {path: b"old"}


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(source, target):
        assert (source.read_bytes(), target.read_bytes()) == (b"new", b"old")
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"), runs.replacing(path) as file:
        file.write(b"new")
    assert tree(tmp_path) == {path: b"old"}


def test_what_a_kill_left_behind_is_overwritten(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), runs.replacing(path) as file:
        (left,) = tmp_path.iterdir()
        name = left.name
        raise ZeroDivisionError
    (tmp_path / name).write_bytes(b"left by a kill, and longer")
    with runs.replacing(path) as file:
        file.write(b"new")
    assert tree(tmp_path) == {path: b"new"}


def test_equal_tensors_give_equal_bytes_under_any_name(tmp_path):
    torch.manual_seed(0)
    paths = [tmp_path / name for name in ("a.pt", "much-longer.pt", "deep/b.pt")]
    for path in paths:
        runs.save(path, models.pack(mlp(), task="MNIST"))
    assert len({path.read_bytes() for path in paths}) == 1


def test_equal_arrays_give_equal_bytes(tmp_path, monkeypatch):
    contents = []
    for name, year in (("a.npz", 1_000_000_000), ("b.npz", 1_700_000_000)):
        monkeypatch.setattr("time.time", lambda year=year: year)
        runs.save_arrays(tmp_path / name, {"layer-0": np.arange(6).reshape(2, 3), "x/y": np.zeros(3)})
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_tensors_and_plain_values_come_back(tmp_path):
    content = {
        "seed": 1,
        "where": None,
        "lr": 0.1,
        "names": ["a"],
        "positions": [[torch.randn(2, 2)]],
        "state": {"x": torch.arange(3)},
    }
    runs.save(tmp_path / "file.pt", content)
    again = runs.load_plain(tmp_path / "file.pt")
    assert torch.equal(again.pop("positions")[0][0], content.pop("positions")[0][0])
    assert torch.equal(again.pop("state")["x"], content.pop("state")["x"])
    assert again == content


def test_arrays_come_back_in_order(tmp_path):
    runs.save_arrays(tmp_path / "file.npz", {"b": np.arange(3), "a/c": np.eye(2)})
    again = runs.load_arrays(tmp_path / "file.npz")
    assert list(again) == ["b", "a/c"]
    assert again["a/c"].tolist() == [[1, 0], [0, 1]]


def test_spatial_load_gives_a_network_in_evaluation_mode(tmp_path):
    model = mlp()
    runs.save(tmp_path / "net.pt", models.pack(model))
    again = spatial.load(str(tmp_path / "net.pt"))
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(again(images), model(images))
    assert not again.training


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def hello_world():
    return {"model": "mlp", "arguments": {}, "state": {}}


PICKLES = {
    "torch.save": lambda path, payload: torch.save(payload, path),
    "inside a checkpoint": lambda path, payload: torch.save({**models.pack(mlp()), "options": payload}, path),
    "plain pickle": lambda path, payload: path.write_bytes(pickle.dumps(payload)),
    "old format": lambda path, payload: torch.save(payload, path, _use_new_zipfile_serialization=False),
    "old format before a new one": lambda path, payload: before(path, payload),
    "torch's own that takes memory": lambda path, payload: torch.save({"state": Call(bytearray, 10)}, path),
    "torch's own that makes a tensor": lambda path, payload: torch.save({"state": Call(torch.Tensor, 3, 3)}, path),
}


class Call:
    """Is what a function returns when it is unpickled."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


def before(path, payload):
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    runs.save(path, models.pack(mlp()))
    path.write_bytes(old + path.read_bytes())


@pytest.mark.parametrize("write", PICKLES.values(), ids=list(PICKLES))
def test_a_pickle_is_refused_and_never_run(tmp_path, write):
    path, harm = tmp_path / "weights.pt", tmp_path / "harm"
    write(path, Payload(f"touch {harm}"))
    with pytest.raises(UserError, match=r"weights\.pt: cannot be read as a file of tensors"):
        runs.load(path)
    assert not harm.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(mlp(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: cannot be read as a file of tensors"):
        runs.load(tmp_path / "model.pt")


SECOND_HAND = {  # a weights file's content, and what is done to it
    "one number for all": lambda state, name: state | {name: torch.zeros(1).expand(state[name].shape)},
    "rows that overlap": lambda state, name: state | {name: torch.zeros(99).as_strided(state[name].shape, (1, 1))},
    "two names": lambda state, name: state | {name: state["linear.0.weight"]},
    "two views": lambda state, name: state | {name: state["linear.0.weight"].view(6, 16)},
}


@pytest.mark.parametrize("spoil", SECOND_HAND.values(), ids=list(SECOND_HAND))
def test_numbers_that_are_seen_twice_are_refused(tmp_path, spoil):
    """A file of a few bytes could hold a network of any size."""
    content = models.pack(mlp(layers=(6, 6)))
    torch.save(content | {"state": spoil(content["state"], "linear.1.weight")}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt: cannot be read as a file of tensors"):
        runs.load(tmp_path / "weights.pt")


def repacked(path, compression=zipfile.ZIP_STORED, **others):
    """The same archive compressed in another way; ``others`` are new members, by the ends of their names."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, others.get(name.rsplit("/")[-1].replace(".", "_"), content))


def test_what_a_file_of_tensors_may_unpack_to_is_bounded(tmp_path):
    path = tmp_path / "weights.pt"
    save_any(path)
    repacked(path)
    runs.load(path)  # a good file
    repacked(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"weights\.pt: cannot be read as a file of tensors"):
        runs.load(path)


@pytest.mark.parametrize("name", ["weights.pt", "owners.npz"])
def test_every_flipped_bit_of_a_number_is_noticed(tmp_path, name):
    path = tmp_path / name
    save_any(path)
    if name.endswith("npz"):
        repacked(path)  # not compressed: what is read is what is flipped
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        longest = max(archive.infolist(), key=lambda member: member.file_size)
    numbers = content.index(zipfile.ZipFile(path).read(longest)[-64:])
    for bit in range(8 * numbers, 8 * (numbers + 64), 37):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_any(path)


def zeros(count, kind="<f8", shape=None, version=1):
    """The bytes of an ``.npy`` of zeros, as long as its header says or not."""
    header = str({"descr": kind, "fortran_order": False, "shape": shape or (count,)}).encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2, "little") + header + bytes(8 * count)


BOMBS = {
    "many zeros": ({"x_npy": zeros(10**7)}, zipfile.ZIP_DEFLATED, None),
    "of a known shape": ({"x_npy": zeros(10**6)}, zipfile.ZIP_DEFLATED, {"x": (50, 3)}),
    "more than there are": ({"x_npy": zeros(10, shape=(10**12,))}, zipfile.ZIP_STORED, None),
    "long words": ({"x_npy": zeros(10**6, "<U80000", (50, 3))}, zipfile.ZIP_DEFLATED, {"x": (50, 3)}),
    "a way that cannot be bounded": ({}, zipfile.ZIP_BZIP2, None),
}


@pytest.mark.parametrize(("members", "compression", "shapes"), BOMBS.values(), ids=list(BOMBS))
def test_what_arrays_may_unpack_to_is_bounded(tmp_path, monkeypatch, members, compression, shapes):
    path = tmp_path / "owners.npz"
    save_any(path)
    repacked(path, compression, **members)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *given, **options: pytest.fail("was unpacked"))
    with pytest.raises(UserError, match=r"owners\.npz: "):
        runs.load_arrays(path, shapes)


def test_constant_arrays_are_read_however_well_they_are_compressed(tmp_path):
    arrays = {"places": np.zeros((2001, 128, 2)), "variance": np.full(70_000, np.nan)}
    runs.save_arrays(tmp_path / "positions.npz", arrays)
    assert 300 * (tmp_path / "positions.npz").stat().st_size < sum(each.nbytes for each in arrays.values())
    again = runs.load_arrays(tmp_path / "positions.npz")
    assert all(np.array_equal(again[name], each, equal_nan=True) for name, each in arrays.items())


def test_an_array_of_objects_is_refused_and_never_run(tmp_path):
    path, harm = tmp_path / "owners.npz", tmp_path / "harm"
    np.savez(path, layer=np.array([Payload(f"touch {harm}")], dtype=object))
    with pytest.raises(UserError, match=r"owners\.npz: cannot be read as arrays"):
        runs.load_arrays(path)
    assert not harm.exists()


def save_any(path):
    """A good file of the kind that the name says."""
    if path.suffix == ".pt":
        runs.save(path, models.pack(mlp()))
    else:
        runs.save_arrays(path, {"x": np.random.default_rng(0).normal(size=(50, 3))})


def read_any(path):
    return runs.load(path) if path.suffix == ".pt" else runs.load_arrays(path)


@pytest.mark.parametrize("name", ["weights.pt", "owners.npz"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, name, share):
    path = tmp_path / name
    save_any(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_any(path)


@pytest.mark.parametrize("name", ["weights.pt", "owners.npz"])
@pytest.mark.parametrize("content", [b"seed,epoch\n", b"hello world\n", b"{}", b"\x93NUMPY", bytes(100)], ids=str)
def test_a_file_of_another_kind_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_any(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "owners.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        read_any(tmp_path / name)


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "owners.npz"
    save_any(path)
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 60  # within the compressed numbers
    content = bytearray(path.read_bytes())
    content[start : start + 8] = bytes(byte ^ 0xFF for byte in content[start : start + 8])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"owners\.npz: cannot be read as arrays"):
        runs.load_arrays(path)


def test_a_single_array_is_no_file_of_arrays(tmp_path):
    with (tmp_path / "owners.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(UserError, match=r"owners\.npz: cannot be read as arrays"):
        runs.load_arrays(tmp_path / "owners.npz")


def test_json_comes_back_and_reads_well(tmp_path):
    content = {"accuracy": {"whole": {"mean": 0.5, "std": None}}}
    runs.save_json(tmp_path / "metrics.json", content)
    assert runs.read_json(tmp_path / "metrics.json") == content
    assert (tmp_path / "metrics.json").read_text().startswith('{\n  "accuracy": {')


BROKEN = {
    "nothing": b"", "cut short": b"{", "cut short in a list": b"[1,", "deep": b"[" * 10**5, "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}', "beyond floats": b'{"a": 1e999}', "a long number": b"1" * 10**4,
    "a key twice": b'{"a": 1, "a": 2}', "no text": b'{"a": "\xff"}', "a null byte": b'{"a": "\0"}',
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: cannot be read as JSON"):
        runs.read_json(tmp_path / "config.json")


def test_tables_grow_under_one_header(tmp_path):
    path = tmp_path / "history.csv"
    runs.save_table(path, [])
    runs.append_table(path, [{"seed": 0, "loss": 1 / 3, "note": None}])
    runs.append_table(path, [{"seed": 1, "loss": 1e-9, "note": "a,b"}])
    assert path.read_text() == 'seed,loss,note\n0,0.333333,\n1,1e-09,"a,b"\n'
    assert runs.read_table(path)[1] == {"seed": "1", "loss": "1e-09", "note": "a,b"}


def test_a_saved_table_takes_the_old_ones_place(tmp_path):
    path = tmp_path / "history.csv"
    runs.append_table(path, [{"seed": 5}])
    runs.save_table(path, [{"seed": 0}, {"seed": 1}])
    assert path.read_text() == "seed\n0\n1\n"


TABLES = {
    "no text": b"seed,loss\n0,\xff\n", "NaN": b"seed,loss\n0,nan\n", "infinity": b"seed,loss\n0,-inf\n",
    "a null byte": b"seed,loss\n0,\0\n", "a word": b"seed,loss\n0,low\n", "no column": b"seed\n0\n",
    "a cell too few": b"seed,note,loss\n0,1\n", "a cell too many": b"seed,loss\n0,1,2\n",
    "nothing where a number was": b"seed,loss\n0,\n", "a huge cell": b"seed,loss\n0," + b"9" * 10**6 + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("content", TABLES.values(), ids=list(TABLES))
def test_a_broken_table_is_named(tmp_path, content):
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"history\.csv: cannot be read as a table"):
        runs.read_table(tmp_path / "history.csv", ["seed", "loss"])


@pytest.mark.parametrize(("name", "most"), [("config.json", "LONGEST_JSON"), ("history.csv", "LONGEST_TABLE")])
def test_text_is_read_up_to_a_length(tmp_path, monkeypatch, name, most):
    read = runs.read_json if name.endswith("json") else runs.read_table
    (tmp_path / name).write_text("[1, 2]")
    monkeypatch.setattr(runs, most, 6)
    read(tmp_path / name)
    monkeypatch.setattr(runs, most, 5)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read(tmp_path / name)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"history\.csv: cannot be read as a table"):
        runs.read_table(tmp_path / "history.csv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.write_text("a file"), "no such folder"),
        (lambda folder: folder.mkdir(), "not a run, it has no config.json"),
        (
            lambda folder: runs.save_json(folder / "config.json", {"version": 1, "options": {}}),
            "not a config.json of this program's version 2",
        ),
        (lambda folder: runs.save_json(folder / "config.json", [1]), "not a config.json of this program's version 2"),
        (
            lambda folder: runs.save_json(folder / "config.json", {"version": VERSION}),
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
    config = runs.read_json(configured(run).config_file)
    for name in runs.LATER:
        del config["options"][name]
    runs.save_json(run.config_file, config)
    assert run.options()["locality"] == "none" and not run.options()["trust_images"]


@pytest.mark.parametrize("data", [None, [], {"MNIST": None}, {"MNIST": []}, 3], ids=str)
def test_checksums_that_are_none_are_refused(run, data):
    runs.save_json(run.config_file, runs.read_json(configured(run).config_file) | {"data": data})
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
            runs.save(run.weights(0), models.pack(stored))
            if name == other:
                assert same_state(run.network(0), network)
            else:
                with pytest.raises(UserError, match=ANOTHER):
                    run.network(0)


CHANGES = {"layers": [12, 9], "dim": 3, "activation": "Tanh", "datasets": ["MNIST"], "input_positions": "grid"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_of_other_options_is_refused(run, name):
    runs.save(configured(run).weights(0), models.pack(mlp((1, 4, 4), (12, 8), (3, 2))))
    run.network(0)
    with pytest.raises(UserError, match=ANOTHER):
        reoptioned(run, **{name: CHANGES[name]}).network(0)


def test_a_config_that_says_too_little_of_its_network_is_named(run):
    runs.save(configured(run).weights(0), models.pack(mlp((1, 4, 4), (12, 8), (3, 2))))
    config = runs.read_json(run.config_file)
    del config["options"]["activation"]
    runs.save_json(run.config_file, config)
    with pytest.raises(UserError, match=r"config\.json: does not say activation, which makes the network"):
        run.network(0)


@pytest.mark.parametrize("network", [mlp((1, 8, 8), (12, 8), (3, 4)), mlp((1, 4, 16), (12, 8), (4, 3))])
def test_a_network_of_other_images_is_refused(run, root, network):
    configured(run, datasets=NAMES[:2], root=str(root)).tasks("test")
    runs.save(run.weights(0), models.pack(network))
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
        runs.save_arrays(run.owners(method, seed), {"layer-0": np.arange(2)})
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
    stored = runs.load_arrays(run.owners(method, 3))
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
    runs.save_arrays(run.owners("greedy", 0), spoil(runs.load_arrays(run.owners("greedy", 0))))
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
    runs.save(run.extracted("greedy", 0, "FashionMNIST"), models.pack(part, task="FashionMNIST"))
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
    runs.save_arrays(run.activations(4, by, subset), arrays)
    found = run.recorded(by, subset, 4, model)
    assert list(found) == ["mean", "mean_abs", "variance"]
    for measure, layers in found.items():
        assert list(layers) == list(graph.placed(model))[:-1]
        for index, values in enumerate(layers.values()):
            assert np.array_equal(values.numpy(), arrays[f"layer-{index}/{measure}"])


def test_what_was_not_recorded_is_named_with_the_command(run):
    runs.save_arrays(run.activations(0, "task", "test"), recorded_arrays(mlp(), 2))
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
    runs.save_arrays(run.activations(0, "task", "train"), arrays)
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
    runs.save_arrays(configured(run, seed=3, seeds=2).variances, arrays)
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
    runs.save_arrays(configured(run, seeds=2).variances, spoil(map_arrays()))
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
        (["metrics.json", "figures/curves.svg"], False),
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
        "mine.txt", "notes/weights.pt", "weights-of-another", "figures/mine.pdf", "parts/greedy/notes.md",
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
        "figures/.b.gif.tmp", ".measures.csv.tmp", "variance.csv", "variance.npz", "against/control.json",
    }  # fmt: skip
    fill(run, *strangers, *own)
    run.clear()
    assert files(run) == strangers
    assert {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_dir()} == {
        "notes", "figures", "parts", "parts/greedy", "parts/greedy/seed-0", "activations", "activations/seed-0",
        "weights", "against",
    }  # fmt: skip


def test_clear_may_keep_the_checkpoints(run):
    fill(run, "config.json", "weights/seed-0.pt", "resume/seed-0.pt")
    run.clear(keep="resume")
    assert files(run) == {"resume/seed-0.pt"}


def test_clear_copes_with_a_linked_folder(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run.folder.mkdir()
    (run.folder / "weights").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    fill(run, "weights/seed-0.pt", "config.json")
    run.clear()
    assert not run.weights(0).exists()
    assert not run.config_file.exists()


def test_code_checksums_cover_every_source_file():
    sums = runs.code_checksums()
    assert {"costs.py", "commands/train.py", "__init__.py"} <= set(sums)
    assert all(len(each) == 64 for each in sums.values())
