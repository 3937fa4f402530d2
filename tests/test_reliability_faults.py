"""Disks that are full, folders that vanish, two at once, clocks that go back: a line, a status, and nothing lost."""

import errno
import os
import random
import shutil
import signal
import subprocess

import pytest
from helpers import results, train_options
from processes import NETWORK, until

from spatial import experiment, storing, training
from spatial.runs import Run

WORDS = f"--datasets Alpha Beta {NETWORK} --epochs 4 --seeds 2 --replicas sequential"
LONG = ("--epochs", "100000", "--schedule", "constant")


@pytest.fixture(scope="module")
def starts(starts, stored):
    """As in all tests; ``train`` trains the same small networks."""
    words = [*WORDS.split(), "--root", stored]

    def start(folder, name, run, *more, **faults):
        return starts(folder, name, run, *(words if name == "train" else []), *more, **faults)

    return start


@pytest.fixture(scope="module")
def whole(starts, tmp_path_factory):
    """A run as it should be, and how many changes to files it has taken."""
    folder = tmp_path_factory.mktemp("whole")
    command = starts(folder, "train", "run")
    assert command.wait() == 0, command.errors
    return Run(folder / "run"), command.changes


def is_one_line(command, status=2):
    assert command.wait() == status, command.errors
    assert command.errors.startswith("main.py ") and command.errors.count("\n") == 1, command.errors
    return command.errors


def resumes(starts, folder, whole):
    """The run goes on, or starts where there is none yet, and comes to what it is without a fault."""
    run = Run(folder / "run")
    again = starts(folder, "train", "run", *(["--resume"] if run.config_file.is_file() else []))
    assert again.wait() == 0, again.errors
    assert results(run) == results(whole[0])
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_disk_that_fails_at_any_change_of_a_file(starts, whole, tmp_path, nightly, record_property):
    errors = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT)
    numbers = range(1, whole[1] + 1)
    chosen = numbers if nightly else random.Random(1).sample(numbers, 3)
    for number in chosen:
        folder = tmp_path / str(number)
        folder.mkdir()
        error = errors[number % len(errors)]
        said = is_one_line(starts(folder, "train", "run", fail_at=number, error=error))
        assert said.startswith("main.py train: error: ") and "run" in said and os.strerror(error) in said
        assert said.endswith("with --resume goes on\n") == (folder / "run" / "config.json").is_file()
        resumes(starts, folder, whole)
    record_property("tried", f"{len(chosen)} of {whole[1]} changes of files: failed by the system, a line, resumed")


@pytest.mark.parametrize("largest", [500, 4000, 12_000, 16_000])
def test_a_limit_on_the_size_of_files(starts, whole, tmp_path, largest):
    said = is_one_line(starts(tmp_path, "train", "run", largest=largest))
    assert "File too large" in said
    resumes(starts, tmp_path, whole)


