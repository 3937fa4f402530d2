"""Seeds trained side by side against the same seeds trained alone, and the runs that ``--replicas`` makes."""

import math
import shutil
from copy import deepcopy
from itertools import count, product
from types import SimpleNamespace

import pytest
import torch
from generated import register
from helpers import (
    LINE,
    PLANE,
    Interruption,
    alexnet,
    command,
    conv,
    fit_alone,
    history,
    lenet,
    local,
    mlp,
    narrow,
    noise_tasks,
    results,
    same_state,
    small,
    tree,
)

from spatial import kernels, models, storing, training
from spatial.costs import NORMS, PER, model_costs, model_weight_penalty
from spatial.errors import UserError
from spatial.metrics import Tally, evaluate
from spatial.objective import Together
from spatial.runs import Run
from spatial.tasks import INPUTS
from spatial.training import OPTIMIZERS, POSITIONS, Diverged, fit, snapshot

SEEDS = (3, 4, 9)
TOLERANCE = 1e-7  # in float64: sums differ by 1e-16, and where a gradient is nearly 0 Adam makes much of it
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


# Together as if alone.


def gridded(**options):
    """A fully connected network whose input pixels have places."""
    plain = mlp(**options)
    arguments = models.arguments_of(plain) | {"input_positions": "grid"}
    return models.build("mlp", arguments, options.get("seed", 0), options.get("outputs", "free"))


def alone(make, tasks, seeds=SEEDS, **options):
    """Each seed's network and epochs, trained by itself."""
    trained = []
    for seed in seeds:
        model = make(seed=seed)
        trained.append((model, [epoch for epoch, _ in fit_alone(model, tasks, tasks, seed=seed, **options)]))
    return trained


def together(make, tasks, seeds=SEEDS, **options):
    """The same, trained side by side."""
    networks = [make(seed=seed) for seed in seeds]
    epochs = [point.results for point in fit(networks, tasks, tasks, seeds=seeds, **options)]
    return list(zip(networks, zip(*epochs, strict=True), strict=True))


def assert_close(found, wanted):
    """Two networks whose values differ by rounding."""
    one, other = found.state_dict(), wanted.state_dict()
    assert list(one) == list(other)
    for name, value in other.items():
        assert value.dtype in (torch.float64, torch.long), name
        torch.testing.assert_close(one[name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_epochs(found, wanted):
    close = {"rel": TOLERANCE, "abs": TOLERANCE, "nan_ok": True}
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.number == other.number
        for name in ("transport", "proximity", "weight_penalty"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), **close)
        for a, b in ((one.train, other.train), (one.test, other.test)):
            assert a.loss == pytest.approx(b.loss, **close)
            assert a.accuracy == pytest.approx(b.accuracy, rel=0, abs=0, nan_ok=True)
            assert list(a.losses) == pytest.approx(list(b.losses), **close)
        assert all(seconds > 0 for seconds in one.seconds)


def assert_as_if_alone(make, tasks, **options):
    options = {"epochs": 2, "batch_size": 8, **options}
    shape = (2 if tasks.input == "concatenate" else 1, *tasks.images[0].shape[2:])

    def build(seed):
        return make(shape=shape, seed=seed)

    wanted, found = alone(build, tasks, **options), together(build, tasks, **options)
    for seed, (network, epochs), (other, others) in zip(SEEDS, found, wanted, strict=True):
        assert_close(network, other)
        assert_same_epochs(epochs, others)
        assert not same_state(network, build(seed))
    first, second, third = (torch.cat([p.detach().flatten() for p in each.parameters()]) for each, _ in found)
    assert not torch.allclose(first, second, atol=1e-3) and not torch.allclose(second, third, atol=1e-3)


SPATIAL = {"transport": 1.0, "proximity": 1.0, "weight_penalty": 0.5}


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize(("norm", "per"), list(product(NORMS, PER)))
def test_costs_together_are_those_of_each_alone(float64, make, input, norm, per):
    """21 and 13 images in batches of 8: the last one is incomplete, and dropped where there is a batch norm."""
    tasks = noise_tasks(input, sizes=(21, 13))
    assert_as_if_alone(make, tasks, norm=norm, per=per, **SPATIAL)


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_together_is_it_alone(float64, make, optimizer):
    options = {"lr": 0.05, "momentum": 0.9} if optimizer == "SGD" else {"lr": 5e-3}
    options |= {"momentum": 0.5} if optimizer == "RMSprop" else {}
    options |= {"schedule": "cosine", "weight_decay": 0.1, "position_lr": 0.03, "transport": 1.0}
    assert_as_if_alone(make, noise_tasks(), optimizer=optimizer, **options)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (mlp, {}),
        (conv, {}),
        (mlp, {"weight_penalty": 3.0}),
        (conv, {"weight_penalty": 3.0, "where": [2], "norm": "l1"}),
        (mlp, {"where": [1], **SPATIAL}),
        (mlp, {"where": [2, 0], "proximity": 2.0}),
        (mlp, {"hold_outputs": True, **SPATIAL}),
        (conv, {"hold_outputs": True, "per": "neuron", **SPATIAL}),
        (gridded, SPATIAL),
        (gridded, {"where": [0], "per": "neuron", "norm": "l1", "transport": 1.0}),
        (local, SPATIAL),
        (local, {"where": [2], "per": "neuron", **SPATIAL}),
        (lambda **given: local(prior=LINE | {"on": "activations"}, **given), SPATIAL),
        (lambda **given: local(prior=PLANE | {"normalize": True}, layers=(9, 9), **given), {"weight_penalty": 1.0}),
        (lambda **given: mlp(dim=3, outputs="task", activation="Tanh", **given), SPATIAL),
        (lambda **given: mlp(dim=1, layers=(5,), activation="GELU", **given), SPATIAL),
        (lambda **given: conv(layers=(4,), activation="Sigmoid", **given), SPATIAL),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else getattr(value, "__name__", ""),
)
def test_every_network_together_is_it_alone(float64, make, options):
    assert_as_if_alone(make, noise_tasks(), **options)


