"""experiments/two_task: what the runs say, on numbers made up, and what the committed pages show."""

import math
import random
import re
import shutil
from functools import cache
from itertools import chain, product
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest
import yaml
from helpers import last, mlp, places_of, text_of
from matplotlib.figure import Figure

from experiments import pages
from experiments.table import markdown
from experiments.two_task import arms, findings, free
from spatial import costs, splitting, storing
from spatial.comparing import holm
from spatial.errors import UserError
from spatial.metrics import interval
from spatial.positions import output_groups
from spatial.seeds import generator

HERE = Path(arms.__file__).parent
ROOT = HERE.parents[1]
TASKS = ("MNIST", "FashionMNIST")
LEARNED, EVERY = list(arms.LEARNED), list(arms.EVERY)
CONTROLS = ["regular", "penalty", "frozen", "shuffled"]
NEURON_CONTROLS = ["frozen_neuron", "shuffled_neuron"]

# The findings: on runs of which every number is a function of what it is of.

SEEDS, GIVEN = range(5), ["sequential", "mix"]
SPLITS = ["greedy", "balanced", "probability", "rescale", "activations", "clusters", "random"]
DEALT = ["greedy", "balanced", "activations", "clusters", "random"]
MEASURES = {"live": 0, "places": 0, "purity": 2, "kappa": 2, "silhouette": 2, "crossing": 2, "wire": 1}
SCALE = {"live": 300, "places": 300, "wire": 50}
UNDEFINED = {  # (measure, owners, arm, input, layer, seed)
    ("silhouette", "balanced", "penalty", "mix", 1, 2),
    ("silhouette", "groups", "frozen", "mix", 0, 4),
    *(("kappa", "random", "regular", "mix", 0, seed) for seed in SEEDS),
    *(("crossing", "balanced", "penalty", "mix", 0, seed) for seed in SEEDS),
}


@cache
def draw(*key):
    """A number from 0 to 1 of its own for every key."""
    return random.Random(repr(key)).random()


FOUR_TASKS = (*TASKS, "MNIST@permuted", "FashionMNIST@permuted")
BESIDE = {  # tasks and placed layers of runs beside the table, three seeds each
    ("four_regular", "sequential"): (FOUR_TASKS, 3),
    ("four_neuron_task", "sequential"): (FOUR_TASKS, 3),
    ("fork_spatial", "sequential"): (TASKS, 5),
}


@cache
def accuracy(arm, given, method, task, seed, part=None):
    if (arm, given, method) == ("shuffled_neuron", "mix", "whole"):  # seed by seed 1 point over regular
        return round(accuracy("regular", given, method, task, seed) + 0.01, 4)
    level, noise = draw(arm, given, method, task, part), draw(arm, given, method, task, part, seed)
    return round(0.3 + 0.4 * level + 0.4 * draw(arm, given) ** 3 * (noise - 0.5), 4)


@cache
def measured(*key):
    """``key`` as in ``UNDEFINED``."""
    value = round(SCALE.get(key[0], 1) * (0.8 * draw(*key[:-1]) + 0.2 * draw(*key)), 3)
    return None if key in UNDEFINED else value + 3e-5  # so that no mean is half way between two cells


def shape(arm, given):
    """Seeds, tasks and placed layers of a run."""
    return (range(3), *BESIDE[arm, given]) if (arm, given) in BESIDE else (SEEDS, TASKS, 3)


def measure_rows(arm, given, owners, method="balanced"):
    seeds, tasks, layers = shape(arm, given)
    names = [f"live_{task}" for task in tasks] + list(MEASURES)
    return [
        {"seed": seed, "method": method, "layer": layer}
        | {name: measured(name, owners, arm, given, layer, seed) for name in names}
        for seed, layer in product(seeds, range(layers))
    ]


def path_of(folder, run, file):
    """Where a file of a run is."""
    return (folder.parent / "afterwards" if file in ("relaxed.csv", "groups.csv") else folder) / run / file


