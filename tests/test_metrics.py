import math
import subprocess
import sys

import oracles
import pytest
import sklearn.metrics
import torch
from helpers import PerfectPredictor, coded_sets, line, mlp, moved, noise_tasks, units

from spatial.metrics import (
    Evaluation,
    Tally,
    adjusted_rand,
    crossing,
    distinct_places,
    evaluate,
    kappa,
    layer_measures,
    live,
    purity,
    silhouette,
    summary,
    wire_length,
)
from spatial.tasks import INPUTS, Tasks

every_input = pytest.mark.parametrize("input", INPUTS)
SIZES, CLASSES = (23, 9, 14), (3, 2, 4)


def score(model, tasks, batch_size=5):
    return evaluate(model, tasks.batches(tasks.scoring_order(), batch_size), tasks.classes)


@every_input
def test_a_perfect_predictor_scores_one_on_every_task(input):
    sets = coded_sets(SIZES, CLASSES)
    before = [each.labels.clone() for each in sets]
    tasks = Tasks(sets, input)
    result = score(PerfectPredictor(sets), tasks)
    assert result.accuracy == [1, 1, 1]
    assert result.loss < 1e-6
    assert all(torch.equal(each.labels, kept) for each, kept in zip(sets, before, strict=True))
    assert score(PerfectPredictor(sets), tasks).accuracy == [1, 1, 1]  # a second time too


@every_input
def test_a_predictor_that_knows_one_task_scores_one_on_it_only(input):
    sets = coded_sets(SIZES, CLASSES)
    wrong = [
        each if task == 1 else each._replace(labels=(each.labels + 1) % each.classes) for task, each in enumerate(sets)
    ]
    assert score(PerfectPredictor(wrong), Tasks(sets, input)).accuracy == [0, 1, 0]


@every_input
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluation_is_the_oracles(input, batch_size):
    tasks = noise_tasks(input, sizes=(20, 13), classes=(3, 2))
    model = mlp((2 if input == "concatenate" else 1, 4, 4))
    images, labels = tasks.batch(tasks.scoring_order())
    logits = model(images).tolist()
    result = score(model, tasks, batch_size)
    assert result.accuracy == pytest.approx(oracles.accuracy(logits, labels.tolist(), tasks.classes))
    assert result.loss == pytest.approx(oracles.task_loss(logits, labels.tolist(), tasks.classes), rel=1e-5)
    assert result.mean == pytest.approx(sum(result.accuracy) / 2)


@every_input
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_each_tasks_loss_is_the_oracles(input, batch_size):
    tasks = noise_tasks(input, sizes=(20, 13, 5), classes=(3, 2, 4))
    model = mlp((3 if input == "concatenate" else 1, 4, 4), classes=(3, 2, 4))
    images, labels = tasks.batch(tasks.scoring_order())
    sums = oracles.task_losses(model(images).tolist(), labels.tolist(), tasks.classes)
    result = score(model, tasks, batch_size)
    assert result.losses == pytest.approx([total / size for total, size in zip(sums, tasks.sizes, strict=True)])
    assert result.loss == pytest.approx(sum(sums) / sum(tasks.sizes))  # over everything asked, whatever its task


@every_input
@pytest.mark.parametrize("batch_size", [7, 1000])
@pytest.mark.parametrize("top", [1, 2, 5])
def test_accuracy_among_the_best_guesses_is_the_oracles(input, batch_size, top):
    """More guesses than a task has classes are all that it has."""
    tasks = noise_tasks(input, sizes=(20, 13), classes=(9, 2))
    model = mlp((2 if input == "concatenate" else 1, 4, 4), classes=(9, 2))
    images, labels = tasks.batch(tasks.scoring_order())
    logits = model(images).tolist()
    result = evaluate(model, tasks.batches(tasks.scoring_order(), batch_size), tasks.classes, top)
    assert result.top == oracles.top_accuracy(logits, labels.tolist(), tasks.classes, top)
    assert result.mean_top == pytest.approx(sum(result.top) / 2)
    assert result._replace(top=()) == score(model, tasks, batch_size)._replace(top=())
    assert (result.top == result.accuracy) is (top == 1)