def test_a_disk_that_is_full(starts, whole, tmp_path):
    """A real one, of 64 KiB, that has other things on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        (disk / "other").write_bytes(bytes(48 * 1024))
        said = is_one_line(starts(disk, "train", "run", told=str(tmp_path / "disk.told")))
        assert "No space left on device" in said
        kept = Run(disk / "run").resume(0)
        if kept.is_file():
            assert storing.load_plain(kept)["epoch"] >= 1
        (disk / "other").unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        resumes(starts, disk, whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_output_on_a_full_disk(starts, tmp_path, whole):
    said = is_one_line(starts(tmp_path, "train", "run", out="/dev/full"))
    assert said.startswith("main.py train: error: standard output: No space left on device; once that is mended")
    resumes(starts, tmp_path, whole)


def running(starts, folder, *more):
    """A run in its midst."""
    command = starts(folder, "train", "run", *more)
    until(lambda: command.out.count("epoch") > 2 or command.errors)
    return command


def test_a_folder_that_is_removed(starts, tmp_path, whole, nightly, record_property):
    times = 30 if nightly else 3
    for _ in range(times):
        command = running(starts, tmp_path, *LONG)
        while (tmp_path / "run").exists():
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert is_one_line(command) == (
            "main.py train: error: run: was removed during training, nothing more is written\n"
        )
        assert not (tmp_path / "run" / "weights").exists()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    resumes(starts, tmp_path, whole)
    record_property("tried", f"{times} folders removed during training: a line, nothing more written")


def test_a_folder_that_another_run_has_taken(starts, tmp_path, whole):
    """Removed, and trained anew by another command, before the first one writes again."""
    first = running(starts, tmp_path, *LONG)
    first.send(signal.SIGSTOP)
    shutil.rmtree(tmp_path / "run")
    second = starts(tmp_path, "train", "run")
    assert second.wait() == 0, second.errors
    first.send(signal.SIGCONT)
    assert "was removed during training" in is_one_line(first)
    assert results(Run(tmp_path / "run")) == results(whole[0])


def test_a_second_train_is_refused_while_the_first_lives(starts, tmp_path, whole):
    first = running(starts, tmp_path, *LONG)
    run = Run(tmp_path / "run")
    for words in (["--resume"], ["--overwrite"], ["--resume", "--overwrite"]):
        said = is_one_line(starts(tmp_path, "train", "run", *words))
        assert said == "main.py train: error: run: another command is at work on it, wait until that has ended\n"
    assert "exists and is not empty" in is_one_line(starts(tmp_path, "train", "run"))
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    epochs = storing.load_plain(run.resume(0))["epoch"]
    taken_over = starts(tmp_path, "train", "run", *LONG, "--resume")
    until(lambda: taken_over.out or taken_over.errors)
    assert taken_over.out.startswith(f"seed 0  epoch {epochs + 1}/")
    taken_over.send(signal.SIGTERM)
    assert "terminated; the same command with --resume continues it" in is_one_line(taken_over, 143)
    assert starts(tmp_path, "train", "run", "--overwrite").wait() == 0
    assert results(run) == results(whole[0])


def test_of_many_that_start_at_once_one_trains(starts, tmp_path, whole):
    commands = [starts(tmp_path, "train", "run") for _ in range(6)]
    statuses = [command.wait() for command in commands]
    assert sorted(statuses) == [0, 2, 2, 2, 2, 2]
    for command, status in zip(commands, statuses, strict=True):
        if status:
            assert "at work on it" in is_one_line(command) or "exists and is not empty" in command.errors
    assert results(Run(tmp_path / "run")) == results(whole[0])


@pytest.mark.parametrize("name", ["record", "split", "score"])
def test_what_changes_a_run_waits_for_its_training(starts, whole, tmp_path, name):
    run = Run(shutil.copytree(whole[0].folder, tmp_path / "run"))
    with run.locked():
        assert "another command is at work on it" in is_one_line(starts(tmp_path, name, "run"))
    assert starts(tmp_path, name, "run").wait() == 0


def test_figures_are_drawn_one_plot_after_the_other(starts, whole, tmp_path):
    shutil.copytree(whole[0].folder, tmp_path / "run")
    with Run(tmp_path / "run").locked():  # as training does
        commands = [starts(tmp_path, "plot", "run", "--kind", "curves") for _ in range(3)]
        assert [command.wait() for command in commands] == [0, 0, 0]
    left = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert left == ["curves.png"]


def test_a_loss_that_is_not_finite(starts, tmp_path):
    words = ("--optimizer", "SGD", "--lr", "1e18")
    said = is_one_line(starts(tmp_path, "train", "run", *words))
    assert "the loss of seed 0 is not finite at epoch 1, step 2 of 8" in said
    assert is_one_line(starts(tmp_path, "train", "run", *words, "--resume")) == said


def test_a_clock_that_goes_back(starts, whole, tmp_path):
    command = starts(tmp_path, "train", "run", clock_back=True)
    assert command.wait() == 0, command.errors
    run = Run(tmp_path / "run")
    assert results(run) == results(whole[0])
    assert all(float(row["seconds"]) >= 0 for row in storing.read_table(run.history))


def test_eight_runs_at_once_share_the_data_alone_which_are_fetched_once(starts, stored, tmp_path):
    asked = stored / "Beta" / "asked"
    asked.unlink(missing_ok=True)
    words = ("--datasets", "Slow", "--root", str(tmp_path / "data"))
    commands = [starts(tmp_path, "train", f"run-{number}", *words) for number in range(8)]
    assert [command.wait() for command in commands] == [0] * 8, [command.errors for command in commands]
    assert len(asked.read_text().split()) == 1
    waited = [command for command in commands if "another process fetches it" in command.errors]
    assert 1 <= len(waited) <= 7
    first, *others = (results(Run(tmp_path / f"run-{number}")) for number in range(8))
    assert all(other == first for other in others)


def test_fetching_that_is_killed_is_taken_over_and_leaves_nothing(starts, stored, tmp_path):
    asked, root = stored / "Beta" / "asked", tmp_path / "data"
    asked.unlink(missing_ok=True)
    words = ("--datasets", "Slow", "--root", str(root))
    first = starts(tmp_path, "train", "first", *words)
    until(lambda: asked.exists() or first.errors)
    second = starts(tmp_path, "train", "second", *words)
    until(lambda: "another process fetches it" in second.errors)
    first.send(signal.SIGKILL)
    assert second.wait() == 0, second.errors
    assert len(asked.read_text().split()) == 2
    files = sorted(path.name for path in (root / "Slow" / "raw").iterdir())
    assert len(files) == 4 and not any(name.startswith(".") for name in files)


def test_two_thousand_epochs_take_no_more_memory_and_no_more_files(root, tmp_path, nightly, record_property):
    epochs = 2000 if nightly else 120
    seen, original = [], training.snapshot

    def snapshot(model):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        seen.append((pages, len(os.listdir("/proc/self/fd"))))
        return original(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "snapshot", snapshot)
        experiment.train(tmp_path / "run", train_options(root, "--epochs", str(epochs), "--transport", "1"))
    (before, files), (after, files_after) = seen[epochs // 2], seen[-1]
    grown = (after - before) * 4096 / 2**20
    record_property("tried", f"{epochs} epochs: {grown:.1f} MiB more in the second half, {files_after - files} files")
    assert grown < 8 and files_after <= files
    assert len(storing.read_table(Run(tmp_path / "run").history)) == 2 * epochs
