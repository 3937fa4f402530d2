"""A run from its options: trained seed by seed, from whatever checkpoint there is."""

import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spatial import graph, kernels, process, runs, scalars, storing, training
from spatial.compiling import compiled_network
from spatial.distributed import World, device, free_memory, joined, repeatable
from spatial.environment import environment, now
from spatial.errors import UserError, by_itself
from spatial.kernels import Compute
from spatial.loading import FileSet, as_tasks, input_shape, load_sets
from spatial.locking import Lock
from spatial.metrics import Evaluation
from spatial.models import NORMED, SMALLEST, build, constructor_arguments, outline, pack
from spatial.progress import Watch, lasting
from spatial.resuming import FREE, check_folder, finished, to_continue, together
from spatial.runs import Run
from spatial.sources import FOLDER
from spatial.streaming import FileTasks
from spatial.tasks import Tasks
from spatial.training import Epoch, Point


def train(
    folder: Path, options: dict[str, Any], *, resume: bool = False, overwrite: bool = False,
    like: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Train every seed of a run and write its files; returns the exit status.

    Of several processes the first alone reads and writes the folder.

    Args:
        folder: the run's.
        options: of the command ``train``, by name.
        resume: continue from the checkpoints of the same options.
        overwrite: start anew; with ``resume`` only if anything changed or nothing is left to do.
        like: checksums of data sets, by name, that must be those of a run which this one repeats.

    Raises:
        UserError: if the folder, the options or the data do not allow it; nothing is changed then.
    """
    here = device(options["device"])
    with joined(here) as world, repeatable(options["deterministic"]), ExitStack() as held:
        run = Run(folder)
        folders = _curves(run, options)

        def look() -> None:
            check_folder(run, resume, overwrite)
            if options["tensorboard"] is not None:
                scalars.check(options["tensorboard"])
            if not resume and not overwrite:
                scalars.check_free(folders.values())
            if run.lock.is_file():
                with run.locked():  # known before data are read; nothing is written yet
                    pass

        world.leading(look)
        train_tasks, test_tasks, data, shape = _tasks(options, here, world)
        if changed := [name for name in data if name in (like or {}) and like[name] != data[name]]:  # type: ignore[index]
            raise UserError(f"--like: the files of {', '.join(changed)} are not those of the run to be repeated")
        arguments = constructor_arguments(options["model"], options, shape=shape, classes=train_tasks.classes)
        _check_memory(run, options, arguments, here, world, train_tasks, test_tasks, resume)
        first = build(options["model"], arguments, options["seed"], options["outputs"])  # before anything is removed
        code, done = runs.code_checksums(), False
        states: dict[int, dict[str, Any]] = {}
        lock: Lock | None = None
        started = environment(here, world.count)

        def prepare() -> str:
            nonlocal states, done, lock
            lock = held.enter_context(run.locked())
            check_folder(run, resume, overwrite)  # another may have been quicker
            replicas = _replicas(run, options, first, here, resume)
            chosen = {**options, "replicas": replicas}
            identity = {"version": runs.VERSION, "options": chosen, "data": data}
            normed = bool(training.norms_of(first))
            steps = training.steps_of(train_tasks.inputs, options["batch_size"], normed, world.count)
            blank = partial(_blank, options=options, first=first, train=train_tasks, test=test_tasks)
            states = to_continue(run, identity, blank, steps, code, world.count, here.type, resume, overwrite)
            done = finished(states, chosen)
            run.sweep()
            if not done:  # what other commands made of earlier weights goes too
                run.clear(keep="resume" if states else None)
            if folders and not states:
                scalars.clear(folders[options["seed"]].parent)
            storing.save_json(run.config_file, identity)
            if not done:
                storing.save_json(run.environment, started)
            return replicas

        options = {**options, "replicas": world.leading(prepare)}
        identity = {"version": runs.VERSION, "options": options, "data": data}
        compute = kernels.compiled(_say if world.first else _silent) if options["compile"] else None
        history: list[dict[str, Any]] = []
        groups = together(options)
        epochs = len(groups) * options["epochs"] - sum(state["epoch"] for state in states.values())
        watch = Watch(epochs, options["datasets"], several=len(groups) > 1)
        curves: dict[int, scalars.Scalars] = {}
        trajectories: dict[str, np.ndarray] = {}
        for seeds in groups:
            state = world.told(states.pop(seeds[0], None))
            models = [
                first if seed == options["seed"] else build(options["model"], arguments, seed, options["outputs"])
                for seed in seeds
            ]
            paths = [training.trajectory(model) for model in models]
            own_history: list[dict[str, Any]] = []
            if state is not None:
                for model, network in zip(models, state["networks"], strict=True):
                    model.load_state_dict(network["state"])
                paths, own_history = state["positions"], state["history"]
            models = [_moved(model, here, train_tasks, world) for model in models]
            if world.first:
                storing.save_table(run.history, history + own_history)
                for seed in {*seeds} & {*folders}:
                    rows = [row for row in own_history if row["seed"] == seed]
                    curves[seed] = scalars.Scalars(folders[seed], options["datasets"], rows)
            for point in _fit(models, seeds, state, train_tasks, test_tasks, options, compute, world, watch):
                rows = []
                if point.results:
                    paths = list(map(training.trajectory, models, paths))
                    each = zip(seeds, point.results, strict=True)
                    rows = [row for seed, epoch in each for row in _rows(seed, epoch, options)]
                    own_history += rows
                if not world.first:
                    continue
                checkpoint = {
                    **identity, "code": code, "seeds": seeds, "epoch": point.epoch, "step": point.step,
                    "networks": [pack(model) for model in models], "optimizer": point.optimizer,
                    "processes": point.processes, "count": world.count, "device": here.type, "history": own_history,
                    "positions": paths,
                }  # fmt: skip
                # before its rows: a row without a checkpoint would be written twice
                with _there(run, lock):
                    storing.save(run.resume(seeds[0]), checkpoint)
                    storing.append_table(run.history, rows)
                for row in rows:
                    if row["seed"] in curves:
                        curves[row["seed"]].add([row])
                for seed, epoch in zip(seeds, point.results, strict=False):
                    print(_line(seed, epoch, options, watch.left()), flush=True)
            history += sorted(own_history, key=lambda row: row["seed"])
            if not world.first:
                continue
            with _there(run, lock):
                for seed, model, path in zip(seeds, models, paths, strict=True):
                    trajectories |= {f"seed-{seed}/layer-{index}": places.numpy() for index, places in enumerate(path)}
                    storing.save(run.weights(seed), pack(model, tasks=options["datasets"]))
                storing.save_arrays(run.positions, trajectories)

        def finish() -> None:
            with _there(run, lock):
                storing.save_table(run.history, history)
            if done:
                print(
                    f"{folder}: finished already, nothing to do (--epochs may grow under --schedule constant or step)"
                )
            else:
                storing.save_json(run.environment, {**started, "finished": now()})

        world.leading(finish)
    return 0


def _blank(
    state: dict[str, Any], options: dict[str, Any], first: nn.Module, train: Tasks, test: Tasks
) -> dict[str, Any]:
    """The parts of a checkpoint that training goes on from, as they must be of these options; numbers are any."""
    seeds, epochs = state["seeds"], state["epoch"]
    point = training.blank(
        first, train, len(seeds), state["count"], epochs, state["step"], optimizer=options["optimizer"],
        momentum=options["momentum"] or 0.0, transport=options["transport"], proximity=options["proximity"],
        where=options["where"], positions=options["positions"], hold_outputs=options["outputs"] == "held",
    )  # fmt: skip
    any_train, any_test = (
        Evaluation(0.0, [math.nan] * len(train.classes), top=[math.nan] * len(train.classes) if each.top else ())
        for each in (train, test)
    )
    history = [
        row for number in range(1, epochs + 1) for seed in seeds
        for row in _rows(seed, Epoch(number, any_train, any_test, 0.0, 0.0, 0.0, (0.0, 0.0)), options)
    ]  # fmt: skip
    places = [place.expand(epochs + 1, -1, -1) for place in training.snapshot(first)]
    return {
        "networks": [pack(first)] * len(seeds), "optimizer": point.optimizer, "processes": point.processes,
        "history": history, "positions": [places] * len(seeds),
    }  # fmt: skip


def _tasks(options: dict[str, Any], here: torch.device, world: World) -> tuple[Tasks, Tasks, dict[str, Any], Any]:
    """What to learn, what to score, the checksums of both, and the shape of an input.

    Raises:
        UserError: if the options do not go with the data or with the processes.
    """

    def load(left_out: dict[str, str] | None = None) -> Any:
        return load_sets(
            options["datasets"], options["root"], options["input"], holdout=options["holdout"],
            resize=options["resize"], trust=options["trust_images"], workers=options["workers"], left_out=left_out,
        )  # fmt: skip

    sets: Any = None

    def first() -> tuple[dict[str, Any], dict[str, str] | None]:
        nonlocal sets
        sets = load()
        left_out = sets[0].left_out if isinstance(sets[0], FileSet) else None
        return {each.name: each.checksums for each in sets}, left_out

    data, left_out = world.leading(first)  # the others find what it has fetched, and try no image again
    if sets is None:
        with by_itself():
            sets = load(left_out)
            if {each.name: each.checksums for each in sets} != data:
                raise UserError(f"--root {options['root']}: its images are not those of the first process's machine")
    inputs, scored = (
        (sum if options["input"] == "sequential" else max)(len(getattr(each, subset).labels) for each in sets)
        for subset in ("train", "test")
    )
    if options["model"] in NORMED and options["batch_norm"] is not False and inputs < 2:
        raise UserError(f"the batch norm of --model {options['model']} needs 2 training images or more")
    shape = input_shape(sets, options["input"])
    if min(shape[1:]) < (smallest := SMALLEST.get(options["model"], 1)):
        raise UserError(
            f"--model {options['model']} needs images of {smallest} x {smallest} pixels or more, got "
            f"{shape[1]} x {shape[2]}; try --resize {max(smallest, 28)}"
        )
    _check_processes(options, world, inputs, scored)
    smallest_part = training.smallest_part(inputs, options["batch_size"], options["accumulate"], world.count)
    if options["model"] in NORMED and options["batch_norm"] is not False and smallest_part < 2:
        raise UserError(
            f"the batch norm of --model {options['model']} needs 2 images at once: {inputs} training images make parts "
            f"of {smallest_part}; use fewer processes or a smaller --accumulate"
        )
    if left_out:
        data[FOLDER]["left out"] = sorted(left_out)
    at_once = options["batch_size"] // world.count // options["accumulate"]
    with nullcontext() if world.first else by_itself():
        train_tasks, test_tasks = (
            as_tasks(sets, subset, options["input"], here, workers=options["workers"], at_once=at_once)
            for subset in ("train", "test")
        )
    return train_tasks, test_tasks, data, shape


def _check_processes(options: dict[str, Any], world: World, inputs: int, scored: int) -> None:
    """Refuse what cannot be shared out evenly."""
    if world.count == 1:
        return
    if options["replicas"] == "together":
        raise UserError("--replicas together: under torchrun networks are trained one after the other")
    if options["batch_size"] % world.count:
        shares = options["batch_size"] // world.count
        near = " or ".join(str(each * world.count) for each in (shares, shares + 1) if each)
        raise UserError(
            f"--batch-size {options['batch_size']} is that of all {world.count} processes: give a multiple of "
            f"{world.count}, such as {near}"
        )
    own, parts = options["batch_size"] // world.count, options["accumulate"]
    if own % parts:
        raise UserError(
            f"--accumulate {parts}: each of {world.count} processes has {own} images of a step, which do not make "
            f"{parts} parts; give a larger --batch-size"
        )
    if min(inputs, scored) < world.count:
        raise UserError(f"{world.count} processes for {min(inputs, scored)} images: use fewer")


def _check_memory(
    run: Run, options: dict[str, Any], arguments: dict[str, Any], here: torch.device, world: World, train: Tasks,
    test: Tasks, resume: bool,
) -> None:  # fmt: skip
    """Refuse what does not fit into the memory before it is made: the system would not refuse it, but kill."""
    model = outline(options["model"], arguments)
    side_by_side = options["seeds"] if _replicas(run, options, model, here, resume) == "together" else 1
    scored = (sum if test.input == "sequential" else max)(test.sizes)
    rows = -(-min(train.inputs, options["batch_size"]) // (world.count * options["accumulate"]))
    sized = "layers" if options["model"] in ("mlp", "conv") else "resize" if options["resize"] else "model"
    places = sum(place.numel() for place in graph.positions(model).values())
    if 2 * places > sum(each.numel() for each in model.parameters()):
        sized = "dim"
    free = free_memory(here)
    for name, hint, replicas, at_once in (
        (sized, "give less", 1, 0),
        ("seeds", "--replicas sequential trains them one after the other", side_by_side, 0),
        ("batch_size", "give a smaller one, or a larger --accumulate", side_by_side, rows),
    ):
        needed = training.memory_needed(
            model, options["optimizer"], options["momentum"] or 0.0, replicas=replicas, rows=at_once,
            scored=min(scored, test.most), checkpoint=here.type == "cpu",
        )  # fmt: skip
        if needed > free:
            given = textwrap.shorten(" ".join(map(str, np.atleast_1d(options[name]))), 40, placeholder=" ...")
            raise UserError(
                f"--{name.replace('_', '-')} {given}: training needs {needed / 2**30:,.1f} GiB of memory or more, "
                f"{free / 2**30:,.1f} GiB are free; {hint}"
            )


def _moved(model: nn.Module, here: torch.device, tasks: Tasks, world: World) -> nn.Module:
    """The network on its device, as its images come; a batch norm sees all processes' images where it can."""
    if world.count > 1 and training.norms_of(model):
        if here.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        elif world.first:
            _say(f"batch norm: on {here.type} each of the {world.count} processes has statistics of its own images")
    if isinstance(tasks, FileTasks):
        model = model.to(memory_format=torch.channels_last)
    return model.to(here)


@contextmanager
def _there(run: Run, lock: Lock | None) -> Iterator[None]:
    """Within it the folder is written to. UserError if it is another than when training began, or none."""
    removed = UserError(f"{run.folder}: was removed during training, nothing more is written")
    if lock is None or not lock.lasts():
        raise removed
    try:
        yield
    except FileNotFoundError:
        if lock.lasts():
            raise
        raise removed from None


def _replicas(run: Run, options: dict[str, Any], model: nn.Module, device: torch.device, resume: bool) -> str:
    """How the seeds are trained: what was chosen at first, also where another machine resumes the run."""
    if options["replicas"] == "auto" and resume and run.config_file.is_file():
        with suppress(UserError):
            known = run.options()
            other = {"replicas", "epochs", *FREE}
            same = all(known.get(name) == value for name, value in options.items() if name not in other)
            if same and known.get("replicas") in ("together", "sequential"):
                return known["replicas"]
    if process.COUNT > 1 or FOLDER in options["datasets"]:
        return "sequential"
    return training.replicas(options["replicas"], model, device, options["seeds"])


def _fit(
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    state: dict[str, Any] | None,
    train_tasks: Tasks,
    test_tasks: Tasks,
    options: dict[str, Any],
    compute: Compute | None,
    world: World,
    watch: Watch,
) -> Iterator[Point]:
    """:func:`spatial.training.fit` with a run's options, from a checkpoint if there is one."""
    say = _say if world.first else _silent
    start = None
    if state is not None:
        start = Point(state["epoch"], state["step"], state["optimizer"], state["processes"])
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
        warmup=options["warmup"],
        accumulate=options["accumulate"],
        precision=options["precision"],
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
        network=compiled_network(models[0], say) if options["compile"] and len(models) == 1 else None,
        save_every=options["save_every"],
        start=start,
        world=world,
        watch=watch,
    )


