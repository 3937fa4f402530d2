"""experiments/two_task: the arms, the search of their strengths and the choice."""

import re
from itertools import chain, product
from pathlib import Path

import pytest
import yaml
from helpers import cells

from experiments import pages
from experiments.two_task import arms, search
from spatial import storing
from spatial.errors import UserError

HERE = Path(arms.__file__).parent
TASKS = ("MNIST", "FashionMNIST")
LEARNED = [f"{per}_{outputs}" for per in ("connection", "neuron") for outputs in ("free", "task", "arbitrary")]
CONTROLS = ["regular", "penalty", "frozen", "shuffled", "frozen_neuron", "shuffled_neuron"]
EVERY = [*CONTROLS, *LEARNED, "connection_imposed", "neuron_imposed"]


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
            storing.save_table(folder / "scores.csv", rows)
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
    storing.save_table(arms.SEARCH, SEARCHED)
    storing.save_table(arms.LENGTHS, lengths("regular", 0, 0.6))
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
