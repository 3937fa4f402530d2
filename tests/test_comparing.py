import csv
import itertools
import json
import math
import re
from random import Random

import numpy as np
import oracles
import pytest
from helpers import command, configured, copied, register_sheets, reoptioned, sheet_run, tree
from scipy import stats

from spatial import comparing, storing
from spatial.comparing import cells, compare, components, holm, paired, report
from spatial.errors import UserError
from spatial.runs import Run
from spatial.sources import DATASETS

MEANS = ("a", "b", "difference")
TESTS = ("low", "high", "effect", "t", "df", "p", "w", "p_wilcoxon")


def draws(n, shift=0.3, seed=0):
    """Two samples of n pairs, the first a little larger."""
    random = np.random.default_rng(seed)
    common = random.normal(size=n)
    return (common + 0.5 * random.normal(size=n) + shift).tolist(), common.tolist()


# Pairs.


def test_a_paired_test_by_hand():
    found = paired([1.0, 2.0, 4.0], [0.0, 0.0, 1.0])  # differences 1, 2, 3
    assert list(found) == ["n", *MEANS, *TESTS]
    assert found == pytest.approx(
        {
            "n": 3, "a": 7 / 3, "b": 1 / 3, "difference": 2, "effect": 2, "t": 2 * math.sqrt(3), "df": 2,
            "low": 2 - 4.302653 / math.sqrt(3), "high": 2 + 4.302653 / math.sqrt(3),
            "p": 1 - math.sqrt(12 / (12 + 2)),  # Student's with two degrees of freedom: 1 - t / sqrt(t^2 + 2)
            "w": 0, "p_wilcoxon": 2 / 8,
        },
        rel=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 5, 10, 1000])
@pytest.mark.parametrize("shift", [0, 0.3, -5])
def test_a_paired_test_is_scipys(n, shift):
    a, b = draws(n, shift)
    found, test = paired(a, b), stats.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    ranks = stats.wilcoxon(np.subtract(a, b))
    assert found == pytest.approx(
        {
            "n": n, "a": np.mean(a), "b": np.mean(b), "difference": np.mean(a) - np.mean(b), "low": low, "high": high,
            "effect": test.statistic / math.sqrt(n), "t": test.statistic, "df": n - 1, "p": test.pvalue,
            "w": ranks.statistic, "p_wilcoxon": ranks.pvalue,
        },
        rel=1e-9,
    )  # fmt: skip
    assert {type(value) for value in found.values()} == {int, float}


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("shift", [0, 0.3, -5])
def test_a_paired_test_is_the_oracles(n, shift):
    a, b = draws(n, shift, seed=n)
    found = paired(a, b)
    mean, deviation, t = oracles.paired_t(a, b)
    reach = stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)
    w, p = oracles.wilcoxon([x - y for x, y in zip(a, b, strict=True)])
    expected = {
        "n": n, "a": sum(a) / n, "b": sum(b) / n, "difference": mean, "low": mean - reach, "high": mean + reach,
        "effect": mean / deviation, "t": t, "df": n - 1, "p": 2 * stats.t.sf(abs(t), n - 1), "w": w, "p_wilcoxon": p,
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "w"),
    [
        ([3, -1, 2], 1),
        ([-3, -1, -2], 0),
        ([4, -4, 1, 2], 3.5),  # the two largest share rank 3.5
        ([1, -1, 1, 1], 2.5),
        ([0, 0, 5, -2, 3], 1),  # zeros are left out
        ([1, -2, 3, -4, 5, -6, 7, -8], 16),
    ],
)
def test_wilcoxons_sum_of_ranks_by_hand(differences, w):
    assert paired(differences, [0] * len(differences))["w"] == w == oracles.wilcoxon(differences)[0]


@pytest.mark.parametrize("n", [2, 3, 20, 500])
def test_what_is_swapped_changes_its_sign(n):
    a, b = draws(n)
    one, other = paired(a, b), paired(b, a)
    for name in ("difference", "effect", "t"):
        assert other[name] == pytest.approx(-one[name], rel=1e-12)
    assert (other["low"], other["high"]) == pytest.approx((-one["high"], -one["low"]), rel=1e-9)
    assert (other["a"], other["b"]) == (one["b"], one["a"])
    for name in ("n", "df", "p", "w", "p_wilcoxon"):
        assert other[name] == pytest.approx(one[name], rel=1e-12)


