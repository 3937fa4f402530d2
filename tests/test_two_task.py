"""The scripts of experiments/two_task: arms and their search, findings on numbers made up, free outputs, afterwards."""

import math
import random
import re
import shutil
from copy import deepcopy
from functools import cache
from itertools import chain, product
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import coded_sets, mlp, noise_tasks, text_of
from matplotlib.figure import Figure

from experiments import pages
from experiments.table import markdown
from experiments.two_task import afterwards, arms, findings, free, search
from spatial import costs, graph, runs, scoring, splitting
from spatial.comparing import holm
from spatial.errors import UserError
from spatial.metrics import interval
from spatial.positions import output_groups
from spatial.seeds import generator

HERE = Path(search.__file__).parent
ROOT = HERE.parents[1]
TASKS = ("MNIST", "FashionMNIST")
LEARNED = [f"{per}_{outputs}" for per in ("connection", "neuron") for outputs in ("free", "task", "arbitrary")]
CONTROLS = ["regular", "penalty", "frozen", "shuffled"]
NEURON_CONTROLS = ["frozen_neuron", "shuffled_neuron"]
ARMS = [*CONTROLS, *NEURON_CONTROLS, *LEARNED]
EVERY = [*ARMS, "connection_imposed", "neuron_imposed"]


# The arms and their search.


def found(reached, arm="penalty", given="mix", strengths=(0.3, 1, 3, 10, 30, 100), epochs=5, whole=0.9):
    """Rows of search.csv: accuracies after greedy and balanced of every strength, for both seeds."""
    return [
        {"arm": arm, "input": given, "strength": strength, "epochs": epochs, "seed": seed,
         "whole": whole + strength / 10_000, "greedy": greedy + 0.02 * index, "balanced": balanced - 0.02 * index}
        for strength, (greedy, balanced) in zip(strengths, reached, strict=True)
        for index, seed in enumerate((100, 101))
    ]  # fmt: skip


def peak(at, **options):
    """A finished search whose strength number ``at`` is best."""
    return found([(0.5, 0.5 + 0.1 * (index == at)) for index in range(6)], **options)


@pytest.mark.parametrize(
    ("reached", "best"),
    [
        ([(0.5, 0.5)] * 3 + [(0.6, 0.5)] + [(0.5, 0.5)] * 2, 10),
        ([(0.5, 0.5)] * 2 + [(0.5, 0.7), (0.6, 0.65)] + [(0.5, 0.5)] * 2, 3),  # the better of both cuts
        ([(0.5, 0.5)] * 5 + [(0.5, 0.6)], 100),
        ([(0.5, 0.5)] * 6, 0.3),  # the smaller of equal ones
    ],
)
def test_the_choice_is_best_after_the_better_cut(reached, best):
    assert arms.choice(found(reached), "penalty", "mix") == {"outputs": "task", "weight_penalty": best}


def test_the_choice_is_of_its_own_arm_and_input():
    table = peak(5) + peak(0, given="sequential") + peak(0, arm="shuffled")
    assert arms.choice(table, "penalty", "mix")["weight_penalty"] == 100
    assert arms.choice(table, "regular", "mix") == {"outputs": "task"}


@pytest.mark.parametrize("rows", [[], peak(0)[:-1], peak(0)[:-2], [*peak(0), peak(0)[3]]])
def test_an_unfinished_or_doubled_search_chooses_nothing(rows):
    with pytest.raises(UserError, match=r"penalty, mix: the search is not finished; run: python .*search.py mix"):
        arms.choice(rows, "penalty", "mix")
    assert ("mix", "penalty") not in arms.chosen(rows)


def test_every_arm_has_six_strengths_but_regular():
    assert list(arms.EVERY) == EVERY
    for arm, candidates in arms.ARMS.items():
        assert len(candidates) == len({arms.strength(each) for each in candidates}) == (1 if arm == "regular" else 6)


def test_controls_are_charged_as_the_arms_that_they_match():
    for arm, candidates in arms.ARMS.items():
        for options in candidates:
            assert options.get("transport_per") == ("neuron" if "neuron" in arm else None)
            assert options.get("positions") == next((each for each in ("frozen", "shuffled") if each in arm), None)
            assert options["outputs"] == (arm.partition("_")[2] if arm in LEARNED else "task")
            assert ("proximity" in options) == ("position_lr" in options) == (arm in LEARNED)
    for per in ("connection", "neuron"):
        strengths = [[arms.strength(each) for each in arms.ARMS[f"{per}_{end}"]] for end in ("free", "task")]
        control = "frozen_neuron" if per == "neuron" else "frozen"
        assert [arms.strength(each) for each in arms.ARMS[control]] == strengths[0] == strengths[1]
    assert [each["proximity"] for each in arms.ARMS["connection_task"]] == [0.03, 0.1, 0.3, 1, 1, 3]
    assert all(each["proximity"] == each["transport"] for each in arms.ARMS["neuron_free"])


def test_imposed_groups_have_the_strengths_of_the_tasks_own():
    table = peak(4, arm="neuron_task", strengths=(0.03, 0.1, 0.3, 1, 3, 10)) + peak(1, arm="connection_task")
    assert arms.choice(table, "neuron_imposed", "mix") == {
        "outputs": "arbitrary", "transport": 3, "transport_per": "neuron", "proximity": 3, "position_lr": 0.015,
    }  # fmt: skip
    assert arms.choice(table, "connection_imposed", "mix") == {
        "outputs": "arbitrary", "transport": 1, "proximity": 0.1, "position_lr": 0.05,
    }  # fmt: skip