def test_best_guesses_are_counted_only_where_they_are_asked_for():
    result = score(mlp(), noise_tasks())
    assert (list(result.top), result.mean_top) == ([], None)


def test_a_task_of_which_nothing_is_asked_has_no_loss():
    tasks = noise_tasks("sequential", sizes=(8, 6))
    result = evaluate(mlp(), tasks.batches(tasks.alone(1), 4), tasks.classes)
    assert math.isnan(result.losses[0]) and math.isnan(result.accuracy[0])
    assert result.losses[1] == pytest.approx(result.loss)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(training):
    model, seen = mlp().train(training), []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_inference_mode_enabled())))
    score(model, noise_tasks())
    assert model.training is training
    assert set(seen) == {(False, True)}


def test_a_tally_weighs_batches_by_what_they_ask():
    tally = Tally((2, 2))
    right, wrong = torch.tensor([[9.0, 0.0, 9.0, 0.0]]), torch.tensor([[0.0, 9.0, 0.0, 9.0]])
    tally.add(torch.tensor(1.0), torch.cat([right, wrong, right]), torch.tensor([[0, -1], [0, -1], [-1, 0]]))
    tally.add(torch.tensor(5.0), right, torch.tensor([[0, -1]]))
    assert tally.results()[0] == Evaluation(loss=2.0, accuracy=[pytest.approx(2 / 3), 1.0], top=[])


def test_a_tally_leaves_labels_alone_and_keeps_no_graph():
    labels, logits = torch.tensor([[0, -1], [-1, 1]]), torch.randn(2, 4, requires_grad=True)
    tally = Tally((2, 2))
    tally.add(logits.sum(), logits, labels)
    assert labels.tolist() == [[0, -1], [-1, 1]]
    assert not tally.loss.requires_grad


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("replicas", [(), (3,)], ids=["alone", "together"])
def test_a_tally_goes_on_from_its_state(top, replicas):
    batches = [
        (torch.rand(replicas), torch.randn(*replicas, 6, 5), torch.randint(-1, 2, (*replicas, 6, 2))) for _ in range(3)
    ]
    whole, begun, resumed = (Tally((3, 2), top) for _ in range(3))
    for batch in batches:
        whole.add(*batch)
    begun.add(*batches[0])
    state = begun.state()
    begun.add(*batches[1])  # what was told stays as it was
    resumed.restore(state, torch.device("cpu"))
    for batch in batches[1:]:
        resumed.add(*batch)
    assert resumed.results() == whole.results() != begun.results()
    assert len(whole.results()) == (3 if replicas else 1)


def test_a_tally_may_go_on_from_its_start():
    begun, resumed = Tally((3,)), Tally((3,))
    resumed.restore(begun.state(), torch.device("cpu"))
    for tally in (begun, resumed):
        tally.add(torch.tensor(2.0), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0]]))
    assert resumed.results() == begun.results()


def test_live_units_are_the_oracles():
    readers = torch.randn(6, 9) * torch.tensor([1, 1, 1, 1, 1e-3, 0, 0.1, 0.05, 1])
    found = live(readers.abs().sum(0)).tolist()
    assert found == oracles.live(readers.tolist())
    assert True in found and False in found


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ([1.0, 1.0, 1.0], [True, True, True]),
        ([10.0, 10.0, 0.0, 0.5], [True, True, False, False]),  # the mean is 5.125
        ([0.0, 0.0], [False, False]),
        ([3.0], [True]),
    ],
)
def test_a_unit_is_live_above_a_tenth_of_the_mean(sums, expected):
    assert live(torch.tensor(sums)).tolist() == expected


@pytest.mark.parametrize("values", [[0.5], [0.25, 0.75], [0.1, 0.2, 0.4, 0.9]])
def test_summary_is_the_oracles(values):
    mean, deviation = oracles.mean_and_deviation(values)
    assert summary(values)["mean"] == pytest.approx(mean)
    assert summary(values)["std"] == (None if deviation is None else pytest.approx(deviation))


