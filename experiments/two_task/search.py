"""The strengths of every arm: one search for all, on training images held out and on seeds that the table has not.

python experiments/two_task/search.py [INPUT...]           train what search.csv has not yet
python experiments/two_task/search.py --epochs [INPUT...]  how many epochs suffice: train what epochs.csv has not yet
python experiments/two_task/search.py --choose             print both tables; write the choice to chosen.yaml

Every arm but ``regular``, which has none, has four strengths, each trained with two seeds for five epochs. Chosen is
the strength with the best accuracy after the better of ``greedy`` and ``balanced``, the mean of both tasks and seeds.
An interrupted search goes on where it stopped; several may run side by side, each with inputs of its own.
"""

import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments.table import markdown
from spatial import process

process.settle()

from main import main as program
from spatial import runs
from spatial.errors import UserError, unknown
from spatial.metrics import summary
from spatial.runs import Run
from spatial.scoring import WHOLE, spread, with_mean

SEARCH, LENGTHS_FILE = HERE / "search.csv", HERE / "epochs.csv"
INPUTS = ("sequential", "mix", "concatenate")
OUTPUTS = ("free", "task", "arbitrary")
EPOCHS, SEEDS = 5, (100, 101)
LENGTHS = (3, 5, 10, 20)
LENGTHS_OF = {"regular": 0, "connection_task": 1, "neuron_task": 2}  # arm, which of its strengths
CUTS = ("greedy", "balanced")
Options = dict[str, Any]

LEARNED: dict[str, list[Options]] = {
    "connection": [
        {"transport": transport, "proximity": proximity, "position_lr": 0.05}
        for transport, proximity in ((3, 0.3), (10, 1), (30, 1), (100, 3))
    ],
    "neuron": [
        {"transport": strength, "transport_per": "neuron", "proximity": strength, "position_lr": 0.015}
        for strength in (0.3, 1, 3, 10)
    ],
}
ARMS: dict[str, list[Options]] = {  # the strengths that an arm may have
    "regular": [{"outputs": "task"}],
    "penalty": [{"outputs": "task", "weight_penalty": strength} for strength in (3, 10, 30, 100)],
    **{
        positions: [
            {"outputs": "task", "transport": strength, "positions": positions} for strength in (3, 10, 30, 100)
        ]
        for positions in ("frozen", "shuffled")
    },
    **{
        f"{per}_{outputs}": [{"outputs": outputs, **options} for options in candidates]
        for per, candidates in LEARNED.items()
        for outputs in OUTPUTS
    },
}  # fmt: skip


def strength(options: Options) -> float:
    """The number by which an arm's candidates differ."""
    return options.get("weight_penalty") or options.get("transport") or 0


def measure(arm: str, given: str, options: Options, epochs: int) -> Iterator[dict[str, Any]]:
    """Train a candidate, cut and score it on the images held out; a row per seed. The run is removed."""
    folder = HERE / "runs" / f"search-{arm}-{given}-{strength(options):g}-{epochs}"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    fixed = f"--layers 300 300 --norm l1 --schedule linear --epochs {epochs} --holdout 10000".split()
    both = ["--seed", str(SEEDS[0]), "--seeds", str(len(SEEDS)), "--input", given]
    for command in (
        ["train", str(folder), *fixed, *both, *words, "--overwrite"],
        ["split", str(folder), "--method", *CUTS],
        ["score", str(folder)],
    ):
        if program(command):
            raise UserError(f"main.py {' '.join(command)}: failed")
    found = with_mean(runs.read_table(Run(folder).scores, ["accuracy", "loss", "seed"]), "accuracy")
    shutil.rmtree(folder)
    for index, seed in enumerate(SEEDS):
        accuracies = {method: found[method]["mean"][index] for method in (WHOLE, *CUTS)}
        yield {
            "arm": arm, "input": given, "strength": strength(options), "epochs": epochs, "seed": seed, **accuracies,
        }  # fmt: skip


def rows(table: Path) -> list[dict[str, Any]]:
    return runs.read_table(table, ["strength", "epochs", "seed", WHOLE, *CUTS]) if table.is_file() else []


def candidates_of(inputs: list[str]) -> Iterator[tuple[str, str, Options, int]]:
    """What the search trains: arm, input, options, epochs."""
    for given, (arm, candidates) in product(inputs, ARMS.items()):
        if len(candidates) > 1:
            yield from ((arm, given, options, EPOCHS) for options in candidates)


