"""A run from its options: trained seed by seed, from whatever checkpoint there is."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spatial import models, runs, training
from spatial.errors import UserError
from spatial.runs import Run, seeds_of
from spatial.tasks import Tasks, input_shape, load_sets
from spatial.training import Epoch

CHECKPOINT = {
    "options": dict, "data": dict, "code": dict, "seed": int, "epoch": int, "network": dict, "optimizer": dict,
    "history": list, "positions": list,
}  # fmt: skip


def train(folder: Path, options: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> int:
    """Train every seed of a run and write its files; returns the exit status.

    Args:
        folder: the run's.
        options: of the command ``train``, by name.
        resume: continue from the checkpoints of the same options.
        overwrite: start anew; with ``resume`` only if anything changed or nothing is left to do.

    Raises:
        UserError: if the folder, the options or the data do not allow it; nothing is changed then.
    """
    run = Run(folder)
    _check_folder(run, resume, overwrite)
    device = training.device(options["device"])
    sets = load_sets(
        options["datasets"], options["root"], options["input"], holdout=options["holdout"], resize=options["resize"]
    )
    inputs = (sum if options["input"] == "sequential" else max)(len(each.train.images) for each in sets)
    if options["model"] in models.NORMED and options["batch_norm"] is not False and inputs < 2:
        raise UserError(f"the batch norm of --model {options['model']} needs 2 training images or more")
    shape, classes = input_shape(sets, options["input"]), [each.train.classes for each in sets]
    if min(shape[1:]) < (smallest := models.SMALLEST.get(options["model"], 1)):
        raise UserError(
            f"--model {options['model']} needs images of {smallest} x {smallest} pixels or more, got "
            f"{shape[1]} x {shape[2]}; try --resize 28"
        )
    arguments = models.constructor_arguments(options["model"], options, shape=shape, classes=classes)
    checksums = {each.name: each.checksums for each in sets}
    identity = {"version": runs.VERSION, "options": options, "data": checksums}
    code = runs.code_checksums()

    states = _to_continue(run, identity, arguments, code, resume, overwrite)
    finished = _finished(states, options)
    if not finished:  # what other commands made of earlier weights goes too
        run.clear(keep="resume" if states else None)
    runs.save_json(run.config_file, identity)
    environment = _environment(device)
    if not finished:
        runs.save_json(run.environment, environment)

    train_tasks = Tasks([each.train for each in sets], options["input"], device)
    test_tasks = Tasks([each.test for each in sets], options["input"], device)
    history: list[dict[str, Any]] = []
    trajectories: dict[str, np.ndarray] = {}
    for seed in seeds_of(options):
        state = states.get(seed)
        model = models.build(options["model"], arguments, seed, options["outputs"])
        trajectory = [training.snapshot(model)]
        own_history: list[dict[str, Any]] = []
        if state is not None:
            model.load_state_dict(state["network"]["state"])
            trajectory, own_history = state["positions"], state["history"]
        model.to(device)
        runs.save_table(run.history, history + own_history)
        for epoch, optimizer_state in _fit(model, seed, state, train_tasks, test_tasks, options):
            trajectory.append(training.snapshot(model))
            rows = _rows(seed, epoch, options)
            own_history += rows
            checkpoint = {
                **identity, "code": code, "seed": seed, "epoch": epoch.number, "network": models.pack(model),
                "optimizer": optimizer_state, "history": own_history, "positions": trajectory,
            }  # fmt: skip
            runs.save(run.resume(seed), checkpoint)  # before its row: a row without a checkpoint would be written twice
            runs.append_table(run.history, rows)
            print(_line(seed, epoch, options), flush=True)
        history += own_history
        for index, places in enumerate(zip(*trajectory, strict=True)):
            trajectories[f"seed-{seed}/layer-{index}"] = torch.stack(places).numpy()  # [epochs + 1, units, dim]
        runs.save(run.weights(seed), models.pack(model, tasks=options["datasets"]))
        runs.save_arrays(run.positions, trajectories)
    if finished:
        print(f"{folder}: finished already, nothing to do (--epochs may grow under --schedule constant or step)")
    else:
        runs.save_json(run.environment, {**environment, "finished": _now()})
    return 0


def _fit(
    model: nn.Module,
    seed: int,
    state: dict[str, Any] | None,
    train_tasks: Tasks,
    test_tasks: Tasks,
    options: dict[str, Any],
) -> Iterator[tuple[Epoch, dict[str, Any]]]:
    """:func:`spatial.training.fit` with a run's options, from a seed's checkpoint if there is one."""
    return training.fit(
        model,
        train_tasks,
        test_tasks,
        seed=seed,
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        optimizer=options["optimizer"],
        lr=options["lr"],
        momentum=options["momentum"] or 0.0,
        weight_decay=options["weight_decay"],
        schedule=options["schedule"],
        order=options["order"] or "random",
        transport=options["transport"],
        proximity=options["proximity"],
        where=options["where"],
        norm=options["norm"],
        per=options["transport_per"],
        weight_penalty=options["weight_penalty"],
        positions=options["positions"],
        hold_outputs=options["outputs"] == "held",
        position_lr=options["position_lr"],
        start=0 if state is None else state["epoch"],
        optimizer_state=None if state is None else state["optimizer"],
    )


def _rows(seed: int, epoch: Epoch, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of history.csv of one epoch."""
    subsets = ("train", _scored(options))
    return [
        {
            "seed": seed, "epoch": epoch.number, "subset": subset, "loss": result.loss, "accuracy": result.mean,
            **dict(zip(options["datasets"], result.accuracy, strict=True)),
            "transport": epoch.transport, "proximity": epoch.proximity, "seconds": seconds,
            "weight_penalty": epoch.weight_penalty,
        }
        for subset, result, seconds in zip(subsets, (epoch.train, epoch.test), epoch.seconds, strict=True)
    ]  # fmt: skip