def save_scored(folder, arm, given):
    """The files that findings read of a run."""
    seeds, tasks, _ = shape(arm, given)

    def scores(methods):
        return [
            {"seed": seed, "method": method, "task": task, "accuracy": accuracy(arm, given, method, task, seed)}
            for seed, method, task in product(seeds, methods, tasks)
        ]

    transfer = [
        {"seed": seed, "method": method, "part": part, "task": task,
         "accuracy": accuracy(arm, given, method, task, seed, part)}
        for seed, method, part, task in product(seeds, ("greedy", "balanced"), tasks, tasks)
    ]  # fmt: skip
    states = [{"start": start, **row} for start in ("random", "held") for row in measure_rows(arm, given, start)]
    groups = [{"kind": "score", **row} for row in scores(["groups"])]
    groups += [{"kind": "measure", **row} for row in measure_rows(arm, given, "groups", "groups")]
    groups = [dict.fromkeys([*groups[0], *groups[-1]]) | row for row in groups]
    measures = measure_rows(arm, given, "greedy", "greedy") + measure_rows(arm, given, "balanced")
    own = ["groups"] if arm in findings.IMPOSED else []  # as `score` writes of arbitrary outputs
    files = {"scores": scores(["whole", *SPLITS, *own, "spare"]), "transfer": transfer, "measures": measures}
    for name, rows in (files | {"relaxed": states, "groups": groups}).items():
        storing.save_table(path_of(folder, f"{arm}-{given}", f"{name}.csv"), rows)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two inputs; of the third only one arm is scored; some runs beside the table."""
    folder = tmp_path_factory.mktemp("scored") / "runs"
    for arm, given in [*product(EVERY, GIVEN), ("regular", "concatenate"), *BESIDE]:
        save_scored(folder, arm, given)
    return folder


@pytest.fixture(scope="module")
def table(scored):
    return findings.read(scored)


@pytest.fixture(scope="module")
def compared(table):
    return findings.comparisons(table)


@cache
def percent(arm, given, method):
    seeds, tasks, _ = shape(arm, given)
    return [fmean(100 * accuracy(arm, given, method, task, seed) for task in tasks) for seed in seeds]


def lost(arm, given, method):
    return [a - b for a, b in zip(percent(arm, given, "whole"), percent(arm, given, method), strict=True)]


def cell(values, digits=1):
    known = [value for value in values if value is not None]
    missing = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{fmean(known):.{digits}f} ± {stdev(known):.{digits}f}{missing}" if known else ""


def layers(measure, owners, arm, given):
    """A measure's cells of both hidden layers."""
    pair = ([measured(measure, owners, arm, given, layer, seed) for seed in SEEDS] for layer in (0, 1))
    return ", ".join(cell(each, 2) for each in pair)


def best(arm, given, what):
    """By which split an arm is cut."""
    methods = {"before": ["whole"], "best cut": DEALT, "best": SPLITS}.get(what, [what])
    return max(methods, key=lambda method: fmean(percent(arm, given, method)))


def test_an_input_that_is_not_finished_is_left_out(table):
    assert table.inputs == GIVEN
    assert set(table.accuracy) == set(table.files) == {*product(EVERY, GIVEN), *BESIDE}


SOME = [[(arm, given) for arm in EVERY] for given in GIVEN] + [list(BESIDE)]


@pytest.mark.parametrize("wanted", SOME, ids=[*GIVEN, "beside"])
def test_some_measures_of_the_hidden_layers(table, wanted):
    head, *lines = findings.apart(table, wanted)
    assert head == ["arm", "live", "places", "kappa", "silhouette"]
    for (arm, given), line in zip(wanted, lines, strict=True):
        seeds, _, layers = shape(arm, given)
        assert line == [
            arm,
            *(
                ", ".join(
                    cell([measured(name, "balanced", arm, given, layer, seed) for seed in seeds], MEASURES[name])
                    for layer in range(layers - 1)
                )
                for name in head[1:]
            ),
        ]


@pytest.mark.parametrize("wanted", SOME, ids=[*GIVEN, "beside"])
def test_accuracies_and_points_lost(table, wanted):
    head, *lines = findings.accuracies(table, wanted)
    assert head == ["arm", "before the cut", *SPLITS]
    assert lines == [
        [arm, cell(percent(arm, given, "whole")), *(cell(lost(arm, given, method)) for method in SPLITS)]
        for arm, given in wanted
    ]


def test_what_is_beside_the_table_is_shown_as_far_as_it_is_scored(table):
    assert findings.scored_beside(table) == {
        "four tasks": [("four_regular", "sequential"), ("four_neuron_task", "sequential")],
        '"the params of the paper" in a fork of it': [("fork_spatial", "sequential")],
    }
    assert findings.scored_beside(table._replace(files={})) == {}


def test_the_pipeline_reads_what_findings_reads():
    stages = yaml.safe_load((HERE / "dvc.yaml").read_text())["stages"]
    named = [run for run in product(EVERY, arms.INPUTS)] + list(chain(*arms.BESIDE.values()))
    read = [dep for dep in stages["findings"]["deps"] if "/runs/" in dep or "/afterwards/" in dep]
    assert sorted(read) == sorted(
        path_of(Path("experiments/two_task/runs"), f"{arm}-{given}", file).as_posix()
        for arm, given in named
        for file in ("metrics.json", "groups.csv")
    )


def test_every_comparison_is_there_once(compared):
    wanted = [(given, arm, "regular", "before") for given in GIVEN for arm in EVERY if arm != "regular"]
    for given, arm, what in product(GIVEN, LEARNED, ("greedy", "balanced", "best cut", "best")):
        controls = CONTROLS + (NEURON_CONTROLS if arm.startswith("neuron") else [])
        wanted += [(given, arm, control, what) for control in controls]
    assert sorted((row["input"], row["arm"], row["against"], row["what"]) for row in compared) == sorted(wanted)
    assert len(wanted) == 266


def test_comparisons_are_paired_by_seed_each_network_with_its_own_cut(compared):
    for row in compared:
        own, other = (best(row[arm], row["input"], row["what"]) for arm in ("arm", "against"))
        assert (row["cut_arm"], row["cut_against"]) == (own, other)
        sides = percent(row["arm"], row["input"], own), percent(row["against"], row["input"], other)
        differences = [a - b for a, b in zip(*sides, strict=True)]
        assert row["difference"] == pytest.approx(fmean(differences))
        if row["p"] is not None:
            assert row["t"] == pytest.approx(fmean(differences) / (stdev(differences) / 5**0.5))
            assert row["high"] - row["low"] == pytest.approx(2 * interval(differences))
    assert any(row["cut_arm"] != row["cut_against"] for row in compared)
    same = [row["arm"] for row in compared if row["p"] is None]
    assert same == ["shuffled_neuron"]