def test_a_unit_at_a_tenth_of_the_mean_is_silent():
    assert live(torch.tensor([1.9, 0.1], dtype=torch.float64)).tolist() == [True, False]  # the mean is 1
    assert live(torch.tensor([1.899, 0.101], dtype=torch.float64)).tolist() == [True, True]


def test_accuracies_are_exact_fractions():
    tally = Tally((2,))
    tally.add(torch.tensor(0.0), torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.tensor([[0]] * 3 + [[1]] * 7))
    assert tally.results()[0].accuracy == [3 / 10]  # in float32 it would be 0.30000001


# Measures of clustering and wiring.

every_dim = pytest.mark.parametrize("dim", [1, 2, 3])
every_draw = pytest.mark.parametrize("draw", ["normal", "grid", "coincident"])


@pytest.mark.parametrize(
    ("places", "tolerance", "expected"),
    [
        ([], 0.01, 0),
        ([5.0], 0.01, 1),
        ([0.0, 0.0, 0.0], 0.01, 1),
        ([0.0, 1.0], 0.01, 2),
        ([0.0, 1.0, 2.0, 3.5, 4.5, 9.0], 1.0, 3),  # chained, and at the tolerance itself
        ([0.0, 0.0, 1e-9], 0.0, 2),
    ],
)
def test_distinct_places_by_hand(places, tolerance, expected):
    assert distinct_places(line(*places), tolerance) == expected


@every_dim
@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.5])
def test_distinct_places_are_the_oracles(dim, tolerance):
    places, _ = units(30, dim)
    assert distinct_places(places, tolerance) == oracles.distinct_places(places.tolist(), tolerance)


@pytest.mark.parametrize(
    ("places", "owners", "neighbours", "expected"),
    [
        ([0, 1, 3], [0, 0, 1], 1, 2 / 3),
        ([0, 1, 3], [0, 0, 1], 10, (1 / 2 + 1 / 2 + 0) / 3),  # all the others are neighbours
        ([0, 1, 10, 11], [0, 0, 1, 1], 1, 1),
        ([0, 1, 10, 11], [0, 1, 0, 1], 1, 0),
        ([0, 1, 2], [0, 0, 1], 1, (1 + 1 / 2 + 0) / 3),  # the middle one's two neighbours share one place
        ([0, 0, 0, 0], [0, 0, 0, 1], 1, (3 * 2 / 3 + 0) / 4),
        ([0, 1, 3, 4, 9], [0, 0, 1, 1, 1], 2, (1 / 2 + 1 / 2 + 1 / 2 + 1 / 2 + 1) / 5),
        ([0.1, 0.2, 0.3], [0, 0, 1], 1, (1 + 1 / 2 + 0) / 3),  # 0.3 - 0.2 and 0.2 - 0.1 are rounded differently
    ],
)
def test_purity_by_hand(places, owners, neighbours, expected):
    assert purity(line(*places), torch.tensor(owners), neighbours) == pytest.approx(expected, rel=1e-12)


@every_dim
@every_draw
@pytest.mark.parametrize("neighbours", [1, 3, 10])
@pytest.mark.parametrize("n", [3, 4, 14])
def test_purity_and_kappa_are_the_oracles(n, dim, draw, neighbours):
    places, owners = units(n, dim, 2, draw)
    arguments = places.tolist(), owners.tolist(), neighbours
    assert purity(places, owners, neighbours) == pytest.approx(oracles.purity(*arguments), rel=1e-12)
    assert kappa(places, owners, neighbours) == pytest.approx(oracles.kappa(*arguments), rel=1e-9, abs=1e-12)


def test_ten_neighbours_are_asked_by_default():
    places, owners = units(40)
    assert purity(places, owners) == purity(places, owners, 10) != purity(places, owners, 9)
    assert kappa(places, owners) == kappa(places, owners, 10) != kappa(places, owners, 9)


def test_kappa_by_hand():
    two = torch.tensor([0, 0, 1, 1])
    assert kappa(line(0, 1, 10, 11), two, 1) == 1
    assert kappa(line(0, 10, 1, 11), two, 1) == -1  # c = 1/2, purity 0
    assert kappa(line(0, 1, 10, 11, 12), torch.tensor([0, 0, 1, 1, 1]), 1) == 1  # c = 13/25


