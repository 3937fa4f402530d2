"""The strengths of every arm: one search for all, on training images held out and on seeds that the table has not.

python experiments/two_task/search.py [INPUT...]           train what search.csv has not yet
python experiments/two_task/search.py --epochs [INPUT...]  how many epochs suffice: train what epochs.csv has not yet
python experiments/two_task/search.py --choose             write the choice to chosen.yaml, the tables to the pages

Every arm but ``regular``, which has none, has six strengths, each trained with two seeds for five epochs. Chosen is
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

from spatial import process, storing

process.settle()

from experiments import pages
from experiments.two_task import arms
from experiments.two_task.arms import ARMS, CUTS, SEARCHED, Options, strength
from main import main as program
from spatial.errors import UserError
from spatial.runs import Run
from spatial.scoring import WHOLE, with_mean

Wanted = tuple[str, str, Options, int]  # arm, input, options, epochs


def measure(arm: str, given: str, options: Options, epochs: int) -> Iterator[dict[str, Any]]:
    """Train a candidate, cut and score it on the images held out; a row per seed. The run is removed."""
    folder = HERE / "runs" / f"search-{arm}-{given}-{strength(options):g}-{epochs}"
    words = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    fixed = f"--layers 300 300 --norm l1 --schedule linear --epochs {epochs} --holdout 10000".split()
    seeds = SEARCHED[1]
    both = ["--seed", str(seeds[0]), "--seeds", str(len(seeds)), "--input", given]
    for command in (
        ["train", str(folder), *fixed, *both, *words, "--overwrite"],
        ["split", str(folder), "--method", *CUTS],
        ["score", str(folder)],
    ):
        if program(command):
            raise UserError(f"main.py {' '.join(command)}: failed")
    found = with_mean(storing.read_table(Run(folder).scores, ["accuracy", "loss", "seed"]), "accuracy")
    shutil.rmtree(folder)
    for index, seed in enumerate(seeds):
        accuracies = {method: found[method]["mean"][index] for method in (WHOLE, *CUTS)}
        yield {
            "arm": arm, "input": given, "strength": strength(options), "epochs": epochs, "seed": seed, **accuracies,
        }  # fmt: skip


def strengths_of(inputs: list[str]) -> Iterator[Wanted]:
    """What the search trains."""
    for given, arm in arms.searched(inputs):
        if len(candidates := arms.CANDIDATES.get(arm, [])) > 1:
            yield from ((arm, given, options, SEARCHED[0]) for options in candidates)


def lengths_of(inputs: list[str]) -> Iterator[Wanted]:
    """What the question of the epochs trains."""
    for given, (arm, index), epochs in product(inputs, arms.EPOCHS_OF.items(), arms.EPOCHS):
        yield arm, given, ARMS[arm][index], epochs


def fill(table: Path, wanted: Iterator[Wanted]) -> None:
    """Measure what the table has not."""
    for arm, given, options, epochs in wanted:
        known = {(row["arm"], row["input"], row["strength"], row["epochs"]) for row in arms.read(table)}
        if (arm, given, strength(options), epochs) not in known:
            storing.append_table(table, list(measure(arm, given, options, epochs)))


def choose() -> None:
    """Write the choice, and the tables that it comes from."""
    found = arms.read(arms.SEARCH)
    finished = arms.chosen(found)
    for given, arm in arms.searched():
        if (given, arm) not in finished:
            print(f"not finished, left out: {arm}, {given}", file=sys.stderr)
    with storing.replacing(HERE / "chosen.yaml") as file:
        file.write(arms.as_yaml(found).encode())
    pages.insert(HERE / "README.md", {"epochs": arms.epochs_table(arms.read(arms.LENGTHS))})
    pages.insert(HERE / "TABLES.md", {"search": arms.search_table(found)})


def main(words: list[str]) -> int:
    try:
        if words == ["--choose"]:
            choose()
            return 0
        longer = words[:1] == ["--epochs"]
        inputs = arms.inputs_of(words[longer:])
        if longer:
            fill(arms.LENGTHS, lengths_of(inputs))
        else:
            fill(arms.SEARCH, strengths_of(inputs))
    except UserError as error:
        print(f"search.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