@pytest.mark.parametrize("unit", [1e-9, 100])
def test_a_test_does_not_depend_on_the_unit(unit):
    a, b = np.array(draws(12))
    one, other = paired(a, b), paired(unit * a, unit * b)
    for name in ("a", "b", "difference", "low", "high"):
        assert other[name] == pytest.approx(unit * one[name], rel=1e-6)
    for name in ("n", "effect", "t", "df", "p", "w", "p_wilcoxon"):
        assert other[name] == pytest.approx(one[name], rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([math.nan, 1, 2, 4, 7], [9, 0, 0, 1, math.nan]),
        ([1, math.nan, 2, 4], [0, math.nan, 0, 1]),
    ],
)
def test_pairs_with_a_nan_are_left_out(a, b):
    assert paired(a, b) == paired([1, 2, 4], [0, 0, 1])


@pytest.mark.parametrize(("a", "b"), [([], []), ([math.nan], [1]), ([math.nan, 1], [1, math.nan])])
def test_no_pairs_have_no_means(a, b):
    assert paired(a, b) == {"n": 0, **dict.fromkeys([*MEANS, *TESTS])}


def test_a_single_pair_has_means_alone():
    assert paired([0.75, math.nan], [0.5, 3]) == {
        "n": 1, "a": 0.75, "b": 0.5, "difference": 0.25, **dict.fromkeys(TESTS),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        ([1, 2, 3], [1, 2, 3], 0),
        ([2, 3, 9], [0, 1, 7], 2),
        ([0.9, 0.4], [0.8, 0.3], 0.1),  # 0.9 - 0.8 and 0.4 - 0.3 are rounded differently
        ([0.9, 0.4, 0.7], [0.8, 0.3, 0.6], 0.1),
        ([97.61, 45.35, 0.1], [97.62, 45.36, 0.11], -0.01),
    ],
)
def test_differences_that_are_all_the_same_are_not_tested(a, b, difference):
    found = paired(a, b)
    assert found["difference"] == pytest.approx(difference, abs=1e-9)
    assert {name: found[name] for name in TESTS} == dict.fromkeys(TESTS)


def test_small_differences_of_large_values_are_tested():
    a, b = 1e4 + 1e-3 * np.array(draws(10))
    assert paired(a, b)["t"] == pytest.approx(stats.ttest_rel(a, b).statistic)


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        paired([1, 2], [1, 2, 3])


# Components of variance.


def two_way(seeds, images, deviations, seed=0):
    """Values with the given standard deviations of seeds, images and rest."""
    random = np.random.default_rng(seed)
    of_seed, of_image, rest = deviations
    return (
        5 + of_seed * random.normal(size=(seeds, 1)) + of_image * random.normal(size=(1, images))
        + rest * random.normal(size=(seeds, images))
    )  # fmt: skip


def test_components_by_hand():
    values = np.array([[1.0, 2.0], [3.0, 8.0]])  # residuals 1, -1, -1, 1; means of seeds 1.5, 5.5; of images 2, 5
    assert components(values) == pytest.approx({"seeds": (2 * 8 - 4) / 2, "images": (2 * 4.5 - 4) / 2, "rest": 4})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 1, 1], [4, 4, 4]], (4.5, 0, 0)),
        ([[1, 2, 6], [1, 2, 6]], (0, 7, 0)),
        ([[0, 1, 5], [2, 3, 7]], (2, 7, 0)),  # the sum of both
        ([[1, -1], [-1, 1]], (0, 0, 4)),  # estimates of -2
        ([[3, 3], [3, 3]], (0, 0, 0)),
    ],
)
def test_components_of_plain_tables(values, expected):
    found = components(np.array(values, float))
    assert list(found) == ["seeds", "images", "rest"]
    assert tuple(found.values()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 2), (2, 30), (10, 3), (7, 11)])
@pytest.mark.parametrize("deviations", [(1, 1, 1), (0, 0, 1), (3, 0.1, 0.5)], ids=str)
def test_components_are_the_oracles(shape, deviations):
    values = two_way(*shape, deviations)
    assert tuple(components(values).values()) == pytest.approx(oracles.components(values.tolist()), rel=1e-9, abs=1e-12)