def test_comparisons_are_corrected_over_the_whole_table(compared):
    assert [row["p_holm"] for row in compared] == holm([1 if row["p"] is None else row["p"] for row in compared])


def starred(row, digits):
    return f"{row['difference']:+.{digits}f}" + ("*" if row["p_holm"] < 0.05 else "")


def test_what_is_beside_the_table_are_runs_of_the_pipeline():
    named = {f"{arm}-{given}" for arm, given in chain(*arms.BESIDE.values())}
    wider = {f"{arm}-{given}" for given, arm in arms.wider(arms.read(arms.SEARCH))}
    assert named == wider | set(yaml.safe_load((HERE / "params.yaml").read_text())["runs"])


def test_prices_are_of_the_accuracy_before_the_cut(compared):
    head, *lines = findings.prices(compared, GIVEN)
    assert head == ["arm", "sequential", "mix"]
    rows = {(row["arm"], row["input"]): row for row in compared if row["what"] == "before"}
    assert lines == [
        [arm, *(
            starred(rows[arm, given], 2) + f" ({rows[arm, given]['low']:+.2f} to {rows[arm, given]['high']:+.2f})"
            if (arm, given) != ("shuffled_neuron", "mix") else "+1.00"
            for given in GIVEN
        )]
        for arm in EVERY[1:]
    ]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
def test_cuts_are_compared_with_every_control_of_an_arm(compared, given):
    head, *lines = findings.against_controls(compared, given)
    assert head == ["arm", "cut", *CONTROLS, *NEURON_CONTROLS]
    rows = {(row["arm"], row["what"], row["against"]): row for row in compared if row["input"] == given}
    assert lines == [
        [arm if what == "greedy" else "", what]
        + [
            starred(rows[arm, what, control], 1) if (arm, what, control) in rows else ""
            for control in (*CONTROLS, *NEURON_CONTROLS)
        ]
        for arm, what in product(LEARNED, ("greedy", "balanced", "best cut", "best"))
    ]


@pytest.mark.parametrize(
    ("p", "p_holm", "shown"), [(0.01, 0.2, "+1.23"), (0.001, 0.049, "+1.23*"), (0.01, 0.05, "+1.23")]
)
def test_a_star_is_for_what_is_not_chance_after_the_correction(p, p_holm, shown):
    assert findings.difference({"difference": 1.234, "p": p, "p_holm": p_holm}, 2) == shown


def test_the_numbers_made_up_have_all_kinds_of_chance(compared):
    p = [(row["p"] or 1, row["p_holm"]) for row in compared]
    assert sum(corrected < 0.05 for _, corrected in p) > 10
    assert sum(raw < 0.05 < corrected for raw, corrected in p) > 10


def test_the_best_splits_of_every_arm(table):
    head, *lines = findings.best_splits(table)
    assert head == ["arm", "sequential, best cut", "sequential, best", "mix, best cut", "mix, best"]
    assert lines == [
        [arm, *(best(arm, given, what) for given in GIVEN for what in ("best cut", "best"))] for arm in EVERY
    ]
    assert any(line[1] != line[2] for line in lines)


@pytest.mark.parametrize("given", GIVEN)
def test_every_part_on_every_task(table, given):
    head, *lines = findings.parts(table, given)
    pairs = list(product(TASKS, TASKS))
    assert head == ["arm", *(f"{part}'s part on {task}" for part, task in pairs)]
    assert lines == [
        [arm, *(cell([100 * accuracy(arm, given, "balanced", t, s, part) for s in SEEDS]) for part, t in pairs)]
        for arm in EVERY
    ]


@pytest.mark.parametrize("given", GIVEN)
def test_measures_of_every_layer(table, given):
    head, *lines = findings.measures(table, given)
    assert head == ["arm", "layer", "live, MNIST", "live, FashionMNIST", *MEASURES]
    names = {"live_MNIST": 2, "live_FashionMNIST": 2, **MEASURES}
    assert lines == [
        [arm if layer == 0 else "", ["1", "2", "outputs"][layer]]
        + [
            cell([measured(name, "balanced", arm, given, layer, seed) for seed in SEEDS], digits)
            if layer < 2 or name in ("crossing", "wire")
            else ""
            for name, digits in names.items()
        ]
        for arm, layer in product(EVERY, range(3))
    ]


def test_undefined_measures_are_counted_or_left_empty(table):
    lines = findings.measures(table, "mix")
    row = next(index for index, line in enumerate(lines) if line[0] == "penalty")
    assert lines[row][9] == ""  # crossing of the first layer
    assert lines[row + 1][8].endswith(" (4 of 5)")  # silhouette of the second
    assert findings.shown(["1", "", "3"]) == "2.0 ± 1.4 (2 of 3)"
    assert findings.shown(["-0.001", "0"], 2) == "0.00 ± 0.00"


SIDES = ["regular", "connection_task", "connection_imposed", "neuron_task", "neuron_imposed"]


