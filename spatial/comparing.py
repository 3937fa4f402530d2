"""Two runs side by side: paired tests over images and over seeds."""

import hashlib
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from spatial import scoring, storing
from spatial.errors import UserError
from spatial.runs import Run

SAME = ("datasets", "input", "holdout", "resize")  # options without which inputs cannot be paired
LEVEL = 0.95
ROUNDING = 1e-10  # relative to the values: differences that differ by no more are the same


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Is ``a`` larger than ``b``, pair by pair? A t-test and, without its normality, Wilcoxon's signed-rank test.

    With the differences ``d = a - b``, their mean ``m`` and sample standard deviation ``s``: ``t = m / (s / sqrt(n))``
    with ``n - 1`` degrees of freedom, both tests two-sided.

    Args:
        a, b: values of the same things, ``[n]``; pairs with a NaN are left out.

    Returns:
        ``n`` pairs; ``a``, ``b`` and ``difference``: means; ``low``, ``high``: the 95 % t-interval of the difference;
        ``effect``: Cohen's ``d_z = m / s``; ``t``, ``df``, ``p``; ``w``, ``p_wilcoxon``, where differences that are
        equal but for rounding tie. None where undefined: the means of no pairs, the rest of fewer than two, or of
        differences that are all the same.

    Source: Student 1908; Wilcoxon 1945; Cohen 1988, section 2.3; by scipy.

    >>> found = paired([1.0, 2.0, 4.0], [0.0, 0.0, 1.0])
    >>> round(found["t"], 4), found["df"], round(found["p"], 4)
    (3.4641, 2, 0.0742)
    """
    from scipy import stats

    first, second = np.asarray(a, float), np.asarray(b, float)
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    differences, n = first - second, len(first)
    names = ("a", "b", "difference", "low", "high", "effect", "t", "df", "p", "w", "p_wilcoxon")
    found: dict[str, Any] = {"n": n, **dict.fromkeys(names)}
    if n:
        found |= {"a": float(first.mean()), "b": float(second.mean()), "difference": float(differences.mean())}
    step = ROUNDING * max(np.abs(first).max(initial=0), np.abs(second).max(initial=0))
    if n > 1 and np.ptp(differences) > step:
        with warnings.catch_warnings(action="ignore"):  # of few pairs
            test, ranks = stats.ttest_rel(first, second), stats.wilcoxon(np.round(differences / step))
        interval = test.confidence_interval(LEVEL)
        found |= {
            "low": float(interval.low), "high": float(interval.high),
            "effect": float(differences.mean() / differences.std(ddof=1)), "t": float(test.statistic),
            "df": int(test.df), "p": float(test.pvalue), "w": float(ranks.statistic),
            "p_wilcoxon": float(ranks.pvalue),
        }  # fmt: skip
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that any false discovery at all is as rare as each one says.

    With the ``m`` values in ascending order, ``p_(1) <= ... <= p_(m)``, ``p_(i)`` becomes ``max over k <= i of
    min(1, (m - k + 1) p_(k))``.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected


def components(values: np.ndarray) -> dict[str, float | None]:
    """Variance of ``values[s, i] = mean + seed_s + image_i + rest_si``, each part's own, by the method of moments.

    Args:
        values: ``[seeds, images]``, complete.

    Returns:
        ``seeds``, ``images`` and ``rest``, in the square of the values' unit, an estimate below 0 as 0; None for fewer
        than two seeds or images.

    Source: the two-way random-effects analysis of variance without replication (Searle, Casella and McCulloch 1992,
    section 4.3).
    """
    seeds, images = values.shape
    if min(seeds, images) < 2:
        return dict.fromkeys(("seeds", "images", "rest"))
    of_seed, of_image, mean = values.mean(1, keepdims=True), values.mean(0, keepdims=True), values.mean()
    rest = float(((values - of_seed - of_image + mean) ** 2).sum() / ((seeds - 1) * (images - 1)))
    own_seed = float(images * of_seed.var(ddof=1) - rest) / images
    own_image = float(seeds * of_image.var(ddof=1) - rest) / seeds
    return {"seeds": max(own_seed, 0.0), "images": max(own_image, 0.0), "rest": rest}


def compare(run: Run, other: Run) -> dict[str, Any]:
    """What `score --against` writes: :func:`paired` tests of what `score` measured of two runs.

    Returns:
        ``run``, ``other``: names; ``checksums``: of their scores (:func:`checksum`); ``seeds``: those that both have,
        which make the pairs; ``accuracy`` and ``loss``: by method, then task and their ``mean``, a test over seeds;
        ``variance``: by ``layer-l``, then sheet: ``images``, by seed, a test over the inputs' maps; ``seeds``: a test
        over seeds of the maps' means; ``components`` of the differences' variance.

    Raises:
        UserError: if a run was not scored, or they cannot be paired.
    """
    check(run, other)
    seeds = [seed for seed in run.seeds() if seed in other.seeds()]
    (mine, _, maps), (theirs, _, others) = _scored(run), _scored(other)
    found: dict[str, Any] = {
        "run": run.name, "other": other.name, "checksums": [checksum(run), checksum(other)], "seeds": seeds,
    }  # fmt: skip
    for value in ("accuracy", "loss"):
        first, second = (
            scoring.with_mean([row for row in rows if row["seed"] in seeds], value) for rows in (mine, theirs)
        )
        found[value] = {
            method: {task: paired(values, second[method][task]) for task, values in tasks.items()}
            for method, tasks in first.items()
            if method in second
        }
    found["variance"] = {}
    for name, own in maps.items():
        layer, sheet = name.split("/")
        if name in others and own.uniform == others[name].uniform:  # sheets of one size
            found["variance"].setdefault(layer, {})[sheet] = _compare_maps(own.values, others[name].values, seeds)
    return found


class Maps(NamedTuple):
    """Spatial variances of one layer's maps by seed, ``[inputs]``, and that of its uniform map."""

    values: dict[int, np.ndarray]
    uniform: float