SEARCHED = (
    peak(0) + peak(5, arm="frozen") + peak(3, arm="shuffled", whole=0.8) + peak(1, arm="connection_free")[:-1]
    + peak(2, given="concatenate")
)  # fmt: skip


def test_what_is_chosen_becomes_a_run_of_the_table():
    text = arms.as_yaml(SEARCHED)
    assert text.splitlines()[0].startswith("# Written by")
    assert text.splitlines()[4] == "  penalty-mix: {input: mix, outputs: task, weight_penalty: 0.3}"
    assert yaml.safe_load(text)["runs"] == {
        "regular-sequential": {"input": "sequential", "outputs": "task"},
        "regular-mix": {"input": "mix", "outputs": "task"},
        "penalty-mix": {"input": "mix", "outputs": "task", "weight_penalty": 0.3},
        "frozen-mix": {"input": "mix", "outputs": "task", "transport": 100, "positions": "frozen"},
        "shuffled-mix": {"input": "mix", "outputs": "task", "transport": 10, "positions": "shuffled"},
        "regular-concatenate": {"input": "concatenate", "outputs": "task"},
        "penalty-concatenate": {"input": "concatenate", "outputs": "task", "weight_penalty": 3},
        "four_regular-sequential": {"input": "sequential", "outputs": "task", **FOUR},
        "conv_regular-mix": {"input": "mix", "outputs": "task", **CONV},
    }


FOUR = {"datasets": ["MNIST", "FashionMNIST", "MNIST@permuted", "FashionMNIST@permuted"], "seeds": 3}
CONV = {"model": "conv", "layers": [32, 64], "seeds": 3}


def test_what_is_beside_the_table_has_the_strengths_of_the_table_or_its_own():
    two = peak(2, arm="connection_task", given="sequential") + peak(4, arm="connection_task")
    assert arms.wider(two)["sequential", "four_connection_task"] == {
        "outputs": "task", "transport": 3, "proximity": 0.3, "position_lr": 0.05, **FOUR,
    }  # fmt: skip
    assert ("mix", "conv_connection_task") not in arms.wider(two)
    searched = two + peak(1, arm="conv_connection_task")
    assert arms.wider(searched)["mix", "conv_connection_task"] == {
        "outputs": "task", "transport": 1, "proximity": 0.1, "position_lr": 0.05, **CONV,
    }  # fmt: skip
    assert yaml.safe_load(arms.as_yaml(searched))["runs"]["conv_connection_task-mix"]["seeds"] == 3
    neuron = peak(3, arm="neuron_task", strengths=(0.03, 0.1, 0.3, 1, 3, 10))
    assert arms.wider(neuron)["mix", "conv_neuron_task"]["transport"] == 1