@pytest.mark.parametrize("wanted", [EVERY, SIDES], ids=["all", "sides"])
def test_groups_and_tasks_side_by_side(table, wanted):
    head, *lines = findings.imposed(table, wanted)
    assert head == [
        "input", "arm", "lost by groups", "lost by tasks", "silhouette of groups", "of tasks", "kappa of groups",
    ]  # fmt: skip
    assert lines == [
        [
            given if arm == "regular" else "", arm,
            cell(lost(arm, given, "groups")), cell(lost(arm, given, "balanced")),
            layers("silhouette", "groups", arm, given), layers("silhouette", "balanced", arm, given),
            layers("kappa", "groups", arm, given),
        ]
        for given, arm in product(GIVEN, wanted)
    ]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
def test_networks_as_trained_and_relaxed(table, given):
    head, *lines = findings.relaxations(table, given)
    kinds = ("as trained", "relaxed, free", "relaxed, outputs held")
    assert head == ["arm", *(f"{measure}, {kind}" for measure in ("silhouette", "kappa") for kind in kinds)]
    states = list(product(("silhouette", "kappa"), ("balanced", "random", "held")))
    assert lines == [[arm, *(layers(measure, state, arm, given) for measure, state in states)] for arm in EVERY]


@pytest.mark.parametrize(
    ("seed", "file", "layer", "silhouette", "cuts", "trained", "relaxed"),
    [
        (0, "measures.csv", 0, "0.5", {}, 5, 5),
        (3, "measures.csv", 0, "0.49", {}, 4, 5),
        (3, "relaxed.csv", 1, "0.49", {}, 5, 4),
        (3, "relaxed.csv", 1, "", {}, 5, 4),
        (3, "relaxed.csv", 1, "0.9", {"greedy": [0, 0, 0, 0, 0], "balanced": [0, 9, 0, 0, 0]}, 5, 5),
        (3, "relaxed.csv", 1, "0.9", {"greedy": [1.1, 5, 0, 0, 1], "balanced": [1.1, 1.1, 9, 0, 1]}, 3, 3),
    ],
)
def test_networks_that_pass_for_having_found_their_tasks(table, seed, file, layer, silhouette, cuts, trained, relaxed):
    same = {"greedy": [0] * 5, "balanced": [0] * 5} | cuts
    changed = losing(table, "penalty", **same)
    for name, where in (("measures.csv", {"method": "balanced"}), ("relaxed.csv", {"start": "random"})):
        files = changed.files["penalty", "mix"]
        rows = [
            row
            | {
                "silhouette": silhouette
                if (name, row["seed"], row["layer"]) == (file, str(seed), str(layer))
                else "0.8"
            }
            if all(row[key] == value for key, value in where.items())
            else row | {"silhouette": "0.1"}
            for row in files[name]
        ]
        changed = changed._replace(files=changed.files | {("penalty", "mix"): files | {name: rows}})
    head, *lines = findings.passing(changed)
    assert head == ["arm", *(f"{given}, {state}" for given in GIVEN for state in ("trained", "relaxed"))]
    assert [line[0] for line in lines] == EVERY
    assert lines[EVERY.index("penalty")][3:] == [f"{trained} of 5", f"{relaxed} of 5"]


def test_the_short_table(table):
    names = {
        "regular": "regular", "penalty": "weights charged, without space", "frozen": "places frozen",
        "shuffled": "places shuffled", "connection_task": "spatial, per connection",
        "neuron_task": "spatial, per neuron", "frozen_neuron": "places frozen, per neuron",
    }  # fmt: skip
    columns = list(product(GIVEN, ("whole", "balanced")))
    assert findings.short(table) == [
        ["network", "sequential: before", "after", "mix: before", "after"],
        *([name, *(cell(percent(arm, *column)) for column in columns)] for arm, name in names.items()),
    ]


def test_every_block_is_its_table(table, compared):
    blocks = findings.tables(table, compared)
    whole = {
        "hopes": findings.hopes(table, compared), "prices": findings.prices(compared, GIVEN),
        "best": findings.best_splits(table), "short": findings.short(table),
        "groups": findings.imposed(table, EVERY), "sides": findings.imposed(table, SIDES),
        "found": findings.passing(table),
    }  # fmt: skip
    by_input = {
        "accuracy": lambda given: findings.accuracies(table, [(arm, given) for arm in EVERY]),
        "parts": lambda given: findings.parts(table, given), "measures": lambda given: findings.measures(table, given),
        "relaxed": lambda given: findings.relaxations(table, given),
        "controls": lambda given: findings.against_controls(compared, given),
        "apart": lambda given: findings.apart(table, [(arm, given) for arm in EVERY]),
    }  # fmt: skip
    assert blocks.pop("number") == "266 comparisons, inputs sequential, mix."
    for name, lines in (("wider", findings.accuracies), ("wider-apart", findings.apart)):
        assert blocks.pop(name) == "\n\n".join(
            f"{words}, `sequential`:\n\n{markdown(lines(table, wanted))}"
            for words, wanted in findings.scored_beside(table).items()
        )
    assert {name: text for name, text in blocks.items() if name in whole} == {
        name: markdown(lines) for name, lines in whole.items()
    }
    assert {name: text for name, text in blocks.items() if name not in whole} == {
        name: "\n\n".join(f"`{given}`:\n\n{markdown(lines(given))}" for given in GIVEN)
        for name, lines in by_input.items()
    }


