"""Whether a run can start, or go on from its checkpoints."""

import reprlib
import textwrap
from collections.abc import Callable
from typing import Any

import torch

from spatial import models, runs, storing, training
from spatial.errors import UserError
from spatial.runs import Run, seeds_of

CHECKPOINT = {
    "options": dict, "data": dict, "code": dict, "seeds": list, "epoch": int, "step": int, "networks": list,
    "optimizer": dict, "processes": list, "count": int, "device": str, "history": list, "positions": list,
}  # fmt: skip
HUGE = 2**63
FREE = ("workers", "trust_images", "save_every", "tensorboard")  # options that change no result


def together(options: dict[str, Any]) -> list[list[int]]:
    """The seeds that are trained side by side, one group after the other."""
    seeds = seeds_of(options)
    return [seeds] if options["replicas"] == "together" else [[seed] for seed in seeds]


def to_continue(
    run: Run, identity: dict[str, Any], blank: Callable[[dict[str, Any]], dict[str, Any]], steps: int,
    code: dict[str, str], count: int, device: str, resume: bool, overwrite: bool,
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """The checkpoints to go on from, by seed; none where training starts anew.

    Args:
        identity: what config.json holds.
        blank: gives, by name, the form that parts of a checkpoint must have, by its seeds, epoch and step.
        steps: of an epoch.
        code: the program's checksums.
        count: processes that share the run.
        device: its type.
        resume, overwrite: as of ``train``.

    Raises:
        UserError: if ``resume`` alone was asked for and cannot be done.
    """
    if not resume:
        return {}
    try:
        states = checkpoints(run)
        if overwrite and finished(states, identity["options"]):
            return {}
        for state in states.values():
            if changed := differences(state, identity, count, device, code if overwrite else None):
                raise UserError(f"{run.folder}: --resume needs what it was started with: {'; '.join(changed)}")
            path = run.resume(state["seeds"][0])
            if state["seeds"] not in together(identity["options"]):
                raise UserError(f"{path}: holds other seeds than the options given ask for")
            if wrong := _wrong(state, blank, identity["options"]["epochs"], steps):
                raise UserError(f"{path}: is no checkpoint of these options: {wrong}; --overwrite starts the run anew")
        if not states and any((run.folder / "weights").glob("seed-*.pt")):
            raise UserError(f"{run.folder}: has weights but no resume/ to --resume from; --overwrite starts it anew")
    except UserError:
        if overwrite:
            return {}
        raise
    return states


def _wrong(state: dict[str, Any], blank: Callable[[dict[str, Any]], dict[str, Any]], epochs: int, steps: int) -> str:
    """What of a checkpoint training could not go on from, in words; empty where there is nothing."""
    epoch, step = state["epoch"], state["step"]
    if not (0 <= epoch <= epochs and 0 <= step < (steps if epoch < epochs else 1) and epoch + step > 0):
        return f"epoch {epoch} and step {step} are no place in a run of {epochs} epochs of {steps} steps"
    if len(state["history"]) != 2 * len(state["seeds"]) * epoch:
        return f"history should hold two rows of every seed and epoch, got {len(state['history']):,}"
    for name, wanted in blank(state).items():
        if wrong := models.misfit(state[name], wanted, name):
            return wrong
    lasting = [*state["positions"], *(network["state"].values() for network in state["networks"])]
    if not all(tensor.isfinite().all() for tensors in lasting for tensor in tensors):
        return "its networks hold numbers that are not finite"
    for each in state["processes"]:
        sums = each["tally"]
        if not ((sums["correct"] >= 0) & (sums["correct"] <= sums["asked"])).all():
            return "tally has more right answers than questions"
        try:
            torch.Generator().set_state(each["random"])
            if each["random of the device"] is not None:
                torch.Generator(state["device"]).set_state(each["random of the device"])
        except RuntimeError:
            return "random is no state of a generator"
    return ""


def check_folder(run: Run, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that training would damage or cannot continue."""
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, not a folder")
    if not folder.exists():
        if resume and not overwrite:
            raise UserError(f"{folder}: no such folder, there is nothing to --resume")
        return
    if run.is_blank():
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


def checkpoints(run: Run) -> dict[int, dict[str, Any]]:
    """Every checkpoint that there is, by the first of its seeds."""
    states = {}
    for path in sorted((run.folder / "resume").glob("seed-*.pt")):
        state = storing.load_plain(path)
        fits = isinstance(state, dict) and state.get("version") == runs.VERSION
        fits = fits and all(type(state.get(name)) is kind for name, kind in CHECKPOINT.items())
        fits = fits and all(0 <= state[name] < HUGE for name in ("epoch", "step", "count"))
        fits = fits and {*map(type, state["seeds"])} == {int} and all(0 <= seed < HUGE for seed in state["seeds"])
        fits = fits and {*map(type, state["options"])} <= {str}
        if not fits or path != run.resume(state["seeds"][0]):
            raise UserError(
                f"{path}: not a checkpoint of this program's version {runs.VERSION}; --overwrite starts the run anew"
            )
        states[state["seeds"][0]] = state
    return states


def finished(states: dict[int, dict[str, Any]], options: dict[str, Any]) -> bool:
    """Whether every seed has come to its last epoch."""
    firsts = [seeds[0] for seeds in together(options)]
    return all(seed in states and states[seed]["epoch"] >= options["epochs"] for seed in firsts)


def differences(
    state: dict[str, Any], identity: dict[str, Any], count: int = 1, device: str = "cpu",
    code: dict[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """What a checkpoint was made with and is not so now, a phrase each."""
    was, now = state["options"], identity["options"]
    found = []
    for name in sorted({*was, *now}):
        grown = name == "epochs" and now["schedule"] in training.OPEN_ENDED and type(was.get(name)) is int
        grown = grown and now[name] >= was[name]
        if not _same(was.get(name), now.get(name)) and not grown and name not in FREE:
            flag = f"--{name.replace('_', '-')}" if name in now else reprlib.repr(name)
            found.append(f"{flag} was {_word(was.get(name))} and is {_word(now.get(name))}")
    found += [
        f"the files of {name} have changed"
        for name, sums in identity["data"].items()
        if not _same(state["data"].get(name), sums)
    ]
    if state["step"] and state["device"] != device:
        found.append(f"an epoch was begun on {_word(state['device'])} and this is {device}")
    if state["count"] != count and state["epoch"] < now["epochs"]:
        found.append(f"{state['count']} processes trained it and now there are {count}")
    if code is not None and not _same(state["code"], code):
        found.append("the program has changed")
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether plain values are equal; ``one`` may be of any kind."""
    if type(one) is not type(other) and {type(one), type(other)} != {int, float}:
        return False
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in other)
    if isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _word(value: Any) -> str:
    """An option's value as one would type it; what was never typed is shortened."""
    if value is None:
        return "unset"
    words = []
    for each in value if type(value) is list else [value]:
        plain = type(each) in (bool, float) or (type(each) is int and abs(each) < HUGE)
        words.append(repr(each[:100])[1:-1] if type(each) is str else str(each) if plain else type(each).__name__)
    return textwrap.shorten(" ".join(words), 200)
