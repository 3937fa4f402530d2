import oracles
import pytest
import torch
from helpers import mlp, parameters

from spatial import models
from spatial.errors import UserError
from spatial.models import ACTIVATIONS, MODELS, build, heads, output_tasks, pack, unpack

ARGUMENTS = {"mlp": {"shape": (2, 3, 3), "layers": (5, 4), "classes": (3, 2), "activation": "ReLU", "dim": 2}}
every_model = pytest.mark.parametrize("name", MODELS)


def same_state(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_mlp_is_the_oracles(activation):
    model = mlp((2, 2, 3), (5, 4), (3, 2), activation).double()
    image = torch.rand(1, 2, 2, 3, dtype=torch.float64)
    *_, logits = oracles.forward(*parameters(model), activation, image.flatten().tolist())
    assert model(image)[0].tolist() == pytest.approx(logits, rel=1e-9)


@every_model
def test_a_network_returns_the_logits_of_all_tasks(name):
    arguments = ARGUMENTS[name]
    assert build(name, arguments, 0)(torch.rand(7, *arguments["shape"])).shape == (7, sum(arguments["classes"]))


@every_model
def test_its_activity_can_be_read_layer_by_layer(name):
    model = build(name, ARGUMENTS[name], 0)
    for layer, module in model.activity.items():
        assert model.get_submodule(layer).positions is not None
        assert model.get_submodule(module) is not None


def test_heads_are_slices_task_by_task():
    assert heads((4, 1, 3)) == [slice(0, 4), slice(4, 5), slice(5, 8)]
    assert output_tasks((4, 1, 3)).tolist() == [0, 0, 0, 0, 1, 2, 2, 2]


@every_model
def test_one_seed_gives_one_start(name):
    assert same_state(build(name, ARGUMENTS[name], 3), build(name, ARGUMENTS[name], 3))


@every_model
def test_another_seed_gives_another_start(name):
    one, other = (dict(build(name, ARGUMENTS[name], seed).named_parameters()) for seed in (3, 4))
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_the_start_ignores_the_global_generator_and_leaves_it_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = mlp(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_state(one, mlp(seed=3))


@pytest.mark.parametrize("changed", [{"dim": 1}, {"dim": 3}, {"outputs": "task"}, {"activation": "Tanh"}], ids=str)
def test_weights_do_not_depend_on_the_space(changed):
    for one, other in zip(*map(parameters, (mlp(), mlp(**changed))), strict=True):
        assert one == other


def test_task_outputs_move_the_output_layer_only():
    free, task = mlp(outputs="free"), mlp(outputs="task")
    assert torch.equal(free.linear[0].positions, task.linear[0].positions)
    assert torch.equal(free.linear[1].positions, task.linear[1].positions)
    assert task.linear[2].positions[:3, 0].max() < 0 < task.linear[2].positions[3:, 0].min()


@every_model
def test_weights_start_as_torch_starts_them(name):
    weight = build(name, ARGUMENTS[name], 0).linear[0].weight  # uniform within 1 / sqrt(inputs)
    assert 0.8 / 18**0.5 < weight.abs().max() <= 1 / 18**0.5


@every_model
def test_pack_and_unpack_give_the_network_back(name):
    model = build(name, ARGUMENTS[name], 0)
    again = unpack(pack(model), "here")
    assert same_state(model, again)
    assert not again.training
    images = torch.rand(2, *ARGUMENTS[name]["shape"])
    assert torch.equal(model(images), again(images))


@every_model
def test_pack_keeps_a_copy(name):
    model = build(name, ARGUMENTS[name], 0)
    packed = pack(model, task="MNIST")
    before = packed["state"]["linear.0.weight"].clone()
    with torch.no_grad():
        model.linear[0].weight.zero_()
    assert torch.equal(packed["state"]["linear.0.weight"], before)
    assert packed["task"] == "MNIST"


def broken(**changes):
    return {**pack(mlp()), **changes}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        broken(model="transformer"),
        broken(arguments={}),
        broken(arguments={**pack(mlp())["arguments"], "activation": "Step"}),
        broken(arguments={**pack(mlp())["arguments"], "layers": (6, 4)}),
        broken(state={}),
        broken(state=3),
    ],
    ids=["nothing", "list", "empty", "model", "no arguments", "activation", "layers", "no state", "state"],
)
def test_what_is_no_network_is_refused_by_file(content):
    with pytest.raises(UserError, match=r"here\.pt: not a network of this program"):
        unpack(content, "here.pt")


def test_every_model_has_a_test_case():
    assert list(ARGUMENTS) == list(models.MODELS)