def checksum(run: Run) -> str:
    """SHA-256 of a run's scores and mean spatial variances, so that a comparison knows what it was made of."""
    files = [path.read_bytes() for path in (run.scores, run.variance) if path.is_file()]
    return hashlib.sha256(b"".join(files)).hexdigest()


def forget(run: Run) -> None:
    """Remove comparisons of earlier scores."""
    now = checksum(run)
    for path in (run.folder / "against").glob("*.json"):
        if now not in path.read_text(errors="replace"):
            path.unlink()


def _scored(run: Run) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, Maps]]:
    """A run's scores, the labels of the inputs that its maps are of, and by ``layer-l/sheet`` its maps.

    Raises:
        UserError: if it was not scored, or not by this version.
    """
    again = f"make it again with: {run.command('score')}"
    if not run.scores.is_file():
        raise UserError(f"{run.scores}: no such file; {again.replace(' again', '')}")
    try:
        rows = scoring.read_rows(run, run.scores, "method", "task", numbers=("accuracy", "loss"))
        labels, values = run.map_variances()
        sizes = storing.read_table(run.variance, ["uniform"]) if values else []
        uniform = {f"layer-{row['layer']}/{row['sheet']}": row["uniform"] for row in sizes}
        maps = {name: Maps(each, uniform[name]) for name, each in values.items()}
    except UserError as error:
        raise UserError(str(error) if again in str(error) else f"{error}; {again}") from None
    except KeyError:
        raise UserError(f"{run.variance}: does not fit {run.variances.name}; {again}") from None
    return rows, labels, maps


def _compare_maps(own: dict[int, np.ndarray], other: dict[int, np.ndarray], seeds: list[int]) -> dict[str, Any]:
    """Tests over inputs seed by seed, and over seeds; ``own`` and ``other`` by seed, ``[inputs]``."""
    images = {seed: paired(own[seed], other[seed]) for seed in seeds}
    differences = np.stack([own[seed] - other[seed] for seed in seeds])
    over = paired([_mean(own[seed]) for seed in seeds], [_mean(other[seed]) for seed in seeds])
    complete = differences[:, ~np.isnan(differences).any(0)]
    return {
        "images": {f"seed-{seed}": each for seed, each in images.items()}, "seeds": over,
        "components": components(complete),
    }  # fmt: skip