# What was hoped for.


def losing(table, arm, **points):
    """The table with other losses of an arm, in both inputs: points seed by seed, every cut not named far more."""
    accuracy = {"whole": [90.0] * 5} | {
        method: [90 - each for each in points.get(method, [50] * 5)] for method in (*SPLITS, "groups")
    }
    return table._replace(accuracy=table.accuracy | {(arm, given): accuracy for given in GIVEN})


def lying(table, arm, file, *values):
    """The table with other silhouettes of an arm's hidden layers in a file."""
    cells = {str(layer): list(each) for layer, each in enumerate(values)}

    def changed(rows):
        counts = dict.fromkeys(cells, -1)
        for row in rows:
            if row["layer"] in cells and row["method"] in ("balanced", "groups"):
                counts[row["layer"]] += 1
                row = row | {"silhouette": cells[row["layer"]][counts[row["layer"]]]}
            yield row

    files = {(arm, given): table.files[arm, given] for given in GIVEN}
    return table._replace(
        files=table.files | {key: each | {file: list(changed(each[file]))} for key, each in files.items()}
    )


def judged(table, compared, hope, given="mix"):
    """What was measured of a hope, and whether it holds."""
    ((*_, measured, holds),) = (line for line in findings.hopes(table, compared) if (line[0], line[1]) == (hope, given))
    return measured, holds


def test_hopes_are_for_both_networks_and_every_input(table, compared):
    head, *lines = findings.hopes(table, compared)
    assert head == ["hope", "input", "measured", "holds"]
    hopes = [
        "neuron_task: at most 0.3 points lost", "neuron_task: within 0.5 points of regular, before the cut",
        "connection_task: at most 0.5 points lost", "connection_task: within 1.0 points of regular, before the cut",
        "neuron_task: silhouette of live units at least 0.7 in both layers",
        "connection_task: silhouette of live units at least 0.7 in both layers",
        "neuron_imposed: groups that mix the tasks are cut as cheaply as the tasks, within 0.3",
        "connection_imposed: groups that mix the tasks are not cut as cheaply as the tasks, within 0.3",
    ]  # fmt: skip
    ahead = [f"{arm}: ahead of every control after the correction" for arm in ("neuron_task", "connection_task")]
    assert sorted((line[0], line[1]) for line in lines) == sorted(
        [*product(hopes, GIVEN), *((hope, "sequential") for hope in ahead)]
    )
    alone = findings.hopes(table._replace(inputs=["mix"]), compared)
    assert [line[1] for line in alone[1:]] == ["mix"] * len(hopes)


@pytest.mark.parametrize(
    ("points", "said", "neuron", "connection"),
    [
        ({"balanced": [0.1, 0.2, 0.3, 0.2, 0.2]}, "0.20 (0.11 to 0.29, balanced)", "yes", "yes"),
        ({"greedy": [0.1, 0.2, 0.3, 0.2, 0.2], "balanced": [0.25] * 5}, "0.20 (0.11 to 0.29, greedy)", "yes", "yes"),
        ({"balanced": [0.2, 0.3, 0.4, 0.3, 0.2]}, "0.28 (0.18 to 0.38, balanced)", "undecided", "yes"),
        ({"balanced": [0.3, 0.4, 0.5, 0.4, 0.4]}, "0.40 (0.31 to 0.49, balanced)", "**no**", "yes"),
        ({"greedy": [0.6, 0.7, 0.8, 0.7, 0.7]}, "0.70 (0.61 to 0.79, greedy)", "**no**", "**no**"),
    ],
)
def test_points_lost_are_judged_by_their_interval(table, compared, points, said, neuron, connection):
    for arm, most, holds in (("neuron_task", 0.3, neuron), ("connection_task", 0.5, connection)):
        changed = losing(table, arm, **points)
        assert judged(changed, compared, f"{arm}: at most {most} points lost") == (said, holds)


@pytest.mark.parametrize(
    ("row", "said", "neuron", "connection"),
    [
        ((-0.1, -0.4, 0.2), "-0.10 (-0.40 to +0.20)", "yes", "yes"),
        ((0.7, 0.6, 0.8), "+0.70 (+0.60 to +0.80)", "yes", "yes"),  # a gain
        ((-0.5, -0.8, -0.2), "-0.50 (-0.80 to -0.20)", "undecided", "yes"),
        ((-0.9, -1.2, -0.6), "-0.90 (-1.20 to -0.60)", "**no**", "undecided"),
        ((-1.3, -1.5, -1.1), "-1.30 (-1.50 to -1.10)", "**no**", "**no**"),
        ((-0.4, None, None), "-0.40", "yes", "yes"),
        ((-0.6, None, None), "-0.60", "**no**", "yes"),
    ],
)
def test_prices_are_judged_by_their_interval(table, compared, row, said, neuron, connection):
    values = dict(zip(("difference", "low", "high"), row, strict=True)) | {"p_holm": 1.0}
    for arm, most, holds in (("neuron_task", 0.5, neuron), ("connection_task", 1.0, connection)):
        hope = f"{arm}: within {most} points of regular, before the cut"
        changed = [
            row | values if (row["arm"], row["input"], row["what"]) == (arm, "mix", "before") else row
            for row in compared
        ]
        assert judged(table, changed, hope) == (said, holds)


