"""experiments/two_task: ways to train networks whose outputs start anywhere."""

import math
from copy import deepcopy
from itertools import product
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import cells, coded_sets, last, mlp, noise_tasks, places_of

from experiments import pages
from experiments.table import markdown
from experiments.two_task import arms, free
from spatial import costs, graph, scoring, splitting, storing
from spatial.errors import UserError
from spatial.seeds import generator
from spatial.training import Point

HERE = Path(arms.__file__).parent
ROOT = HERE.parents[1]
TASKS = ("MNIST", "FashionMNIST")


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
    assert free.has_found(row) is is_found
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

    def fit(models, images, scored, *, start, epochs, **options):
        assert (images.sizes, scored.sizes) == ((30, 30), (10, 10))
        assert (start.step, start.processes) == (0, [])
        assert options.pop("seeds") == [3]
        for epoch in range(start.epoch + 1, epochs + 1):
            with torch.no_grad():
                next(iter(graph.positions(models[0]).values()))[0, 0] = epoch
            steps.append((epoch, start.optimizer, options | {"epochs": epochs}))
            yield Point(epoch, 0, f"after {epoch}", [], [None])

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


def test_neurons_are_laid_out_between_phases(monkeypatch):
    monkeypatch.setattr(free, "hall", lambda model: laid.append(places_of(model)) or deepcopy(model))
    laid = []
    steps, relaxings, _ = trained(monkeypatch, free.WAYS["Hall thrice, penalty and connection 3, neuron"], 10)
    assert [first[0][0] for first, *_ in laid] == [2, 4, 6]
    assert relaxings == [(10, 0, 3)]
    both = FIXED | {"weight_penalty": 1, "transport": 3, "proximity": 0.3, "position_lr": 0.02}
    neuron = FIXED | {"per": "neuron", "transport": 3, "proximity": 3, "position_lr": 0.015}
    assert [options for *_, options in steps] == [FIXED | {"weight_penalty": 1}] * 2 + [both] * 4 + [neuron] * 4
    assert [state for _, state, _ in steps] == [*[None] * 4, "after 4", "after 4", *[None] * 4]


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
    weights = [[module.weight for module in graph.placed(each).values()] for each in (before, after)]
    assert all(map(torch.equal, *weights))
    arguments = {"shape": free.input_shape(sets, "mix"), "layers": (300, 300), "classes": (3, 2)}
    start = [module.weight for module in graph.placed(free.build("mlp", arguments, 0)).values()]
    assert all((own - other).abs().max() > 1e-3 for own, other in zip(weights[0], start, strict=True))


def wires_of(model):
    """What Hall's places shorten, by plain loops: ``a`` of every pair of units, in the order of the layers."""
    sizes = [len(place) for place in graph.positions(model).values()]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    near = [[0.0] * sum(sizes) for _ in range(sum(sizes))]
    for layer, module in list(enumerate(graph.placed(model).values()))[1:]:
        weight = module.weight.abs().double().tolist()
        for j, i in product(range(sizes[layer]), range(sizes[layer - 1])):
            read, feeds = sum(weight[j]), sum(row[i] for row in weight)
            a = (weight[j][i] / read / sizes[layer] + weight[j][i] / feeds / sizes[layer - 1]) / 2
            one, other = starts[layer] + j, starts[layer - 1] + i
            near[one][other] = near[other][one] = a
    return torch.tensor(near, dtype=torch.float64)


def all_places(model):
    return torch.cat(list(graph.positions(model).values())).detach().double()


def test_hall_places_have_the_shortest_wires():
    model = mlp(layers=(9, 7), dim=3, seed=4)
    before = places_of(model)
    near, found = wires_of(model), all_places(free.hall(model))
    degree = near.sum(1)

    def stretch(axis):
        axis = axis - (degree @ axis) / degree.sum()  # the same for an axis and its shift
        pairs = product(range(len(axis)), repeat=2)
        return (sum(near[a, b] * (axis[a] - axis[b]) ** 2 for a, b in pairs) / 2 / (degree @ axis**2)).item()

    inner = torch.diag(degree).sqrt().inverse()
    least = torch.linalg.eigvalsh(inner @ (torch.diag(degree) - near) @ inner)
    assert least[0] == pytest.approx(0, abs=1e-9)
    assert [stretch(axis) for axis in found.T] == pytest.approx(least[1:4].tolist(), rel=1e-4)
    assert torch.allclose((degree[:, None] * found).sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-5)
    assert (found.T * degree @ found - torch.diag((degree[:, None] * found**2).sum(0))).abs().max() < 1e-5
    assert found.std(0, correction=0).tolist() == pytest.approx([1, 1, 1], rel=1e-5)
    assert places_of(model) == before


def test_hall_places_know_neither_start_nor_size_of_weights():
    model, other = mlp(layers=(9, 7)), costs.scattered(mlp(layers=(9, 7)), generator(5, "elsewhere"))
    with torch.no_grad():
        for module in graph.placed(other).values():
            module.weight.mul_(3)
    first, second = all_places(free.hall(model)), all_places(free.hall(other))
    assert torch.allclose(first.abs(), second.abs(), atol=1e-5)