def _mean(values: np.ndarray) -> float:
    """Of the maps that are not empty; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def check(run: Run, other: Run) -> None:
    """Refuse two runs whose inputs and seeds cannot be paired.

    Raises:
        UserError: in one line that says why.
    """
    if run.folder.resolve() == other.folder.resolve():
        raise UserError(f"--against {other.folder}: is the run itself")
    first, second = run.options(), other.options()
    for name in SAME:
        if first[name] != second[name]:
            raise UserError(
                f"--against {other.folder}: nothing can be paired, its {name} is {second[name]}, that of {run.folder} "
                f"{first[name]}"
            )
    if run.config()["data"] != other.config()["data"]:
        raise UserError(
            f"--against {other.folder}: nothing can be paired, its data files are not those of {run.folder}"
        )
    if not set(run.seeds()) & set(other.seeds()):
        raise UserError(f"--against {other.folder}: has none of the seeds of {run.folder}, so nothing is paired")


def check_scored(other: Run, labels: np.ndarray) -> None:
    """Refuse a control that was not scored, or not on the inputs that this run is about to be scored on.

    Args:
        labels: of these inputs, ``[inputs, tasks]``.

    Raises:
        UserError: in one line that says why.
    """
    _, theirs, maps = _scored(other)
    if maps and not np.array_equal(theirs, labels):
        raise UserError(f"{other.variances}: is of other inputs; make it again with: {other.command('score')}")


def report(found: dict[str, Any], sheets: Collection[str]) -> str:
    """What :func:`compare` found, for a terminal: a line per test, the differences with their 95 % intervals.

    Args:
        sheets: whose maps are shown.
    """
    seeds = f"{len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "one seed"
    names = [found["run"], found["other"]] if found["run"] != found["other"] else ["this run", "the other"]
    rows = [["paired tests", "over", *names, "difference", "95 % interval", "", "", ""]]
    for value, factor, unit in (("accuracy", 100, ", %"), ("loss", 1, "")):
        for method, tasks in found[value].items():
            for task, test in tasks.items():
                if task != "mean" or len(tasks) > 2:
                    part = [] if method == scoring.WHOLE else [method]
                    rows.append([", ".join([value, *part, task]) + unit, seeds, *cells(test, factor)])
    for layer, by_sheet in found["variance"].items():
        for sheet, tests in by_sheet.items():
            if sheet in sheets:
                what = f"spatial variance, {layer.replace('-', ' ')}"
                for seed, test in tests["images"].items():
                    rows.append([f"{what}, {seed.replace('-', ' ')}", f"{test['n']:,} images", *cells(test)])
                if len(found["seeds"]) > 1:
                    rows.append([what, seeds, *cells(tests["seeds"])])
    return scoring.aligned(rows)


def cells(test: dict[str, Any], factor: float = 1) -> list[str]:
    """A test of :func:`paired` in words: both means, difference, interval, t-test, Wilcoxon's, effect size."""
    if test["n"] == 0:
        return ["", "", "no pairs", "", "", "", ""]
    means = [f"{factor * test['a']:.5g}", f"{factor * test['b']:.5g}", f"{factor * test['difference']:+.3g}"]
    if test["t"] is None:
        return [*means, "", "all differences are the same" if test["n"] > 1 else "a single pair", "", ""]
    return [
        *means, f"[{factor * test['low']:+.3g}, {factor * test['high']:+.3g}]",
        f"t = {test['t']:.3g}, df = {test['df']}, p {p_value(test['p'])}", f"Wilcoxon p {p_value(test['p_wilcoxon'])}",
        f"d = {test['effect']:.3g}",
    ]  # fmt: skip


def p_value(value: float) -> str:
    """``= 0.05``, say."""
    return f"= {value:.2g}" if value >= 1e-300 else "< 1e-300"  # smaller ones underflow
