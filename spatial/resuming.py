"""Whether a run can start, or go on from its checkpoints."""

from typing import Any

from spatial import runs, training
from spatial.errors import UserError
from spatial.models import unpack
from spatial.runs import Run, seeds_of

CHECKPOINT = {
    "options": dict, "data": dict, "code": dict, "seeds": list, "epoch": int, "step": int, "networks": list,
    "optimizer": dict, "processes": list, "count": int, "device": str, "history": list, "positions": list,
}  # fmt: skip
FREE = ("workers", "trust_images", "save_every")  # options that change no result


def together(options: dict[str, Any]) -> list[list[int]]:
    """The seeds that are trained side by side, one group after the other."""
    seeds = seeds_of(options)
    return [seeds] if options["replicas"] == "together" else [[seed] for seed in seeds]


def to_continue(
    run: Run, identity: dict[str, Any], arguments: dict[str, Any], code: dict[str, str], count: int, device: str,
    resume: bool, overwrite: bool,
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """The checkpoints to go on from, by seed; none where training starts anew.

    Args:
        identity: what config.json holds.
        arguments: of the network's constructor.
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
        state = runs.load_plain(path)
        fits = isinstance(state, dict) and state.get("version") == runs.VERSION
        fits = fits and all(type(state.get(name)) is kind for name, kind in CHECKPOINT.items())
        fits = fits and len(state["seeds"]) == len(state["networks"]) == len(state["positions"]) > 0
        fits = fits and len(state["processes"]) == (state["count"] if state["step"] else 0)
        if not fits or not all(type(seed) is int for seed in state["seeds"]):
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
        grown = name == "epochs" and now["schedule"] in training.OPEN_ENDED and now["epochs"] >= was["epochs"]
        if was.get(name) != now.get(name) and not grown and name not in FREE:
            found.append(f"--{name.replace('_', '-')} was {_word(was.get(name))} and is {_word(now.get(name))}")
    found += [
        f"the files of {name} have changed"
        for name, sums in identity["data"].items()
        if state["data"].get(name) != sums
    ]
    if state["step"] and state["device"] != device:
        found.append(f"an epoch was begun on {state['device']} and this is {device}")
    if state["count"] != count and state["epoch"] < now["epochs"]:
        found.append(f"{state['count']} processes trained it and now there are {count}")
    if code is not None and state["code"] != code:
        found.append("the program has changed")
    return found


def _word(value: Any) -> str:
    return "unset" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