def test_components_of_many_seeds_and_images_are_the_true_ones():
    found = components(two_way(600, 500, (2, 3, 1)))
    assert tuple(found.values()) == pytest.approx((4, 9, 1), rel=0.15)


def test_components_of_few_seeds_are_the_true_ones_on_average():
    found = [tuple(components(two_way(3, 40, (2, 3, 1), seed)).values()) for seed in range(400)]
    assert np.mean(found, 0) == pytest.approx((4, 9, 1), rel=0.1)


def test_components_do_not_depend_on_the_zero_nor_on_the_order():
    values = two_way(5, 20, (2, 3, 1))
    expected = pytest.approx(components(values), rel=1e-9)
    assert components(values + 1000) == expected
    assert components(values[::-1, ::-1]) == expected
    assert components(10 * values) == pytest.approx({name: 100 * each for name, each in components(values).items()})


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (3, 0)])
def test_one_seed_or_image_has_no_components(shape):
    assert components(np.ones(shape)) == {"seeds": None, "images": None, "rest": None}


# Runs. What `score` writes of them is made by hand here: nothing else is read.

NAMES = ["A", "B"]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Data sets of these names, and of a third."""
    for name in (*NAMES, "C"):
        monkeypatch.setitem(DATASETS, name, DATASETS["MNIST"])


LABELS = np.arange(20).reshape(10, 2) % 3


def made(folder, seeds=(0, 1, 2), *, methods=("whole", "greedy"), shift=0.0, maps=None, units=49, **options):
    """A scored run of numbers that are drawn; some maps are empty."""
    run, random = Run(folder), np.random.default_rng([*seeds, len(folder.name)])
    every = configured(run, **{"datasets": NAMES, "seed": seeds[0], "seeds": len(seeds), **options}).options()
    rows = [
        {"seed": seed, "method": method, "task": task, "accuracy": random.uniform(0.5, 0.8) + shift, "units": 3,
         "parameters": None, "loss": random.uniform(0.1, 2)}
        for seed in seeds for method in methods for task in every["datasets"]
    ]  # fmt: skip
    storing.save_table(run.scores, rows)
    maps = ("layer-0/plane", "layer-0/line", "layer-1/plane") if maps is None else maps
    arrays, rows = {}, []
    for index, (seed, name) in enumerate(itertools.product(seeds, maps)):
        layer, sheet = name.removeprefix("layer-").split("/")
        arrays[f"seed-{seed}/{name}"] = random.uniform(1, 9, 10) + shift
        arrays[f"seed-{seed}/{name}"][index % 10] = math.nan
        rows.append(
            {"seed": seed, "layer": int(layer), "sheet": sheet, "inputs": 10, "empty": 1, "variance": 1.0,
             "uniform": units / 6 if sheet == "plane" else units * (units + 1) / 12}
        )  # fmt: skip
    if maps:
        storing.save_arrays(run.variances, arrays | {"labels": LABELS[:, : len(every["datasets"])]})
        storing.save_table(run.variance, rows)
    return run


@pytest.fixture
def pair(tmp_path):
    return made(tmp_path / "local", shift=0.1, locality="plane"), made(tmp_path / "control")


def column(run, value, seeds, method, task):
    """A column of scores.csv, seed by seed; of the mean the tasks' mean."""
    with run.scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tasks = NAMES if task == "mean" else [task]
    return [
        np.mean([
            float(row[value]) for row in rows
            if (int(row["seed"]), row["method"]) == (seed, method) and row["task"] in tasks
        ])
        for seed in seeds
    ]  # fmt: skip


def assert_test(found, a, b):
    """A test is scipy's, over the pairs without a NaN."""
    a, b = np.asarray(a), np.asarray(b)
    known = ~np.isnan(a) & ~np.isnan(b)
    test = stats.ttest_rel(a[known], b[known])
    assert (found["n"], found["df"]) == (known.sum(), known.sum() - 1)
    assert found["a"] == pytest.approx(a[known].mean()) and found["b"] == pytest.approx(b[known].mean())
    assert (found["t"], found["p"]) == pytest.approx((test.statistic, test.pvalue))
    assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval()))
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(a[known], b[known]).pvalue)


