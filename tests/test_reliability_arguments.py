"""Wrong command lines: every option with every kind of wrong value, and thousands drawn at random."""

import inspect
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import NAMES, command, small, tree

from spatial import commands
from spatial.commands import COMMANDS, types
from spatial.errors import UserError
from spatial.runs import Run

ROOT = Path(__file__).parent.parent
COMMAND_NAMES = [each.__name__.rsplit(".", 1)[-1] for each in COMMANDS]
HUGE = "9" * 5000
ODD = ["", " ", "\x1b[31mred", "a\nb", "a\0b", "\udcff", "\u202ereversed", "é", "%s", "{}"]
NUMBERS = ["x", "nan", "inf", "-inf", "infinity", "-1", "1_0", " 5 ", "+5", "5\n", "0x10", "٣", "５", "1,5", "--1"]


def actions(name):
    """The options of a command, and RUN; ``--help`` left out."""
    return [each for each in commands.parse([name, "RUN"]).parser._actions if each.dest != "help"]


def typed(action):
    """The option as one types it, or RUN."""
    return action.option_strings[0] if action.option_strings else action.metavar


def kind(action):
    """What an option takes, as the real parser knows it."""
    if action.nargs == 0:
        return "flag"
    if action.choices is not None:
        return "choice"
    if action.type is types.folder:
        return "folder"
    if action.type is None:
        return "name"
    return action.type.__qualname__.split(".")[0]


def bounds(action):
    found = inspect.getclosurevars(action.type).nonlocals
    return found["minimum"], found["maximum"], found.get("above", False)


def wrong_whole(action):
    minimum, maximum, _ = bounds(action)
    return [*ODD, *NUMBERS, "0.5", "1e3", "5.0", str(minimum - 1), str(maximum + 1), HUGE, f"-{HUGE}"]


def wrong_number(action):
    minimum, maximum, above = bounds(action)
    edge = [f"{minimum:g}"] if above else []
    return [*ODD, *NUMBERS, *edge, str(maximum * 1.1), "1e39", "1e999", "1e-39", "5e-324", "1e", ".", "1.5.2", HUGE]


def wrong_choice(action):
    first = str(next(iter(action.choices)))
    return [*ODD, "x", first[:-1] + "_", first + first, first.swapcase(), f"{first},{first}", HUGE, "0", "nan"]


def wrong_folder(action):
    return ["", "a\x1b[31m", "a\nb", "a\0b", "\udcff", "~/x", "~", "a" * 300, "a/" * 2000, os.devnull]


WRONG = {  # values by the kind of option
    "whole": wrong_whole,
    "number": wrong_number,
    "choice": wrong_choice,
    "folder": wrong_folder,
    "name": lambda action: [],  # see below
    "flag": lambda action: ["yes"],
}
OPTIONS = [(name, typed(action)) for name in COMMAND_NAMES for action in actions(name)]