def test_kappa_is_near_zero_where_owners_are_drawn_at_random():
    places, _ = units(2000)
    assert abs(kappa(places, (torch.rand(2000) < 0.2).long())) < 0.03


@pytest.mark.parametrize(
    ("places", "owners", "expected"),
    [
        ([0, 1, 10, 11], [0, 0, 1, 1], ((9.5 / 10.5) + (8.5 / 9.5)) / 2),
        ([0, 1, 10], [0, 0, 1], ((9 / 10) + (8 / 9) + 0) / 3),  # the third is its owner's only one
        ([0, 0, 0, 0], [0, 0, 1, 1], 0),
        ([0, 0, 5, 5], [0, 0, 1, 1], 1),
    ],
)
def test_silhouette_by_hand(places, owners, expected):
    assert silhouette(line(*places), torch.tensor(owners)) == pytest.approx(expected, rel=1e-12)


@every_dim
@every_draw
@pytest.mark.parametrize(("n", "tasks"), [(3, 2), (12, 2), (30, 4)])
def test_silhouette_is_the_oracles_and_scikit_learns(n, dim, draw, tasks):
    places, owners = units(n, dim, tasks, draw)
    found = silhouette(places, owners)
    assert found == pytest.approx(oracles.silhouette(places.tolist(), owners.tolist()), rel=1e-9, abs=1e-12)
    if draw == "normal":  # from places, scikit-learn errs by a square root of rounding where two coincide
        assert found == pytest.approx(sklearn.metrics.silhouette_score(places.numpy(), owners.numpy()), rel=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_units_have_no_clusters(n):
    places, owners = units(n)
    assert purity(places, owners) is kappa(places, owners) is silhouette(places, owners) is None


def test_one_owner_has_purity_one_and_no_more():
    places, _ = units(5)
    owners = torch.zeros(5, dtype=torch.long)
    assert purity(places, owners) == 1
    assert kappa(places, owners) is silhouette(places, owners) is None


def test_an_owner_per_unit_has_no_silhouette():
    places, _ = units(5)
    assert silhouette(places, torch.arange(5)) is None
    assert kappa(places, torch.arange(5)) == pytest.approx(-0.25)  # c = 1/5, purity 0


def test_crossing_by_hand():
    weight = torch.tensor([[1.0, -2.0, 4.0], [8.0, 16.0, -32.0]])
    assert crossing(weight, torch.tensor([0, 1]), torch.tensor([0, 1, 1])) == (2 + 4 + 8) / 63
    assert crossing(weight, torch.tensor([0, 1]), torch.tensor([0, -1, 1])) == (4 + 8) / 45
    assert crossing(weight, torch.tensor([0, -1]), torch.tensor([0, -1, 1])) == 4 / 5
    assert crossing(weight, torch.tensor([0, 0]), torch.tensor([1, 1, 1])) == 1
    assert crossing(weight, torch.tensor([2, 2]), torch.tensor([2, 2, 2])) == 0


@pytest.mark.parametrize("weight", [torch.zeros(2, 3), torch.zeros(2, 3, 4)])
def test_crossing_without_weights_is_undefined(weight):
    assert crossing(weight, torch.tensor([0, 1]), torch.tensor([0, 1, 1])) is None
    assert crossing(weight + 1, torch.tensor([-1, -1]), torch.tensor([0, 1, 1])) is None
    assert crossing(weight[:0], torch.tensor([]).long(), torch.tensor([0, 1, 1])) is None


@every_dim
@pytest.mark.parametrize("taps", [(), (2,), (3, 2)], ids=str)
def test_crossing_and_wire_length_are_the_oracles(dim, taps):
    weight = torch.randn(7, 5, *taps, dtype=torch.float64)
    (target, reading), (source, read) = units(7, dim), units(5, dim)
    reading[2] = read[1] = -1
    found = crossing(weight, reading, read)
    assert found == pytest.approx(oracles.crossing(weight.tolist(), reading.tolist(), read.tolist()), rel=1e-12)
    expected = oracles.wire_length(weight.tolist(), target.tolist(), source.tolist())
    assert wire_length(weight, target, source) == pytest.approx(expected, rel=1e-12)


def test_wire_length_by_hand():
    weight, target, source = torch.tensor([[[3.0, -1.0]], [[0.0, 2.0]]]), line(0, 5), line(2)
    assert wire_length(weight, target, source) == 4 * 2 + 2 * 3
    assert wire_length(weight[:0], target[:0], source) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1),  # names of labels do not matter
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        ([0, 0, 0, 1], [0, 0, 1, 1], 0),  # of 6 pairs 1 together in both, 3 and 2 in either: E = 1
        ([0, 0, 0], [1, 1, 1], 1),
        ([0, 1, 2], [2, 1, 0], 1),
        ([0, 0, 0], [0, 1, 2], 0),
        ([0, -1], [3, 4], 1),
        ([0], [0], None),
        ([], [], None),
    ],
)
def test_adjusted_rand_by_hand(a, b, expected):
    found = adjusted_rand(torch.tensor(a, dtype=torch.long), torch.tensor(b, dtype=torch.long))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(("n", "first", "second"), [(2, 2, 2), (9, 2, 3), (50, 3, 3), (50, 50, 2), (50, 40, 45)])