def cells(text):
    """A page's tables as rows of cells, without their rules."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in ([cell.strip() for cell in line] for line in lines) if set("".join(row)) != {"-"}]


def test_the_table_of_the_search_shows_finished_arms_and_the_edges():
    text = arms.search_table(SEARCHED)
    head = ["arm", "what", "1st strength", "2nd", "3rd", "4th", "5th", "6th", "chosen"]
    before = ["90.0 ± 0.0", "90.0 ± 0.0", "90.0 ± 0.0", "90.1 ± 0.0", "90.3 ± 0.0", "91.0 ± 0.0"]
    lower = ["80.0 ± 0.0", "80.0 ± 0.0", "80.0 ± 0.0", "80.1 ± 0.0", "80.3 ± 0.0", "81.0 ± 0.0"]

    def after(at):
        return ["59.0" if index == at else "51.0" for index in range(6)]  # 50 + 1, by greedy; 60 - 1, by balanced

    mix = [
        head, ["penalty", "before", *before, "0.3 (edge)"], ["", "after", *after(0), ""],
        ["frozen", "before", *before, "100 (edge)"], ["", "after", *after(5), ""],
        ["shuffled", "before", *lower, "10"], ["", "after", *after(3), ""],
    ]  # fmt: skip
    concatenate = [head, ["penalty", "before", *before, "3"], ["", "after", *after(2), ""]]
    assert cells(text) == mix + concatenate
    assert re.findall("`.*`:", text) == ["`mix`:", "`concatenate`:"]


def lengths(arm, strength, whole, number=4):
    """Rows of epochs.csv: the more epochs, the better before the cut."""
    rows = (found([(0.5, 0.5)], arm, "mix", [strength], n, whole + n / 1000) for n in (3, 5, 10, 20)[:number])
    return list(chain.from_iterable(rows))


def test_the_table_of_the_epochs_shows_finished_arms():
    rows = lengths("neuron_task", 3, 0.7) + lengths("regular", 0, 0.6) + lengths("connection_task", 10, 0.5, 3)
    assert cells(arms.epochs_table(rows)) == [
        ["input", "arm", "what", "3 epochs", "5 epochs", "10 epochs", "20 epochs"],
        ["mix", "regular", "before", "60.3", "60.5", "61.0", "62.0"], ["", "", "after", *["51.0"] * 4],
        ["mix", "neuron_task", "before", "70.3", "70.5", "71.0", "72.0"], ["", "", "after", *["51.0"] * 4],
    ]  # fmt: skip
    deeper = found([(0.5, 0.8)], "regular", "mix", [0], 20) + lengths("regular", 0, 0.6, 3)
    assert cells(arms.epochs_table(deeper))[2] == ["", "", "after", "51.0", "51.0", "51.0", "79.0"]


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    called = []

    def measure(arm, given, options, epochs):
        called.append((arm, given, arms.strength(options), epochs))
        return found([(0.5, 0.5)], arm, given, [arms.strength(options)], epochs)

    monkeypatch.setattr(search, "measure", measure)
    wanted = list(search.strengths_of(["mix"]))
    assert len(wanted) == 6 * (11 + 1)  # and conv
    search.fill(tmp_path / "search.csv", iter(wanted[:5]))
    assert len(called) == 5
    search.fill(tmp_path / "search.csv", iter(wanted))
    others = [next(search.strengths_of(["sequential"])), (*wanted[0][:3], 20), ("frozen", "mix", {"transport": 7}, 5)]
    search.fill(tmp_path / "search.csv", iter(others))
    assert len(called) == len(set(called)) == len(wanted) + 3
    assert called[-2:] == [("penalty", "mix", 0.3, 20), ("frozen", "mix", 7, 5)]
    assert len(arms.read(tmp_path / "search.csv")) == 2 * len(called)


def test_a_candidate_is_trained_cut_and_scored_on_images_held_out(tmp_path, monkeypatch):
    commands, folder = [], tmp_path / "runs" / "search-neuron_task-mix-0.3-5"
    values = {("whole", 100): 0.9, ("whole", 101): 0.8, ("greedy", 100): 0.7, ("greedy", 101): 0.6,
              ("balanced", 100): 0.5, ("balanced", 101): 0.4}  # fmt: skip

    def program(words):
        commands.append(words)
        if words[0] == "score":
            both = [(seed, *each) for seed in (100, 101) for each in product(("whole", "greedy", "balanced"), (0, 1))]
            rows = [
                {"seed": seed, "method": method, "task": TASKS[task], "loss": 1.0,
                 "accuracy": values[method, seed] + (0.05 if task else -0.05)}
                for seed, method, task in both
            ]  # fmt: skip
            runs.save_table(folder / "scores.csv", rows)
        return 0

    monkeypatch.setattr(search, "HERE", tmp_path)
    monkeypatch.setattr(search, "program", program)
    rows = list(search.measure("neuron_task", "mix", arms.ARMS["neuron_task"][2], 5))
    fixed = "--layers 300 300 --norm l1 --schedule linear --epochs 5 --holdout 10000 --seed 100 --seeds 2 --input mix"
    own = "--outputs task --transport 0.3 --transport-per neuron --proximity 0.3 --position-lr 0.015 --overwrite"
    assert commands == [
        ["train", str(folder), *fixed.split(), *own.split()],
        ["split", str(folder), "--method", "greedy", "balanced"],
        ["score", str(folder)],
    ]
    assert not folder.exists()
    fields = {"arm": "neuron_task", "input": "mix", "strength": 0.3, "epochs": 5}
    assert [{name: row.pop(name) for name in fields} for row in rows] == [fields, fields]
    assert [list(row) for row in rows] == [["seed", "whole", "greedy", "balanced"]] * 2
    assert [list(row.values()) for row in rows] == [
        pytest.approx([100, 0.9, 0.7, 0.5]),
        pytest.approx([101, 0.8, 0.6, 0.4]),
    ]
    commands.clear()
    values_of = search.measure("conv_connection_task", "mix", {"layers": [32, 64]}, 5)
    with pytest.raises(UserError):
        list(values_of)  # its scores are in another folder
    assert " ".join(commands[0]).endswith("--input mix --layers 32 64 --overwrite")
    monkeypatch.setattr(search, "program", lambda words: 1 if words[0] == "split" else 0)
    with pytest.raises(UserError, match=r"main.py split .* balanced: failed"):
        list(search.measure("regular", "mix", {"outputs": "task"}, 3))


@pytest.mark.parametrize(
    ("words", "table", "inputs", "number", "epochs"),
    [
        ([], "search.csv", ["sequential", "mix", "concatenate"], 3 * 66 + 6, {5}),
        (["mix"], "search.csv", ["mix"], 72, {5}),
        (["--epochs"], "epochs.csv", ["sequential", "mix", "concatenate"], 36, {3, 5, 10, 20}),
        (["--epochs", "mix", "sequential"], "epochs.csv", ["mix", "sequential"], 24, {3, 5, 10, 20}),
    ],
)
def test_what_is_searched(words, table, inputs, number, epochs, monkeypatch):
    called = []
    monkeypatch.setattr(search, "fill", lambda path, wanted: called.append((path, list(wanted))))
    assert search.main(words) == 0
    ((path, wanted),) = called
    assert path == HERE / table
    assert list(dict.fromkeys(given for _, given, *_ in wanted)) == inputs
    assert (len(wanted), {each[-1] for each in wanted}) == (number, epochs)
    if "epochs" in table:
        strengths = {(arm, arms.strength(options)) for arm, _, options, _ in wanted}
        assert strengths == {("regular", 0), ("connection_task", 10), ("neuron_task", 3)}


@pytest.mark.parametrize("words", [["mox"], ["--epochs", "mix", "mox"]])
def test_an_unknown_input_is_one_line(words, capsys):
    assert search.main(words) == 2
    assert capsys.readouterr().err == "search.py: error: unknown input 'mox': did you mean mix?\n"


def test_choosing_writes_the_runs_and_both_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "HERE", tmp_path)
    monkeypatch.setattr(arms, "SEARCH", tmp_path / "search.csv")
    monkeypatch.setattr(arms, "LENGTHS", tmp_path / "epochs.csv")
    page = tmp_path / "README.md"
    page.write_text("<!-- table: epochs -->\n<!-- end -->\n")
    tables = tmp_path / "TABLES.md"
    tables.write_text("<!-- table: search -->\n<!-- end -->\n")
    runs.save_table(arms.SEARCH, SEARCHED)
    runs.save_table(arms.LENGTHS, lengths("regular", 0, 0.6))
    assert search.main(["--choose"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 * len(EVERY) - 7 + 1
    assert "not finished, left out: connection_free, mix" in said
    searched, long = arms.read(arms.SEARCH), arms.read(arms.LENGTHS)
    assert (tmp_path / "chosen.yaml").read_text() == arms.as_yaml(searched) == arms.as_yaml(SEARCHED)
    assert pages.blocks(page) == {"epochs": arms.epochs_table(long)}
    assert pages.blocks(tables) == {"search": arms.search_table(searched)}
    assert arms.read(tmp_path / "none.csv") == []
    page.write_text("no marks")
    assert search.main(["--choose"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("search.py: error: ")


def test_the_committed_choice_is_what_the_search_found():
    rows = arms.read(arms.SEARCH)
    assert (HERE / "chosen.yaml").read_text() == arms.as_yaml(rows)
    shown = pages.blocks(HERE / "README.md") | pages.blocks(HERE / "TABLES.md")
    assert shown["search"] == arms.search_table(rows)
    assert shown["epochs"] == arms.epochs_table(arms.read(arms.LENGTHS))


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


def measure_rows(arm, given, owners, method="balanced"):
    names = [f"live_{task}" for task in TASKS] + list(MEASURES)
    return [
        {"seed": seed, "method": method, "layer": layer}
        | {name: measured(name, owners, arm, given, layer, seed) for name in names}
        for seed, layer in product(SEEDS, range(3))
    ]


def save_scored(folder, arm, given):
    """The files that findings read of a run."""

    def scores(methods):
        return [
            {"seed": seed, "method": method, "task": task, "accuracy": accuracy(arm, given, method, task, seed)}
            for seed, method, task in product(SEEDS, methods, TASKS)
        ]

    transfer = [
        {"seed": seed, "method": method, "part": part, "task": task,
         "accuracy": accuracy(arm, given, method, task, seed, part)}
        for seed, method, part, task in product(SEEDS, ("greedy", "balanced"), TASKS, TASKS)
    ]  # fmt: skip
    states = [{"start": start, **row} for start in ("random", "held") for row in measure_rows(arm, given, start)]
    groups = [{"kind": "score", **row} for row in scores(["groups"])]
    groups += [{"kind": "measure", **row} for row in measure_rows(arm, given, "groups", "groups")]
    groups = [dict.fromkeys([*groups[0], *groups[-1]]) | row for row in groups]
    measures = measure_rows(arm, given, "greedy", "greedy") + measure_rows(arm, given, "balanced")
    own = ["groups"] if arm in findings.IMPOSED else []  # as `score` writes of arbitrary outputs
    files = {"scores": scores(["whole", *SPLITS, *own, "spare"]), "transfer": transfer, "measures": measures}
    for name, rows in (files | {"relaxed": states, "groups": groups}).items():
        runs.save_table(folder / f"{arm}-{given}" / f"{name}.csv", rows)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two inputs; of the third only one arm is scored."""
    folder = tmp_path_factory.mktemp("scored")
    for arm, given in [*product(EVERY, GIVEN), ("regular", "concatenate")]:
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
    return [fmean(100 * accuracy(arm, given, method, task, seed) for task in TASKS) for seed in SEEDS]


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
    assert set(table.accuracy) == set(table.files) == set(product(EVERY, GIVEN))