def test_what_is_compared(pair):
    found = compare(*pair)
    assert list(found) == ["run", "other", "checksums", "seeds", "accuracy", "loss", "variance"]
    assert (found["run"], found["other"], found["seeds"]) == ("local", "control", [0, 1, 2])
    for value in ("accuracy", "loss"):
        assert {method: list(tasks) for method, tasks in found[value].items()} == {
            "whole": ["A", "B", "mean"], "greedy": ["A", "B", "mean"],
        }  # fmt: skip
    assert {layer: list(sheets) for layer, sheets in found["variance"].items()} == {
        "layer-0": ["plane", "line"], "layer-1": ["plane"],
    }  # fmt: skip
    for sheets in found["variance"].values():
        for tests in sheets.values():
            assert list(tests) == ["images", "seeds", "components"]
            assert list(tests["images"]) == ["seed-0", "seed-1", "seed-2"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("value", ["accuracy", "loss"])
@pytest.mark.parametrize("method", ["whole", "greedy"])
@pytest.mark.parametrize("task", ["A", "B", "mean"])
def test_scores_are_paired_by_seed(pair, value, method, task):
    assert_test(compare(*pair)[value][method][task], *(column(run, value, (0, 1, 2), method, task) for run in pair))


@pytest.mark.parametrize("layer", ["layer-0/plane", "layer-0/line", "layer-1/plane"])
def test_variances_are_paired_by_image_and_by_seed(pair, layer):
    own, other = (storing.load_arrays(run.variances) for run in pair)
    index, sheet = layer.split("/")
    found = compare(*pair)["variance"][index][sheet]
    for seed in range(3):
        test = found["images"][f"seed-{seed}"]
        assert_test(test, own[f"seed-{seed}/{layer}"], other[f"seed-{seed}/{layer}"])
        assert test["n"] == 9
    means = [[np.nanmean(each[f"seed-{seed}/{layer}"]) for seed in range(3)] for each in (own, other)]
    assert_test(found["seeds"], *means)  # of each run's maps, those that are empty in the other too
    differences = np.stack([own[f"seed-{seed}/{layer}"] - other[f"seed-{seed}/{layer}"] for seed in range(3)])
    complete = [row for row in differences.T.tolist() if not any(map(math.isnan, row))]
    assert len(complete) == 7
    expected = oracles.components([list(row) for row in zip(*complete, strict=True)])
    assert tuple(found["components"].values()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_an_empty_map_of_either_run_leaves_its_pair_out(pair):
    for run, image in zip(pair, (7, 8), strict=True):
        arrays = storing.load_arrays(run.variances)
        for name, values in arrays.items():
            if name != "labels":
                values[:] = np.arange(10.0) ** 2 * (run is pair[0])
                values[image] = math.nan
        storing.save_arrays(run.variances, arrays)
    found = compare(*pair)["variance"]["layer-0"]["plane"]
    assert found["images"]["seed-1"]["n"] == 8
    assert found["images"]["seed-1"]["a"] == pytest.approx((sum(x**2 for x in range(7)) + 81) / 8)
    assert found["seeds"]["a"] == pytest.approx((sum(x**2 for x in range(7)) + 64 + 81) / 9)
    of_image = np.var([x**2 for x in (*range(7), 9)], ddof=1)
    assert found["components"] == pytest.approx({"seeds": 0, "images": of_image, "rest": 0}, abs=1e-9)


@pytest.mark.parametrize(
    ("own", "other", "common"),
    [
        ((0, 1, 2), (1, 2, 3), [1, 2]), ((1, 2, 3), (0, 1, 2), [1, 2]), ((0, 1), (0, 1, 2), [0, 1]),
        ((2,), (0, 1, 2), [2]),
    ],
    ids=str,
)  # fmt: skip
def test_common_seeds_make_the_pairs(tmp_path, own, other, common):
    pair = made(tmp_path / "local", own, shift=0.1), made(tmp_path / "control", other)
    found = compare(*pair)
    assert found["seeds"] == common
    scores = [column(run, "loss", common, "greedy", "B") for run in pair]
    arrays = [storing.load_arrays(run.variances) for run in pair]
    tests = found["variance"]["layer-1"]["plane"]
    assert list(tests["images"]) == [f"seed-{seed}" for seed in common]
    for seed in common:
        assert_test(tests["images"][f"seed-{seed}"], *(each[f"seed-{seed}/layer-1/plane"] for each in arrays))
    if len(common) > 1:
        assert_test(found["loss"]["greedy"]["B"], *scores)
        means = [[np.nanmean(each[f"seed-{seed}/layer-1/plane"]) for seed in common] for each in arrays]
        assert_test(tests["seeds"], *means)
    else:
        assert found["loss"]["greedy"]["B"] == {
            "n": 1, "a": pytest.approx(scores[0][0]), "b": pytest.approx(scores[1][0]),
            "difference": pytest.approx(scores[0][0] - scores[1][0]), **dict.fromkeys(TESTS),
        }  # fmt: skip
        assert tests["seeds"]["n"] == 1 and tests["seeds"]["t"] is None
        assert tests["components"] == {"seeds": None, "images": None, "rest": None}


def test_what_one_run_alone_has_is_left_out(tmp_path):
    local = made(tmp_path / "local", methods=("whole", "greedy", "random"))
    maps = ("layer-1/plane", "layer-2/line")
    control = made(tmp_path / "control", methods=("whole", "balanced", "random"), maps=maps)
    found = compare(local, control)
    assert list(found["accuracy"]) == list(found["loss"]) == ["whole", "random"]
    assert {layer: list(sheets) for layer, sheets in found["variance"].items()} == {"layer-1": ["plane"]}
    assert compare(local, made(tmp_path / "bare", maps=()))["variance"] == {}
    assert compare(made(tmp_path / "other", maps=()), local)["variance"] == {}


def test_runs_change_nothing_and_turn_around(pair):
    before = [tree(run.folder) for run in pair]
    one, other = compare(*pair), compare(*reversed(pair))
    assert [tree(run.folder) for run in pair] == before
    assert (other["run"], other["other"]) == ("control", "local")
    assert other["loss"]["whole"]["A"]["t"] == pytest.approx(-one["loss"]["whole"]["A"]["t"])
    layer = [each["variance"]["layer-1"]["plane"] for each in (one, other)]
    assert layer[0]["components"] == pytest.approx(layer[1]["components"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ["A", "C"]}, "its datasets is ['A', 'C'], that of RUN ['A', 'B']"),
        ({"datasets": ["B", "A"]}, "its datasets is ['B', 'A'], that of RUN ['A', 'B']"),
        ({"input": "sequential"}, "its input is sequential, that of RUN mix"),
        ({"holdout": 50}, "its holdout is 50, that of RUN 0"),
        ({"resize": 20}, "its resize is 20, that of RUN None"),
    ],
    ids=str,
)
def test_runs_of_other_inputs_are_not_paired(tmp_path, options, message):
    run, other = made(tmp_path / "local"), made(tmp_path / "control", **options)
    with pytest.raises(UserError) as error:
        comparing.check(run, other)
    message = message.replace("RUN", str(run.folder))
    assert str(error.value) == f"--against {other.folder}: nothing can be paired, {message}"