def lengths_of(inputs: list[str]) -> Iterator[tuple[str, str, Options, int]]:
    """What the question of the epochs trains: strengths of earlier experiments, since the search has epochs itself."""
    for given, (arm, index), epochs in product(inputs, LENGTHS_OF.items(), LENGTHS):
        yield arm, given, ARMS[arm][index], epochs


def fill(table: Path, wanted: Iterator[tuple[str, str, Options, int]]) -> None:
    """Measure what the table has not."""
    for arm, given, options, epochs in wanted:
        known = {(row["arm"], row["input"], row["strength"], row["epochs"]) for row in rows(table)}
        if (arm, given, strength(options), epochs) not in known:
            runs.append_table(table, list(measure(arm, given, options, epochs)))


def after_cut(found: list[dict[str, Any]]) -> float:
    """What the choice goes by: accuracy after the better of both cuts, each a mean over seeds."""
    return max(sum(row[cut] for row in found) / len(found) for cut in CUTS)


def choice(table: list[dict[str, Any]], arm: str, given: str) -> Options:
    """The strengths of an arm that are best by :func:`after_cut`; the smaller of equal ones.

    Raises:
        UserError: if one was not measured.
    """
    candidates = ARMS[arm]
    if len(candidates) == 1:
        return candidates[0]
    of_arm = [row for row in table if (row["arm"], row["input"]) == (arm, given)]
    found = [[row for row in of_arm if row["strength"] == strength(options)] for options in candidates]
    if not all(len(each) == len(SEEDS) for each in found):
        raise UserError(
            f"{arm}, {given}: the search is not finished; run: python experiments/two_task/search.py {given}"
        )
    reached = [after_cut(each) for each in found]
    return candidates[reached.index(max(reached))]


def tables(table: list[dict[str, Any]]) -> str:
    """A row per arm, a column per strength, for every input: before the cut, and after the better one."""
    text = []
    for given in INPUTS:
        lines = [["arm", "what", "1st strength", "2nd", "3rd", "4th", "chosen"]]
        for arm, candidates in ARMS.items():
            if len(candidates) > 1:
                chosen = choice(table, arm, given)
                of_arm = [row for row in table if (row["arm"], row["input"]) == (arm, given)]
                found = [[row for row in of_arm if row["strength"] == strength(each)] for each in candidates]
                whole = (spread(summary([row[WHOLE] for row in each]), 100) for each in found)
                cut = (f"{100 * after_cut(each):.1f}" for each in found)
                lines.append([arm, "before", *whole, f"{strength(chosen):g}"])
                lines.append(["", "after", *cut, ""])
        text.append(f"{given}:\n\n{markdown(lines)}")
    return "\n\n".join(text)


def lengths(table: list[dict[str, Any]]) -> str:
    """A row per input and arm, a column per number of epochs: before the cut, and after the better one."""
    lines = [["input", "arm", "what", *(f"{epochs} epochs" for epochs in LENGTHS)]]
    for given, arm in product(INPUTS, LENGTHS_OF):
        of_arm = [row for row in table if (row["arm"], row["input"]) == (arm, given)]
        found = [[row for row in of_arm if row["epochs"] == epochs] for epochs in LENGTHS]
        if all(found):
            whole = (f"{100 * sum(row[WHOLE] for row in each) / len(each):.1f}" for each in found)
            lines.append([given, arm, "before", *whole])
            lines.append(["", "", "after", *(f"{100 * after_cut(each):.1f}" for each in found)])
    return markdown(lines)


def as_yaml(table: list[dict[str, Any]]) -> str:
    """The runs of the table, a line each."""
    lines = ["# Written by `python experiments/two_task/search.py --choose` from search.csv: do not edit.", "runs:"]
    for given, arm in product(INPUTS, ARMS):
        words = ", ".join(f"{name}: {value}" for name, value in {"input": given, **choice(table, arm, given)}.items())
        lines.append(f"  {arm}-{given}: {{{words}}}")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    try:
        if words == ["--choose"]:
            found = rows(SEARCH)
            print(f"{tables(found)}\n\n{lengths(rows(LENGTHS_FILE))}")
            with runs.replacing(HERE / "chosen.yaml") as file:
                file.write(as_yaml(found).encode())
            return 0
        longer = words[:1] == ["--epochs"]
        inputs = words[longer:] or list(INPUTS)
        for word in inputs:
            if word not in INPUTS:
                raise unknown("input", word, INPUTS)
        if longer:
            fill(LENGTHS_FILE, lengths_of(inputs))
        else:
            fill(SEARCH, candidates_of(inputs))
    except UserError as error:
        print(f"search.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