@pytest.mark.parametrize("given", GIVEN)
def test_some_measures_of_both_layers(table, given):
    head, *lines = findings.apart(table, given)
    assert head == ["arm", "live", "places", "kappa", "silhouette"]
    for arm, line in zip(EVERY, lines, strict=True):
        assert line == [
            arm,
            *(
                ", ".join(
                    cell([measured(name, "balanced", arm, given, layer, seed) for seed in SEEDS], MEASURES[name])
                    for layer in (0, 1)
                )
                for name in head[1:]
            ),
        ]


@pytest.mark.parametrize("given", GIVEN)
def test_accuracies_and_points_lost(table, given):
    head, *lines = findings.accuracies(table, given)
    assert head == ["arm", "before the cut", *SPLITS]
    assert lines == [
        [arm, cell(percent(arm, given, "whole")), *(cell(lost(arm, given, method)) for method in SPLITS)]
        for arm in EVERY
    ]


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
        [arm, *(best(arm, given, what) for given in GIVEN for what in ("best cut", "best"))] for arm in ARMS
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


def test_groups_and_tasks_side_by_side(table):
    head, *lines = findings.imposed(table)
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
        for given, arm in product(GIVEN, EVERY)
    ]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN)
def test_networks_as_trained_and_relaxed(table, given):
    head, *lines = findings.relaxations(table, given)
    kinds = ("as trained", "relaxed, free", "relaxed, outputs held")
    assert head == ["arm", *(f"{measure}, {kind}" for measure in ("silhouette", "kappa") for kind in kinds)]
    states = list(product(("silhouette", "kappa"), ("balanced", "random", "held")))
    assert lines == [[arm, *(layers(measure, state, arm, given) for measure, state in states)] for arm in EVERY]


