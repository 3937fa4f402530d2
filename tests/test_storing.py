"""Files are written whole or not at all, and nothing is read that the program did not write."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from helpers import mlp, tree

import spatial
from spatial import models, runs, storing
from spatial.errors import UserError


def test_replacing_writes_all_at_once(tmp_path):
    path = tmp_path / "new" / "file"
    with storing.replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert tree(tmp_path) == {path.parent: None, path: b"half"}


def test_an_exception_while_replacing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), storing.replacing(path) as file:
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
    with pytest.raises(OSError, match="no space left"), storing.replacing(path) as file:
        file.write(b"new")
    assert tree(tmp_path) == {path: b"old"}


def test_what_a_kill_left_behind_is_overwritten(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), storing.replacing(path) as file:
        (left,) = tmp_path.iterdir()
        name = left.name
        raise ZeroDivisionError
    (tmp_path / name).write_bytes(b"left by a kill, and longer")
    with storing.replacing(path) as file:
        file.write(b"new")
    assert tree(tmp_path) == {path: b"new"}


def test_equal_tensors_give_equal_bytes_under_any_name(tmp_path):
    torch.manual_seed(0)
    paths = [tmp_path / name for name in ("a.pt", "much-longer.pt", "deep/b.pt")]
    for path in paths:
        storing.save(path, models.pack(mlp(), task="MNIST"))
    assert len({path.read_bytes() for path in paths}) == 1


def test_equal_arrays_give_equal_bytes(tmp_path, monkeypatch):
    contents = []
    for name, year in (("a.npz", 1_000_000_000), ("b.npz", 1_700_000_000)):
        monkeypatch.setattr("time.time", lambda year=year: year)
        storing.save_arrays(tmp_path / name, {"layer-0": np.arange(6).reshape(2, 3), "x/y": np.zeros(3)})
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
    storing.save(tmp_path / "file.pt", content)
    again = storing.load_plain(tmp_path / "file.pt")
    assert torch.equal(again.pop("positions")[0][0], content.pop("positions")[0][0])
    assert torch.equal(again.pop("state")["x"], content.pop("state")["x"])
    assert again == content


def test_arrays_come_back_in_order(tmp_path):
    storing.save_arrays(tmp_path / "file.npz", {"b": np.arange(3), "a/c": np.eye(2)})
    again = storing.load_arrays(tmp_path / "file.npz")
    assert list(again) == ["b", "a/c"]
    assert again["a/c"].tolist() == [[1, 0], [0, 1]]


def test_spatial_load_gives_a_network_in_evaluation_mode(tmp_path):
    model = mlp()
    storing.save(tmp_path / "net.pt", models.pack(model))
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
    storing.save(path, models.pack(mlp()))
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
        storing.load_arrays(path, shapes)


def test_constant_arrays_are_read_however_well_they_are_compressed(tmp_path):
    arrays = {"places": np.zeros((2001, 128, 2)), "variance": np.full(70_000, np.nan)}
    storing.save_arrays(tmp_path / "positions.npz", arrays)
    assert 300 * (tmp_path / "positions.npz").stat().st_size < sum(each.nbytes for each in arrays.values())
    again = storing.load_arrays(tmp_path / "positions.npz")
    assert all(np.array_equal(again[name], each, equal_nan=True) for name, each in arrays.items())


def test_an_array_of_objects_is_refused_and_never_run(tmp_path):
    path, harm = tmp_path / "owners.npz", tmp_path / "harm"
    np.savez(path, layer=np.array([Payload(f"touch {harm}")], dtype=object))
    with pytest.raises(UserError, match=r"owners\.npz: cannot be read as arrays"):
        storing.load_arrays(path)
    assert not harm.exists()


def save_any(path):
    """A good file of the kind that the name says."""
    if path.suffix == ".pt":
        storing.save(path, models.pack(mlp()))
    else:
        storing.save_arrays(path, {"x": np.random.default_rng(0).normal(size=(50, 3))})


def read_any(path):
    return runs.load(path) if path.suffix == ".pt" else storing.load_arrays(path)


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
        storing.load_arrays(path)


def test_a_single_array_is_no_file_of_arrays(tmp_path):
    with (tmp_path / "owners.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(UserError, match=r"owners\.npz: cannot be read as arrays"):
        storing.load_arrays(tmp_path / "owners.npz")


def test_json_comes_back_and_reads_well(tmp_path):
    content = {"accuracy": {"whole": {"mean": 0.5, "std": None}}}
    storing.save_json(tmp_path / "metrics.json", content)
    assert storing.read_json(tmp_path / "metrics.json") == content
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
        storing.read_json(tmp_path / "config.json")


def test_tables_grow_under_one_header(tmp_path):
    path = tmp_path / "history.csv"
    storing.save_table(path, [])
    storing.append_table(path, [{"seed": 0, "loss": 1 / 3, "note": None}])
    storing.append_table(path, [{"seed": 1, "loss": 1e-9, "note": "a,b"}])
    assert path.read_text() == 'seed,loss,note\n0,0.333333,\n1,1e-09,"a,b"\n'
    assert storing.read_table(path)[1] == {"seed": "1", "loss": "1e-09", "note": "a,b"}


def test_a_saved_table_takes_the_old_ones_place(tmp_path):
    path = tmp_path / "history.csv"
    storing.append_table(path, [{"seed": 5}])
    storing.save_table(path, [{"seed": 0}, {"seed": 1}])
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
        storing.read_table(tmp_path / "history.csv", ["seed", "loss"])


@pytest.mark.parametrize(("name", "most"), [("config.json", "LONGEST_JSON"), ("history.csv", "LONGEST_TABLE")])
def test_text_is_read_up_to_a_length(tmp_path, monkeypatch, name, most):
    read = storing.read_json if name.endswith("json") else storing.read_table
    (tmp_path / name).write_text("[1, 2]")
    monkeypatch.setattr(storing, most, 6)
    read(tmp_path / name)
    monkeypatch.setattr(storing, most, 5)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read(tmp_path / name)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"history\.csv: cannot be read as a table"):
        storing.read_table(tmp_path / "history.csv")