@pytest.mark.parametrize("make", [mlp, conv, local, gridded])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("per", PER)
def test_positions_together_are_those_of_each_alone(float64, make, positions, per):
    assert_as_if_alone(make, noise_tasks("concatenate"), transport=2.0, positions=positions, per=per)


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("batch_size", [1000, 48, 5])
def test_blocked_epochs_together_are_those_of_each_alone(float64, make, batch_size):
    """Also where nothing of a task was met: its accuracy is NaN for all."""
    tasks = noise_tasks("sequential", sizes=(24, 20, 2), classes=(3, 2, 2))
    assert_as_if_alone(lambda **given: make(classes=(3, 2, 2), **given), tasks, order="blocked", batch_size=batch_size)


def test_one_data_set_together_is_it_alone(float64):
    assert_as_if_alone(lambda **given: mlp(classes=(3,), **given), noise_tasks(sizes=(20,), classes=(3,)), **SPATIAL)


def test_in_single_precision_what_differs_is_rounding():
    tasks, options = noise_tasks(), {"epochs": 2, "batch_size": 8, "optimizer": "SGD", "lr": 0.05, **SPATIAL}
    for make in (mlp, conv):
        for (network, _), (other, _) in zip(
            together(make, tasks, **options), alone(make, tasks, **options), strict=True
        ):
            for value, wanted in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
                torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [mlp, conv])
def test_equal_seeds_give_equal_networks_whatever_is_beside_them(float64, make):
    trained = together(make, noise_tasks(), (4, 4, 7, 4), epochs=2, batch_size=8, positions="shuffled", transport=1.0)
    (one, epochs), *others, (last, ends) = trained
    for network, beside in (others[0], (last, ends)):
        assert_close(network, one)
        assert_same_epochs(beside, epochs)
    assert not torch.allclose(next(others[1][0].parameters()), next(one.parameters()), atol=1e-3)


def test_the_seeds_and_not_the_networks_order_the_images(float64):
    """Equal starts, unequal seeds."""
    networks = [mlp() for _ in SEEDS]
    list(fit(networks, noise_tasks(), noise_tasks(), seeds=SEEDS, epochs=1, batch_size=8))
    wanted = [alone(lambda seed: mlp(), noise_tasks(), [seed], epochs=1, batch_size=8)[0][0] for seed in SEEDS]
    for network, other in zip(networks, wanted, strict=True):
        assert_close(network, other)
    assert not torch.allclose(networks[0].linear[0].weight, networks[1].linear[0].weight, atol=1e-4)


# The networks while they are trained.


@pytest.fixture
def stacks(monkeypatch):
    """The modules that training makes of several networks."""
    made = []

    class Watched(Together):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(training, "Together", Watched)
    return made


