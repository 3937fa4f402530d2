"""Folders of image files: what is listed, what is refused, what is decoded and when again. Images of a few pixels."""

import hashlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spatial import folders, process
from spatial.errors import UserError
from spatial.folders import decode, index

DECODE = decode


def encoded(format="JPEG", mode="RGB", size=(3, 2), **options):
    """A small image as a file's bytes."""
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, format, **options)
    return file.getvalue()


JPEG = encoded()
TRUNCATED = encoded(size=(64, 64))[:-20]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spatial"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def fill(root, *names, content=JPEG):
    """Write the same image under several names; relative to ``root``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def plant(root, train=2, val=1, classes=("cat", "dog")):
    """A tree of so many images a class."""
    for subset, count in (("train", train), ("val", val)):
        fill(root, *(f"{subset}/{name}/{i:03}.JPEG" for name in classes for i in range(count)))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that were decoded, in order."""
    names = []

    def count(path):
        names.append(Path(path).name)
        return DECODE(path)

    monkeypatch.setattr(folders, "decode", count)
    return names


@pytest.fixture
def processes(monkeypatch):
    """Processes are started for any number of images."""
    monkeypatch.setattr(folders, "FEW", 0)
    monkeypatch.setattr(folders, "CHUNK", 2)


@pytest.fixture
def no_processes(monkeypatch):
    monkeypatch.setattr(folders, "ProcessPoolExecutor", None)


@pytest.fixture
def lenient(monkeypatch):
    """Any share of the images may be unreadable."""
    monkeypatch.setattr(folders, "ONE_IN", 0)


def names(files):
    return [os.fsdecode(name) for name in files.names]