def test_the_short_table(table):
    names = {
        "regular": "regular", "penalty": "weights charged, without space", "frozen": "places frozen",
        "shuffled": "places shuffled", "connection_task": "spatial, per connection",
        "neuron_task": "spatial, per neuron",
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
        "best": findings.best_splits(table), "groups": findings.imposed(table), "short": findings.short(table),
    }  # fmt: skip
    by_input = {
        "accuracy": findings.accuracies, "parts": findings.parts, "measures": findings.measures,
        "relaxed": findings.relaxations, "controls": lambda _, given: findings.against_controls(compared, given),
        "apart": findings.apart,
    }  # fmt: skip
    assert blocks.pop("number") == "266 comparisons, inputs sequential, mix."
    assert {name: text for name, text in blocks.items() if name in whole} == {
        name: markdown(lines) for name, lines in whole.items()
    }
    assert {name: text for name, text in blocks.items() if name not in whole} == {
        name: "\n\n".join(f"`{given}`:\n\n{markdown(lines(table, given))}" for given in GIVEN)
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
        (["0.6", "0.8", "0.7", "0.9", "0.8"], ["0.75"] * 5, "yes"),
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
        (["groups.csv"], "kind", "score"),
        (["scores.csv"], "seed", "4"),
        (findings.FILES, "seed", "4"),
        (["transfer.csv"], "seed", "4"),
        (["measures.csv"], "seed", "0"),
        (["relaxed.csv"], "seed", "2"),
    ],
)
def test_a_run_that_lacks_a_split_or_a_seed_is_refused(scored, tmp_path, files, column, value):
    shutil.copytree(scored, tmp_path / "runs")
    for file in files:
        path = tmp_path / "runs" / "frozen-mix" / file
        runs.save_table(path, [row for row in runs.read_table(path) if row[column] != value])
    with pytest.raises(UserError, match="frozen-mix: does not hold every split, or not the seeds of the other runs"):
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
    runs.save_table(places / "expected.csv", [{name: row[name] for name in columns} for row in compared])
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


def last(capsys):
    return capsys.readouterr().err.splitlines()[-1]


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


def places_of(network):
    return [place.tolist() for place in graph.positions(network).values()]


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


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (
            HERE / "README.md",
            "epochs accuracy number prices controls apart groups relaxed hopes",
        ),
        (HERE / "TABLES.md", "search best parts measures"),
        (ROOT / "README.md", "short"),
    ],
    ids=["experiment", "tables", "project"],
)
def test_the_committed_pages_show_what_the_committed_tables_say(page, names):
    table = findings.read(HERE / "runs")
    blocks = findings.tables(table, findings.comparisons(table))
    blocks |= {path.stem: markdown(free.table(free.read(path))) for path in (free.SEARCH, free.FINAL)}
    shown = pages.blocks(page)
    assert sorted(shown) == sorted(names.split())
    assert all(shown.values())
    for name in set(shown) & set(blocks):
        assert shown[name] == blocks[name], name


def test_the_committed_comparisons_and_figures_are_there(tmp_path):
    table = findings.read(HERE / "runs")
    rows = [{name: row[name] for name in findings.COLUMNS} for row in findings.comparisons(table)]
    runs.save_table(tmp_path / "comparisons.csv", rows)
    assert (tmp_path / "comparisons.csv").read_text() == (HERE / "findings" / "comparisons.csv").read_text()
    shown = re.findall(r"!\[[^\]]*\]\((findings/[^)]*)\)", (HERE / "README.md").read_text())
    assert sorted(shown) == sorted(f"findings/{name}.png" for name in findings.FIGURES)
    assert all((HERE / path).is_file() for path in shown)


# Free outputs.


def network(way, given="mix", *, whole=0.9, greedy=0.5, cut=0.9, silhouettes=(0.8, 0.6), seed=110, epochs=5):
    """A row of free.csv."""
    return {
        "way": way, "input": given, "seed": seed, "epochs": epochs, "whole": whole, "greedy": greedy, "balanced": cut,
        **{f"{name}_{state}_{layer}": layer + 0.75 * (state == "relaxed") + number
           for number, name in enumerate(("live", "places", "kappa", "silhouette"))
           for state in ("trained", "relaxed") for layer in (1, 2)},
        "silhouette_relaxed_1": silhouettes[0], "silhouette_relaxed_2": silhouettes[1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "is_found", "apart", "lost"),
    [
        ({}, True, 0.6, 0),
        ({"cut": 0.891}, True, 0.6, 0.9),
        ({"cut": 0.889}, False, 0.6, 1.1),
        ({"cut": 0.889, "greedy": 0.895}, True, 0.6, 0.5),  # the better of both cuts
        ({"silhouettes": (0.9, 0.49)}, False, 0.49, 0),
        ({"silhouettes": (0.49, 0.9)}, False, 0.49, 0),
        ({"silhouettes": (0.5, 0.5)}, True, 0.5, 0),
        ({"silhouettes": (math.nan, 0.9)}, False, -1, 0),
        ({"silhouettes": (0.9, math.nan)}, False, -1, 0),
    ],
)
def test_tasks_are_found_where_both_layers_are_apart_and_little_is_lost(changed, is_found, apart, lost):
    row = network("plain, 10", **changed)
    assert free.found_tasks(row) is is_found
    assert free.apart(row) == apart
    assert free.lost(row) == pytest.approx(lost)


FIRST, SECOND, THIRD, *_ = free.WAYS