@pytest.mark.parametrize("make", [mlp, conv, local])
@pytest.mark.parametrize("positions", ["learned", "shuffled"])
def test_after_every_epoch_the_networks_hold_what_was_trained(float64, stacks, make, positions):
    tasks, networks = noise_tasks(), [make(seed=seed) for seed in SEEDS]
    options = {"epochs": 3, "batch_size": 8, "positions": positions, "transport": 1.0}
    singles = [make(seed=seed) for seed in SEEDS]
    steps = [fit_alone(single, tasks, tasks, seed=seed, **options) for single, seed in zip(singles, SEEDS, strict=True)]
    before = [deepcopy(network) for network in networks]
    for point in fit(networks, tasks, tasks, seeds=SEEDS, **options):
        (stack,) = stacks
        every = zip(networks, singles, steps, point.results, strict=True)
        for replica, (network, single, step, epoch) in enumerate(every):
            next(step)
            assert_close(network, single)
            assert not same_state(network, before[replica])
            before[replica] = deepcopy(network)
            for name, value in (*network.named_parameters(), *network.named_buffers()):
                stacked = stack.own[f"model.{name}"]
                assert torch.equal(stacked[replica], value)
                assert stacked[replica].data_ptr() == value.data_ptr()
            assert epoch.test == evaluate(network, tasks.batches(tasks.scoring_order(), 2000), tasks.classes)
            costs = model_costs(network)
            assert (epoch.transport, epoch.proximity) == (costs.transport.item(), costs.proximity.item())
            assert epoch.weight_penalty == model_weight_penalty(network).item()
    assert point.results[0].number == point.epoch == 3


def own_size(value):
    """Whether a tensor's storage holds its own values and no others."""
    return value.untyped_storage().nbytes() == value.numel() * value.element_size()


@pytest.mark.parametrize("make", [mlp, conv])
def test_what_is_kept_of_a_network_holds_no_other(make):
    networks, tasks = [make(seed=seed) for seed in SEEDS], noise_tasks()
    for _ in fit(networks, tasks, tasks, seeds=SEEDS, epochs=1, batch_size=8, **SPATIAL):
        for network in networks:
            assert not own_size(next(network.parameters()))  # a view
            kept = [*models.pack(network)["state"].values(), *snapshot(network)]
            assert all(map(own_size, kept))
            packed = models.pack(network)["state"]["linear.weight" if make is conv else "linear.0.weight"]
            packed.zero_()
            assert next(network.parameters()).abs().max() > 0


def test_a_single_network_is_not_stacked(stacks):
    list(fit([mlp()], noise_tasks(), noise_tasks(), seeds=[0], epochs=1, batch_size=8))
    assert stacks == []


def test_each_is_said_to_take_its_share_of_the_time(monkeypatch):
    tasks, ticks = noise_tasks(), count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    for seeds in ([0], [0, 1], [0, 1, 2, 3]):
        (point,) = fit([mlp(seed=seed) for seed in seeds], tasks, tasks, seeds=seeds, epochs=1, batch_size=8)
        assert [epoch.seconds for epoch in point.results] == [(1 / len(seeds), 1.0)] * len(seeds)


def test_networks_and_seeds_are_as_many():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(fit([mlp(), mlp()], noise_tasks(), noise_tasks(), seeds=[0, 1, 2], epochs=1, batch_size=8))


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_resuming_together_is_the_same_bit_for_bit(make, optimizer, positions):
    tasks, networks, points = noise_tasks(), [make(seed=seed) for seed in SEEDS], []
    options = {
        "epochs": 3, "optimizer": optimizer, "schedule": "linear", "lr": 0.01, "weight_decay": 0.01, "batch_size": 8,
        "transport": 1.0, "position_lr": 0.03, "positions": positions,
        "momentum": 0.5 if optimizer in training.MOMENTUM else 0.0,
    }  # fmt: skip
    for point in fit(networks, tasks, tasks, seeds=SEEDS, **options):
        points.append(([deepcopy(network.state_dict()) for network in networks], deepcopy(point)))
    for done in (1, 2):
        resumed = [make(seed=20 + seed) for seed in SEEDS]
        for network, state in zip(resumed, points[done - 1][0], strict=True):
            network.load_state_dict(state)
        torch.rand(3)
        rest = fit(resumed, tasks, tasks, seeds=SEEDS, start=points[done - 1][1], **options)
        assert [[epoch.number for epoch in point.results] for point in rest] == [
            [number] * len(SEEDS) for number in range(done + 1, 4)
        ]
        assert all(map(same_state, resumed, networks))