def _say(words: str) -> None:
    """A line for a person, apart from the results."""
    print(words, file=sys.stderr, flush=True)


def _silent(words: str) -> None:
    """Of several processes the first speaks."""


def _rows(seed: int, epoch: Epoch, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of history.csv of one epoch."""
    subsets = ("train", runs.scored_subset(options))
    return [
        {
            "seed": seed, "epoch": epoch.number, "subset": subset, "loss": result.loss, "accuracy": result.mean,
            **dict(zip(options["datasets"], result.accuracy, strict=True)),
            "transport": epoch.transport, "proximity": epoch.proximity, "seconds": seconds,
            "weight_penalty": epoch.weight_penalty, **({"top5": result.mean_top} if result.top else {}),
        }
        for subset, result, seconds in zip(subsets, (epoch.train, epoch.test), epoch.seconds, strict=True)
    ]  # fmt: skip


def _line(seed: int, epoch: Epoch, options: dict[str, Any], left: float) -> str:
    """One epoch for a person to read, and for grep: two spaces between pairs of a name and what it came to."""
    accuracies = dict(zip(options["datasets"], epoch.test.accuracy, strict=True))
    if epoch.test.mean_top is not None:
        accuracies["top5"] = epoch.test.mean_top
    pairs = {
        "seed": seed, "epoch": f"{epoch.number}/{options['epochs']}", "loss": f"{epoch.train.loss:.4f}",
        "scored": runs.scored_subset(options), **{name: f"{each:.4f}" for name, each in accuracies.items()},
        "transport": f"{epoch.transport:.4g}", "proximity": f"{epoch.proximity:.4g}",
        "took": f"{sum(epoch.seconds):.1f} s", "left": lasting(left),
    }  # fmt: skip
    return "  ".join(f"{name} {value}" for name, value in pairs.items())


def _curves(run: Run, options: dict[str, Any]) -> dict[int, Path]:
    """The folders of what is written for TensorBoard, by seed."""
    if options["tensorboard"] is None:
        return {}
    return {seed: Path(options["tensorboard"]) / run.name / f"seed-{seed}" for seed in runs.seeds_of(options)}
