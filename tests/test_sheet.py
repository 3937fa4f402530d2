"""Places for anybody's network: costs, moving, splitting and pictures of networks that are none of this program's."""

import copy
import runpy
from pathlib import Path

import oracles
import pytest
import torch
from helpers import conv, mlp
from torch import nn
from torch.nn.utils import parametrizations

import spatial
from spatial import costs, graph, splitting
from spatial.graph import Connection
from spatial.sheet import METHODS, Places, Sheet

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


class Strange(nn.Module):
    """Of which nobody knows what it does to units."""

    def forward(self, x):
        return x.cumprod(1).repeat_interleave(2, 1)


class Branches(nn.Module):
    """Two branches whose sum and whose concatenation are read, and two heads."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.right = nn.Conv2d(4, 4, 1, groups=2)
        self.join = nn.Conv2d(4, 6, 1)
        self.digits = nn.Linear(10 * 4, 3)
        self.clothes = nn.Linear(10 * 4, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.left(x) + self.right(x)).relu()
        x = nn.functional.max_pool2d(torch.cat([x, self.join(x).relu()], 1), 4).flatten(1)
        return torch.cat([self.digits(x), self.clothes(x)], 1)


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
HEADS = {"digits": "digits", "clothes": "clothes"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Branches()
    network(IMAGES)  # running statistics other than 0 and 1
    return network


def test_names_connections_and_shapes(network):
    sheet = spatial.place(network, IMAGES, dim=3)
    assert list(sheet.positions) == ["stem", "left.0", "right", "join", "digits", "clothes"]
    assert [len(place) for place in sheet.positions.values()] == [4, 4, 4, 6, 3, 2]
    assert all(place.shape[1] == 3 for place in sheet.positions.values())
    into = {target: [edge.source for edge in sheet.connections if edge.target == target] for target in sheet.positions}
    assert into == {
        "stem": [], "left.0": ["stem"], "right": ["stem"], "join": ["left.0", "right"],
        "digits": ["left.0", "right", "join"], "clothes": ["left.0", "right", "join"],
    }  # fmt: skip
    assert sheet.norms == {"left.0": "left.1"} and not sheet.skipped
    assert repr(sheet) == "Sheet(23 units of 6 layers, 10 connections)"


@pytest.mark.parametrize("norm", costs.NORMS)
@pytest.mark.parametrize("per", costs.PER)
def test_costs_are_those_of_plain_loops(network, norm, per):
    """Also of features that two layers feed, of concatenated ones, of groups and of a folded batch norm."""
    sheet = spatial.place(network, IMAGES, norm=norm, per=per, transport=2.0, proximity=3.0)
    places = {name: place.detach() for name, place in sheet.positions.items()}
    gain = network.left[1].weight / (network.left[1].running_var + network.left[1].eps).sqrt()
    weights = {name: layer.weight.detach() for name, layer in sheet.layers_by_name.items()}
    weights["left.0"] = (weights["left.0"] * gain.view(-1, 1, 1, 1)).detach()
    terms = []
    for edge, features in sheet.wiring.items():
        matrix = weights[edge.target].flatten(2) if weights[edge.target].ndim > 2 else weights[edge.target][..., None]
        out, source, groups = len(matrix), len(places[edge.source]), sheet.layers_by_name[edge.target].groups
        size = torch.zeros(out, source)
        joined = torch.zeros(out, source, dtype=torch.bool)
        for j in range(out):
            for f, unit in enumerate(features.tolist()):
                own = f - j // (out // groups) * matrix.shape[1]
                if unit >= 0 and 0 <= own < matrix.shape[1]:
                    each = matrix[j, own]
                    size[j, unit] += each.abs().sum() if norm == "l1" else each.square().sum()
                    joined[j, unit] = True
        d = torch.cdist(places[edge.target], places[edge.source])
        if per == "connection":
            terms.append((size * d).sum() / joined.sum())
        else:
            terms.append(sum((size * d).sum(a).div(size.sum(a)).nan_to_num(0).mean() for a in (0, 1)) / 2)
    wires = torch.stack(terms).mean()
    crowd = torch.stack([torch.tensor(oracles.proximity(place.double().numpy())) for place in places.values()]).mean()
    own = sheet.costs()
    assert list(own) == ["transport", "proximity"]
    torch.testing.assert_close(own["transport"].detach(), wires, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own["proximity"].detach().double(), crowd.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sheet.cost().detach(), (2 * wires + 3 * crowd).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("per", costs.PER)
def test_a_network_of_this_program_is_charged_and_split_as_it_states(make, per):
    model = make(classes=(3, 2, 4))
    with torch.no_grad():
        for name, place in graph.positions(model).items():
            place.copy_(torch.randn(place.shape, generator=torch.Generator().manual_seed(len(name))))
    sheet = spatial.place(model, torch.randn(2, *model.shape), per=per)
    assert list(sheet.parameters()) == []  # the layers have places of their own
    assert sheet.connections == graph.connections(model)
    for own, stated in zip(sheet.costs().values(), costs.model_costs(model, per=per), strict=True):
        torch.testing.assert_close(own, stated)
    output = list(sheet.positions)[-1]
    heads = {f"task {t}": (output, each) for t, each in enumerate(_slices(model.classes))}
    for method in METHODS:
        parts, k = sheet.split(heads, method), splitting.METHODS[method](model, 0, None)
        assert all(torch.equal(parts.owners[layer], owner) for layer, owner in k.owners.items())
        for task, part in enumerate(parts.networks.values()):
            expected = splitting.cut(model, k.k, task).state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in part.state_dict().items())


def _slices(classes):
    starts = [sum(classes[:i]) for i in range(len(classes))]
    return [slice(start, start + n) for start, n in zip(starts, classes, strict=True)]


def test_the_network_is_left_alone(network):
    before, names = copy.deepcopy(network.state_dict()), [name for name, _ in network.named_parameters()]
    state = torch.get_rng_state()
    sheet = spatial.place(network, IMAGES)
    sheet.relax(steps=2)
    sheet.split(HEADS)
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in network.named_parameters()] == names
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(each.requires_grad for each in network.parameters()) and network.training


def test_training_moves_neurons_and_lowers_the_cost(network):
    sheet = spatial.place(network, IMAGES, norm="l1", per="neuron")
    adam = torch.optim.Adam([*network.parameters(), *sheet.parameters()], lr=0.01)
    start, first = {name: place.detach().clone() for name, place in sheet.positions.items()}, sheet.cost().item()
    for _ in range(20):
        adam.zero_grad()
        (network(IMAGES).square().mean() + sheet.cost()).backward()
        adam.step()
    assert sheet.cost().item() < first - 0.1
    assert all((sheet.positions[name] - place).abs().max() > 0.01 for name, place in start.items())


def test_where_is_charged(network):
    sheet = spatial.place(network, IMAGES, where=["join", "digits"])
    sheet.cost().backward()
    moved = {name for name, place in sheet.positions.items() if place.grad is not None and place.grad.abs().sum() > 0}
    assert moved == {"left.0", "right", "join", "digits"}
    assert network.clothes.weight.grad is None


def test_equal_seeds_equal_places_and_the_state_is_kept(network, tmp_path):
    one, same, other = (spatial.place(network, IMAGES, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(same.positions[name], place) for name, place in one.positions.items())
    assert not torch.equal(one.positions["stem"], other.positions["stem"])
    torch.save(one.state_dict(), tmp_path / "sheet.pt")
    assert list(one.state_dict())[1] == "places.left.0.positions"
    other.load_state_dict(torch.load(tmp_path / "sheet.pt", weights_only=True))
    assert torch.equal(one.positions["stem"], other.positions["stem"])


def test_relaxing_moves_a_copy(network):
    sheet = spatial.place(network, IMAGES, norm="l1", per="neuron", proximity=2.0)
    before = {name: place.detach().clone() for name, place in sheet.positions.items()}
    moved = sheet.relax(steps=50)
    assert isinstance(moved, Sheet) and moved.cost() < sheet.cost() - 0.1
    assert all(torch.equal(sheet.positions[name], place) for name, place in before.items())
    assert all(torch.equal(a, b) for a, b in zip(moved.network.parameters(), network.parameters(), strict=True))
    assert all(each.requires_grad for each in moved.network.parameters())
    assert all(each.grad is None for each in moved.network.parameters())
    held = sheet.relax(steps=3, held=["stem"], where=["left.0"])
    assert torch.equal(held.positions["stem"], before["stem"])
    assert not torch.equal(held.positions["left.0"], before["left.0"])


@pytest.mark.parametrize("method", METHODS)
def test_a_task_keeps_its_own_units(network, method):
    """A part's own answers do not depend on a unit that it lacks; the whole network's own parts stay as they are."""
    sheet = spatial.place(network, IMAGES)
    parts = sheet.split(HEADS, method)
    assert list(parts.networks) == list(HEADS)
    assert parts.owners["digits"].tolist() == [0] * 3 and parts.owners["clothes"].tolist() == [1] * 2
    for task, part in enumerate(parts.networks.values()):
        gone = (parts.owners["stem"] != task) & (parts.owners["stem"] >= 0)
        if method != "probability":
            assert (part.stem.weight[gone] == 0).all() and (part.stem.bias[gone] == 0).all()
            assert (part.left[0].weight[:, gone] == 0).all()
            assert torch.equal(part.stem.weight[~gone], network.stem.weight[~gone])
        assert not part.training and part(IMAGES).shape == (4, 5)


def test_features_that_two_layers_feed_are_kept_while_one_does(network):
    """``join`` reads the sum of two layers: a unit of one that is removed leaves the other's."""
    sheet = spatial.place(network, IMAGES)
    parts = sheet.split(HEADS)
    part, own = parts.networks["digits"], parts.owners
    assert torch.equal(part.join.weight[own["join"] == 0], network.join.weight[own["join"] == 0])
    gone = own["left.0"] == 1
    assert (part.left[1].weight[gone] == 0).all() and (part.left[1].bias[gone] == 0).all()
    read = part.digits.weight.view(3, 10, 4)
    assert (read[:, 4:][:, own["join"] == 1] == 0).all() and (read[:, :4] != 0).all()