# A loss that is not finite.


@pytest.mark.parametrize("ruined", [0, 1, 2])
def test_the_one_seed_that_diverges_is_named(ruined):
    networks, tasks = [mlp(seed=seed) for seed in SEEDS], noise_tasks()
    with torch.no_grad():
        networks[ruined].linear[0].bias.fill_(math.inf)
    with pytest.raises(Diverged, match=rf"the loss of seed {SEEDS[ruined]} is not finite at epoch 1, step 1 of 3; sma"):
        next(fit(networks, tasks, tasks, seeds=SEEDS, epochs=1, batch_size=8))


def test_a_seed_that_the_last_step_ruins_is_named():
    """One class, so that the task has no gradient: what the penalty's pull does to weights of very unequal size."""
    tasks, networks = noise_tasks(sizes=(8,), classes=(1,)), [mlp(classes=(1,), seed=seed) for seed in SEEDS]
    with torch.no_grad():
        networks[1].linear[1].weight.fill_(1e15)  # its squares are finite, but not those after a step at this rate
    with pytest.raises(Diverged, match=r"seed 4 is not finite at epoch 1, step 1 of 1"):
        next(fit(networks, tasks, tasks, seeds=SEEDS, epochs=1, batch_size=8, optimizer="SGD", lr=1e6,
                 weight_penalty=1.0))  # fmt: skip


# Which way is chosen.


def cuda():
    return torch.device("cuda")


def wide(width, classes=(3, 2)):
    return lambda: mlp((1, 1, 2), (width, 2), classes)


@pytest.mark.parametrize(
    ("make", "device", "seeds", "expected"),
    [
        (mlp, "cpu", 2, "together"),
        (mlp, "cpu", 1, "sequential"),
        (mlp, "cuda", 2, "together"),
        (mlp, "cuda", 1, "sequential"),
        (mlp, "mps", 5, "together"),
        (wide(1000), "cpu", 2, "together"),
        (wide(1001), "cpu", 2, "sequential"),
        (wide(1001), "cuda", 2, "together"),
        (wide(2, (600, 401)), "cpu", 2, "sequential"),
        (local, "cpu", 3, "together"),
        (conv, "cpu", 2, "sequential"),
        (conv, "cuda", 2, "together"),
        (conv, "cuda", 1, "sequential"),
        (lenet, "cpu", 2, "sequential"),
        (lenet, "cuda", 2, "sequential"),
        (alexnet, "cpu", 2, "sequential"),
        (alexnet, "cuda", 2, "sequential"),
    ],
)
def test_by_default_the_faster_way_is_chosen(make, device, seeds, expected):
    here = torch.device(device)
    assert training.replicas("auto", make(), here, seeds) == expected
    assert training.replicas("sequential", make(), here, seeds) == "sequential"
    if make not in (lenet, alexnet):
        assert training.replicas("together", make(), here, seeds) == "together"