def tried(given="mix", **ways):
    """Rows of free.csv: of the first ways as given (one per seed), of the others apart but dear."""
    rows = []
    for index, way in enumerate(free.WAYS):
        pair = ways.get(("first", "second", "third")[index] if index < 3 else "", [{"cut": 0.7}] * 2)
        rows += [network(way, given, seed=seed, **each) for seed, each in zip((110, 111), pair, strict=True)]
    return rows


NEAR = {"silhouettes": (0.4, 0.3)}


@pytest.mark.parametrize(
    ("ways", "chosen"),
    [
        ({}, FIRST),  # all alike
        ({"second": [{}, {"cut": 0.5}], "third": [NEAR, NEAR]}, SECOND),  # found once, though dear on average
        ({"second": [{}, {"cut": 0.5}], "third": [{}, {}]}, THIRD),  # found more often
        ({"second": [NEAR, NEAR]}, SECOND),  # found by none, but cut cheaply
        ({"second": [NEAR, NEAR], "third": [{"silhouettes": (0.35, 0.45)}] * 2}, THIRD),  # and lying apart
        ({"third": [{"cut": 0.75, "silhouettes": (0.1, 0.1)}] * 2}, THIRD),  # loses least
        ({"second": [{}, {"cut": 0.85}], "third": [{}, {"cut": 0.8, "silhouettes": (1, 1)}]}, SECOND),
    ],
)
def test_the_way_chosen_finds_the_tasks_most_often_then_is_cheap_and_apart(ways, chosen):
    assert free.choice(tried(**ways) + tried("sequential", first=[{}, {}]), "mix") == chosen


@pytest.mark.parametrize("rows", [[], tried()[:-1], [*tried(), tried()[0]], tried("sequential")])
def test_ways_that_are_not_all_tried_once_leave_no_choice(rows):
    with pytest.raises(UserError, match=r".*, mix: not finished; run: python experiments/two_task/free.py"):
        free.choice(rows, "mix")


def test_ways_end_with_the_last_epoch_and_are_relaxed_there():
    for way in free.WAYS.values():
        shares = [phase.until for phase in way]
        assert shares == sorted(set(shares)) and shares[-1] == 1
        assert way[-1].relax is not None
        assert {round(share * 5, 9) % 1 for share in shares} == {0}  # whole epochs, of 5 and of 10


def trained(monkeypatch, way, epochs, holdout=7):
    """What training by a way calls: (epoch, state handed on, options), relaxings; networks and images returned."""
    train, test = (coded_sets(sizes, (3, 2)) for sizes in ((30, 30), (10, 10)))
    steps, relaxings, loaded = [], [], []

    def fit(models, images, scored, *, start, epochs, optimizer_state, **options):
        assert (images.sizes, scored.sizes) == ((30, 30), (10, 10))
        assert options.pop("seeds") == [3]
        for epoch in range(start + 1, epochs + 1):
            with torch.no_grad():
                next(iter(graph.positions(models[0]).values()))[0, 0] = epoch
            steps.append((epoch, optimizer_state, options | {"epochs": epochs}))
            yield [None], f"after {epoch}"

    def relaxed(model, starts, seed):
        relaxings.append((len(steps), starts, seed))
        moved = deepcopy(model)
        with torch.no_grad():
            next(iter(graph.positions(moved).values()))[0, 1] = 100 + len(relaxings)
        return moved

    def load_sets(*given, **options):
        loaded.append((given, options))
        return [SimpleNamespace(train=one, test=other) for one, other in zip(train, test, strict=True)]

    for name, each in (("fit", fit), ("relaxed", relaxed), ("load_sets", load_sets)):
        monkeypatch.setattr(free, name, each)
    before, after, tasks = free.train(way, "mix", 3, epochs, holdout)
    assert loaded == [((TASKS, str(ROOT / "data"), "mix"), {"holdout": holdout})]
    assert tasks.sizes == (10, 10)
    first = [next(iter(graph.positions(each).values()))[0].tolist() for each in (before, after)]
    return steps, relaxings, first


FIXED = {"epochs": 10, "batch_size": 256, "schedule": "linear", "norm": "l1"}


def test_a_way_of_one_phase(monkeypatch):
    steps, relaxings, (before, after) = trained(monkeypatch, free.WAYS["plain, 10"], 10)
    charged = FIXED | {"transport": 10, "proximity": 1, "position_lr": 0.05}
    assert steps == [(epoch, None, charged) for epoch in range(1, 11)]
    assert relaxings == [(10, 0, 3)]
    assert before[0] == after[0] == 10 and before[1] != after[1] == 101


def test_the_optimizer_begins_anew_where_other_parameters_learn(monkeypatch):
    charged = {"transport": 30, "proximity": 3, "position_lr": 0.02}
    steps, relaxings, _ = trained(monkeypatch, free.WAYS["penalty first, 30, restarts"], 10)
    assert [options for *_, options in steps[:2]] == [FIXED | {"weight_penalty": 10}] * 2
    assert [options for *_, options in steps[2:]] == [FIXED | charged] * 8
    assert [(epoch, state) for epoch, state, _ in steps] == [(epoch, None) for epoch in range(1, 11)]
    assert relaxings == [(2, 5, 3), (10, 5, 3)]


