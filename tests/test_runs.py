import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from helpers import mlp, tree

import spatial
from spatial import models, runs
from spatial.errors import UserError
from spatial.runs import LAYOUT, VERSION, Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def configured(run, **options):
    every = {"datasets": ["Alpha"], "input": "mix", "root": "data", "seed": 0, "seeds": 1, **options}
    runs.save_json(run.config_file, {"version": VERSION, "options": every, "data": {}})
    return run


def test_paths_are_the_layouts(run):
    paths = {
        run.weights(0): "weights/seed-0.pt",
        run.resume(1): "resume/seed-1.pt",
        run.activations(0, "train"): "activations/seed-0/task-train.npz",
        run.part("greedy", 0, "MNIST@permuted"): "parts/greedy/seed-0/MNIST@permuted.pt",
        run.owners("random", 2): "parts/random/seed-2/owners.npz",
        run.figures / "positions.png": "figures/positions.png",
    }
    for path, expected in paths.items():
        assert path == run.folder / expected
        assert any(path.relative_to(run.folder).match(pattern) for pattern in LAYOUT)


@pytest.mark.parametrize(
    "name", ["config_file", "history", "positions", "scores", "transfer", "metrics", "environment"]
)
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
}


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


@pytest.mark.parametrize("content", ["", "{", "[1,"])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
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
            lambda folder: runs.save_json(folder / "config.json", {"version": 0, "options": {}}),
            "not a config.json of this program's version 1",
        ),
        (lambda folder: runs.save_json(folder / "config.json", [1]), "not a config.json of this program's version 1"),
        (
            lambda folder: runs.save_json(folder / "config.json", {"version": VERSION}),
            "not a config.json of this program's version 1",
        ),
    ],
    ids=["missing", "file", "empty", "old version", "list", "no options"],
)
def test_what_is_no_run_is_refused(run, make, message):
    make(run.folder)
    with pytest.raises(UserError, match=f"run.*: {message}"):
        run.config()


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


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([], True),
        (["notes.txt"], False),
        (["config.json", "notes.txt"], True),
        (["resume/seed-0.pt", "notes.txt"], True),
        (["metrics.json", "scores.csv", "figures/curves.png"], True),  # what a clone has of a committed run
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
    strangers = {"mine.txt", "notes/weights.pt", "weights-of-another", "figures/mine.pdf", "parts/greedy/notes.md"}
    fill(run, *strangers)
    fill(
        run, "config.json", "history.csv", "weights/seed-0.pt", "figures/a.png", "parts/greedy/seed-0/MNIST@permuted.pt"
    )
    fill(run, "resume/seed-1.pt", "activations/seed-0/task-test.npz", "parts/greedy/seed-0/owners.npz", "metrics.json")
    run.clear()
    assert files(run) == strangers
    assert {path.name for path in run.folder.iterdir() if path.is_dir()} == {"notes", "figures", "parts"}


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