@pytest.mark.parametrize(("arm", "number"), [("neuron_task", 18), ("connection_task", 12)])
def test_ahead_is_better_than_every_control_by_every_cut_but_best(table, compared, arm, number):
    hope = f"{arm}: ahead of every control after the correction"

    def ahead(**but):
        rows = []
        for row in compared:
            own = (row["arm"], row["input"]) == (arm, "sequential") and row["what"] not in ("before", "best")
            rows.append(row | ({"difference": 0.1, "p_holm": 0.04} if own else {"difference": -1.0, "p_holm": 1.0}))
        last = [row for row in rows if row["difference"] > 0 and row["what"] == "best cut"][-1]
        last |= but
        return judged(table, rows, hope, "sequential")

    words = f"of {number} comparisons (greedy, balanced, best cut)"
    assert ahead() == (f"{number} {words}", "yes")
    for but in ({"difference": -0.1}, {"p_holm": 0.05}):
        assert ahead(**but) == (f"{number - 1} {words}", "**no**")


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        (["0.7"] * 5, ["0.7"] * 5, "yes"),
        (["0.72", "0.8", "0.74", "0.9", "0.8"], ["0.75"] * 5, "yes"),
        (["0.6", "0.8", "0.7", "0.9", "0.8"], ["0.75"] * 5, "undecided"),  # its interval reaches below
        (["0.6", "0.8", "0.7", "0.7", "0.6"], ["0.75"] * 5, "undecided"),  # above
        (["0.6", "0.8", "0.7", "0.9", "0.8"], ["0.69"] * 5, "**no**"),
        (["0.69"] * 5, ["0.9"] * 5, "**no**"),
        (["0.9"] * 5, ["0.69"] * 5, "**no**"),
        (["0.9"] * 5, ["0.9"] * 4 + [""], "**no**"),  # undefined
        ([""] * 5, ["0.9"] * 5, "**no**"),
    ],
)
def test_silhouettes_are_judged_layer_by_layer(table, compared, first, second, holds):
    for arm in ("neuron_task", "connection_task"):
        changed = lying(table, arm, "measures.csv", first, second)
        hope = f"{arm}: silhouette of live units at least 0.7 in both layers"
        said = f"{findings.shown(first, 2)}, {findings.shown(second, 2)}"
        assert judged(changed, compared, hope) == (said, holds)


@pytest.mark.parametrize(
    ("groups", "tasks", "neuron", "connection"),
    [
        ([5, 6, 5, 6, 5], [1, 2, 1.5, 2, 1], "**no**", "yes"),
        ([1, 3, 2, 3, 1], [2, 1, 2, 1, 2], "undecided", "undecided"),
        ([0, 0.1, 0, 0.1, 0], [3, 4, 3, 4, 4], "yes", "**no**"),
        ([1, 2, 3, 2, 2.1], [1, 2, 3, 2, 2], "yes", "**no**"),
    ],
)
def test_groups_are_judged_beside_the_tasks(table, compared, groups, tasks, neuron, connection):
    differences = [a - b for a, b in zip(groups, tasks, strict=True)]
    half = 2.776445 * stdev(differences) / math.sqrt(5)  # Student's with four degrees of freedom
    ends = f"({fmean(differences) - half:+.2f} to {fmean(differences) + half:+.2f})"
    for arm, own, hoped, holds in (
        ("neuron_imposed", "neuron_task", "", neuron),
        ("connection_imposed", "connection_task", "not ", connection),
    ):
        changed = losing(losing(table, arm, groups=groups), own, balanced=tasks)
        hope = f"{arm}: groups that mix the tasks are {hoped}cut as cheaply as the tasks, within 0.3"
        assert judged(changed, compared, hope) == (f"{cell(groups)} against {cell(tasks)} lost {ends}", holds)
        same = losing(losing(table, arm, groups=tasks), own, balanced=tasks)
        assert judged(same, compared, hope) == (
            f"{cell(tasks)} against {cell(tasks)} lost",
            "**no**" if hoped else "yes",
        )


# Pages, files and figures of the findings.


@pytest.mark.parametrize(
    ("files", "column", "value"),
    [
        (["scores.csv"], "method", "clusters"),
        (["scores.csv", "groups.csv"], "task", "FashionMNIST"),
        (["groups.csv"], "kind", "score"),
        (["scores.csv"], "seed", "1"),
        ([*findings.OWN, *findings.AFTERWARDS], "seed", "1"),
        (["transfer.csv"], "seed", "1"),
        (["measures.csv"], "seed", "0"),
        (["relaxed.csv"], "seed", "2"),
    ],
)
@pytest.mark.parametrize("run", ["frozen-mix", "four_neuron_task-sequential"])
def test_a_run_that_lacks_a_split_or_a_seed_is_refused(scored, tmp_path, run, files, column, value):
    shutil.copytree(scored.parent, tmp_path, dirs_exist_ok=True)
    for file in files:
        path = path_of(tmp_path / "runs", run, file)
        storing.save_table(path, [row for row in storing.read_table(path) if row[column] != value])
    with pytest.raises(UserError, match=f"{run}: lacks a split, or seeds of the other runs"):
        findings.read(tmp_path / "runs")