def test_the_optimizer_goes_on_from_phase_to_phase(monkeypatch):
    steps, relaxings, _ = trained(monkeypatch, free.WAYS["annealed, 1 to 100"], 5)
    assert [options["transport"] for *_, options in steps] == [1, 3, 10, 30, 100]
    assert [options["proximity"] for *_, options in steps] == [0.1, 0.3, 1, 3, 10]
    assert [state for _, state, _ in steps] == [None, "after 1", "after 2", "after 3", "after 4"]
    assert relaxings == [(5, 0, 3)]
    steps, relaxings, (before, after) = trained(monkeypatch, free.WAYS["relaxed between, 30"], 10)
    assert [state for _, state, _ in steps] == [*[None] * 2, *(f"after {n}" for n in (2, 2, 4, 4, 6, 6, 8, 8))]
    assert [number for number, *_ in relaxings] == [2, 4, 6, 8, 10]
    assert (before, after) == ([10, 104], [10, 105])  # trained on from where relaxing left it


def test_a_row_is_of_the_network_trained_and_relaxed(monkeypatch):
    before, after, tasks, called = mlp(seed=1), mlp(seed=11), noise_tasks(sizes=(48, 48)), []
    with torch.no_grad():  # it answers by the images
        for layer in graph.placed(after).values():
            layer.weight.mul_(5)
            layer.bias.zero_()

    def train(*given):
        called.append(given)
        return before, after, tasks

    monkeypatch.setattr(free, "train", train)
    row = free.rows_of("plain, 10", "mix", 110, 5, 10_000)
    assert called == [(free.WAYS["plain, 10"], "mix", 110, 5, 10_000)]
    assert list(row.items())[:4] == [("way", "plain, 10"), ("input", "mix"), ("seed", 110), ("epochs", 5)]
    expected = {"whole": fmean(scoring.score_part(after, tasks).accuracy)}
    for method in ("greedy", "balanced"):
        parts = [splitting.cut(after, splitting.METHODS[method](after, 110, None).k, task) for task in (0, 1)]
        expected[method] = fmean(scoring.score_part(part, tasks).accuracy[task] for task, part in enumerate(parts))
    owners = splitting.balanced(after).owners
    for (state, each), layer in product((("trained", before), ("relaxed", after)), (1, 2)):
        measures = scoring.measure_rows(0, "balanced", each, owners, TASKS)[layer - 1]
        expected |= {f"{name}_{state}_{layer}": measures[name] for name in ("live", "places", "kappa", "silhouette")}
    assert {name: row[name] for name in list(row)[4:]} == expected
    assert len({row[name] for name in ("whole", "greedy", "balanced")}) == 3
    assert len({row[f"silhouette_{state}_{layer}"] for state in ("trained", "relaxed") for layer in (1, 2)}) == 4


def test_a_network_is_trained_for_real(monkeypatch):
    sets = [SimpleNamespace(train=each, test=each) for each in coded_sets((30, 30), (3, 2))]
    monkeypatch.setattr(free, "load_sets", lambda *words, **options: sets)
    monkeypatch.setattr(free, "RELAXING", free.RELAXING | {"steps": 2})
    before, after, _ = free.train(free.WAYS["penalty first, 30"], "mix", 0, 5, 0)
    assert places_of(before) != places_of(after)
    assert torch.equal(*(next(iter(each.parameters())) for each in (before, after)))


def test_of_restarts_the_cheapest_is_kept(monkeypatch):
    monkeypatch.setattr(free, "RELAXING", free.RELAXING | {"steps": 20})
    model, tried, relax = mlp(layers=(8, 8)), [], costs.relax

    def recorded(network, **options):
        assert options == free.RELAXING
        tried.append((network, relax(network, **options)))
        return tried[-1][1]

    monkeypatch.setattr(costs, "relax", recorded)
    chosen = free.relaxed(model, 6, 0)
    assert len(tried) == 7 and tried[0][0] is model
    assert len({str(places_of(start)) for start, _ in tried}) == 7
    assert free.cost(chosen) == min(free.cost(end) for _, end in tried) < free.cost(tried[0][1]) < free.cost(model)
    assert torch.equal(*(next(iter(each.parameters())) for each in (model, chosen)))
    draws = generator(0, "restarts")
    assert [places_of(start) for start, _ in tried[1:]] == [places_of(costs.scattered(model, draws)) for _ in range(6)]
    tried.clear()
    free.relaxed(model, 1, 1)
    assert places_of(tried[1][0]) == places_of(costs.scattered(model, generator(1, "restarts")))


def test_the_cost_is_what_relaxing_lowers(monkeypatch):
    assert free.RELAXING == {"norm": "l1", "per": "neuron", "transport": 3.0, "proximity": 3.0, "steps": 300}
    monkeypatch.setattr(free, "RELAXING", {"transport": 2.0, "proximity": 5.0})
    model = mlp()
    wires, crowd = costs.model_costs(model, None, "l1", "neuron")
    assert free.cost(model) == pytest.approx(2 * wires.item() + 5 * crowd.item())