def find(name, option):
    return next(each for each in actions(name) if typed(each) == option)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Checks that a command line is refused in one line that says ``fragment``, and that nothing is written."""
    monkeypatch.chdir(tmp_path)

    def check(words, fragment):
        status = command(*words)
        out, err = capsys.readouterr()
        assert (status, out) == (2, ""), (words, err)
        assert err.endswith("\n") and err[:-1].isprintable() and len(err) < 500, (words, err)
        assert err.startswith(f"main.py {words[0]}: error: "), (words, err)
        assert fragment in err, (words, err)
        assert tree(tmp_path) == {}, words

    return check


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_wrong_value_is_one_line_that_names_the_option(refused, name, option):
    action = find(name, option)
    wrong = WRONG[kind(action)](action)
    if option == "RUN":
        refused([name], "RUN is missing")
        for value in wrong:
            refused([name, value], "RUN")
        return
    if action.nargs == 0:
        for each in action.option_strings:
            refused([name, "new", f"{each}=yes"], "takes no value, got 'yes'")
            refused([name, "new", each, "yes"], "unexpected argument 'yes'")
        return
    for value in wrong:
        refused([name, "new", *([f"{option}={value}"] if value.startswith("-") else [option, value])], option)
    refused([name, "new", option], f"{option}: expected ")
    if wrong:
        refused([name, "new", f"--{option[2:].replace('-', '_')}={wrong[0]}"], option)
    if wrong and action.nargs == "+":
        refused([name, "new", option, right(action), wrong[0]], option)
    if wrong and action.nargs is None:
        refused([name, "new", option, right(action), right(action)], "unexpected argument ")


def right(action):
    """A value that an option takes."""
    if kind(action) in ("whole", "number"):
        minimum, maximum, _ = bounds(action)
        return str(min(minimum + 1, maximum))
    return str(next(iter(action.choices or ["right"])))


def test_names_that_are_known_from_files_are_the_only_other_values():
    names = {(name, option) for name, option in OPTIONS if kind(find(name, option)) == "name"}
    assert names == {("train", "--datasets"), ("plot", "--method")}


@pytest.mark.parametrize("value", [*ODD, "x", "mnist", "MNIST,FashionMNIST", "MNIST@permute", "@permuted", "../MNIST"])
def test_an_unknown_data_set_is_one_line_that_names_it(refused, value):
    refused(["train", "new", "--root", "data", "--device", "cpu", "--datasets", value], f"unknown data set {value!r}")


@pytest.mark.parametrize(("name", "option"), [each for each in OPTIONS if each[1] != "RUN"])
def test_a_misspelled_option_is_told_the_nearest(refused, name, option):
    refused([name, "new", f"{option}x", "1"], f"unknown option '{option}x': did you mean --")
    refused([name, "new", f"{option}\x1b=1"], f"unknown option '{option}\\x1b': did you mean --")
    refused([name, "new", f"{option[:-1]}ü", "None"], f"unknown option '{option[:-1]}ü': did you mean --")


@pytest.mark.parametrize("word", [*ODD, "Train", "trainn", "rec", "None", "0", HUGE], ids=range(len(ODD) + 6))
def test_a_wrong_command_is_one_line(tmp_path, monkeypatch, capsys, word):
    monkeypatch.chdir(tmp_path)
    assert command(word, "new") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("main.py: error: unknown command ") and err[:-1].isprintable()
    assert tree(tmp_path) == {}


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command("train", "run") == 2
    error = "main.py: error: the folder in which it was called is not there any more\n"
    assert capsys.readouterr() == ("", error)


# Streams.


def called(words, *, shell="{}", **environment):
    """A shell's command line with ``{}`` for ``python main.py WORDS``: its exit status and what is on stderr."""
    line = shell.format(shlex.join([sys.executable, *words]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", **environment}
    ended = subprocess.run(["sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("words", [["main.py", "--help"], ["main.py", "train", "--help"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_on_a_full_disk_is_one_line(words, unbuffered):
    status, _, err = called(words, shell="{} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert status == 2
    assert err.startswith("main.py") and err.endswith(": No space left on device\n") and err.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_help_and_mistakes_without_streams_say_nothing(closed):
    status, out, err = called(["main.py", "--help"], shell="{} " + closed)
    assert status == 0 and err == "" and (out == "") is (">&-" in closed.replace("2>&-", ""))
    status, out, err = called(["main.py", "trian"], shell="{} " + closed)
    assert status == 2 and out == "" and (err == "") is ("2>&-" in closed)


def test_what_is_left_to_print_at_the_end_is_not_lost_in_silence(monkeypatch, capsys):
    monkeypatch.setattr(commands.split, "run", lambda args: print("parts"))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert command("split", "run") == 2
    assert capsys.readouterr().err == "main.py split: error: standard output: No space left on device\n"


@pytest.mark.parametrize("error", [UserError, lambda words: OSError(5, "is bad", words)], ids=["ours", "the system's"])
def test_no_message_draws_on_the_terminal(monkeypatch, capsys, error):
    def run(args):
        raise error("a\x1b[31m\nb\r\udcff: is bad")

    monkeypatch.setattr(commands.split, "run", run)
    assert command("split", "run") == 2
    assert "split: error: a\\x1b[31m\\nb\\r\\udcff: is bad" in capsys.readouterr().err


def test_a_program_that_has_ended_is_no_mistake():
    assert called(["main.py", "train", "--help"], shell="(sleep 0.5; {}; echo $? >&2) | true")[2] == "141\n"


@pytest.mark.slow
def test_training_without_output_trains(tmp_path):
    words = (
        f"tests/registered.py {tmp_path}/data train {tmp_path}/run --datasets Alpha --root {tmp_path}/data --layers 5"
    )
    words += " --seeds 2 --epochs 2 --device cpu --replicas sequential"
    assert called(words.split(), shell="{} <&- >&- 2>&-") == (0, "", "")
    assert {path.name for path in (tmp_path / "run" / "weights").iterdir()} == {"seed-0.pt", "seed-1.pt"}
    assert "epoch" in (tmp_path / "run" / "history.csv").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_an_output_that_has_not_every_character_gets_its_code(encoding):
    words = ["-c", "from spatial import process; process.settle(); print('±†')"]
    status, out, err = called(words, PYTHONIOENCODING=f"{encoding}:strict")
    assert status == 0 and err == ""
    assert out == {"ascii": "\\xb1\\u2020\n", "utf-8": "±†\n"}[encoding]


# Command lines drawn at random.

TINY = {  # values of options that would otherwise let a run be long; of the others some that are right
    "--epochs": ["1", "2"], "--batch-size": ["16", "32", "40", "2147483647"], "--accumulate": ["1", "2", "4"],
    "--layers": ["4", "9", "5", "1", "16"], "--dim": ["1", "2", "3", "9"], "--seeds": ["1", "2"],
    "--seed": ["0", "1", "7", "2147483647"], "--resize": ["1", "4", "16"], "--holdout": ["0", "1", "50", "79", "120"],
    "--save-every": ["1", "3", "1000"], "--where": ["0", "1", "2", "3"], "--warmup": ["0", "0.5", "1", "2", "3"],
    "--momentum": ["0", "0.9", "1"], "--lr": ["0.001", "0.1", "1e-38", "1e38"], "--position-lr": ["0.01", "1e38"],
    "--workers": ["0", "1"], "--datasets": [*NAMES, "Large", "Alpha@permuted", "ImageNet", "Alfa", "alpha"],
    "--method": ["greedy", "balanced", "random", "clusters"], "--device": ["cpu"],
    "--kind": ["curves", "positions", "prior", "scores"],
}  # fmt: skip
SLOW = {"--compile", "--onnx", "--report"}  # seconds to minutes
BASES = [  # of what is drawn for `train`
    "", "", "--model conv --layers 4 5", "--model lenet --resize 16", "--layers 9 9 --locality plane", "--seeds 2",
    "--layers 4 9 9 --locality line", "--input sequential", "--input concatenate --resize 8", "--transport 1",
    "--transport 1 --proximity 1 --outputs task", "--optimizer SGD", "--optimizer RMSprop --holdout 20",
]  # fmt: skip
RUNS = [*["run"] * 9, "split", "untrained", "empty", "stranger", "file", "file/run", "new", "new/run", "shut/run"]


class Lines:
    """Draws command lines.

    Args:
        seed: of the draw.
        root: the folder of the data.
    """

    def __init__(self, seed, root):
        self.random, self.root = random.Random(seed), str(root)

    def chance(self, percent):
        return self.random.random() < percent / 100

    def value(self, action):
        draw = self.random.choice
        option, which = typed(action), kind(action)
        if self.chance(7):
            return draw([*WRONG[which](action), *ODD, "None"])
        if option == "--tensorboard":  # the only other folder that is written to
            return draw(["curves", "curves", "file", "stranger"])
        if which == "folder":
            return self.root if option == "--root" and self.chance(70) else draw([*RUNS, ".", "..", "/", "-x"])
        if option in TINY:
            return draw(TINY[option])
        return draw([*action.choices]) if which == "choice" else draw(["0", "0.1", "1", "3", "1e38"])

    def option(self, action):
        name = self.random.choice(action.option_strings)
        if self.chance(20):
            name = "--" + name[2:].replace("-", "_")
        if self.chance(2):
            name = self.random.choice([name[:-1], name + "x", name.upper(), name + "\x1b", name[1:]])
        if action.nargs == 0 and not self.chance(3):
            return [name]
        values = [self.value(action) for _ in range(self.random.choice([1, 1, 2, 3]) if action.nargs == "+" else 1)]
        if self.chance(3):
            values = self.random.choice([[], [*values, self.value(action)]])
        return [f"{name}={values[0]}"] if values and self.chance(15) else [name, *values]

    def line(self):
        name = self.random.choice(["train", "train", "train", *COMMAND_NAMES])
        known = [each for each in actions(name) if each.option_strings and typed(each) not in SLOW]
        chosen = self.random.choices(known, k=self.random.choice([0, 1, 1, 2, 2, 3, 5]))
        words = []
        if name == "train":
            overwrite = ["--overwrite"] if self.chance(80) else []
            words = small(self.root, *self.random.choice(BASES).split(), *overwrite)
        words += [word for each in chosen for word in self.option(each)]
        if name == "plot" and not any(word.startswith(("--kind", "--relax")) for word in words):
            words += ["--kind", "curves"]  # all of them take their time
        run = self.random.choice([*WRONG["folder"](None), *ODD, "-x", ".", "~"] if self.chance(6) else RUNS)
        if self.chance(2):
            name = self.random.choice([*ODD, name[:-1], name.upper(), "None", "--help", "-h"])
        words = [name, *([] if self.chance(2) else [run]), *words]
        if self.chance(2):
            odd = self.random.choice([*ODD, "--", "-h", "--help", "None"])
            words.insert(self.random.randrange(len(words) + 1), odd)
        return words


@pytest.fixture
def world(root, tmp_path, monkeypatch):
    """Makes folders anew, as they are at first: a whole run, others that are not, and files of somebody else's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, world = tmp_path / "first", tmp_path / "world"
    for folder in ("stranger", "empty", "shut"):
        (first / folder).mkdir(parents=True)
    (first / "stranger" / "notes.txt").write_text("mine")
    (first / "file").write_text("a file")
    shutil.copytree(root, first / "data")
    for name in ("run", "split"):
        assert command("train", first / name, *small(root, "--epochs", "1")) == 0
        assert command("split", first / name, "--extract") == 0
    shutil.copytree(first / "run", first / "untrained", ignore=shutil.ignore_patterns("weights", "parts"))
    assert command("record", first / "run") == command("score", first / "run") == 0
    (first / "shut").chmod(0o500)

    def renew():
        monkeypatch.chdir(tmp_path)
        if world.exists():
            shutil.rmtree(world)
        shutil.copytree(first, world)
        monkeypatch.chdir(world)
        return world

    return renew


def changed(before, after):
    return {path for path in before.keys() | after.keys() if before.get(path, b"-") != after.get(path, b"-")}


def judge(folder, words, status, out, err, before, after):
    """A command line is refused in one line, and nothing is changed, or it has done something, to its run alone."""
    locks = {each for path in after if path.suffix == ".lock" for each in (path, *path.parents)}
    touched = changed(before, after) - (locks - before.keys())  # where data were looked for
    diverged = False
    if status == 2:
        assert err.endswith("\n") and err[:-1].isprintable() and len(err) < 700
        assert err.startswith(("main.py: error: ", f"main.py {words[0]}: error: "))
        diverged = "is not finite at epoch" in err
        assert diverged or (out == "" and not touched)
    else:
        assert status == 0 and out != ""
        assert "Traceback" not in err
        if words[0] == "train" and "show this help" not in out:
            run = Run(folder / words[1])
            assert all(run.weights(each).is_file() for each in run.seeds())
    if touched:
        own = {(folder / words[1]).resolve()}
        if words[0] == "train" and status == 0 and (curves := commands.parse(words).tensorboard):
            own.add((folder / curves).resolve() / own.copy().pop().name)
        assert all(
            any(path == each or each in path.parents or path in each.parents for each in own) for path in touched
        )
    assert (folder / "stranger" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("seed", range(4))
def test_any_command_line_does_its_work_or_is_one_line(world, root, capsys, record_property, nightly, seed):
    lines, counts, data = Lines(seed, root), Counter(), tree(root)
    for number in range(1250 if nightly else 63):
        if number % 50 == 0:
            folder = world()
            after = tree(folder)
            capsys.readouterr()
        words, before = lines.line(), after
        status = command(*words)
        after = tree(folder)
        judge(folder, words, status, *capsys.readouterr(), before, after)
        counts[status] += 1
    assert tree(root) == data
    assert min(counts[0], counts[2]) > number / 8
    record_property("tried", f"{number + 1} command lines of seed {seed}: {counts[0]} accepted, {counts[2]} refused")