@pytest.fixture
def places(scored, tmp_path, monkeypatch):
    """Where findings read and write."""
    marks = (
        "<!-- table: number -->\n<!-- end -->\n<!-- table: {} -->\n<!-- end -->\n<!-- table: search -->\n<!-- end -->\n"
    )
    pages_of = tmp_path / "a", tmp_path / "b"
    for name, value in (("RUNS", scored), ("OUT", tmp_path / "out"), ("PAGES", pages_of)):
        monkeypatch.setattr(findings, name, value)
    for page, name in zip(pages_of, ("prices", "short"), strict=True):
        page.write_text(marks.format(name))
    return tmp_path


def test_the_pages_and_the_comparisons_are_written(places, table, compared, capsys):
    assert findings.main([]) == 0
    assert capsys.readouterr().err == "not finished, left out: concatenate\n"
    blocks = findings.tables(table, compared)
    for page, name in zip(findings.PAGES, ("prices", "short"), strict=True):
        assert pages.blocks(page) == {"number": blocks["number"], name: blocks[name], "search": ""}
    columns = [
        "input", "arm", "against", "what", "cut_arm", "cut_against", "n", "difference", "low", "high", "effect", "t",
        "df", "p", "p_holm", "p_wilcoxon",
    ]  # fmt: skip
    storing.save_table(places / "expected.csv", [{name: row[name] for name in columns} for row in compared])
    assert (findings.OUT / "comparisons.csv").read_text() == (places / "expected.csv").read_text()
    assert [path.name for path in findings.OUT.iterdir()] == ["comparisons.csv"]