def test_runs_without_a_common_seed_are_not_paired(tmp_path):
    run, other = made(tmp_path / "local", (0, 1)), made(tmp_path / "control", (2, 3))
    with pytest.raises(UserError, match=r"--against .*control: has none of the seeds of .*local, so nothing is paired"):
        compare(run, other)


def test_a_run_is_not_compared_with_itself(pair, tmp_path):
    (tmp_path / "linked").symlink_to(pair[0].folder, target_is_directory=True)
    for folder in (pair[0].folder, tmp_path / "linked", tmp_path / "control" / ".." / "local"):
        with pytest.raises(UserError, match="is the run itself"):
            compare(pair[0], Run(folder))


def test_a_run_that_was_not_scored_is_named_with_the_command(pair):
    pair[1].scores.unlink()
    for refuses in (lambda: compare(*pair), lambda: comparing.check_scored(pair[1], LABELS)):
        with pytest.raises(UserError) as error:
            refuses()
        expected = f"{pair[1].scores}: no such file; make it with: python main.py score {pair[1].folder}"
        assert str(error.value) == expected


def test_a_table_that_lacks_a_seed_is_named_with_the_command(pair):
    rows = pair[1].scores.read_text().splitlines(keepends=True)
    pair[1].scores.write_text("".join(row for row in rows if not row.startswith("1,")))
    with pytest.raises(UserError) as error:
        comparing.check_scored(pair[1], LABELS)
    assert str(error.value).startswith(f"{pair[1].scores}: does not hold every task's accuracy for every seed")
    assert str(error.value).endswith(f"make it again with: python main.py score {pair[1].folder}")