def test_the_table_of_the_ways():
    rows = [
        network(SECOND, "mix", cut=0.88, silhouettes=(0.5, 0.7)),
        network(SECOND, "mix", silhouettes=(0.7, 0.9), seed=111),
        network(FIRST, "sequential", silhouettes=(math.nan, 0.6)),
    ]
    assert free.table(rows) == [
        ["input", "way", "found", "before the cut", "lost", "silhouette as trained", "relaxed", "kappa", "places"],
        ["sequential", FIRST, "0 of 1", "90.0", "0.0", "4.00, 5.00", "-, 0.60", "3.75, 4.75", "3, 4"],
        [
            "mix", SECOND, "1 of 2", "90.0 ± 0.0", "1.0 ± 1.4", "4.00 ± 0.00, 5.00 ± 0.00",
            "0.60 ± 0.14, 0.80 ± 0.14", "3.75 ± 0.00, 4.75 ± 0.00", "3 ± 0, 4 ± 0",
        ],
    ]  # fmt: skip


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What free.py trains, with files of its own."""
    called = []

    def rows_of(name, given, seed, epochs, holdout):
        called.append((name, given, seed, epochs, holdout))
        return network(name, given, seed=seed, epochs=epochs, cut=0.9 if name == THIRD else 0.7)

    monkeypatch.setattr(free, "rows_of", rows_of)
    monkeypatch.setattr(free, "HERE", tmp_path)
    for name in ("SEARCH", "FINAL"):
        monkeypatch.setattr(free, name, tmp_path / getattr(free, name).name)
    marks = "<!-- table: free -->\n<!-- end -->\n<!-- table: free-final -->\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(marks)
    return called


def test_ways_are_compared_on_images_held_out_and_the_best_is_trained_on_other_seeds(asked, tmp_path, capsys):
    inputs = ("sequential", "mix", "concatenate")
    assert free.main(["--final"]) == 2
    assert (
        last(capsys) == f"free.py: error: {FIRST}, sequential: not finished; run: python experiments/two_task/free.py"
    )
    runs.append_table(free.SEARCH, [network(FIRST, "sequential", cut=0.7)])
    assert free.main([]) == 0
    wanted = [(way, given, seed, 5, 10_000) for given, way, seed in product(inputs, free.WAYS, (110, 111))]
    assert asked == wanted[1:]  # but what is there
    shown = pages.blocks(tmp_path / "README.md")
    assert shown == {"free": markdown(free.table(free.read(free.SEARCH))), "free-final": ""}
    asked.clear()
    assert free.main(["--final"]) == free.main(["--final"]) == free.main([]) == 0
    assert asked == [(THIRD, given, seed, 10, 0) for given in inputs for seed in range(200, 210)]
    shown = pages.blocks(tmp_path / "README.md")
    assert shown["free-final"] == markdown(free.table(free.read(free.FINAL)))
    assert len(cells(shown["free-final"])) == 4
    runs.append_table(free.FINAL, [network(FIRST, "mix", seed=200)])  # of an earlier choice
    assert free.main(["--final"]) == 2
    assert f"holds '{FIRST}' for mix" in last(capsys)
    assert free.main(["--finale"]) == 2
    assert "free.py --final" in capsys.readouterr().err


def test_no_seed_is_used_twice():
    table = range(10)  # of params.yaml
    assert yaml.safe_load((HERE / "params.yaml").read_text())["common"]["seeds"] == len(table)
    seeds = [*table, *arms.SEARCHED[1], *free.HELD_OUT, *free.FRESH]
    assert len(seeds) == len(set(seeds)) == 10 + 2 + 2 + 10


def test_undefined_measures_are_read_back(tmp_path):
    runs.append_table(tmp_path / "free.csv", [network(FIRST) | {"silhouette_relaxed_2": None, "kappa_trained_1": None}])
    (row,) = free.read(tmp_path / "free.csv")
    assert math.isnan(row["silhouette_relaxed_2"]) and math.isnan(row["kappa_trained_1"])
    assert (row["silhouette_relaxed_1"], row["seed"], row["whole"]) == (0.8, 110, 0.9)


# What is in the weights.


def written(tmp_path, rows):
    """Rows as a file holds them."""
    runs.save_table(tmp_path / "rows.csv", rows)
    return runs.read_table(tmp_path / "rows.csv")


def test_a_run_is_relaxed_and_cut_by_groups_afterwards(train, run, tmp_path, monkeypatch, capsys):
    train("--seeds 2")

    def moved(network, start, seed):
        return costs.scattered(network, generator(seed, start))

    monkeypatch.setattr(afterwards, "relax_from", moved)
    other = shutil.copytree(run.folder, tmp_path / "other")
    assert afterwards.main([str(run.folder), str(other)]) == 0
    names, relaxed, scores, measures = ("Alpha", "Beta"), [], [], []
    for seed in (0, 1):
        network = run.network(seed)
        owners = splitting.balanced(network).owners
        for start in ("random", "held"):
            rows = scoring.measure_rows(seed, "balanced", moved(network, start, seed), owners, names)
            relaxed += [{"start": start, **row} for row in rows]
        own = scoring.group_rows(seed, network, run.tasks("test"), names)
        scores, measures = scores + own[0], measures + own[1]
    assert runs.read_table(run.folder / "relaxed.csv") == written(tmp_path, relaxed)
    assert len({row["silhouette"] for row in runs.read_table(run.folder / "relaxed.csv")}) == len(relaxed) == 12
    groups = runs.read_table(run.folder / "groups.csv")
    assert list(groups[0]) == ["kind", *dict.fromkeys([*scores[0], *measures[0]])]
    for kind, rows in (("score", scores), ("measure", measures)):
        found = [{name: row[name] for name in rows[0]} for row in groups if row["kind"] == kind]
        assert found == written(tmp_path, rows)
        assert all(row[name] == "" for row in groups if row["kind"] == kind for name in set(row) - {"kind", *rows[0]})
    assert len(groups) == 2 * (2 + 3)
    assert runs.read_table(other / "groups.csv") == groups
    assert afterwards.main([]) == 2
    assert "afterwards.py RUN..." in capsys.readouterr().err
    assert afterwards.main([str(tmp_path / "none")]) == 2
    assert re.fullmatch(r"afterwards.py: error: .*none: no such folder .*", last(capsys))