def refused(root, **options):
    """The message of a refusal: one line."""
    with pytest.raises(UserError) as error:
        index(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is listed.


def test_images_are_sorted_by_class_and_name_and_labelled_by_class(root):
    fill(root, "train/b/2.jpg", "train/b/10.jpg", "train/a/z.png", "val/b/1.jpg", "val/a/1.jpg")
    found = index(root)
    assert found.classes == ["a", "b"]
    assert names(found.train) == ["a/z.png", "b/10.jpg", "b/2.jpg"]
    assert names(found.val) == ["a/1.jpg", "b/1.jpg"]
    assert found.train.labels.tolist() == [0, 1, 1]
    assert found.train.labels.dtype == torch.int64
    assert found.train.names.dtype.kind == "S"
    assert (found.train.classes, found.val.classes) == (2, 2)
    assert (found.train.folder, found.val.folder) == (root / "train", root / "val")
    assert found.train.path(1) == root / "train/b/10.jpg"
    assert found.left_out == {}


def test_the_root_may_be_a_string_and_relative(root, monkeypatch):
    plant(root)
    monkeypatch.chdir(root.parent)
    assert index("root").train.path(0).read_bytes() == JPEG


def test_nothing_is_said_of_a_tree_that_is_as_it_should_be(root, capsys):
    plant(root)
    index(root)
    assert capsys.readouterr() == ("", "")


def test_labels_of_val_are_those_of_train_where_a_class_is_missing(root, capsys):
    fill(root, "train/a/1.jpg", "train/b/1.jpg", "val/b/1.jpg")
    assert index(root).val.labels.tolist() == [1]
    assert capsys.readouterr().err == f"{root}/val: 1 of 2 classes are not there: a\n"


def test_five_of_the_classes_missing_from_val_are_named(root, capsys):
    plant(root, train=1, val=0, classes="abcdefg")
    fill(root, "val/g/1.jpg")
    index(root)
    assert capsys.readouterr().err == f"{root}/val: 6 of 7 classes are not there: a, b, c, d, e and 1 more\n"


def test_the_extensions_and_the_order_are_those_of_torchvision(root, tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert folders.EXTENSIONS == IMG_EXTENSIONS
    many = ("b/x.JPG", "b/a.jPeG", "b/in/a.png", "b/in-b/a.png", "b/in/deep/a.png", "b/no.txt", "b/.x/no", "a/é.tif")
    fill(root, "val/B/1.jpg", *(f"train/{name}" for name in many), "train/B/0.webp", "train/1.jpg")
    fill(tmp_path, *(f"elsewhere/{name}" for name in ("2.jpg", "1.jpg", "deep/0.jpg")))
    (root / "train/linked").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/linked.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (root / "train/a/linked").symlink_to(tmp_path / "elsewhere/deep")
    found, other = index(root), ImageFolder(root / "train")
    paths = [str(found.train.path(i)) for i in range(len(found.train.names))]
    assert list(zip(paths, found.train.labels.tolist(), strict=True)) == other.samples
    assert len(paths) == 12
    assert found.classes == other.classes


def test_what_is_hidden_is_passed_over(root):
    plant(root, train=1)
    fill(root, "train/cat/._000.JPEG", "train/cat/.hidden/1.jpg", "train/.git/1.jpg", content=b"no image")
    found = index(root)
    assert found.classes == ["cat", "dog"]
    assert names(found.train) == ["cat/000.JPEG", "dog/000.JPEG"]


def test_a_link_back_up_is_not_followed(root):
    plant(root, train=1)
    (root / "train/cat/again").symlink_to(root / "train")
    (root / "train/cat/itself").symlink_to("itself")
    assert names(index(root).train) == ["cat/000.JPEG", "cat/again/dog/000.JPEG", "dog/000.JPEG"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_on(root):
    plant(root, train=1)
    os.mkfifo(root / "train/cat/pipe.jpg")
    assert len(index(root).train.names) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_may_be_any_bytes(root, lenient, capsys):
    plant(root, train=1, val=1)
    odd = os.fsencode(root) + b"/train/dog/\xff\n\x1b[31m"
    Path(os.fsdecode(odd + b".jpg")).write_bytes(JPEG)
    Path(os.fsdecode(odd + b"-.jpg")).write_bytes(b"no image")
    for _ in range(2):  # the second time from the cache
        found = index(root)
        assert found.train.names.tolist() == [b"cat/000.JPEG", b"dog/000.JPEG", b"dog/\xff\n\x1b[31m.jpg"]
        assert found.train.path(2).read_bytes() == JPEG
        assert found.left_out == {os.fsdecode(b"train/dog/\xff\n\x1b[31m-.jpg"): "not an image"}
        err = capsys.readouterr().err
        assert err == f"{root}/train/dog/\\udcff\\n\\x1b[31m-.jpg: left out: not an image\n"
    fill(root, "val/new\nline/1.jpg")
    assert "new\\nline" in refused(root)


# What is refused.


def test_a_root_that_is_not_there(root):
    assert refused(root) == f"{root}: no such folder; {folders.LAYOUT}"


def test_a_root_that_is_a_file(tmp_path):
    fill(tmp_path, "root")
    assert refused(tmp_path / "root") == f"{tmp_path}/root: is not a folder; {folders.LAYOUT}"


def test_a_root_without_train_or_val(root):
    fill(root, "train/a/1.jpg", "val")
    assert refused(root) == f"{root}: no folder val in it; {folders.LAYOUT}"
    shutil.rmtree(root / "train")
    assert refused(root) == f"{root}: no folder train and no folder val in it; {folders.LAYOUT}"


@pytest.mark.parametrize("subset", ["train", "val"])
def test_a_subset_without_class_folders(root, subset):
    plant(root)
    shutil.rmtree(root / subset)
    fill(root, f"{subset}/ILSVRC2012_val_00000001.JPEG", f"{subset}/.hidden/1.jpg")
    assert refused(root) == f"{root / subset}: no class folders in it; {folders.LAYOUT}"


@pytest.mark.parametrize("subset", ["train", "val"])
def test_a_class_without_images(root, subset):
    plant(root)
    shutil.rmtree(root / subset / "dog")
    fill(root, f"{subset}/dog/notes.txt")
    message = refused(root)
    assert message.startswith(f"{root / subset}: no images (.jpg .jpeg")
    assert message.endswith(") in dog; put some there or delete it")


def test_five_of_the_classes_without_images_are_named(root):
    plant(root, classes="abcdefgh")
    for name in "bcdefgh":
        shutil.rmtree(root / "train" / name)
        (root / "train" / name).mkdir()
    assert ") in b, c, d, e, f and 2 more;" in refused(root)


def test_a_class_of_val_that_train_does_not_know(root):
    plant(root, classes=("n01440764", "n02085620"))
    fill(root, "val/n01440765/1.jpg")
    assert refused(root) == f"{root}/val: no class of train is called n01440765, did you mean n01440764?"
    fill(root, "val/other/1.jpg")
    message = f"{root}/val: no class of train is called n01440765, other; a class needs a folder in {root}/train"
    assert refused(root) == message


def test_a_folder_that_cannot_be_read(root, monkeypatch):
    plant(root)
    scandir = os.scandir

    def deny(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    assert refused(root) == f"{root}/train/dog: Permission denied"


# What can be decoded.


@pytest.mark.parametrize(
    "content",
    [
        encoded(mode="L"),
        encoded(mode="CMYK"),
        encoded("PNG", size=(1, 1)),
        encoded("PNG", mode="I;16"),
        encoded("PNG", mode="P", transparency=bytes([0, 128])),
        encoded("PNG", mode="RGBA"),
        encoded("PPM", mode="L"),
        encoded("BMP"),
        encoded("TIFF", mode="F"),
        encoded("GIF", mode="P", save_all=True, append_images=[Image.new("P", (3, 2), 2)]),
    ],
    ids=["grey", "cmyk", "one pixel", "16 bits", "transparent palette", "alpha", "pgm", "bmp", "floats", "animated"],
)
def test_ordinary_images_become_rgb_whatever_the_extension(root, content):
    plant(root, train=1)
    fill(root, "train/cat/1.JPEG", content=content)
    found = index(root)
    assert found.left_out == {}
    image = DECODE(found.train.path(1))
    assert image.mode == "RGB"
    assert np.asarray(image).shape in [(2, 3, 3), (1, 1, 3)]


def test_decode_gives_the_pixels(tmp_path):
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)).save(tmp_path / "x.png")
    assert np.asarray(decode(tmp_path / "x.png")).ravel().tolist() == list(range(18))


BROKEN = {
    "truncated": (TRUNCATED, "truncated"),
    "cut off in its header": (JPEG[:10], ""),
    "empty": (b"", "empty file"),
    "text": (b"no image at all", "not an image"),
    "damaged": (encoded("PNG")[:40] + b"xxxxxxxx" + encoded("PNG")[48:], ""),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_decode_says_in_a_few_words_why_not(tmp_path, content, reason):
    fill(tmp_path, "x.jpg", content=content)
    with pytest.raises(ValueError, match=r".") as error:
        decode(tmp_path / "x.jpg")
    assert reason in str(error.value)
    assert len(str(error.value)) <= 100
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (PermissionError(13, "Permission denied", "x.jpg"), "Permission denied"),
        (MemoryError(), "not enough memory to decode it"),
        (KeyError(7), "KeyError 7"),
        (OSError("many\nlines"), "many\\nlines"),
    ],
)
def test_decode_turns_every_failure_into_words(tmp_path, monkeypatch, failure, reason):
    def fail(path):
        raise failure

    fill(tmp_path, "x.jpg")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        decode(tmp_path / "x.jpg")


def test_large_images_are_decoded_without_a_word_and_bombs_are_not(root, lenient, monkeypatch, capsys):
    plant(root, train=1)
    fill(root, "train/cat/large.png", content=encoded("PNG", size=(4, 4)))
    fill(root, "train/cat/bomb.png", content=encoded("PNG", size=(8, 8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    found = index(root)
    assert list(found.left_out) == ["train/cat/bomb.png"]
    assert "exceeds limit" in found.left_out["train/cat/bomb.png"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unreadable_images_are_named_and_left_out(root, capsys):
    plant(root, train=50, val=50)
    fill(root, "train/dog/010.JPEG", content=TRUNCATED)
    fill(root, "val/cat/020.JPEG", content=b"")
    found = index(root)
    assert list(found.left_out) == ["train/dog/010.JPEG", "val/cat/020.JPEG"]
    assert (len(found.train.names), len(found.val.names)) == (99, 99)
    assert "dog/010.JPEG" not in names(found.train)
    assert found.train.labels.tolist() == [0] * 50 + [1] * 49
    assert found.val.labels.tolist() == [0] * 49 + [1] * 50
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"{root}/train/dog/010.JPEG: left out: .*truncated.*", first)
    assert second == f"{root}/val/cat/020.JPEG: left out: empty file"


def test_ten_unreadable_images_are_named_and_the_others_counted(root, lenient, capsys):
    plant(root, train=15)
    fill(root, *(f"train/cat/{i:03}.JPEG" for i in range(12)), content=b"")
    assert len(index(root).left_out) == 12
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[9].startswith(f"{root}/train/cat/009.JPEG: ")
    assert lines[10] == "... and 2 more"


@pytest.mark.parametrize("subset", ["train", "val"])
def test_two_percent_may_be_unreadable_and_no_more(root, subset):
    plant(root, train=25, val=25)
    fill(root, f"{subset}/dog/003.JPEG", content=b"")
    assert len(index(root).left_out) == 1
    (root / subset / "cat/000.JPEG").unlink()
    message = f"1 of 49 images are unreadable, more than 2%; the first is {subset}/dog/003.JPEG (empty file)"
    assert f"{root / subset}: {message}" in refused(root)


def test_a_class_of_unreadable_images(root):
    plant(root, train=60)
    fill(root, "train/bird/1.jpg", "train/bird/2.jpg", content=b"")
    assert refused(root) == f"{root}/train: no image is readable in bird; put some there or delete it"


def test_a_link_to_nothing_is_unreadable(root, lenient):
    plant(root)
    (root / "train/cat/gone.jpg").symlink_to(root / "nothing")
    assert index(root).left_out == {"train/cat/gone.jpg": "No such file or directory"}


def test_trust_decodes_nothing_and_leaves_nothing_out(root, decoded, cache, capsys):
    plant(root)
    fill(root, "train/cat/000.JPEG", content=b"no image")
    found = index(root, trust=True)
    assert (decoded, found.left_out, len(found.train.names)) == ([], {}, 4)
    assert not cache.exists()
    assert capsys.readouterr().err == ""


# Checksums.


def test_a_checksum_is_that_of_names_and_sizes(root):
    fill(root, "train/b/1.jpg", "train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    line = f"/1.jpg\0{len(JPEG)}\0"
    expected = hashlib.sha256(f"a{line}b{line}".encode()).hexdigest()
    assert index(root).checksums == {"train": expected, "val": expected}


def test_a_copied_tree_has_the_same_checksums(root, tmp_path):
    plant(root)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    assert index(root).checksums == index(tmp_path / "copy").checksums


def test_checksums_change_with_a_name_and_a_size_and_what_is_left_out(root, lenient):
    plant(root)
    seen = [index(root).checksums]
    (root / "train/cat/000.JPEG").rename(root / "train/cat/0.JPEG")
    seen.append(index(root).checksums)
    fill(root, "train/cat/0.JPEG", content=JPEG + b"\0")
    seen.append(index(root).checksums)
    fill(root, "train/cat/0.JPEG", content=b"")
    seen.append(index(root).checksums)
    assert len({each["train"] for each in seen}) == 4
    assert len({each["val"] for each in seen}) == 1
    (root / "train/cat/0.JPEG").unlink()
    assert index(root).checksums == seen[-1]  # as if it had never been there


# The cache.


def test_images_are_decoded_once(root, decoded):
    plant(root)
    first = index(root)
    assert decoded == ["000.JPEG", "001.JPEG"] * 2 + ["000.JPEG"] * 2
    decoded.clear()
    second = index(root)
    assert decoded == []
    assert second.train.names.tolist() == first.train.names.tolist()
    assert second.checksums == first.checksums


def test_the_cache_is_of_the_real_path(root, tmp_path, decoded):
    plant(root)
    (tmp_path / "link").symlink_to(root)
    index(root)
    decoded.clear()
    index(tmp_path / "link")
    assert decoded == []


def test_two_trees_have_a_cache_each(root, tmp_path, decoded):
    plant(root)
    plant(tmp_path / "other")
    index(root)
    index(tmp_path / "other")
    decoded.clear()
    index(root)
    assert decoded == []


def test_an_image_of_another_time_is_decoded_again(root, decoded):
    plant(root)
    index(root)
    decoded.clear()
    path = root / "train/dog/001.JPEG"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    index(root)
    assert decoded == ["001.JPEG"]


def test_an_image_of_another_size_is_decoded_again(root, decoded, lenient):
    plant(root)
    index(root)
    decoded.clear()
    path = root / "train/dog/001.JPEG"
    status = path.stat()
    path.write_bytes(b"none")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(index(root).left_out) == ["train/dog/001.JPEG"]
    assert decoded == ["001.JPEG"]


def test_new_images_are_decoded_and_those_that_are_gone_forgotten(root, decoded):
    plant(root)
    index(root)
    decoded.clear()
    (root / "train/cat/000.JPEG").unlink()
    fill(root, "train/cat/new.JPEG")
    assert names(index(root).train)[:2] == ["cat/001.JPEG", "cat/new.JPEG"]
    fill(root, "train/cat/000.JPEG")
    index(root)
    assert decoded == ["new.JPEG", "000.JPEG"]


def test_reasons_are_kept_and_said_again(root, decoded, capsys, lenient):
    plant(root, train=4)
    fill(root, "train/cat/001.JPEG", content=TRUNCATED)
    fill(root, "train/dog/002.JPEG", content=b"text")
    first = index(root)
    said = capsys.readouterr().err
    fill(root, "train/cat/0.JPEG", "train/dog/0.JPEG")  # which moves the others
    (root / "train/cat/002.JPEG").unlink()
    decoded.clear()
    for _ in range(2):
        assert index(root).left_out == first.left_out
        assert capsys.readouterr().err == said
    assert decoded == ["0.JPEG", "0.JPEG"]


def test_an_image_that_was_mended_is_in_again(root, lenient):
    plant(root)
    fill(root, "train/cat/001.JPEG", content=TRUNCATED)
    assert len(index(root).left_out) == 1
    fill(root, "train/cat/001.JPEG")
    assert index(root).left_out == {}
    assert index(root).left_out == {}


@pytest.mark.parametrize("failure", [PermissionError(13, "Permission denied"), MemoryError()])
def test_what_is_not_the_files_own_fault_is_tried_again(root, monkeypatch, lenient, failure):
    plant(root)
    opened = Image.open

    def fail(path):
        if Path(path).name == "001.JPEG":
            raise failure
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        assert list(index(root).left_out) == ["train/cat/001.JPEG", "train/dog/001.JPEG"]
    assert index(root).left_out == {}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_what_was_decoded_before_an_interruption_is_kept(root, monkeypatch, decoded, lenient, interruption):
    plant(root, train=4)
    fill(root, "train/cat/001.JPEG", content=b"")
    count = folders.decode

    def interrupt(path):
        if len(decoded) == 5:
            raise interruption
        return count(path)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "decode", interrupt)
        with pytest.raises(interruption):
            index(root)
    assert len(decoded) == 5
    assert list(index(root).left_out) == ["train/cat/001.JPEG"]
    assert len(decoded) == 10


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"nonsense",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"dog/001", b"dog/002"),
        lambda content: saved(np.save, np.zeros(3)),
        lambda content: saved(np.savez, format=1),
        lambda content: saved(np.savez, **altered(content, format=0)),
        lambda content: saved(np.savez, **altered(content, sizes=np.zeros(2, int))),
        lambda content: saved(np.savez, **altered(content, bad=np.array([99]))),
        lambda content: saved(np.savez, **altered(content, bad=np.array([], int))),
        lambda content: saved(np.savez, **altered(content, sizes=np.array([{}] * 6))),
    ],
    ids=[
        "empty", "nonsense", "cut off", "other bytes", "an array", "parts missing", "other version", "too short",
        "no such row", "no row", "objects",
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_used_is_made_anew(root, cache, decoded, capsys, lenient, damage):
    plant(root)
    fill(root, "train/cat/000.JPEG", content=b"")
    found = index(root)
    (path,) = cache.glob("*.npz")
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    capsys.readouterr()
    decoded.clear()
    assert index(root).left_out == found.left_out
    assert len(decoded) == 6
    assert len(capsys.readouterr().err.splitlines()) == 1  # the unreadable one
    index(root)
    assert len(decoded) == 6


def saved(save, *arrays, **parts):
    file = io.BytesIO()
    save(file, *arrays, **parts)
    return file.getvalue()


def altered(content, **parts):
    with np.load(io.BytesIO(content)) as arrays:
        return {**arrays, **parts}


def test_the_cache_has_no_pickles_and_one_file(root, cache):
    plant(root)
    index(root)
    (path,) = cache.glob("*.npz")
    assert path.name == hashlib.sha256(os.fsencode(root.resolve())).hexdigest() + ".npz"
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "iu" for name in arrays)


def test_a_cache_that_cannot_be_written_costs_a_line(root, tmp_path, monkeypatch, capsys):
    fill(tmp_path, "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plant(root)
    assert len(index(root).train.names) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/file/spatial/")
    assert line.endswith("; the images will be decoded again next time")


def test_the_cache_is_written_whole_or_not_at_all(root, cache, decoded, monkeypatch, capsys):
    plant(root)
    index(root)
    (path,) = cache.glob("*.npz")
    before = path.read_bytes()
    fill(root, "train/cat/new.JPEG")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        index(root)
    assert [each.read_bytes() for each in cache.iterdir() if each.suffix != ".lock"] == [before]
    assert capsys.readouterr().err == f"{path}: No space left on device; the images will be decoded again next time\n"


def test_without_a_cache_folder_of_ones_own_it_is_under_home(root, tmp_path, monkeypatch):
    plant(root)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    index(root)
    monkeypatch.delenv("XDG_CACHE_HOME")
    index(root)
    assert len([*(tmp_path / "home/.cache/spatial").glob("*.npz")]) == 1


def test_without_a_home_nothing_is_kept(root, monkeypatch, capsys):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    plant(root)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    index(root)
    assert len(capsys.readouterr().err.splitlines()) == 1


# Processes.


def pids(root, decode=DECODE):
    """A decode that leaves its process's number in ROOT/pids."""
    (root / "pids").mkdir(parents=True)

    def leave(path):
        (root / "pids" / str(os.getpid())).touch()
        return decode(path)

    return leave


def left(root):
    return {int(path.name) for path in (root / "pids").iterdir()}


def wait_for(condition):
    """Until it holds; at most 20 s."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_few_images_start_no_process(root, no_processes, monkeypatch):
    plant(root, train=9)
    index(root, workers=4)
    monkeypatch.setattr(folders, "FEW", 1)
    fill(root, "train/cat/new.JPEG")
    with pytest.raises(TypeError):
        index(root, workers=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_this_process(root, processes, no_processes, workers):
    plant(root)
    assert len(index(root, workers=workers).train.names) == 4


def test_several_processes_find_what_one_finds(root, processes, monkeypatch, lenient, capfd):
    plant(root, train=20)
    fill(root, *(f"train/cat/{i:03}.JPEG" for i in (0, 5, 6, 19)), content=TRUNCATED)
    fill(root, "val/dog/more.JPEG", "train/dog/019.JPEG", content=b"")
    alone = index(root, workers=1)
    said = capfd.readouterr().err
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    monkeypatch.setattr(folders, "decode", pids(root))
    together = index(root, workers=2)
    assert os.getpid() not in left(root)
    assert together.left_out == alone.left_out
    assert together.train.names.tolist() == alone.train.names.tolist()
    assert together.train.labels.tolist() == alone.train.labels.tolist()
    assert together.checksums == alone.checksums
    assert capfd.readouterr().err == said
    monkeypatch.setattr(folders, "decode", None)
    assert index(root).left_out == alone.left_out  # from the cache
    assert not multiprocessing.active_children()


def test_by_default_there_are_as_many_processes_as_cores(root, processes, monkeypatch):
    asked = []

    class Pool(folders.ProcessPoolExecutor):
        def __init__(self, workers, *args, **options):
            asked.append(workers)
            super().__init__(workers, *args, **options)

    plant(root, train=5)
    monkeypatch.setattr(folders, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(process, "cores", lambda: 3)
    index(root)
    assert asked == [3]


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert process.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert process.cores() == os.cpu_count()


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.skipif(sys.platform != "linux", reason="the replaced decode reaches forked processes only")
def test_ctrl_c_ends_the_processes_without_a_word_and_keeps_what_was_decoded(root, processes, monkeypatch, capfd):
    def slow(path):
        time.sleep(0 if "/cat/" in path else 0.05)
        return DECODE(path)

    plant(root, train=400, val=1)
    monkeypatch.setattr(folders, "CHUNK", 50)  # 2.5 s each
    monkeypatch.setattr(folders, "decode", pids(root, slow))
    pressed = []

    def press():  # a terminal sends it to all of them
        wait_for(lambda: len(left(root)) == 2)
        time.sleep(0.2)
        pressed.append(time.monotonic())
        for pid in (*left(root), os.getpid()):
            os.kill(pid, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        index(root, workers=2)
    assert time.monotonic() - pressed[0] < 1
    thread.join()
    assert capfd.readouterr().err == ""
    assert not multiprocessing.active_children()
    seen = []
    monkeypatch.setattr(folders, "decode", lambda path: seen.append(path) or DECODE(path))
    index(root, workers=1)
    assert 0 < len(seen) < 600


@pytest.mark.skipif(sys.platform != "linux", reason="the replaced decode reaches forked processes only")
def test_ctrl_c_is_not_for_the_processes(root, processes, monkeypatch):
    def interrupted(path):
        os.kill(os.getpid(), signal.SIGINT)
        return DECODE(path)

    plant(root)
    monkeypatch.setattr(folders, "decode", interrupted)
    assert len(index(root, workers=2).train.names) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="the replaced decode reaches forked processes only")
def test_a_process_that_dies_is_an_error_and_not_waited_for(root, processes, monkeypatch):
    def die(path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    plant(root)
    monkeypatch.setattr(folders, "decode", die)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # a process must not inherit the program's own
    try:
        assert refused(root, workers=2).startswith(f"{root}: a process that decoded images has died")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_a_parent_that_is_killed(root, processes, monkeypatch):
    def slow(path):
        time.sleep(0.05)
        return DECODE(path)

    def ended(pid):
        try:
            return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()  # nobody may fetch it
        except OSError:
            return True

    plant(root, train=400)
    monkeypatch.setattr(folders, "decode", pids(root, slow))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parent = multiprocessing.get_context("fork").Process(target=index, args=(root,), kwargs={"workers": 2})
        parent.start()
    wait_for(lambda: len(left(root)) == 2)
    parent.kill()
    parent.join()
    wait_for(lambda: all(map(ended, left(root))))