@pytest.mark.parametrize(
    "model", [lenet(), lenet(batch_norm=False), alexnet(), torch.nn.Sequential(torch.nn.AlphaDropout())]
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_with_dropout_seeds_are_not_trained_together(model, device):
    with pytest.raises(UserError, match="--replicas together: the network has dropout, which every seed must draw"):
        training.replicas("together", model, torch.device(device), 2)


# Runs.


TOGETHER, SEQUENTIAL = "--seeds 2 --replicas together", "--seeds 2 --replicas sequential"
COSTLY = "--transport 1 --proximity 1 --weight-penalty 0.1 --position-lr 0.02 --epochs 3"


def interrupt(monkeypatch, at, train, *words):
    with monkeypatch.context() as patch:
        Interruption(patch, at)
        with pytest.raises(KeyboardInterrupt):
            train(*words)


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_is_interrupted_and_resumed_is_the_same_bit_for_bit(train, run, tmp_path, monkeypatch, input, done):
    words = (TOGETHER, COSTLY, "--input", input, "--seed 5 --optimizer AdamW --schedule linear")
    steps = 7 if input == "sequential" else 4  # of 220 or 120 images in batches of 32
    interrupt(monkeypatch, done * steps + 3, train, *words)
    assert run.resume(5).is_file() is (done > 0) and not run.resume(6).exists()
    if done:
        assert storing.load_plain(run.resume(5))["epoch"] == done
    order = [(row["epoch"], row["seed"]) for row in history(run)[::2]] if done else []
    assert order == [(str(epoch), seed) for epoch in range(1, done + 1) for seed in "56"]
    train(*words, resume=True)
    whole = Run(tmp_path / "whole")
    train(*words, folder=whole.folder)
    assert results(run) == results(whole)
    assert [(row["seed"], row["epoch"], row["subset"]) for row in history(run)] == [
        (seed, epoch, subset) for seed in "56" for epoch in "123" for subset in ("train", "test")
    ]


@pytest.mark.parametrize("words", ["", "--model conv --layers 5 4 --holdout 20"], ids=["mlp", "conv"])
def test_both_ways_write_the_same(train, tmp_path, words):
    one, other = Run(tmp_path / "together"), Run(tmp_path / "sequential")
    for run, way in ((one, TOGETHER), (other, SEQUENTIAL)):
        train(words, way, COSTLY, "--optimizer SGD --lr 0.05", folder=run.folder)
    for row, wanted in zip(history(one), history(other), strict=True):
        assert list(row) == list(wanted)
        for name in ("seed", "epoch", "subset"):
            assert row[name] == wanted[name]
        for name in set(row) - {"seed", "epoch", "subset"}:
            # an image may be on the edge between two classes
            assert float(row[name]) == pytest.approx(float(wanted[name]), rel=1e-3, abs=0.05 if name[0] in "ABa" else 0)
    for seed in (0, 1):
        pairs = zip(one.network(seed).parameters(), other.network(seed).parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    places, wanted = storing.load_arrays(one.positions), storing.load_arrays(other.positions)
    assert list(places) == list(wanted)
    for name, path in places.items():
        assert path == pytest.approx(wanted[name], rel=1e-3, abs=1e-4)


def test_files_hold_no_more_than_their_share(train, run, tmp_path):
    few, many = Run(tmp_path / "few"), Run(tmp_path / "many")
    words = "--layers 60 40 --proximity 1"
    train(words, folder=run.folder)
    train(words, "--seeds 2 --replicas together", folder=few.folder)
    train(words, "--seeds 6 --replicas together", folder=many.folder)
    sizes = {each.weights(seed).stat().st_size for each in (run, few, many) for seed in each.seeds()}
    assert len(sizes) == 1
    one, two, six = (each.resume(0).stat().st_size for each in (run, few, many))
    assert two < 2 * one and six < 6 * one
    state = storing.load_plain(many.resume(0))
    tensors = [each for network in state["networks"] for each in network["state"].values()]
    tensors += [places for path in state["positions"] for places in path]
    assert len(tensors) == 6 * (3 * 3 + 3)
    assert all(map(own_size, tensors))


@pytest.mark.parametrize("model", ["lenet", "alexnet"])
def test_networks_with_dropout_are_trained_one_after_the_other(monkeypatch, tmp_path, capsys, model):
    size = 16 if model == "lenet" else 63
    register(monkeypatch, tmp_path, "Digits", size=size, classes=4, train=32, test=8)
    words = small(tmp_path, "--model", model, "--seeds", "2", "--epochs", "1", names=["Digits"])
    before = tree(tmp_path)
    assert command("train", tmp_path / "run", *words, "--replicas", "together") == 2
    error = f"main.py train: error: --replicas together: {model} has dropout, which every seed must draw by itself\n"
    assert capsys.readouterr().err == error
    assert tree(tmp_path) == before
    with narrow():
        assert command("train", tmp_path / "run", *words) == 0
    run = Run(tmp_path / "run")
    assert run.options()["replicas"] == "sequential"
    assert run.resume(0).is_file() and run.resume(1).is_file()


def test_a_resumed_run_stays_as_it_was_chosen_at_first(train, run, tmp_path, monkeypatch):
    """Whatever the rule would say on another machine."""
    whole = Run(tmp_path / "whole")
    for widest, replicas, at in ((1000, "together", 6), (0, "sequential", 14)):
        monkeypatch.setattr(training, "WIDEST_TOGETHER", widest)
        train("--seeds 2", COSTLY, folder=whole.folder, overwrite=True)
        assert whole.options()["replicas"] == replicas
        interrupt(monkeypatch, at, lambda *words: train(*words, overwrite=True), "--seeds 2", COSTLY)
        monkeypatch.setattr(training, "WIDEST_TOGETHER", 1000 - widest)
        train("--seeds 2", COSTLY, resume=True)
        assert results(run) == results(whole)


def test_of_a_run_that_is_interrupted_before_its_first_checkpoint_the_choice_stays(train, run, monkeypatch):
    interrupt(monkeypatch, 2, train, "--seeds 2")
    monkeypatch.setattr(training, "WIDEST_TOGETHER", 0)
    train("--seeds 2", resume=True)
    assert run.options()["replicas"] == "together"
    train("--seeds 2", overwrite=True)
    assert run.options()["replicas"] == "sequential"


def test_without_a_config_a_resumed_run_is_by_the_rule(train, run, monkeypatch):
    interrupt(monkeypatch, 6, train, "--seeds 2", COSTLY)
    storing.save_json(run.config_file, {})
    with monkeypatch.context() as patch:
        patch.setattr(training, "WIDEST_TOGETHER", 0)
        with pytest.raises(UserError, match="--replicas was together and is sequential"):
            train("--seeds 2", COSTLY, resume=True)
    train("--seeds 2", COSTLY, resume=True)
    assert run.options()["replicas"] == "together"


@pytest.mark.parametrize(("was", "now"), [("auto", "sequential"), ("sequential", "together")])
def test_another_way_is_a_difference(train, run, monkeypatch, was, now):
    interrupt(monkeypatch, 6, train, "--seeds 2 --replicas", was)
    before = tree(run.folder)
    first = {"auto": "together"}.get(was, was)
    with pytest.raises(UserError, match=f"--resume needs .*: --replicas was {first} and is {now}$"):
        train("--seeds 2 --replicas", now, resume=True)
    assert tree(run.folder) == before
    train("--seeds 2 --replicas", first, resume=True)
    assert run.weights(1).is_file()


@pytest.mark.parametrize(
    ("first", "then", "replicas"),
    [
        ("--seeds 2", "--seeds 2 --model lenet --resize 16", "sequential"),
        ("--seeds 2", "--seeds 1", "sequential"),
        ("--seeds 1", "--seeds 2", "together"),
        ("--seeds 2", "--seeds 2 --model conv", "sequential"),
    ],
)
def test_what_starts_anew_is_trained_as_if_for_the_first_time(train, run, first, then, replicas):
    train(first, "--epochs 1")
    train(then, "--epochs 1 --lr 0.1", resume=True, overwrite=True)
    assert run.options()["replicas"] == replicas


def old_form(state):
    """As it was before seeds were trained side by side."""
    kept = {name: value for name, value in state.items() if name not in ("seeds", "networks")}
    return kept | {"seed": 0, "network": state["networks"][0], "positions": state["positions"][0]}


FOREIGN = {
    "truncated": lambda content, path, state, other: path.write_bytes(content[: len(content) // 2]),
    "empty": lambda content, path, state, other: path.write_bytes(b""),
    "of an older form": lambda content, path, state, other: storing.save(path, old_form(state)),
    "of seeds one by one": lambda content, path, state, other: path.write_bytes(other),
    "of a wrong type": lambda content, path, state, other: storing.save(path, state | {"seeds": 2}),
    "of no network": lambda content, path, state, other: storing.save(path, state | {"networks": [1, 2]}),
    "without seeds": lambda content, path, state, other: storing.save(path, state | {"seeds": []}),
    "of seeds that are lists": lambda content, path, state, other: storing.save(path, state | {"seeds": [[0], [1]]}),
    "of too few positions": lambda content, path, state, other: storing.save(path, state | {"positions": []}),
    "of too few networks": lambda content, path, state, other: storing.save(
        path, state | {"networks": state["networks"][:1]}
    ),
    "of other seeds": lambda content, path, state, other: storing.save(path, state | {"seeds": [0, 2]}),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_checkpoint_that_is_not_the_runs_is_one_line_or_discarded(train, run, root, tmp_path, capsys, case):
    train(SEQUENTIAL, folder=tmp_path / "other")
    train(TOGETHER)
    before, path = results(run), run.resume(0)
    FOREIGN[case](path.read_bytes(), path, storing.load_plain(path), Run(tmp_path / "other").resume(0).read_bytes())
    there = tree(run.folder)
    capsys.readouterr()
    words = ["train", run.folder, *small(root, *TOGETHER.split()), "--resume"]
    assert command(*words, "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py train: error: ") and error.count("\n") == 1
    assert tree(run.folder) == there
    assert command(*words, "--overwrite") == 0
    assert results(run) == before


@pytest.mark.parametrize("step", [1, 6])
def test_a_seed_that_diverges_stops_the_run_and_keeps_its_checkpoint(train, run, root, monkeypatch, capsys, step):
    forward, steps = Together.forward, []

    def spoiled(self, *given):
        steps.append(0)
        loss, task, logits = forward(self, *given)
        return loss * torch.tensor([1.0, math.nan if len(steps) == step else 1.0, 1.0]), task, logits

    with monkeypatch.context() as patch:
        patch.setattr(Together, "forward", spoiled)
        words = small(root, "--seeds", "3", "--seed", "7", "--replicas", "together", "--transport", "1")
        assert command("train", run.folder, *words) == 2
    error = capsys.readouterr().err
    epoch, at = divmod(step - 1, 4)
    assert f"error: the loss of seed 8 is not finite at epoch {epoch + 1}, step {at + 1} of 4" in error
    assert ("the checkpoint of epoch 1 is kept" in error) is (epoch == 1) and error.count("\n") == 1
    assert not list((run.folder / "weights").glob("*")) and len(history(run)) == 3 * 2 * epoch
    if epoch:
        assert storing.load_plain(run.resume(7))["epoch"] == 1
        assert command("train", run.folder, *words, "--resume") == 0  # whatever it was is over
        assert {seed for seed in (7, 8, 9) if run.weights(seed).is_file()} == {7, 8, 9}


# Compiled costs, and the network where it is trained alone.

COMPILING = "compiling the costs, once for these layers (seconds)"
NETWORK = COMPILING.replace("costs", "network's layers")
COMPILED = {  # each network with its own layers, the last batch, a smaller one, again; the costs of all are alike
    TOGETHER: [COMPILING],
    SEQUENTIAL: [NETWORK, COMPILING, NETWORK, NETWORK, NETWORK],
}


def without_config(run):
    """Results but for the options."""
    files, rows = results(run)
    return {path: content for path, content in files.items() if path.name != "config.json"}, rows


@pytest.mark.parametrize("way", [TOGETHER, SEQUENTIAL])
def test_where_nothing_can_be_compiled_there_is_one_warning(train, run, tmp_path, monkeypatch, capsys, way):
    def broken(*_, **__):
        raise RuntimeError("no compiler here")

    words = (way, COSTLY)
    train(*words, "--no-compile", folder=tmp_path / "plain")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    train(*words, "--compile")
    costs, network = (
        [notice, f"warning: --compile: the {what} are not compiled (no compiler here); training goes on without"]
        for notice, what in ((COMPILING, "costs"), (NETWORK, "network's layers"))
    )
    assert capsys.readouterr().err.splitlines() == (costs if way == TOGETHER else [*network, *costs, *network])
    assert without_config(run) == without_config(Run(tmp_path / "plain"))
    assert run.options()["compile"] is True


@pytest.mark.parametrize("way", [TOGETHER, SEQUENTIAL])
def test_what_is_compiled_computes_every_step_and_is_said_once(train, run, tmp_path, monkeypatch, capsys, way):
    """Compiled by a compiler that leaves everything as it is."""
    calls, sizes = [], []

    def compile(compute, **_):
        def called(*given):
            if len(given) == 1:  # a network and its images
                sizes.append(len(given[0]))
            else:
                calls.append(given[2][0].shape[0])
            return compute(*given)

        return called

    monkeypatch.setattr(torch, "compile", compile)
    train(way, COSTLY, "--compile")
    assert calls == ([2] * 3 * 4 if way == TOGETHER else [1] * 2 * 3 * 4)  # epochs of 4 steps, and no scoring
    assert sizes == ([] if way == TOGETHER else [32, 32, 32, 24] * 2 * 3)
    assert capsys.readouterr().err.splitlines() == COMPILED[way]
    train(way, COSTLY, folder=tmp_path / "plain")
    assert without_config(run) == without_config(Run(tmp_path / "plain"))
    with pytest.raises(UserError, match="--compile was True and is False"):
        train(way, COSTLY, resume=True)


@pytest.fixture
def forgetful():
    """Nothing that another test compiled is known."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_alike(train, run, tmp_path, capsys, way):
    words, plain = (way, "--layers 5 --transport 1 --epochs 1 --optimizer SGD --lr 0.05"), Run(tmp_path / "plain")
    train(*words, folder=plain.folder)
    capsys.readouterr()
    train(*words, "--compile")
    error = capsys.readouterr().err  # torch may add a line of its own, about CUDA
    assert [line for line in error.splitlines() if "compiling" in line] == COMPILED[way]
    assert error.startswith(COMPILED[way][0]) and "--compile" not in error
    for seed in (0, 1):
        pairs = zip(run.network(seed).parameters(), plain.network(seed).parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)


unheard = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at it as it compiles


@unheard
@pytest.mark.parametrize("way", [TOGETHER, SEQUENTIAL])
def test_runs_whose_costs_a_compiler_reads_come_to_the_same(train, run, tmp_path, monkeypatch, capsys, forgetful, way):
    """Read by torch, and run as it was read."""
    graphs, compile = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *given, **options: compile(*given, backend=backend, **options))
    assert_compiled_alike(train, run, tmp_path, capsys, way)
    assert len(graphs) == len(COMPILED[way])


@unheard
@needs_compiler
@pytest.mark.slow
def test_compiled_runs_come_to_the_same_but_for_rounding(train, run, tmp_path, capsys, forgetful):
    assert_compiled_alike(train, run, tmp_path, capsys, SEQUENTIAL)


# Leading axes.


@pytest.mark.parametrize("input", INPUTS)
def test_batches_of_replicas_are_each_ones_batches(input):
    tasks = noise_tasks(input, sizes=(13, 9, 5), classes=(3, 2, 4))
    orders = [tasks.training_order(seed, 1) for seed in SEEDS]
    orders.append(orders[0].flip(0))
    together = list(tasks.batches(torch.stack(orders), 4))
    assert len(together) == -(-len(orders[0]) // 4)
    for replica, order in enumerate(orders):
        own = list(tasks.batches(order, 4))
        for (images, labels), (image, label) in zip(together, own, strict=True):
            assert torch.equal(images[replica], image) and torch.equal(labels[replica], label)
            assert images.dtype == image.dtype and labels.dtype == label.dtype
    scored = tasks.scoring_order()  # images shown and not asked for, or blank ones
    index = torch.stack([scored, scored.flip(0)]).unflatten(0, (2, 1)).expand(2, 3, -1, -1)
    images, labels = tasks.batch(index)
    assert torch.equal(labels, tasks.asked(index))
    for a, b in product(range(2), range(3)):
        image, label = tasks.batch(index[a, b])
        assert torch.equal(images[a, b], image) and torch.equal(labels[a, b], label)
        assert torch.equal(label, tasks.asked(index[a, b]))


def test_a_tally_of_replicas_is_a_tally_of_each():
    classes, replicas = (3, 2), 4
    tallies, stacked = [Tally(classes) for _ in range(replicas)], Tally(classes)
    for batch in (7, 7, 3):
        loss, logits = torch.rand(replicas), torch.randn(replicas, batch, 5)
        labels = torch.stack([torch.randint(-1, each, (replicas, batch)) for each in classes], -1)
        labels[2, :, 1] = -1  # of one replica's second task nothing is ever asked
        labels[:, 0, 0] = 0
        stacked.add(loss, logits, labels)
        for each, *own in zip(tallies, loss, logits, labels, strict=True):
            each.add(*own)
    found = stacked.results()
    assert len(found) == replicas
    for one, each in zip(found, tallies, strict=True):
        (wanted,) = each.results()
        assert one.loss == wanted.loss
        assert one.accuracy == pytest.approx(wanted.accuracy, rel=0, abs=0, nan_ok=True)
    assert math.isnan(found[2].accuracy[1]) and not math.isnan(found[1].accuracy[1])
    assert len({one.loss for one in found}) == replicas


def test_a_tally_of_one_replica_is_one():
    single, stacked = Tally((2,)), Tally((2,))
    logits, labels = torch.randn(6, 2), torch.randint(2, (6, 1))
    single.add(torch.tensor(0.5), logits, labels)
    stacked.add(torch.tensor([0.5]), logits[None], labels[None])
    assert single.results() == stacked.results()


def test_the_costs_are_computed_by_what_is_given():
    """Of all replicas at once, once a step."""
    calls = []

    def compute(plan, needs, tensors):
        calls.append(tensors[0].shape[0])
        return kernels.compute(plan, needs, tensors)

    tasks = noise_tasks()
    networks = [mlp(seed=seed) for seed in SEEDS]
    list(fit(networks, tasks, tasks, seeds=SEEDS, epochs=2, batch_size=8, transport=1.0, compute=compute))
    assert calls == [3] * 2 * 3
    wanted = [network for network, _ in together(mlp, tasks, epochs=2, batch_size=8, transport=1.0)]
    assert all(map(same_state, networks, wanted))