def test_hall_places_part_what_is_hardly_joined_and_bear_silent_units():
    model = mlp(layers=(8, 6), classes=(3, 3))
    members = [torch.arange(width) % 2 for width in (8, 6, 6)]
    with torch.no_grad():
        _, second, outputs = graph.placed(model).values()
        for module, read, own in ((second, *members[:2]), (outputs, *members[1:])):
            module.weight.mul_(torch.where(own[:, None] == read, 1.0, 0.01))
        second.weight[3], outputs.weight[:, 3] = 0, 0
    places = all_places(free.hall(model))
    assert places.isfinite().all()
    side = places[:, 0] > 0
    kept = torch.ones(len(side), dtype=torch.bool)
    kept[8 + 3] = False
    member = torch.cat(members)[kept] == 1
    assert side[kept].tolist() in (member.tolist(), (~member).tolist())


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
        [
            "input", "way", "found, relaxed", "found, trained", "before the cut", "lost", "silhouette, relaxed",
            "silhouette, trained", "kappa, relaxed", "places, relaxed",
        ],
        ["sequential", FIRST, "0 of 1", "1 of 1", "90.0", "0.0", "-, 0.60", "4.00, 5.00", "3.75, 4.75", "3, 4"],
        [
            "mix", SECOND, "1 of 2", "1 of 2", "90.0 ± 0.0", "1.0 ± 1.4", "0.60 ± 0.14, 0.80 ± 0.14",
            "4.00 ± 0.00, 5.00 ± 0.00", "3.75 ± 0.00, 4.75 ± 0.00", "3 ± 0, 4 ± 0",
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
    for page, table in (("TABLES.md", "free"), ("README.md", "free-final")):
        (tmp_path / page).write_text(f"<!-- table: {table} -->\n<!-- end -->\n")
    return called


def test_ways_are_compared_on_images_held_out_and_the_best_is_trained_on_other_seeds(asked, tmp_path, capsys):
    inputs = ("sequential", "mix", "concatenate")
    assert free.main(["--final"]) == 2
    assert (
        last(capsys) == f"free.py: error: {FIRST}, sequential: not finished; run: python experiments/two_task/free.py"
    )
    storing.append_table(free.SEARCH, [network(FIRST, "sequential", cut=0.7)])
    assert free.main([]) == 0
    wanted = [(way, given, seed, 5, 10_000) for given, way, seed in product(inputs, free.WAYS, (110, 111))]
    assert asked == wanted[1:]  # but what is there
    assert pages.blocks(tmp_path / "TABLES.md") == {"free": markdown(free.table(free.read(free.SEARCH)))}
    assert pages.blocks(tmp_path / "README.md") == {"free-final": ""}
    asked.clear()
    assert free.main(["--final"]) == free.main(["--final"]) == free.main([]) == 0
    assert asked == [(THIRD, given, seed, 10, 0) for given in inputs for seed in range(200, 210)]
    shown = pages.blocks(tmp_path / "README.md")
    assert shown["free-final"] == markdown(free.table(free.read(free.FINAL)))
    assert len(cells(shown["free-final"])) == 4
    storing.append_table(free.FINAL, [network(FIRST, "mix", seed=200)])  # of an earlier choice
    assert free.main(["--final"]) == 2
    assert f"holds '{FIRST}' for mix" in last(capsys)
    assert free.main(["--finale"]) == 2
    assert "free.py --final" in capsys.readouterr().err


def test_ways_of_some_inputs_are_tried_beside_those_of_others(asked, capsys):
    storing.append_table(free.SEARCH, [network("of yore", "sequential")])
    assert free.main(["mix"]) == 0
    assert asked == [(way, "mix", seed, 5, 10_000) for way, seed in product(free.WAYS, (110, 111))]
    asked.clear()
    assert free.main(["--final", "mix"]) == 0
    assert asked == [(THIRD, "mix", seed, 10, 0) for seed in range(200, 210)]
    assert free.main(["sequential"]) == 2 and free.main(["--final", "sequential"]) == 2
    assert free.main(["mox"]) == 2
    assert last(capsys) == "free.py: error: unknown input 'mox': did you mean mix?"


def test_the_figure_shows_the_first_network_of_every_input(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(free, "FIGURE", tmp_path / "free.png")
    drawn, trained = [], []

    def train(way, given, *rest):
        trained.append((way, given, *rest))
        return mlp(seed=len(trained)), mlp(seed=10 + len(trained)), None

    monkeypatch.setattr(free, "train", train)
    monkeypatch.setattr(free, "last_hidden", lambda axis, network, owners: drawn.append((axis, network, owners)))
    storing.append_table(free.SEARCH, [row for given in arms.INPUTS for row in tried(given, third=[{}, {}])])
    assert free.main(["--figure"]) == 0
    assert free.FIGURE.read_bytes().startswith(b"\x89PNG")
    assert trained == [(free.WAYS[THIRD], given, 200, 10, 0) for given in arms.INPUTS]
    titles = [f"{given}, {words}" for given in arms.INPUTS for words in ("as trained", "relaxed")]
    assert [axis.get_title() for axis, *_ in drawn] == titles
    networks = [mlp(seed=index + extra) for index in (1, 2, 3) for extra in (0, 10)]
    for (_, network, owners), expected in zip(drawn, networks, strict=True):
        assert places_of(network) == places_of(expected)
        found = splitting.balanced(expected).owners
        assert all(torch.equal(own, found[layer]) for layer, own in owners.items())
    assert asked == []


def test_no_seed_is_used_twice():
    table = range(10)  # of params.yaml
    assert yaml.safe_load((HERE / "params.yaml").read_text())["common"]["seeds"] == len(table)
    seeds = [*table, *arms.SEARCHED[1], *free.HELD_OUT, *free.FRESH]
    assert len(seeds) == len(set(seeds)) == 10 + 2 + 2 + 10


def test_undefined_measures_are_read_back(tmp_path):
    storing.append_table(
        tmp_path / "free.csv", [network(FIRST) | {"silhouette_relaxed_2": None, "kappa_trained_1": None}]
    )
    (row,) = free.read(tmp_path / "free.csv")
    assert math.isnan(row["silhouette_relaxed_2"]) and math.isnan(row["kappa_trained_1"])
    assert (row["silhouette_relaxed_1"], row["seed"], row["whole"]) == (0.8, 110, 0.9)