def _scored(options: dict[str, Any]) -> str:
    """The images that are scored after every epoch."""
    return "holdout" if options["holdout"] else "test"


def _line(seed: int, epoch: Epoch, options: dict[str, Any]) -> str:
    """One epoch for a person to read."""
    names = zip(options["datasets"], epoch.test.accuracy, strict=True)
    accuracies = "  ".join(f"{name} {100 * accuracy:.1f} %" for name, accuracy in names)
    return (
        f"seed {seed}  epoch {epoch.number}/{options['epochs']}  loss {epoch.train.loss:.4f}  "
        f"{_scored(options)}: {accuracies}  "
        f"T {epoch.transport:.4g}  P {epoch.proximity:.4g}  {sum(epoch.seconds):.1f} s"
    )


def _to_continue(
    run: Run, identity: dict[str, Any], arguments: dict[str, Any], code: dict[str, str], resume: bool, overwrite: bool
) -> dict[int, dict[str, Any]]:
    """The checkpoints to go on from, by seed; none where training starts anew.

    Raises:
        UserError: if ``resume`` alone was asked for and cannot be done.
    """
    if not resume:
        return {}
    try:
        states = _checkpoints(run)
        if overwrite and _finished(states, identity["options"]):
            return {}
        for state in states.values():
            if differences := _differences(state, identity, code if overwrite else None):
                raise UserError(f"{run.folder}: --resume needs what it was started with: {'; '.join(differences)}")
            models.unpack(state["network"], run.resume(state["seed"]))
            if state["network"]["arguments"] != arguments:
                raise UserError(f"{run.resume(state['seed'])}: holds another network than the options given make")
        if not states and any((run.folder / "weights").glob("seed-*.pt")):
            raise UserError(f"{run.folder}: has weights but no resume/ to --resume from; --overwrite starts it anew")
    except UserError:
        if overwrite:
            return {}
        raise
    return states


def _check_folder(run: Run, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that training would damage or cannot continue."""
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, not a folder")
    if not folder.exists():
        if resume and not overwrite:
            raise UserError(f"{folder}: no such folder, there is nothing to --resume")
        return
    if not any(folder.iterdir()):
        return
    if not resume and not overwrite:
        raise UserError(
            f"{folder}: exists and is not empty; the same command with --resume continues it, "
            "--overwrite starts it anew"
        )
    if not run.is_run():
        raise UserError(
            f"{folder}: not a run (it has neither config.json nor resume/), it is left alone; choose another folder"
        )


def _checkpoints(run: Run) -> dict[int, dict[str, Any]]:
    """Every seed's checkpoint that there is."""
    states = {}
    for path in sorted((run.folder / "resume").glob("seed-*.pt")):
        state = runs.load_plain(path)
        fits = isinstance(state, dict) and state.get("version") == runs.VERSION
        if not fits or any(type(state.get(name)) is not kind for name, kind in CHECKPOINT.items()):
            raise UserError(
                f"{path}: not a checkpoint of this program's version {runs.VERSION}; --overwrite starts the run anew"
            )
        states[state["seed"]] = state
    return states


def _finished(states: dict[int, dict[str, Any]], options: dict[str, Any]) -> bool:
    return all(seed in states and states[seed]["epoch"] >= options["epochs"] for seed in seeds_of(options))


def _differences(state: dict[str, Any], identity: dict[str, Any], code: dict[str, str] | None = None) -> list[str]:
    """What a checkpoint was made with and is not so now, a phrase each."""
    was, now = state["options"], identity["options"]
    found = []
    for name in sorted({*was, *now}):
        grown = name == "epochs" and now["schedule"] in training.OPEN_ENDED and now["epochs"] >= was["epochs"]
        if was.get(name) != now.get(name) and not grown:
            found.append(f"--{name.replace('_', '-')} was {_word(was.get(name))} and is {_word(now.get(name))}")
    found += [
        f"the files of {name} have changed"
        for name, sums in identity["data"].items()
        if state["data"].get(name) != sums
    ]
    if code is not None and state["code"] != code:
        found.append("the program has changed")
    return found


def _word(value: Any) -> str:
    return "unset" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and machine, for whoever reads the results later."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "commit": _commit(),
        "command": sys.argv, "platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(device),
        "accelerator": torch.cuda.get_device_name() if device.type == "cuda" else None, "started": _now(),
    }  # fmt: skip


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the program, None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