def test_what_serves_no_head_belongs_to_none():
    network = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 4))
    parts = spatial.place(network, torch.randn(2, 5, 6)).split({"a": ("1", slice(0, 2)), "b": ("1", slice(2, 4))})
    assert parts.owners["0.self_attn.query"].tolist() == parts.owners["0.self_attn.key"].tolist() == [-1] * 6
    assert set(parts.owners["0.self_attn.value"].tolist()) <= {0, 1}
    gone = parts.owners["0.self_attn.value"] == 1
    weight = parts.networks["a"][0].self_attn.in_proj_weight
    assert (weight[12:][gone] == 0).all() and torch.equal(weight[:12], network[0].self_attn.in_proj_weight[:12])


def test_places_of_a_locality_prior_stay():
    network = nn.Sequential(nn.Linear(5, 9), spatial.LocalityPriorLinear(9, 9), nn.Linear(9, 2))
    sheet = spatial.place(network, torch.randn(2, 5))
    assert list(sheet.state_dict()) == ["places.0.positions", "places.2.positions"]
    moved = sheet.relax(steps=2)
    assert torch.equal(moved.positions["1"], network[1].positions)
    assert not moved.positions["1"].requires_grad and moved.positions["0"].requires_grad


def test_layers_that_are_children_of_placed_ones_and_roots():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(5, 4)
            self.extra = nn.Linear(5, 4)

        def forward(self, x):
            return super().forward(x) + self.extra(x)

    sheet = spatial.place(nn.Sequential(Adapted(), nn.Linear(4, 2)), torch.randn(2, 5))
    assert sheet.connections == [Connection("0", "1"), Connection("0.extra", "1")]
    alone = spatial.place(nn.Linear(5, 4), torch.randn(2, 5), transport=0)
    assert list(alone.positions) == [""] and isinstance(alone.layers_by_name[""], Places)
    assert alone.cost() > 0


