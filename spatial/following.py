"""What to run next, by what a run's folder has."""

from spatial.errors import UserError
from spatial.runs import GROUPS, WHOLE, Run
from spatial.storing import read_table


def following(run: Run) -> str:
    """A line with the command that comes next on a trained run, and what it does."""
    name, words, why = _next(run)
    return f"next: {run.command(name, *words)}   # {why}"


def _next(run: Run) -> tuple[str, list[str], str]:
    options, methods = run.options(), run.methods()
    several = len(options["datasets"]) > 1
    if several and not methods:
        return "split", [], "cut it into one network per task"
    if not several and not any(_recorded(run, subset) for subset in ("train", "test")):
        return "record", ["--by", "label"], "what each unit does for each label"
    if _scored(run) != {*methods}:
        whom = "score the whole network and its parts" if methods else "score it, and measure where its units are"
        return "score", [], whom
    return "plot", [], "draw its figures"


def _recorded(run: Run, subset: str) -> bool:
    return all(run.activations(seed, "label", subset).is_file() for seed in run.seeds())


def _scored(run: Run) -> set[str] | None:
    """The splits that were scored; None if nothing was."""
    if not run.scores.is_file():
        return None
    try:
        return {row["method"] for row in read_table(run.scores)} - {WHOLE, GROUPS}
    except (UserError, KeyError):
        return None
