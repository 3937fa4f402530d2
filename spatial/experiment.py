"""A run from its options: trained seed by seed, from whatever checkpoint there is."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spatial import kernels, runs, training
from spatial.errors import UserError
from spatial.kernels import Compute
from spatial.models import NORMED, SMALLEST, build, constructor_arguments, pack, unpack
from spatial.runs import Run, seeds_of
from spatial.tasks import Tasks, input_shape, load_sets
from spatial.training import Epoch

CHECKPOINT = {
    "options": dict, "data": dict, "code": dict, "seeds": list, "epoch": int, "networks": list, "optimizer": dict,
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
    if options["model"] in NORMED and options["batch_norm"] is not False and inputs < 2:
        raise UserError(f"the batch norm of --model {options['model']} needs 2 training images or more")
    shape, classes = input_shape(sets, options["input"]), [each.train.classes for each in sets]
    if min(shape[1:]) < (smallest := SMALLEST.get(options["model"], 1)):
        raise UserError(
            f"--model {options['model']} needs images of {smallest} x {smallest} pixels or more, got "
            f"{shape[1]} x {shape[2]}; try --resize 28"
        )
    arguments = constructor_arguments(options["model"], options, shape=shape, classes=classes)
    options = {**options, "replicas": _replicas(run, options, arguments, device, resume)}
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
    del sets  # the tasks hold the images
    compute = kernels.compiled(_say) if options["compile"] else None
    history: list[dict[str, Any]] = []
    trajectories: dict[str, np.ndarray] = {}
    for seeds in _together(options):
        state = states.get(seeds[0])
        models = [build(options["model"], arguments, seed, options["outputs"]) for seed in seeds]
        paths = [[training.snapshot(model)] for model in models]
        own_history: list[dict[str, Any]] = []
        if state is not None:
            for model, network in zip(models, state["networks"], strict=True):
                model.load_state_dict(network["state"])
            paths, own_history = state["positions"], state["history"]
        for model in models:
            model.to(device)
        runs.save_table(run.history, history + own_history)
        for epochs, optimizer_state in _fit(models, seeds, state, train_tasks, test_tasks, options, compute):
            for model, path in zip(models, paths, strict=True):
                path.append(training.snapshot(model))
            rows = [row for seed, epoch in zip(seeds, epochs, strict=True) for row in _rows(seed, epoch, options)]
            own_history += rows
            checkpoint = {
                **identity, "code": code, "seeds": seeds, "epoch": epochs[0].number,
                "networks": [pack(model) for model in models], "optimizer": optimizer_state, "history": own_history,
                "positions": paths,
            }  # fmt: skip
            # before its rows: a row without a checkpoint would be written twice
            runs.save(run.resume(seeds[0]), checkpoint)
            runs.append_table(run.history, rows)
            for seed, epoch in zip(seeds, epochs, strict=True):
                print(_line(seed, epoch, options), flush=True)
        history += sorted(own_history, key=lambda row: row["seed"])
        for seed, model, path in zip(seeds, models, paths, strict=True):
            for index, places in enumerate(zip(*path, strict=True)):
                trajectories[f"seed-{seed}/layer-{index}"] = torch.stack(places).numpy()  # [epochs + 1, units, dim]
            runs.save(run.weights(seed), pack(model, tasks=options["datasets"]))
        runs.save_arrays(run.positions, trajectories)
    runs.save_table(run.history, history)
    if finished:
        print(f"{folder}: finished already, nothing to do (--epochs may grow under --schedule constant or step)")
    else:
        runs.save_json(run.environment, {**environment, "finished": _now()})
    return 0


def _replicas(run: Run, options: dict[str, Any], arguments: dict[str, Any], device: torch.device, resume: bool) -> str:
    """How the seeds are trained: what was chosen at first, also where another machine resumes the run."""
    if options["replicas"] == "auto" and resume and run.config_file.is_file():
        with suppress(UserError):
            known = run.options()
            if all(known.get(name) == value for name, value in options.items() if name not in ("replicas", "epochs")):
                return known["replicas"]
    model = build(options["model"], arguments, options["seed"])
    return training.replicas(options["replicas"], model, device, options["seeds"])


def _together(options: dict[str, Any]) -> list[list[int]]:
    """The seeds that are trained side by side, one group after the other."""
    seeds = seeds_of(options)
    return [seeds] if options["replicas"] == "together" else [[seed] for seed in seeds]


def _fit(
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    state: dict[str, Any] | None,
    train_tasks: Tasks,
    test_tasks: Tasks,
    options: dict[str, Any],
    compute: Compute | None,
) -> Iterator[tuple[list[Epoch], dict[str, Any]]]:
    """:func:`spatial.training.fit` with a run's options, from a checkpoint if there is one."""
    return training.fit(
        models,
        train_tasks,
        test_tasks,
        seeds=seeds,
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
        compute=compute,
        start=0 if state is None else state["epoch"],
        optimizer_state=None if state is None else state["optimizer"],
    )


def _say(words: str) -> None:
    """A line for a person, apart from the results."""
    print(words, file=sys.stderr, flush=True)


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
            path = run.resume(state["seeds"][0])
            if state["seeds"] not in _together(identity["options"]):
                raise UserError(f"{path}: holds other seeds than the options given ask for")
            for network in state["networks"]:
                unpack(network, path)
                if network["arguments"] != arguments:
                    raise UserError(f"{path}: holds another network than the options given make")
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
    """Every checkpoint that there is, by the first of its seeds."""
    states = {}
    for path in sorted((run.folder / "resume").glob("seed-*.pt")):
        state = runs.load_plain(path)
        fits = isinstance(state, dict) and state.get("version") == runs.VERSION
        fits = fits and all(type(state.get(name)) is kind for name, kind in CHECKPOINT.items())
        fits = fits and len(state["seeds"]) == len(state["networks"]) == len(state["positions"]) > 0
        if not fits or not all(type(seed) is int for seed in state["seeds"]):
            raise UserError(
                f"{path}: not a checkpoint of this program's version {runs.VERSION}; --overwrite starts the run anew"
            )
        states[state["seeds"][0]] = state
    return states


def _finished(states: dict[int, dict[str, Any]], options: dict[str, Any]) -> bool:
    """Whether every seed has come to its last epoch."""
    firsts = [seeds[0] for seeds in _together(options)]
    return all(seed in states and states[seed]["epoch"] >= options["epochs"] for seed in firsts)


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
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "commit": commit(),
        "command": sys.argv, "platform": platform.platform(), "processor": processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(device),
        "accelerator": torch.cuda.get_device_name() if device.type == "cuda" else None, "started": _now(),
    }  # fmt: skip


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the program, None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