def test_variances_of_sheets_of_another_size_are_not_compared(tmp_path):
    """What is a wide map on one sheet is a narrow one on a larger."""
    found = compare(made(tmp_path / "local", units=9), made(tmp_path / "control", units=16))
    assert found["variance"] == {} and len(found["loss"]["whole"]) == 3


# What is said.

TESTED = {
    "n": 3, "a": 0.81234, "b": 0.7, "difference": 0.11234, "low": -0.0123, "high": 0.237, "effect": 2.236, "t": 3.8729,
    "df": 2, "p": 0.060742, "w": 0.0, "p_wilcoxon": 0.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("test", "factor", "expected"),
    [
        (
            {}, 1,
            ["0.81234", "0.7", "+0.112", "[-0.0123, +0.237]", "t = 3.87, df = 2, p = 0.061", "Wilcoxon p = 0.25",
             "d = 2.24"],
        ),
        (
            {}, 100,
            ["81.234", "70", "+11.2", "[-1.23, +23.7]", "t = 3.87, df = 2, p = 0.061", "Wilcoxon p = 0.25",
             "d = 2.24"],
        ),
        (
            {"p": 0.0, "p_wilcoxon": 3.21e-299, "t": -1234.5, "effect": -9.87e-5}, 1,
            ["0.81234", "0.7", "+0.112", "[-0.0123, +0.237]", "t = -1.23e+03, df = 2, p < 1e-300",
             "Wilcoxon p = 3.2e-299", "d = -9.87e-05"],
        ),
        (
            dict.fromkeys(TESTS) | {"difference": -0.5}, 1,
            ["0.81234", "0.7", "-0.5", "", "all differences are the same", "", ""],
        ),
        (dict.fromkeys(TESTS) | {"n": 1}, 100, ["81.234", "70", "+11.2", "", "a single pair", "", ""]),
        ({"n": 0}, 1, ["", "", "no pairs", "", "", "", ""]),
    ],
    ids=["numbers", "percent", "tiny p", "the same", "one pair", "none"],
)  # fmt: skip
def test_a_test_in_words(test, factor, expected):
    assert cells(TESTED | test, factor) == expected


def said(text):
    """A report's lines but for the heads of the columns, cell by cell; the empty ones are left out."""
    head, *lines = text.splitlines()
    return re.split("  +", head), [re.split("  +", each.strip()) for each in lines]


def shown(test, factor=1):
    return [cell for cell in cells(test, factor) if cell]


def test_a_report_has_a_line_per_test(pair):
    found = compare(*pair)
    head, lines = said(report(found, {"plane"}))
    assert head == ["paired tests", "over", "local", "control", "difference", "95 % interval"]
    assert [each[:2] for each in lines] == [
        *(
            [f"{value}, {method}{task}{unit}", "3 seeds"]
            for value, unit in (("accuracy", ", %"), ("loss", ""))
            for method in ("", "greedy, ") for task in ("A", "B", "mean")
        ),
        *(
            [f"spatial variance, layer {layer}{over}", many]
            for layer in (0, 1)
            for over, many in (*((f", seed {seed}", "9 images") for seed in range(3)), ("", "3 seeds"))
        ),
    ]  # fmt: skip
    assert lines[0][2:] == shown(found["accuracy"]["whole"]["A"], 100)
    assert lines[7][2:] == shown(found["loss"]["whole"]["B"])
    assert lines[12][2:] == shown(found["variance"]["layer-0"]["plane"]["images"]["seed-0"])
    assert lines[15][2:] == shown(found["variance"]["layer-0"]["plane"]["seeds"])
    assert len(said(report(found, {"plane", "line"}))[1]) == len(lines) + 4
    assert len(said(report(found, set()))[1]) == 12


def test_a_report_of_one_task_and_one_seed_is_short(tmp_path):
    options = {"datasets": ["A"], "methods": ("whole",), "maps": ("layer-1/plane",)}
    found = compare(made(tmp_path / "local", (0, 1), **options), made(tmp_path / "control", (1, 2), **options))
    _, lines = said(report(found, {"plane"}))
    assert [each[:2] for each in lines] == [
        ["accuracy, A, %", "one seed"], ["loss, A", "one seed"], ["spatial variance, layer 1, seed 1", "8 images"],
    ]  # fmt: skip
    assert [each[-1] for each in lines[:2]] == ["a single pair"] * 2


