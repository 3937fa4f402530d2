"""What train writes for TensorBoard, read back by tensorboard itself."""

import builtins
import math

import pytest
from helpers import Interruption, command, results, small

from spatial import scalars, storing
from spatial.runs import Run
from spatial.scalars import Scalars

pytest.importorskip("tensorboard", reason="requirements-dev.txt has it")


def read(folder):
    """Every tag's values by step, of the files in a folder; a step that comes twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == list(range(1, len(steps) + 1)), (tag, steps)
        found[tag] = [event.value for event in events.Scalars(tag)]
    return found


def wanted(run, seed, names=("Alpha", "Beta"), scored="test"):
    """The same from history.csv."""
    found = {}
    for row in storing.read_table(run.history):
        if row["seed"] == str(seed):
            subset = row["subset"]
            values = {f"loss/{subset}": row["loss"]} | {f"accuracy/{subset}/{name}": row[name] for name in names}
            if subset == scored:
                values |= {f"cost/{name}": row[name] for name in ("transport", "proximity", "weight_penalty")}
            for tag, value in values.items():
                found.setdefault(tag, []).append(pytest.approx(float(value), rel=1e-5))
    return found


def words(root, tmp_path, *more):
    return ["train", tmp_path / "run", *small(root, "--tensorboard", str(tmp_path / "curves"), *more)]


@pytest.mark.parametrize("replicas", ["together", "sequential"])
def test_tensorboard_reads_the_history(root, tmp_path, replicas):
    assert command(*words(root, tmp_path, "--seeds", "2", "--replicas", replicas, "--holdout", "20")) == 0
    run = Run(tmp_path / "run")
    for seed in (0, 1):
        found = read(tmp_path / "curves/run" / f"seed-{seed}")
        assert found == wanted(run, seed, scored="holdout") and len(found["loss/train"]) == 2
    assert run.options()["tensorboard"] == str(tmp_path / "curves")


@pytest.mark.parametrize("steps", [2, 6, 10])
def test_an_interrupted_run_goes_on_without_gaps_and_twice_told_epochs(root, tmp_path, monkeypatch, steps):
    line = words(root, tmp_path, "--epochs", "3", "--save-every", "1")
    with monkeypatch.context() as patch:
        Interruption(patch, steps)
        assert command(*line) == 130
    assert command(*line, "--resume") == 0
    assert read(tmp_path / "curves/run/seed-0") == wanted(Run(tmp_path / "run"), 0)
    assert command(*line, "--resume", "--epochs", "5") == 0
    found = read(tmp_path / "curves/run/seed-0")
    assert found == wanted(Run(tmp_path / "run"), 0) and len(found["loss/test"]) == 5


def test_it_may_be_given_later_and_changes_no_result(root, tmp_path):
    plain = ["train", tmp_path / "run", *small(root)]
    assert command(*plain) == 0
    before = results(Run(tmp_path / "run"))
    assert command(*words(root, tmp_path), "--resume") == 0  # of a finished run all that there is
    assert read(tmp_path / "curves/run/seed-0") == wanted(Run(tmp_path / "run"), 0)
    after = results(Run(tmp_path / "run"))
    config = Run(tmp_path / "run").config_file.relative_to(tmp_path / "run")
    assert before[0].pop(config) != after[0].pop(config) and before == after


def test_a_lost_event_is_written_again(root, tmp_path):
    """Killed between a checkpoint and its events, and with half an event."""
    assert command(*words(root, tmp_path)) == 0
    (path,) = (tmp_path / "curves/run/seed-0").iterdir()
    path.write_bytes(path.read_bytes()[:-70])
    assert command(*words(root, tmp_path), "--resume") == 0
    assert read(path.parent) == wanted(Run(tmp_path / "run"), 0)
    assert len(list(path.parent.iterdir())) == 1


def test_another_runs_events_are_not_mixed_with_new_ones(root, tmp_path, capsys):
    assert command(*words(root, tmp_path)) == 0
    other = tmp_path / "other" / "run"
    line = ["train", other, *words(root, tmp_path)[2:]]
    before = read(tmp_path / "curves/run/seed-0")
    capsys.readouterr()
    assert command(*line) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "curves/run/seed-0: holds the events of another run; " in err
    assert not other.exists() and read(tmp_path / "curves/run/seed-0") == before
    assert command(*words(root, tmp_path, "--seeds", "2", "--overwrite")) == 0
    assert command(*line, "--overwrite", "--epochs", "1") == 0
    assert [path.parent.name for path in (tmp_path / "curves").rglob("*tfevents*")] == ["seed-0"]
    assert read(tmp_path / "curves/run/seed-0") == wanted(Run(other), 0)


def test_what_was_not_measured_has_no_event(tmp_path):
    row = {"epoch": 1, "subset": "test", "loss": 0.5, "Alpha": math.nan, "top5": 0.75, "transport": 1.0}
    Scalars(tmp_path, ["Alpha"], [row | {"proximity": 0.25, "weight_penalty": 0.0}])
    assert read(tmp_path) == {
        "loss/test": [0.5], "top5/test": [0.75], "cost/transport": [1.0], "cost/proximity": [0.25],
        "cost/weight_penalty": [0.0],
    }  # fmt: skip


def refused(capsys, line, fragment):
    capsys.readouterr()
    assert command(*line) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and fragment in err


def test_without_its_package_nothing_is_written(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    refused(capsys, words(root, tmp_path), "--tensorboard needs a package that is not installed: python -m pip install")
    assert not (tmp_path / "run").exists() and not (tmp_path / "curves").exists()


@pytest.mark.parametrize("at", [".", "run", "run/curves"])
def test_the_runs_folder_holds_nothing_but_the_run(root, tmp_path, capsys, monkeypatch, at):
    monkeypatch.chdir(tmp_path)
    line = ["train", "run", *small(root, "--tensorboard", at)]
    refused(capsys, line, f"--tensorboard {at}: what it writes lies in the run's folder")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_shut_is_refused_before_training(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scalars.os, "access", lambda *_: False)
    refused(capsys, words(root, tmp_path), "cannot be written to")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_one_line(root, tmp_path, capsys):
    (tmp_path / "curves").write_text("mine")
    refused(capsys, words(root, tmp_path), "--tensorboard: ")
    (tmp_path / "curves").unlink()
    (tmp_path / "curves/run").mkdir(parents=True)
    (tmp_path / "curves/run/seed-0").write_text("mine")
    refused(capsys, words(root, tmp_path), "seed-0: File exists; once that is mended, the same command with --resume")
    (tmp_path / "curves/run/seed-0").unlink()
    assert command(*words(root, tmp_path), "--resume") == 0


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    curve = Scalars(tmp_path, [])
    curve.path.unlink()
    curve.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*tfevents.*spatial'"):
        curve.add([{"epoch": 1, "subset": "train", "loss": 0.5}])


def test_tensorboard_is_imported_only_when_it_is_asked_for(root, tmp_path, monkeypatch):
    original = builtins.__import__

    def imported(name, *rest):
        assert not name.startswith(("tensorboard", "torch.utils.tensorboard"))
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    assert command("train", tmp_path / "run", *small(root, "--epochs", "1")) == 0
