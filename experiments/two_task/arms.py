"""The arms of the table, the strengths that each may have, and which of them the search chose."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments.table import markdown
from spatial import storing
from spatial.errors import UserError, unknown
from spatial.metrics import summary
from spatial.scoring import WHOLE, spread

Options = dict[str, Any]

TASKS = ("MNIST", "FashionMNIST")
INPUTS = ("sequential", "mix", "concatenate")
CUTS = ("greedy", "balanced")  # the better of them is what a choice goes by
SEARCH, LENGTHS = HERE / "search.csv", HERE / "epochs.csv"
SEARCHED = 5, (100, 101)  # epochs and seeds of the search
EPOCHS = (3, 5, 10, 20)  # how many suffice? of these arms, by the index of a strength that earlier experiments had
EPOCHS_OF = {"regular": 0, "connection_task": 3, "neuron_task": 4}

PER_CONNECTION = (0.3, 1, 3, 10, 30, 100)
PER_NEURON = (0.03, 0.1, 0.3, 1, 3, 10)
TOGETHER = {0.3: 0.03, 1: 0.1, 3: 0.3, 10: 1, 30: 1, 100: 3}  # proximity beside transport per connection
CONTROLS: dict[str, list[Options]] = {  # the strengths that an arm may have
    "regular": [{"outputs": "task"}],
    "penalty": [{"outputs": "task", "weight_penalty": strength} for strength in PER_CONNECTION],
    **{
        positions + suffix: [
            {"outputs": "task", "transport": strength, **per, "positions": positions} for strength in strengths
        ]
        for suffix, per, strengths in (
            ("", {}, PER_CONNECTION), ("_neuron", {"transport_per": "neuron"}, PER_NEURON),
        )
        for positions in ("frozen", "shuffled")
    },
}  # fmt: skip
LEARNED: dict[str, list[Options]] = {
    **{
        f"connection_{outputs}": [
            {"outputs": outputs, "transport": strength, "proximity": TOGETHER[strength], "position_lr": 0.05}
            for strength in PER_CONNECTION
        ]
        for outputs in ("free", "task", "arbitrary")
    },
    **{
        f"neuron_{outputs}": [
            {
                "outputs": outputs, "transport": strength, "transport_per": "neuron", "proximity": strength,
                "position_lr": 0.015,
            }
            for strength in PER_NEURON
        ]
        for outputs in ("free", "task", "arbitrary")
    },
}  # fmt: skip
ARMS = CONTROLS | LEARNED
# outputs in groups that mix the tasks, under the very strengths that serve the tasks' own groups
IMPOSED = {"connection_imposed": "connection_task", "neuron_imposed": "neuron_task"}
EVERY = (*ARMS, *IMPOSED)
# beside the table, three seeds each: four tasks have the strengths of two; per connection conv has a search of its own
FOUR: Options = {"datasets": [*TASKS, *(f"{task}@permuted" for task in TASKS)], "seeds": 3}
CONV = {"model": "conv", "layers": [32, 64]}
CONV_SEARCHED = {"conv_connection_task": [CONV | options for options in LEARNED["connection_task"]]}  # with mix
CANDIDATES = ARMS | CONV_SEARCHED
WIDER = ("regular", "connection_task", "neuron_task")
BESIDE = {  # (arm, input) by what they are for; those that the seed's repository names are in params.yaml
    "four tasks": [(f"four_{arm}", "sequential") for arm in WIDER],
    "convolutions": [(f"conv_{arm}", "mix") for arm in WIDER],
    "an example that the seed's repository once had": [
        (f"example_{arm}", "concatenate") for arm in ("regular", "spatial")
    ],
    '"the params of the paper" in a fork of it': [(f"fork_{arm}", "sequential") for arm in ("regular", "spatial")],
}


def tasks_of(arm: str) -> Sequence[str]:
    """The data sets of a run, in the order of its heads."""
    return FOUR["datasets"] if arm.startswith("four_") else TASKS


def inputs_of(words: list[str]) -> list[str]:
    """The inputs that a command line names; all of them where it names none.

    Raises:
        UserError: if there is no such input.
    """
    for word in words:
        if word not in INPUTS:
            raise unknown("input", word, INPUTS)
    return words or list(INPUTS)


def found_tasks(silhouettes: Sequence[float], lost: float) -> bool:
    """Whether a network has found its tasks: neurons lie apart in every hidden layer, the cut costs at most 1 point."""
    return lost <= 1 and all(each >= 0.5 for each in silhouettes)  # not where one is undefined


def strength(options: Options) -> float:
    """The number by which an arm's candidates differ."""
    return options.get("weight_penalty") or options.get("transport") or 0


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of search.csv or epochs.csv; none where there is no such file."""
    return storing.read_table(path, ["strength", "epochs", "seed", WHOLE, *CUTS]) if path.is_file() else []


def after_cut(rows: list[dict[str, Any]]) -> float:
    """What a choice goes by: accuracy after the better of both cuts, each a mean over seeds."""
    return max(fmean(row[cut] for row in rows) for cut in CUTS)


def choice(rows: list[dict[str, Any]], arm: str, given: str) -> Options:
    """The strengths of an arm that are best by :func:`after_cut`; the smaller of equal ones.

    Raises:
        UserError: if one was not measured with every seed of the search, once.
    """
    if arm in IMPOSED:
        return choice(rows, IMPOSED[arm], given) | {"outputs": "arbitrary"}
    candidates = CANDIDATES[arm]
    if len(candidates) == 1:
        return candidates[0]
    found = candidates_of(rows, arm, given)
    if any(sorted(row["seed"] for row in each) != sorted(SEARCHED[1]) for each in found):
        raise UserError(
            f"{arm}, {given}: the search is not finished; run: python experiments/two_task/search.py {given}"
        )
    reached = [after_cut(each) for each in found]
    return candidates[reached.index(max(reached))]


def candidates_of(rows: list[dict[str, Any]], arm: str, given: str) -> list[list[dict[str, Any]]]:
    """An arm's rows of the search, strength by strength."""
    of_arm = [row for row in rows if (row["arm"], row["input"]) == (arm, given)]
    return [[row for row in of_arm if row["strength"] == strength(options)] for options in CANDIDATES[arm]]