# The command.


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Scored runs, by name: a LeNet with a prior on a plane, on a line, and without; the seeds 0 and 1 are common."""
    root = tmp_path_factory.mktemp("sheets")
    with pytest.MonkeyPatch.context() as patch:
        register_sheets(patch, root)
        words = {
            "plane": ["--locality", "plane", "--seeds", "2"],
            "line": ["--locality", "line"],
            "control": ["--seeds", "3"],
        }
        yield {name: sheet_run(root, root / name, "--model", "lenet", *each) for name, each in words.items()}


@pytest.mark.parametrize(("name", "seeds"), [("plane", [0, 1]), ("line", [0])])
def test_score_against_a_control_writes_and_says_scipys_tests(sheets, capsys, name, seeds):
    run, control = sheets[name], sheets["control"]
    before = tree(control.folder)
    assert command("score", run.folder, "--against", control.folder) == 0
    printed = capsys.readouterr()
    assert tree(control.folder) == before
    assert printed.err == ""
    written = json.loads((run.folder / "against" / "control.json").read_text())
    assert written == compare(run, control)
    assert (written["run"], written["other"], written["seeds"]) == (name, "control", seeds)
    head, lines = said(printed.out[printed.out.index("paired tests") :])
    assert head[2:4] == [name, "control"]
    tests = {(what, many): rest for what, many, *rest in lines}
    arrays = [storing.load_arrays(each.variances) for each in (run, control)]
    for layer in (0, 1):
        for sheet in ("plane", "line"):
            found = written["variance"][f"layer-{layer}"][sheet]
            for seed in seeds:
                values = [each[f"seed-{seed}/layer-{layer}/{sheet}"] for each in arrays]
                assert_test(found["images"][f"seed-{seed}"], *values)
                test = stats.ttest_rel(*values, nan_policy="omit")
                what = f"spatial variance, layer {layer}, seed {seed}", f"{test.df + 1:.0f} images"
                words = f"t = {test.statistic:.3g}, df = {test.df:.0f}, p = {test.pvalue:.2g}"
                assert sheet != name or tests[what][4] == words
    if len(seeds) > 1:
        losses = [column(each, "loss", seeds, "whole", "Digits") for each in (run, control)]
        assert_test(written["loss"]["whole"]["Digits"], *losses)
        test = stats.ttest_rel(*losses)
        assert tests["loss, Digits", "2 seeds"][4] == f"t = {test.statistic:.3g}, df = 1, p = {test.pvalue:.2g}"
    else:
        assert tests["loss, Digits", "one seed"][-1] == "a single pair"


def test_another_kind_of_sheet_is_compared_on_both(sheets, capsys):
    assert command("score", sheets["plane"].folder, "--against", sheets["line"].folder) == 0
    printed = capsys.readouterr().out
    assert len(re.findall("^spatial variance, layer 0, seed 0 +24 images", printed, re.MULTILINE)) == 2
    assert sorted(path.name for path in (sheets["plane"].folder / "against").iterdir())[-1] == "line.json"


def older(run):
    """Scores as an earlier version wrote them."""
    run.scores.write_text("".join(row.rpartition(",")[0] + "\n" for row in run.scores.read_text().splitlines()))


def spoiled(run):
    arrays = storing.load_arrays(run.variances)
    del arrays["labels"]
    storing.save_arrays(run.variances, arrays)


MISTAKES = {
    "missing": (None, "nowhere: no such folder"),
    "no run": (lambda run: run.config_file.unlink(), "not a run, it has no config.json"),
    "not scored": (lambda run: run.scores.unlink(), "scores.csv: no such file; make it with: python main.py score"),
    "no scores": (lambda run: run.scores.write_text(""), "make it again with: python main.py score"),
    "older scores": (
        older,
        "scores.csv: cannot be read as a table (KeyError); make it again with: python",
    ),
    "no table of maps": (lambda run: run.variance.unlink(), "make it again with: python main.py score"),
    "spoiled maps": (spoiled, "variance.npz: does not fit the run; make it again with: python main.py score"),
    "other images": (lambda run: reoptioned(run, datasets=["Garments"]), "its datasets is ['Garments']"),
    "other input": (lambda run: reoptioned(run, input="sequential"), "its input is sequential"),
    "held out": (lambda run: reoptioned(run, holdout=10), "its holdout is 10, that of"),
    "resized": (lambda run: reoptioned(run, resize=20), "its resize is 20, that of"),
    "other seeds": (lambda run: reoptioned(run, seed=2, seeds=1), "has none of the seeds of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(sheets, tmp_path, capsys, mistake):
    spoil, message = MISTAKES[mistake]
    run, other = copied(sheets["plane"], tmp_path / "run"), tmp_path / "nowhere"
    for path in (run.metrics, run.variance):  # what would be written anew
        path.write_text("")
    if spoil is not None:
        other = copied(sheets["control"], tmp_path / "control").folder
        spoil(Run(other))
    before = tree(tmp_path)
    assert command("score", run.folder, "--against", other) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("main.py score: error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert tree(tmp_path) == before


def test_a_run_against_itself_is_a_mistake(sheets, capsys, monkeypatch):
    before = tree(sheets["plane"].folder)
    monkeypatch.chdir(sheets["plane"].folder)
    for other in (sheets["plane"].folder, ".", "../plane"):
        assert command("score", sheets["plane"].folder, "--against", other) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err == f"main.py score: error: --against {other}: is the run itself\n"
    assert tree(sheets["plane"].folder) == before


# What a comparison rests on.


def test_equal_differences_tie_in_wilcoxons_ranks_whatever_their_rounding():
    hits = [5, -16, -18, 7, -16, 17, 1, -3, 6, 18]  # of 10,000 images
    control = [9791, 9797, 9805, 9823, 9834, 9799, 9802, 9818, 9780, 9775]
    local = [(before + more) / 10_000 for before, more in zip(control, hits, strict=True)]
    found = paired(local, [before / 10_000 for before in control])
    exact = stats.wilcoxon(hits)
    assert found["w"] == exact.statistic == 24.5
    assert found["p_wilcoxon"] == pytest.approx(exact.pvalue)


def test_other_data_files_cannot_be_paired(pair):
    config = storing.read_json(pair[1].config_file)
    storing.save_json(pair[1].config_file, config | {"data": {"A": {"images": "0" * 64}}})
    with pytest.raises(UserError, match="its data files are not those of"):
        comparing.check(*pair)


@pytest.mark.parametrize("labels", [LABELS[::-1], LABELS[:5], LABELS[:, :1]], ids=["order", "number", "tasks"])
def test_a_control_scored_on_other_inputs_is_named(pair, labels):
    comparing.check_scored(pair[1], LABELS)
    with pytest.raises(UserError, match="is of other inputs; make it again with: python main"):
        comparing.check_scored(pair[1], labels)


def test_a_comparison_of_other_scores_is_forgotten(pair):
    run, other = pair
    kept, stale, broken = (run.folder / "against" / name for name in ("control.json", "old.json", "broken.json"))
    storing.save_json(kept, compare(run, other))
    storing.save_json(stale, compare(run, other) | {"checksums": ["0" * 64, "1" * 64]})
    broken.write_text("no JSON")
    comparing.forget(run)
    assert kept.is_file() and not stale.exists() and not broken.exists()
    run.scores.write_text(run.scores.read_text() + "\n")
    comparing.forget(run)
    assert not kept.exists()


def test_runs_of_one_name_are_told_apart(tmp_path):
    found = compare(made(tmp_path / "one" / "run"), made(tmp_path / "other" / "run", shift=0.1))
    assert "this run  the other" in " ".join(comparing.report(found, ["plane"]).split("\n")[0].split("   "))


# Many tests at once.


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_the_oracles(seed):
    values = [Random(seed).random() ** 3 for _ in range(40)]
    ranked = sorted(values)
    expected = [
        max(min(1, (40 - k) * smaller) for k, smaller in enumerate(ranked[: ranked.index(value) + 1]))
        for value in values
    ]
    assert holm(values) == pytest.approx(expected, abs=1e-15)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])  # 1 x, 3 x, 2 x
    assert holm([0.01, 0.03, 0.02]) == pytest.approx([0.03, 0.04, 0.04])  # 0.03 x 1 would be below 0.02 x 2
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.3]) == [0.3]
    assert holm([]) == []