def test_pictures(network, tmp_path):
    sheet = spatial.place(network, IMAGES)
    parts = sheet.split(HEADS)
    for name in ("sheet.png", "sheet.svg"):
        figure = sheet.plot(tmp_path / name, owners=parts.owners, names=list(HEADS))
        assert (tmp_path / name).stat().st_size > 5000
    assert [axis.get_title().splitlines()[0] for axis in figure.axes] == list(sheet.positions)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(HEADS)
    assert sheet.plot().axes


MISTAKES = {
    "no linear": (lambda n: spatial.place(nn.ReLU(), IMAGES), "no Linear, Conv2d or MultiheadAttention is used"),
    "where": (lambda n: spatial.place(n, IMAGES, where=["stam"]), "unknown layer 'stam': did you mean stem?"),
    "where is none": (
        lambda n: spatial.place(nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(24, 2)),
                                torch.randn(2, 3, 8), where=["0"]), "where: 0: Conv1d has no places"),
    "no wires": (
        lambda n: spatial.place(nn.Sequential(nn.Linear(5, 4), Strange(), nn.Linear(8, 2)), torch.randn(2, 5)),
        r"transport 1, but nothing that has places feeds 0, 2 \(0 -> 2: ended by cumprod\): name the source by hand"),
    "by hand": (lambda n: spatial.place(n, IMAGES, connections=[("join", "stem")]), "stem reads 3 features"),
    "by hand, unknown": (lambda n: spatial.place(n, IMAGES, connections=[("x", "stem")]), "unknown layer 'x'"),
    "norm": (lambda n: spatial.place(n, IMAGES, norm="l3"), "unknown norm 'l3'"),
    "per": (lambda n: spatial.place(n, IMAGES, per="neurons"), "unknown per 'neurons': did you mean neuron?"),
    "dim": (lambda n: spatial.place(n, IMAGES, dim=0), "dim must be at least 1, got 0"),
    "strength": (lambda n: spatial.place(n, IMAGES, transport=-1), "transport must be a number from 0 up"),
    "one head": (lambda n: spatial.place(n, IMAGES).split({"a": "digits"}), "heads: name at least two tasks"),
    "head": (lambda n: spatial.place(n, IMAGES).split({"a": "digits", "b": "cloths"}), "unknown head 'cloths'"),
    "heads twice": (
        lambda n: spatial.place(n, IMAGES).split({"a": "digits", "b": ("digits", slice(1, 2))}), "heads: 'b' has no"
    ),
    "where is a word": (lambda n: spatial.place(n, IMAGES, where="join"), "where: give a list of layers' names"),
    "where is a number": (lambda n: spatial.place(n, IMAGES, where=[0]), "where: give a list of layers' names"),
    "head is no slice": (
        lambda n: spatial.place(n, IMAGES).split({"a": ("digits", 0), "b": "clothes"}), "heads: give a layer's name, or"
    ),
    "method": (lambda n: spatial.place(n, IMAGES).split(HEADS, "ballanced"), "unknown method 'ballanced': did you"),
    "parametrised": (
        lambda n: spatial.place(nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Linear(4, 2)),
                                torch.randn(2, 5)).split({"a": ("1", slice(1)), "b": ("1", slice(1, 2))}),
        "0: its weight is computed anew in each pass"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_a_line_that_says_what_would_be_right(network, name):
    call, words = MISTAKES[name]
    with pytest.raises(ValueError, match=words) as caught:
        call(network)
    assert "\n" not in str(caught.value)


def test_a_connection_by_hand():
    network = nn.Sequential(nn.Linear(5, 4), Strange(), nn.Linear(8, 2))
    sheet = spatial.place(network, torch.randn(2, 5), connections=[("0", "2")])
    assert {edge: held.tolist() for edge, held in sheet.wiring.items()} == {("0", "2"): [0, 0, 1, 1, 2, 2, 3, 3]}
    assert sheet.costs()["transport"] > 0


def test_a_network_that_was_moved_alone_is_said(network):
    sheet = spatial.place(network, IMAGES)
    network.to("meta")
    with pytest.raises(ValueError, match=r"move the sheet as well, sheet.to\('meta'\)"):
        sheet.cost()


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem == "transformer" else path for path in EXAMPLES],
    ids=[path.stem for path in EXAMPLES],
)
def test_examples(path, tmp_path, monkeypatch, capsys):
    """Each is short, runs as it stands, and says what it found."""
    assert len(path.read_text().splitlines()) <= 30
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_examples():
    assert [path.stem for path in EXAMPLES] == ["own_network", "resnet18", "transformer"]