def test_adjusted_rand_is_the_oracles(n, first, second):
    a, b = torch.randint(first, (n,)), torch.randint(second, (n,))
    expected = oracles.adjusted_rand(a.tolist(), b.tolist())
    assert adjusted_rand(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert adjusted_rand(b, a) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert adjusted_rand(a, (b + 1) % second) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def layer(n=20, ins=12, dim=2, tasks=3, draw="normal"):
    """Arguments of ``layer_measures``: some units silent, some without an owner."""
    (places, owners), (source, source_owners) = units(n, dim, tasks, draw), units(ins, dim, tasks, draw)
    owners[torch.rand(n) < 0.2] = -1
    return {
        "positions": places,
        "owners": owners,
        "alive": torch.rand(n) < 0.7,
        "tasks": tasks,
        "weight": torch.randn(n, ins, 2, dtype=torch.float64),
        "source": source,
        "source_owners": source_owners,
    }


@every_dim
@every_draw
def test_a_layers_measures_are_the_oracles(dim, draw):
    given = layer(dim=dim, draw=draw)
    plain = {name: value.tolist() for name, value in given.items() if name != "tasks"}
    alive = [unit for unit in range(20) if plain["alive"][unit]]
    chosen = [unit for unit in alive if plain["owners"][unit] >= 0]
    assert len(chosen) < len(alive) < 20
    places, owners = ([plain[name][unit] for unit in chosen] for name in ("positions", "owners"))
    expected = {
        "units": 20,
        "live": len(alive),
        **{f"live_{task}": owners.count(task) / len(alive) for task in range(3)},
        "places": oracles.distinct_places([plain["positions"][unit] for unit in alive], 0.01),
        "purity": oracles.purity(places, owners, 10),
        "kappa": oracles.kappa(places, owners, 10),
        "silhouette": oracles.silhouette(places, owners),
        "crossing": oracles.crossing(plain["weight"], plain["owners"], plain["source_owners"]),
        "wire": oracles.wire_length(plain["weight"], plain["positions"], plain["source"]),
    }
    found = layer_measures(**given)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert {type(value) for value in found.values()} == {int, float}


@every_dim
def test_a_layers_measures_do_not_change_when_it_is_moved(dim):
    given = layer(dim=dim)
    places, source = moved(given["positions"], given["source"])
    expected = pytest.approx(layer_measures(**given), rel=1e-9, abs=1e-9)
    assert layer_measures(**given | {"positions": places, "source": source}) == expected


@pytest.mark.parametrize("draw", ["normal", "grid"])
def test_a_layers_measures_do_not_change_when_its_units_are_renumbered(draw):
    given = layer(draw=draw)
    to, of = torch.randperm(20), torch.randperm(12)
    renumbered = {
        **{name: given[name][to] for name in ("positions", "owners", "alive")},
        **{name: given[name][of] for name in ("source", "source_owners")},
        "weight": given["weight"][to][:, of],
    }
    expected = pytest.approx(layer_measures(**given), rel=1e-9, abs=1e-12)
    assert layer_measures(**given | renumbered) == expected


def test_only_the_fractions_change_their_places_when_tasks_are_renumbered():
    given = layer()
    name = torch.tensor([2, 0, 1, -1])  # task t is called name[t], and -1 stays
    renamed = {each: name[given[each]] for each in ("owners", "source_owners")}
    before, after = layer_measures(**given), layer_measures(**given | renamed)
    expected = before | {f"live_{name[task]}": before[f"live_{task}"] for task in range(3)}
    assert after == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_dim
@every_draw
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_small_layers_have_measures(n, dim, draw):
    places, owners = units(n, dim, 2, draw)
    found = layer_measures(
        positions=places,
        owners=owners,
        alive=torch.ones(n, dtype=torch.bool),
        tasks=2,
        weight=torch.ones(n, 2),
        source=torch.zeros(2, dim),
        source_owners=torch.tensor([0, 1]),
    )
    assert found["units"] == found["live"] == n
    assert found["places"] <= n and found["wire"] >= 0
    assert found["crossing"] == (0.5 if n else None)
    assert [name for name, value in found.items() if value is None] == [
        *(["live_0", "live_1"] if n == 0 else []),
        *(["purity", "kappa", "silhouette"] if n < 3 else []),
        *(["crossing"] if n == 0 else []),
    ]


def test_a_layer_without_live_units_has_few_measures():
    given = layer()
    found = layer_measures(**given | {"alive": torch.zeros(20, dtype=torch.bool)})
    assert (found["units"], found["live"], found["places"]) == (20, 0, 0)
    undefined = ["live_0", "live_1", "live_2", "purity", "kappa", "silhouette"]
    assert [name for name, value in found.items() if value is None] == undefined
    assert found["wire"] == layer_measures(**given)["wire"]  # over all units, silent ones too


def test_a_layer_has_the_measures_of_the_connection_that_are_given():
    given = layer()
    whole = layer_measures(**given)
    without = layer_measures(**{name: given[name] for name in ("positions", "owners", "alive", "tasks")})
    assert without == whole | {"crossing": None, "wire": None}
    assert layer_measures(**given | {"source_owners": None}) == whole | {"crossing": None}
    assert layer_measures(**given | {"source": None}) == whole | {"wire": None}


def test_measures_are_of_float64_and_leave_their_arguments_alone():
    given = layer()
    single = {name: given[name].float().requires_grad_() for name in ("positions", "weight", "source")}
    kept = {name: value.detach().clone() for name, value in single.items()}
    wide = {name: value.double() for name, value in kept.items()}
    assert layer_measures(**given | single) == layer_measures(**given | wide)
    assert all(torch.equal(single[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: distinct_places(torch.zeros(3)), r"\[n, dim\], got \[3\]"),
        (lambda: purity(torch.zeros(3, 2), torch.zeros(4)), r"\[3\], got \[4\]"),
        (lambda: purity(torch.zeros(3, 2), torch.zeros(3), 0), "at least 1, got 0"),
        (lambda: kappa(torch.zeros(3, 2), torch.zeros(3, 1)), r"\[3\], got \[3, 1\]"),
        (lambda: silhouette(torch.zeros(3), torch.zeros(3)), r"\[n, dim\], got \[3\]"),
        (lambda: crossing(torch.zeros(3, 2), torch.zeros(2), torch.zeros(3)), r"\[2, 3, ...\], got \[3, 2\]"),
        (lambda: wire_length(torch.zeros(3), torch.zeros(3, 1), torch.zeros(1, 1)), r"got \[3\]"),
        (lambda: wire_length(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(1, 2)), "got 1 and 2"),
        (lambda: adjusted_rand(torch.zeros(3), torch.zeros(2)), r"got \[3\] and \[2\]"),
        (
            lambda: layer_measures(positions=torch.zeros(3, 2), owners=torch.zeros(3), alive=torch.zeros(2), tasks=1),
            r"\[3\], got \[2\]",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()


def test_importing_the_metrics_does_not_import_scikit_learn():
    code = "import sys, spatial.metrics; sys.exit(any(name in sys.modules for name in ('sklearn', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
