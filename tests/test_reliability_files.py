"""Files of a run, and of its data, that are damaged, swapped, edited or made to do harm: they work, or are one line."""

import csv
import gzip
import io
import json
import math
import os
import random
import resource
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from generated import archived, register
from helpers import Interruption, command, reoptioned, small, tree

from spatial import storing
from spatial.runs import Run
from spatial.sources import DATASETS

TASKS = ("Alpha", "Beta")
ARCHIVED = "KMNIST"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of data, raw, compressed and in archives, and runs: RUN and CONTROL, with all that the commands make,
    HALFWAY, which was interrupted in an epoch, and ARCHIVED, of data in archives."""
    folder, threads = tmp_path_factory.mktemp("world"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for seed, name in enumerate(TASKS):
            register(patch, folder / "data", name, size=4, classes=3, train=60, test=20, seed=seed)
        for path in (folder / "data" / "Beta" / "raw").iterdir():
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        entry, archives, _ = archived(ARCHIVED)
        patch.setitem(DATASETS, ARCHIVED, entry)
        (folder / "data" / ARCHIVED).mkdir()
        for name, content in archives.items():
            (folder / "data" / ARCHIVED / name).write_bytes(content)
        shutil.copytree(folder / "data", folder / "packed")  # before anything is unpacked
        for name in ("run", "control"):
            for words in (
                "train RUN DATA", "record RUN", "record RUN --by label --subset test", "split RUN --extract",
                "split RUN --method activations", "score RUN",
            ):  # fmt: skip
                assert command(*typed(words, folder, folder / name)) == 0
        assert command(*typed("train RUN ARCHIVES", folder, folder / "archived")) == 0
        with pytest.MonkeyPatch.context() as stop:
            Interruption(stop, at=6)
            assert command(*typed("train RUN DATA --save-every 1 --transport 1", folder, folder / "halfway")) == 130
        yield folder
    torch.set_num_threads(threads)


def typed(words, world, run, root=None, control=None):
    """A command line as it is typed: RUN stands for a folder, DATA for what runs are trained with, and so on."""
    layers = ["--layers", "4", "9", "--seeds", "2", "--replicas", "sequential"]  # square ones: they have maps
    stand = {
        "RUN": [run], "CONTROL": [control or world / "control"], "ROOT": [root],
        "DATA": small(root or world / "data", *layers, names=TASKS),
        "ARCHIVES": small(root or world / "data", *layers, "--epochs", "1", names=[ARCHIVED]),
    }  # fmt: skip
    return [each for word in words.split() for each in stand.get(word, [word])]


def ends(capsys, run, words, *where):
    """A command's status and what it said: if 2 a line that names a file, and the run's folder is as it was."""
    before = tree(run)
    capsys.readouterr()
    status = command(*words)
    error = capsys.readouterr().err
    assert status in (0, 2)
    if status == 2:
        named = [f"main.py {words[0]}: error: {each}" for each in (run, f"--against {run}", *where)]
        assert error.startswith(tuple(named)) and error.count("\n") == 1 and error[:-1].isprintable(), error
        assert tree(run) == before
    return status, error


# Files that are made to do harm.

READ_BY = {  # a file of RUN, and commands that read it
    "weights/seed-0.pt": ["record RUN", "split RUN", "score RUN", "plot RUN"],
    "weights/seed-1.pt": ["record RUN", "split RUN", "score RUN"],
    "resume/seed-0.pt": ["train RUN DATA --resume"],
    "resume/seed-1.pt": ["train RUN DATA --resume"],
    "parts/greedy/seed-1/Beta.pt": ["score RUN"],
    "parts/greedy/seed-0/Alpha-extracted.pt": ["score RUN"],
    "parts/greedy/seed-0/owners.npz": ["score RUN", "plot RUN --kind positions"],
    "activations/seed-0/task-train.npz": ["split RUN --method activations", "plot RUN --kind activations"],
    "activations/seed-0/label-test.npz": ["plot RUN --kind labels", "plot RUN --kind maps"],
    "positions.npz": ["plot RUN --kind trajectory"],
    "variance.npz": ["plot RUN --kind variance", "score CONTROL --against RUN"],
}
LINES = [(name, words) for name, lines in READ_BY.items() for words in lines]


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, harm):
        self.harm = harm

    def __reduce__(self):
        return os.system, (f"touch {self.harm}",)


def bear(path, harm):
    """Make a part of a file an object that runs a command."""
    if path.suffix == ".npz":
        arrays = storing.load_arrays(path)
        np.savez(path, **{name: np.full(each.shape, Payload(harm), object) for name, each in arrays.items()})
    else:
        torch.save(storing.load_plain(path) | {"version": Payload(harm)}, path)


def inflate(path, harm):
    """Make a file one that unpacks to 100 MB."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, name in enumerate(names):
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(1 if number else 100):
                    member.write(bytes(10**6))