def test_figures_are_drawn_where_they_are_asked_for(places, compared, monkeypatch):
    figures = {"convincing": findings.convincing, "grouping": findings.grouping, "parts": findings.specialised}
    assert figures == findings.FIGURES
    monkeypatch.setattr(findings, "FIGURES", {"one": lambda table: Figure(), "two": lambda table: Figure()})
    monkeypatch.setattr(findings, "comparisons", lambda table: compared)
    assert findings.main(["--figures"]) == 0
    assert sorted(path.name for path in findings.OUT.iterdir()) == ["comparisons.csv", "one.png", "two.png"]
    assert (findings.OUT / "one.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_finished_is_said(places, monkeypatch, capsys):
    monkeypatch.setattr(findings, "RUNS", places / "none")
    assert findings.main([]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"findings.py: error: .*none: no input's runs are all scored; run: dvc .*\n", said)
    assert not findings.OUT.exists()
    assert findings.main(["--figure"]) == 2
    assert "findings.py --figures" in capsys.readouterr().err


def test_nothing_is_written_where_a_page_has_no_marks(places, compared, monkeypatch, capsys):
    monkeypatch.setattr(findings, "comparisons", lambda table: compared)
    first, second = findings.PAGES
    second.write_text("nothing")
    before = first.read_text()
    assert findings.main([]) == 2
    assert "b: has no mark" in last(capsys)
    assert first.read_text() == before and not findings.OUT.exists()


def test_the_figure_of_the_parts(table):
    figure = findings.specialised(table)
    axes = figure.axes[: 2 * len(EVERY)]
    for axis, (given, arm) in zip(axes, product(GIVEN, EVERY), strict=True):
        values = {
            (x, y): fmean(100 * accuracy(arm, given, "balanced", task, seed, part) for seed in SEEDS)
            for (y, part), (x, task) in product(enumerate(TASKS), enumerate(TASKS))
        }
        assert {text.get_position(): text.get_text() for text in axis.texts} == {
            place: f"{value:.0f}" for place, value in values.items()
        }
        image = axis.images[0].get_array()
        assert {place: image[place[1], place[0]] for place in values} == pytest.approx(values)
        assert axis.images[0].get_clim() == (0, 100)
    assert [axis.get_title() for axis in axes[: len(EVERY)]] == [arm.replace("_", "\n") for arm in EVERY]
    assert [axis.get_title() for axis in axes[len(EVERY) :]] == [""] * len(EVERY)
    assert [axes[0].get_ylabel(), axes[len(EVERY)].get_ylabel()] == ["sequential\npart", "mix\npart"]
    assert "rows: parts of the balanced split; columns: tasks" in text_of(figure)


@pytest.fixture
def drawn(monkeypatch):
    """Tiny networks in place of the trained ones, and what of which neurons is drawn: (axis, network, owners)."""
    networks, calls, draw_hidden = {}, [], findings.last_hidden

    class Trained:
        def __init__(self, folder):
            assert folder.parent == findings.RUNS
            self.name = folder.name

        def network(self, seed):
            assert seed == 0
            return networks.setdefault(self.name, mlp(layers=(8, 6), seed=len(networks), outputs="task"))

    def moved(network, start, seed):
        assert (start, seed) == ("held", 0)
        return costs.scattered(network, generator(0, "moved"))

    def recorded(axis, network, owners, **options):
        calls.append((axis, network, owners, options.get("outputs", True)))
        draw_hidden(axis, network, owners, **options)

    monkeypatch.setattr(findings, "Run", Trained)
    monkeypatch.setattr(findings, "relax_from", moved)
    monkeypatch.setattr(findings, "last_hidden", recorded)
    return SimpleNamespace(networks=networks, calls=calls, moved=moved)


def owned(owners):
    return [own.tolist() for own in owners.values()]


def test_the_figure_of_neurons_and_cuts(table, drawn):
    figure = findings.convincing(table)
    shown = ["regular", "penalty", "frozen", "shuffled", "connection_task", "neuron_task"]
    assert list(drawn.networks) == [f"{arm}-sequential" for arm in shown]
    assert len(figure.axes) == 2 * 6 + 2
    for number, (axis, network, owners, outputs) in enumerate(drawn.calls):
        trained = drawn.networks[f"{shown[number // 2]}-sequential"]
        after = drawn.moved(trained, "held", 0) if number % 2 else trained
        assert places_of(network) == places_of(after)
        assert owned(owners) == owned(splitting.balanced(trained).owners) and outputs
        assert (axis.get_subplotspec().rowspan.start, axis.get_subplotspec().colspan.start) == (number % 2, number // 2)
    titles = [axis.get_title().replace("\n", " ") for axis, *_ in drawn.calls[::2]]
    assert titles == list(findings.NAMES.values())
    for axis, given in zip(figure.axes[-2:], GIVEN, strict=True):
        lines = axis.get_lines()
        assert axis.get_ylabel() == f"{given}\naccuracy, %"
        assert [list(line.get_ydata()) for line in lines] == [
            pytest.approx(percent(arm, given, method))
            for arm, method in product(shown, ("whole", "greedy", "balanced"))
        ]
        assert [round(fmean(line.get_xdata()), 1) for line in lines[:4]] == pytest.approx([-0.3, 0, 0.2, 0.7], abs=0.11)
        assert [(line.get_marker(), line.get_markerfacecolor() == "none") for line in lines[:3]] == [
            ("o", True), ("x", False), ("o", False),
        ]  # fmt: skip
    written = text_of(figure)
    for words in (
        "MNIST",
        "before the cut",
        "after greedy",
        "after balanced",
        "outputs, sequential, seed 0",
        "relaxed",
    ):
        assert words in written


def test_the_figure_of_groups_and_tasks(table, drawn):
    figure = findings.grouping(table)
    assert list(drawn.networks) == ["connection_imposed-sequential", "neuron_imposed-sequential"]
    assert len(figure.axes) == 4
    groups = output_groups((3, 2), "arbitrary")
    for (axis, network, owners, outputs), (arm, what) in zip(
        drawn.calls, product(("connection_imposed", "neuron_imposed"), ("groups", "tasks")), strict=True
    ):
        assert axis.get_title() == f"{arm}\nby {what}"
        assert network is drawn.networks[f"{arm}-sequential"] and not outputs
        split = splitting.grouped(network, groups) if what == "groups" else splitting.balanced(network)
        assert owned(owners) == owned(split.owners)
    assert "MNIST, or group 1" in text_of(figure)


def test_outputs_are_drawn_where_they_are_asked_for():
    axes, network = Figure().subplots(2), mlp(layers=(8, 6))
    owners = splitting.balanced(network).owners
    for axis, outputs in zip(axes, (True, False), strict=True):
        findings.last_hidden(axis, network, owners, outputs=outputs)
    assert len(axes[0].collections) > len(axes[1].collections) > 0


@pytest.fixture(scope="module")
def committed():
    """What findings.py makes of the committed files."""
    table = findings.read(HERE / "runs")
    compared = findings.comparisons(table)
    return SimpleNamespace(compared=compared, blocks=findings.tables(table, compared))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        pytest.param(
            HERE / "README.md",
            "epochs accuracy number prices apart sides hopes free-final found wider wider-apart",
            marks=pytest.mark.slow,  # hundreds of exact tests
        ),
        (HERE / "TABLES.md", "search best controls parts measures groups relaxed free"),
        (ROOT / "README.md", "short"),
    ],
    ids=["experiment", "tables", "project"],
)
def test_the_committed_pages_show_what_the_committed_tables_say(committed, page, names):
    blocks = dict(committed.blocks)
    blocks |= {path.stem: markdown(free.table(free.read(path))) for path in (free.SEARCH, free.FINAL)}
    shown = pages.blocks(page)
    assert sorted(shown) == sorted(names.split())
    assert all(shown.values())
    for name in set(shown) & set(blocks):
        assert shown[name] == blocks[name], name


def test_the_committed_comparisons_and_figures_are_there(committed, tmp_path):
    rows = [{name: row[name] for name in findings.COLUMNS} for row in committed.compared]
    storing.save_table(tmp_path / "comparisons.csv", rows)
    assert (tmp_path / "comparisons.csv").read_text() == (HERE / "findings" / "comparisons.csv").read_text()
    shown = re.findall(r"!\[[^\]]*\]\((findings/[^)]*)\)", (HERE / "README.md").read_text())
    assert sorted(shown) == sorted(f"findings/{name}.png" for name in findings.FIGURES)
    assert all((HERE / path).is_file() for path in shown)