def searched(inputs: Sequence[str] = INPUTS) -> list[tuple[str, str]]:
    """Input and arm of everything whose strengths are chosen."""
    return [*product(inputs, EVERY), *(("mix", arm) for arm in CONV_SEARCHED if "mix" in inputs)]


def chosen(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Options]:
    """The choice by input and arm, of those whose search is finished."""
    found = {}
    for given, arm in searched():
        with suppress(UserError):
            found[given, arm] = choice(rows, arm, given)
    return found


def wider(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Options]:
    """The runs beside the table, by input and name, of those whose search is finished."""
    found = {}
    for arm in WIDER:
        conv = f"conv_{arm}"
        for given, name, source, more in (
            ("sequential", f"four_{arm}", arm, FOUR),
            ("mix", conv, conv if conv in CANDIDATES else arm, CONV | {"seeds": 3}),
        ):
            with suppress(UserError):
                found[given, name] = choice(rows, source, given) | more
    return found


def as_yaml(rows: list[dict[str, Any]]) -> str:
    """The runs whose strengths were chosen, a line each."""
    lines = ["# Written by `python experiments/two_task/search.py --choose` from search.csv: do not edit.", "runs:"]
    for (given, arm), options in (chosen(rows) | wider(rows)).items():
        words = ", ".join(f"{name}: {_typed(value)}" for name, value in {"input": given, **options}.items())
        lines.append(f"  {arm}-{given}: {{{words}}}")
    return "\n".join(lines) + "\n"


def _typed(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def search_table(rows: list[dict[str, Any]]) -> str:
    """A row per arm, a column per strength, for every input: before the cut, and after the better one."""
    text = []
    found = chosen(rows)
    for given in INPUTS:
        lines = [["arm", "what", "1st strength", "2nd", "3rd", "4th", "5th", "6th", "chosen"]]
        for arm, candidates in CANDIDATES.items():
            if len(candidates) > 1 and (given, arm) in found:
                measured = candidates_of(rows, arm, given)
                whole = (spread(summary([row[WHOLE] for row in each]), 100) for each in measured)
                cut = (f"{100 * after_cut(each):.1f}" for each in measured)
                best = strength(found[given, arm])
                edge = best in (strength(candidates[0]), strength(candidates[-1]))
                lines.append([arm, "before", *whole, f"{best:g}{' (edge)' if edge else ''}"])
                lines.append(["", "after", *cut, ""])
        if len(lines) > 1:
            text.append(f"`{given}`:\n\n{markdown(lines)}")
    return "\n\n".join(text)


def epochs_table(rows: list[dict[str, Any]]) -> str:
    """A row per input and arm, a column per number of epochs: before the cut, and after the better one."""
    lines = [["input", "arm", "what", *(f"{epochs} epochs" for epochs in EPOCHS)]]
    for given, arm in product(INPUTS, EPOCHS_OF):
        of_arm = [row for row in rows if (row["arm"], row["input"]) == (arm, given)]
        found = [[row for row in of_arm if row["epochs"] == epochs] for epochs in EPOCHS]
        if all(found):
            whole = (f"{100 * fmean(row[WHOLE] for row in each):.1f}" for each in found)
            lines.append([given, arm, "before", *whole])
            lines.append(["", "", "after", *(f"{100 * after_cut(each):.1f}" for each in found)])
    return markdown(lines)
