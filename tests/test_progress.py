"""What is shown while a command works: bars on a terminal, lines everywhere, time that is left."""

import io
import math
import re
from functools import partial

import pytest
import torch
from helpers import command, fit_alone, mlp, noise_tasks, small

from spatial import progress
from spatial.progress import Watch, lasting
from spatial.training import fit


class Terminal(io.StringIO):
    """Takes every word, as a terminal does."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in place of stderr, of 80 characters wide, where numbers are shown after every step."""
    shown = Terminal()
    monkeypatch.setattr(progress, "AT_ONCE", 0.0)
    monkeypatch.setattr(progress, "SHARE", math.inf)
    monkeypatch.setattr(progress, "tqdm", partial(progress.tqdm, file=shown, mininterval=0, miniters=1))
    return shown


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "1.7 h"), (math.nan, "?"), (math.inf, "?")],
)
def test_times_are_short(seconds, words):
    assert lasting(seconds) == words


def test_what_is_left_takes_as_long_as_what_was_done(clock):
    watch = Watch(6)
    assert math.isnan(watch.left())
    for epoch in range(1, 7):
        with watch.steps([0], f"{epoch}/6", 0, 4) as numbers:
            assert list(numbers) == [0, 1, 2, 3]
            clock[0] += 2.0
        assert watch.left() == pytest.approx(2.0 * (6 - epoch))


def test_a_begun_epoch_counts_its_rest(clock):
    watch = Watch(2)
    with watch.steps([0], "1/2", 3, 4) as numbers:
        assert list(numbers) == [3]
        clock[0] += 1.0
    assert watch.left() == pytest.approx(4.0)  # a quarter of an epoch took a second


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    for _ in fit_alone(mlp(), noise_tasks(), noise_tasks(), seed=0, epochs=2, batch_size=8):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_bar_has_epoch_losses_accuracies_and_time(terminal):
    tasks, watch = noise_tasks(), Watch(2, ["Alpha", "FashionMNIST"])
    models = [mlp(seed=seed) for seed in (3, 4)]
    for _ in fit(models, tasks, tasks, seeds=[3, 4], epochs=2, batch_size=8, weight_penalty=0.1, watch=watch):
        pass
    said = terminal.getvalue()
    bars = [bar for bar in said.split("\r") if "task" in bar]
    number = r"[0-9.e+-]+"
    layout = (
        rf"seed 3-4  epoch [12]/2 +\d+%\|.+\| left (\?|\d+ s)  task {number}  T {number}  P {number}  W {number}  "
        r"Alp \d\.\d\d  Fas \d\.\d\d"
    )
    assert bars and all(re.fullmatch(layout, bar.rstrip()) for bar in bars), bars
    assert "\x1b[3" not in said  # no colours
    assert said.endswith("\r") and not said.split("\r")[-2].strip()  # nothing stays


def test_to_look_changes_nothing(terminal):
    weights = []
    for watch in (None, Watch(2, ["a", "b"])):
        model, tasks = mlp(), noise_tasks()
        torch.manual_seed(7)
        for _ in fit([model], tasks, tasks, seeds=[0], epochs=2, batch_size=8, transport=1.0, watch=watch):
            pass
        weights.append([model.state_dict(), torch.rand(3)])
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


LINE = (
    r"seed {seed}  epoch {epoch}/2  loss \d\.\d{{4}}  scored {subset}  Alpha [01]\.\d{{4}}  Beta [01]\.\d{{4}}  "
    r"transport [0-9.e-]+  proximity [0-9.e-]+  took \d+\.\d s  left \d+ s"
)


@pytest.mark.parametrize(
    ("words", "subset", "order"),
    [
        ("--seeds 2", "test", [(0, 1), (1, 1), (0, 2), (1, 2)]),
        ("--seeds 2 --replicas sequential --holdout 20", "holdout", [(0, 1), (0, 2), (1, 1), (1, 2)]),
    ],
)
def test_every_epoch_is_one_line_for_grep(root, tmp_path, capsys, words, subset, order):
    assert command("train", tmp_path / "run", *small(root, *words.split())) == 0
    out, err = capsys.readouterr()
    *lines, last = out.splitlines()
    assert err == "" and last.startswith("next: ")
    for line, (seed, epoch) in zip(lines, order, strict=True):
        assert re.fullmatch(LINE.format(seed=seed, epoch=epoch, subset=subset), line)
    assert lines[-1].endswith("left 0 s")


def test_slow_work_has_a_bar_and_quick_work_has_none(terminal, monkeypatch):
    assert list(progress.over("abc", "reading", 3)) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_of_several_processes_the_first_alone_has_bars(terminal, monkeypatch):
    monkeypatch.setattr(progress.process, "NUMBER", 1)
    with Watch(1).steps([0], "1/1", 0, 3) as numbers:
        assert list(numbers) == [0, 1, 2]
    assert terminal.getvalue() == ""