@pytest.mark.parametrize("make", [bear, inflate])
@pytest.mark.parametrize(("name", "words"), LINES, ids=[f"{words} of {name}" for name, words in LINES])
def test_a_file_that_would_do_harm_is_one_line(world, tmp_path, capsys, name, words, make):
    run, harm = shutil.copytree(world / "run", tmp_path / "run"), tmp_path / "harm"
    make(run / name, harm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, error = ends(capsys, run, typed(words, world, run))
    assert status == 2 and name in error and not harm.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # KiB


NAMES = ["../../../escaped", "/tmp/escaped", "\33[2J", "Alpha/../Beta", "Alpha.pt", "", "Gamma\n", "Alpha@permuted@x"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", ["record RUN", "split RUN --extract", "score RUN", "plot RUN"])
def test_no_name_of_a_data_set_leads_out_of_the_run(world, tmp_path, capsys, name, words):
    run = reoptioned(Run(shutil.copytree(world / "run", tmp_path / "run")), datasets=["Alpha", name])
    status, error = ends(capsys, run.folder, typed(words, world, run.folder))
    assert status == 2 and "config.json: unknown data set" in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# What may be done to a file.


def swapped(other):
    """Exchange it for another, by its path from there."""

    def change(path):
        content, two = path.read_bytes(), path.parent / other
        path.write_bytes(two.read_bytes())
        two.write_bytes(content)

    return change


def copied_from(other):
    return lambda path: path.write_bytes((path.parent / other).read_bytes())


def content(text):
    return lambda path: path.write_bytes(text)


def edited(change):
    """Change what JSON holds."""
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def options(**others):
    return edited(lambda config: config | {"options": config["options"] | others})


def arrays(change):
    return lambda path: storing.save_arrays(
        path, {name: change(each) for name, each in storing.load_arrays(path).items()}
    )


def text(before, after):
    def change(path):
        whole = path.read_text()
        assert before in whole
        path.write_text(whole.replace(before, after, 1))

    return change


def enlarged(path):
    """A network of a million units a layer, by its own account."""
    whole = storing.load_plain(path)
    whole["arguments"]["layers"] = (10**6, 10**6)
    storing.save(path, whole)


CONFIG, HISTORY, SCORES = "config.json", "history.csv", "scores.csv"
SEED, PART = "weights/seed-0.pt", "parts/greedy/seed-0/Beta.pt"
RESUME, CURVES, AGAINST = "train RUN DATA --resume", "plot RUN --kind curves", "score CONTROL --against RUN"
VARIANCE, TRAJECTORY = "plot RUN --kind variance", "plot RUN --kind trajectory"
TRANSFER, REPORT = "plot RUN --kind transfer", "plot RUN --kind curves --report"
WRONG = {  # a file, what is done to it, and a command that notices it
    "a config of another version": (CONFIG, edited(lambda config: config | {"version": 1}), "score RUN"),
    "a config of later": (CONFIG, edited(lambda config: config | {"version": 3}), "plot RUN"),
    "a config that is a list": (CONFIG, edited(lambda config: [config]), "record RUN"),
    "a config without data": (CONFIG, edited(lambda config: config | {"data": 3}), "score RUN"),
    "a deep config": (CONFIG, content(b"[" * 10**5), "record RUN"),
    "a config in bytes": (CONFIG, content(b"\xff\xfe{}"), "split RUN"),
    "more seeds": (CONFIG, options(seeds=3), "score RUN"),
    "a million seeds": (CONFIG, options(seeds=10**6), "plot RUN"),
    "no seeds": (CONFIG, options(seeds=0), "plot RUN"),
    "other seeds": (CONFIG, options(seed=4), "split RUN"),
    "a task twice": (CONFIG, options(datasets=["Alpha", "Alpha"]), "score RUN"),
    "a task fewer": (CONFIG, options(datasets=["Alpha"]), "score RUN"),
    "another data set": (CONFIG, options(datasets=["Alpha", ARCHIVED]), "record RUN"),
    "too many held out": (CONFIG, options(holdout=10**6), "score RUN"),
    "images in a row": (CONFIG, options(input="concatenate"), "score RUN"),
    "images of another size": (CONFIG, options(resize=5), "record RUN"),
    "other layers": (CONFIG, options(layers=[9, 4]), "split RUN"),
    "another kind of network": (CONFIG, options(model="conv"), "plot RUN"),
    "a seed is missing": ("weights/seed-1.pt", os.unlink, "record RUN"),
    "weights of a part": (SEED, copied_from("../parts/greedy/seed-0/Alpha-extracted.pt"), "plot RUN"),
    "weights that are enormous": (SEED, enlarged, "split RUN"),
    "weights of another seed": (SEED, swapped("seed-1.pt"), "score RUN"),
    "parts of other tasks": (PART, swapped("Alpha.pt"), "score RUN"),
    "parts of other seeds": (PART, swapped("../seed-1/Beta.pt"), "score RUN"),
    "a part that is the whole": (PART, copied_from("../../../weights/seed-0.pt"), "score RUN"),
    "owners of another seed": ("parts/greedy/seed-0/owners.npz", swapped("../seed-1/owners.npz"), "score RUN"),
    "checkpoints of other seeds": ("resume/seed-0.pt", swapped("seed-1.pt"), RESUME),
    "a checkpoint that is weights": ("resume/seed-0.pt", copied_from("../weights/seed-0.pt"), RESUME),
    "a history without a row": (HISTORY, text("1,2,test", "1,9,test"), CURVES),
    "a history of another seed": (HISTORY, text("1,2,test", "7,2,test"), CURVES),
    "a history of other images": (HISTORY, text("test", "val"), CURVES),
    "a history in bytes": (HISTORY, content(b"seed\n\xff\n"), CURVES),
    "a history with null bytes": (HISTORY, text("1,2,test", "1,2,\0test"), CURVES),
    "scores of a seed twice": (SCORES, text("1,whole,Beta", "0,whole,Beta"), "plot RUN --kind scores"),
    "scores of no task": (SCORES, text("1,whole,Beta", "1,whole,Gamma"), AGAINST),
    "scores without tasks": (SCORES, text("task", "\33[2J"), AGAINST),
    "scores above all": (SCORES, text("whole,Beta,0", "whole,Beta,3"), "plot RUN --kind scores"),
    "a transfer of no part": ("transfer.csv", text("greedy,Alpha", "greedy,Gamma"), TRANSFER),
    "a huge cell": ("transfer.csv", text("greedy,Alpha", "x" * 10**6), TRANSFER),
    "variances below 0": ("variance.npz", arrays(lambda each: each - 1000), VARIANCE),
    "endless variances": ("variance.npz", arrays(lambda each: each + math.inf), AGAINST),
    "variances in a column": ("variance.npz", arrays(lambda each: each[:, None]), VARIANCE),
    "places of fewer epochs": ("positions.npz", arrays(lambda each: each[1:]), TRAJECTORY),
    "places without end": ("positions.npz", arrays(lambda each: each + math.inf), TRAJECTORY),
    "activity without end": (
        "activations/seed-0/task-train.npz", arrays(lambda each: each + math.inf), "plot RUN --kind activations",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "words"), WRONG.values(), ids=list(WRONG))
def test_a_file_that_is_wrong_is_one_line(world, tmp_path, capsys, name, change, words):
    run = shutil.copytree(world / "run", tmp_path / "run")
    change(run / name)
    assert ends(capsys, run, typed(words, world, run))[0] == 2


@pytest.mark.parametrize("number", [1e16, 1e30])
@pytest.mark.parametrize(
    "words",
    ["record RUN", "split RUN --method greedy clusters", "score RUN", "plot RUN --kind positions wiring filters"],
)
def test_numbers_that_are_too_large_are_one_line_or_work(world, tmp_path, capsys, words, number):
    run = shutil.copytree(world / "run", tmp_path / "run")
    for seed in (0, 1):
        path = run / f"weights/seed-{seed}.pt"
        whole = storing.load_plain(path)
        whole["state"] = {name: torch.full(each.shape, number) * each.sign() for name, each in whole["state"].items()}
        storing.save(path, whole)
    shutil.rmtree(run / "parts/activations")
    shutil.rmtree(run / "parts/greedy") if words.startswith("score") else None
    status, error = ends(capsys, run, typed(words, world, run))
    assert number < 1e30 or (status == 2 and "is not finite" in error) == words.startswith(("record", "score"))


def test_a_run_may_have_any_name(world, tmp_path, capsys):
    run = shutil.copytree(world / "run", tmp_path / "a$b$^ $\\frac{$%d{}")
    assert ends(capsys, run, typed("plot CONTROL --kind variance maps filters --against RUN", world, run))[0] == 0
    assert ends(capsys, run, typed("plot RUN --kind variance scores curves --relax place", world, run))[0] == 0
    assert ends(capsys, run, typed("score CONTROL --against RUN", world, run))[0] == 0


def test_folders_of_splits_that_are_none_are_passed_over(world, tmp_path, capsys):
    run = shutil.copytree(world / "run", tmp_path / "run")
    for name in ("$a$b", "greedy\33[2J", " ", "-", "GREEDY", "whole"):
        shutil.copytree(run / "parts/greedy", run / "parts" / name)
    for words in ("score RUN", "plot RUN --kind positions scores transfer"):
        assert ends(capsys, run, typed(words, world, run))[0] == 0
    shutil.rmtree(run / "parts/greedy")
    assert ends(capsys, run, typed("plot RUN --kind positions", world, run))[0] == 0  # by activations


# Files that are changed at random.

ODD = [None, True, -1, 0, 3, 10**30, 0.5, -1e300, 1e39, math.nan, "", "\33[2J", "../../escaped", "MNIST", [], {}, [[]]]
CELLS = ["", "nan", "inf", "-1", "1e400", "1e300", "x", "\0", "\33[2J", "=1+1", "9" * 400, "a,b", '"', "é", "0.5", "2"]
SEVERAL = {  # by what a file's path ends or begins with: commands that read it
    "resume/": [RESUME, RESUME + " --epochs 3"], "history.csv": [CURVES], "positions.npz": [TRAJECTORY],
    "task-train.npz": ["plot RUN --kind activations", "split RUN --method greedy activations"],
    "label-test.npz": ["plot RUN --kind labels", "plot RUN --kind maps"],
    "scores.csv": ["plot RUN --kind scores", AGAINST], "transfer.csv": [TRANSFER],
    "variance.npz": [VARIANCE, AGAINST], "variance.csv": [AGAINST], "parts/": ["score RUN"],
    "owners.npz": ["score RUN", "plot RUN --kind positions wiring"],
    "weights/": ["record RUN", "split RUN", "score RUN", "plot RUN --kind filters prior"],
    "config.json": ["record RUN", "split RUN", "score RUN", "plot RUN --kind scores curves", AGAINST, RESUME],
    "metrics.json": [REPORT], "environment.json": [REPORT],
    "": ["score RUN"],
}  # fmt: skip


def readers(name):
    """Commands that read a file of a run."""
    return next(lines for key, lines in SEVERAL.items() if name.endswith(key) or (key and name.startswith(key)))


def damage(path, draw, others):
    """Change a file as a disk, a copy or a mistaken hand might; in words, what was done."""
    whole = bytearray(path.read_bytes())
    at = draw.randrange(len(whole) + 1)
    kind = draw.choice(["flip", "flip", "cut", "empty", "insert", "leave out", "swap", "unlink"])
    if kind == "flip" and whole:
        for _ in range(draw.choice([1, 1, 8])):
            whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    elif kind == "insert":
        whole[at:at] = draw.randbytes(draw.choice([1, 16, 4096]))
    elif kind == "leave out":
        del whole[at : at + draw.choice([1, 16, 4096])]
    elif kind == "swap":
        whole = draw.choice(others).read_bytes()
    path.write_bytes(b"" if kind == "empty" else whole[:at] if kind == "cut" else whole)
    if kind == "unlink":
        path.unlink()
    return kind


def nested(content, draw):
    """A random place in nested content: what holds it, and its key."""
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = draw.choice(keys)
        inner = content[key]
        if not (isinstance(inner, dict | list) and inner) or draw.random() < 0.15:
            return content, key
        content = inner


def odd_tensor(each, draw):
    """A tensor that is not as it was."""
    number = draw.choice([math.nan, math.inf, 1e30, -1.0])
    changes = [
        lambda: each[:-1].clone(), lambda: each[None].clone(), lambda: each.double(), lambda: each.to(torch.uint8),
        lambda: each.new_empty(0), lambda: torch.full(each.shape, number), lambda: each[:1].expand(each.shape),
        lambda: torch.cat([each, each]), lambda: each.bool(),
    ]  # fmt: skip
    return draw.choice(changes)() if each.ndim else torch.full((), number)


def rewrite(path, draw):
    """Change what a file says, its form whole; in words, what was done."""
    if path.suffix == ".pt":
        whole = storing.load_plain(path)
        holder, key = nested(whole, draw)
        kind = draw.choice(["odd", "odd", "gone", "tensor", "more"])
        if kind == "gone":
            del holder[key]
        elif kind == "more" and isinstance(holder, dict):
            holder[draw.choice(["more", 3, "\33[2J"])] = draw.choice(ODD)
        elif isinstance(holder[key], torch.Tensor) and kind != "odd":
            holder[key] = odd_tensor(holder[key], draw)
        else:
            holder[key] = draw.choice(ODD)
        storing.save(path, whole)
    elif path.suffix == ".npz":
        found = storing.load_arrays(path)
        name, kind = draw.choice(list(found)), draw.choice(["gone", "array", "array", "renamed"])
        each = found.pop(name)
        if kind == "renamed":
            found[draw.choice(["x", "seed-9/layer-0/plane", "layer-7/k", "../x"])] = each
        elif kind == "array":
            found[name] = odd_tensor(torch.from_numpy(each), draw).numpy()
        storing.save_arrays(path, found)
    elif path.suffix == ".json":
        whole, kind = json.loads(path.read_text()), draw.choice(["odd", "odd", "gone"])
        holder, key = nested(whole, draw)
        if kind == "gone":
            del holder[key]
        else:
            holder[key] = draw.choice(ODD)
        path.write_text(json.dumps(whole))
    else:
        rows = list(csv.reader(path.read_text().splitlines()))
        row, kind = draw.choice(rows), draw.choice(["cell", "cell", "head", "gone", "twice", "column", "order"])
        if kind == "cell":
            row[draw.randrange(len(row))] = draw.choice(CELLS)
        elif kind == "head":
            rows[0][draw.randrange(len(row))] = draw.choice([*CELLS, rows[0][0]])
        elif kind == "gone":
            rows.remove(row)
        elif kind == "twice":
            rows.append(row)
        elif kind == "column":
            cut = draw.randrange(len(row))
            rows = [each[:cut] + each[cut + 1 :] for each in rows]
        else:
            draw.shuffle(rows)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        path.write_text(text.getvalue())
    return f"{path.suffix} {kind}"


def held(path):
    """What a file of tensors or arrays holds, as bytes."""
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(storing.load_plain(path), buffer)
        return buffer.getvalue()
    return {name: (each.dtype.str, each.shape, each.tobytes()) for name, each in storing.load_arrays(path).items()}


@pytest.mark.parametrize("seed", range(5))
def test_a_file_of_a_run_that_is_changed_at_random_works_or_is_one_line(
    world, tmp_path, capsys, nightly, record_property, seed
):
    draw, done = random.Random(seed), Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(80 if nightly else 6):
        whole = world / draw.choice(["run", "run", "run", "halfway"])
        files = sorted(
            path for path in whole.rglob("*") if path.suffix and path.is_file() and "figures" not in path.parts
        )
        path = draw.choice(files)
        name = path.relative_to(whole).as_posix()
        run, control = (shutil.copytree(each, tmp_path / each.name) for each in (whole, world / "control"))
        spoiled = run / name
        kind = rewrite(spoiled, draw) if draw.random() < 0.5 else damage(spoiled, draw, files)
        words = draw.choice(readers(name))
        if whole.name == "halfway":
            words = "train RUN DATA --save-every 1 --transport 1 --resume"
        there, outside = tree(run), tree(control)
        try:
            status, _ = ends(capsys, run, typed(words, world, run, control=control), control)
        except BaseException as error:
            error.add_note(f"{words} after {name}: {kind}")
            raise
        done[status] += 1
        reading = {"weights": ("record RUN", "split RUN", "score RUN"), "parts": ("score RUN",)}
        if (
            status == 0
            and words in reading.get(name.split("/")[0], ())
            and kind in ("flip", "cut", "insert", "leave out")
        ):
            assert held(spoiled) == held(path), (name, kind)  # what was changed lies between the numbers
        if "CONTROL" in words:
            assert tree(run) == there
        else:
            assert tree(control) == outside
        for folder in (run, control):
            shutil.rmtree(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert done[2] and (done[0] or not nightly)
    record_property("tried", f"{sum(done.values())} changed files of runs, {done[2]} refused, seed {seed}")


@pytest.mark.parametrize("seed", range(2))
def test_a_file_of_data_that_is_changed_at_random_works_or_is_one_line(
    world, tmp_path, capsys, nightly, record_property, seed
):
    draw, done = random.Random(seed), Counter()
    outside = {name: tree(world / name) for name in ("run", "archived")}
    for _ in range(50 if nightly else 5):
        root = shutil.copytree(world / "packed", tmp_path / "data")
        path = draw.choice(sorted(path for path in root.rglob("*") if path.is_file()))
        kind = damage(path, draw, sorted(each for each in (world / "packed").rglob("*") if each.is_file()))
        name = "archived" if ARCHIVED in path.parts else "run"
        command_ = draw.choice(["record RUN --root ROOT", "score RUN --root ROOT", "train RUN NEW"])
        run = tmp_path / "run"
        if "NEW" not in command_:
            shutil.copytree(world / name, run)
        words = command_.replace("NEW", "ARCHIVES" if name == "archived" else "DATA")
        try:
            status, _ = ends(capsys, run, typed(words, world, run, root), root, "no source has")
        except BaseException as error:
            error.add_note(f"{words} after {path.name}: {kind}")
            raise
        done[status] += 1
        assert {each: tree(world / each) for each in outside} == outside
        for each in (run, root):
            shutil.rmtree(each, ignore_errors=True)
    record_property("tried", f"{sum(done.values())} changed files of data, {done[2]} refused, seed {seed}")
