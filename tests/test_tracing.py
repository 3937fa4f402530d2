"""Units followed through any network: what the trace finds is what the network's gradients say."""

import itertools
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from spatial.graph import Connection
from spatial.locality import LocalityPriorLinear
from spatial.tracing import Skipped, placeable, trace


class Net(nn.Module):
    """Modules by name and a function of them and the input."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *given, **named):
        return self.run(self, *given, **named)


def own_attention(net, x):
    q, k, v = (each(x).unflatten(-1, (2, 3)).transpose(1, 2) for each in (net.q, net.k, net.v))
    weights = (q @ k.transpose(-2, -1) / 3**0.5).softmax(-1)
    return net.out((weights @ v).transpose(1, 2).flatten(2))


def fused_attention(net, x):
    q, k, v = (each(x).unflatten(-1, (2, 3)).transpose(1, 2) for each in (net.q, net.k, net.v))
    return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def packed_attention(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    return net.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


def pieces(net, x):
    y = x.new_zeros(len(x), 7)
    y[:, :3], y[:, 3:] = net.a(x), net.b(x).relu_()
    return net.out(y)


def squeezed(net, x):
    x = net.a(x)
    return net.out(x * net.gate(x.mean((2, 3))).sigmoid()[:, :, None, None])


def einsum_heads(net, x):
    return net.out(torch.einsum("bth,hk->btk", net.a(x), torch.eye(4)))


def linears(**sizes):
    return {name: nn.Linear(*size) for name, size in sizes.items()}


def attention():
    return linears(q=(6, 6), k=(6, 6), v=(6, 6), out=(6, 2))


IMAGES, ROWS, WORDS = (2, 3, 8, 8), (4, 5), (2, 5, 6)
EYE = list(range(4))
# network, shape of the example, features by connection
ZOO = {
    "dense": (lambda: Net(lambda n, x: n.b(n.a(x).relu()), **linears(a=(5, 4), b=(4, 2))), ROWS, {"a b": EYE}),
    "flattened": (
        lambda: Net(
            lambda n, x: n.b(F.max_pool2d(n.a(x), 4).flatten(1)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(16, 2)
        ), IMAGES, {"a b": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]},
    ),
    "channels last": (
        lambda: Net(
            lambda n, x: n.b(n.a(x).permute(0, 2, 3, 1).flatten(1)), a=nn.Conv2d(3, 4, 5), b=nn.Linear(64, 2)
        ), IMAGES, {"a b": EYE * 16},
    ),
    "pooled": (
        lambda: Net(
            lambda n, x: n.c(F.adaptive_avg_pool2d(F.interpolate(n.b(F.avg_pool2d(n.a(x), 3, 2, 1)), scale_factor=2,
                             mode="bilinear"), 1).flatten(1)),
            a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 1), c=nn.Linear(4, 2),
        ), IMAGES, {"a b": EYE, "b c": EYE},
    ),
    "residual": (
        lambda: Net(lambda n, x: n.c(n.b(n.a(x).relu()).add_(n.skip(x)).relu()), a=nn.Conv2d(3, 4, 3, padding=1),
                    b=nn.Conv2d(4, 4, 3, padding=1), skip=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 2, 1)),
        IMAGES, {"a b": EYE, "b c": EYE, "skip c": EYE},
    ),
    "concatenated": (
        lambda: Net(lambda n, x: n.c(torch.cat([n.a(x), x, n.b(x)], 1)), **linears(a=(5, 2), b=(5, 3), c=(10, 2))),
        ROWS, {"a c": [0, 1, *[-1] * 8], "b c": [*[-1] * 7, 0, 1, 2]},
    ),
    "gated halves": (
        lambda: Net(lambda n, x: n.b(F.glu(n.a(x))), **linears(a=(5, 8), b=(4, 2))), ROWS, {},
    ),
    "only a half": (
        lambda: Net(lambda n, x: n.b(n.a(x).chunk(2, -1)[1]), **linears(a=(5, 8), b=(4, 2))), ROWS,
        {"a b": [4, 5, 6, 7]},
    ),
    "written in pieces": (
        lambda: Net(pieces, **linears(a=(5, 3), b=(5, 4), out=(7, 2))), ROWS,
        {"a out": [0, 1, 2, *[-1] * 4], "b out": [-1, -1, -1, *EYE]},
    ),
    "squeezed and excited": (
        lambda: Net(squeezed, a=nn.Conv2d(3, 4, 1), gate=nn.Linear(4, 4), out=nn.Conv2d(4, 2, 1)), IMAGES,
        {"a gate": EYE, "a out": EYE, "gate out": EYE},
    ),
    "groups, shuffled": (
        lambda: Net(lambda n, x: n.b(F.channel_shuffle(n.a(x), 2)), a=nn.Conv2d(3, 4, 1),
                    b=nn.Conv2d(4, 4, 1, groups=2)), IMAGES, {"a b": [0, 2, 1, 3]},
    ),
    "pixels shuffled": (
        lambda: Net(lambda n, x: n.b(F.pixel_unshuffle(n.a(x), 2)), a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(8, 2, 1)), IMAGES,
        {"a b": [0, 0, 0, 0, 1, 1, 1, 1]},
    ),
    "of a sequence": (
        lambda: Net(lambda n, x: n.c(n.b(n.a(x).relu()).mean(1)), **linears(a=(6, 4), b=(4, 4), c=(4, 2))), WORDS,
        {"a b": EYE, "b c": EYE},
    ),
    "used twice": (
        lambda: Net(lambda n, x: n.c(n.b(n.b(n.a(x)).relu())), **linears(a=(5, 4), b=(4, 4), c=(4, 2))), ROWS,
        {"a b": EYE, "b b": EYE, "b c": EYE},
    ),
    "weight normed": (
        lambda: Net(lambda n, x: n.b(n.a(x)), a=parametrizations.weight_norm(nn.Linear(5, 4)),
                    b=parametrizations.weight_norm(nn.Linear(4, 2))), ROWS, {"a b": EYE},
    ),
    "attention by hand": (lambda: Net(own_attention, **attention()), WORDS, {"v out": [*range(6)]}),
    "attention, fused": (lambda: Net(fused_attention, **attention()), WORDS, {"v out": [*range(6)]}),
    "attention, packed": (
        lambda: Net(packed_attention, **linears(qkv=(6, 12), out=(4, 2))), WORDS, {"qkv out": [8, 9, 10, 11]},
    ),
    "an image at a time": (
        lambda: Net(lambda n, x: n.b(n.a(x[0]).flatten()), a=nn.Conv2d(3, 4, 8), b=nn.Linear(4, 2)), IMAGES,
        {"a b": EYE},
    ),
    "padded": (
        lambda: Net(lambda n, x: n.b(F.pad(n.a(x), (1, 2), value=3)), **linears(a=(5, 4), b=(7, 2))), ROWS,
        {"a b": [-1, *EYE, -1, -1]},
    ),
    "pruned": (
        lambda: Net(lambda n, x: n.b(n.a(x)), a=prune.random_unstructured(nn.Linear(5, 4), "weight", 0.5),
                    b=prune.random_unstructured(nn.Linear(4, 2), "weight", 2)), ROWS, {"a b": EYE},
    ),
    "a locality prior": (
        lambda: Net(lambda n, x: n.b(n.a(x)), a=nn.Linear(5, 4), b=LocalityPriorLinear(4, 4)), ROWS, {"a b": EYE},
    ),
    "a window, masked": (
        lambda: Net(lambda n, x: n.b(F.hardswish((y := n.a(x)) + y.new_zeros(4).masked_fill_(y.new_ones(4) > 2, 5))),
                    **linears(a=(5, 4), b=(4, 2))), ROWS, {"a b": EYE},
    ),
    "enlarged": (
        lambda: Net(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=2)), a=nn.Conv2d(3, 4, 3),
                    b=nn.Conv2d(4, 2, 1)), IMAGES, {"a b": EYE},
    ),
    "weight by hand": (
        lambda: Net(lambda n, x: F.linear(F.linear(x, n.a.weight, n.a.bias)[:, 1:], n.b.weight),
                    **linears(a=(5, 4), b=(3, 2))), ROWS, {"a b": [1, 2, 3]},
    ),
}  # fmt: skip


def example_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


OTHER_WAYS = ("squeezed and excited", "attention, packed", "used twice")  # from a source to a target, not by its units


@pytest.mark.parametrize("name", ZOO)
def test_features(name):
    make, shape, expected = ZOO[name]
    found = trace(make(), example_of(shape))
    assert {" ".join(edge): held.tolist() for edge, held in found.features.items()} == expected


@pytest.mark.parametrize("name", [name for name in ZOO if name not in OTHER_WAYS])
def test_gradients_say_the_same(name):
    """A target's feature depends on the unit of the source that the trace has found, and on no other."""
    make, shape, _ = ZOO[name]
    network, example = make().double(), example_of(shape).double()
    found = trace(network, example)
    outputs, inputs = {}, {}
    for layer, own in found.layers.items():
        own.module.register_forward_hook(lambda _, given, made, layer=layer: outputs.update({layer: made}))
        own.module.register_forward_pre_hook(lambda _, given, layer=layer: inputs.update({layer: given[0]}))
    network(example)

    def axis(layer):
        return -3 if isinstance(found.layers[layer].module, nn.Conv2d) else -1

    for edge, features in found.features.items():
        if edge.target not in inputs:  # its weight is used by hand
            continue
        for feature, unit in enumerate(features.tolist()):
            read = inputs[edge.target].select(axis(edge.target), feature).sum()
            (slope,) = torch.autograd.grad(read, outputs[edge.source], retain_graph=True, allow_unused=True)
            depends = slope.abs().movedim(axis(edge.source), 0).flatten(1).sum(1) > 1e-12
            assert depends.nonzero().flatten().tolist() == ([unit] if unit >= 0 else [])


def names(found):
    return [" ".join(edge) for edge in found.features]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention(need_weights, batch_first):
    """The values feed the output projection; the queries and keys feed nothing."""
    network = Net(
        lambda n, x: n.head(n.attend(n.a(x), n.a(x), n.a(x), need_weights=need_weights)[0]),
        a=nn.Linear(6, 6), attend=nn.MultiheadAttention(6, 2, batch_first=batch_first), head=nn.Linear(6, 2),
    )  # fmt: skip
    found = trace(network, example_of(WORDS))
    assert sorted(names(found)) == [
        "a attend.key", "a attend.query", "a attend.value", "attend.out_proj head", "attend.value attend.out_proj"
    ]  # fmt: skip
    assert all(held.tolist() == list(range(6)) for held in found.features.values())
    ended = {each.source for each in found.skipped if each.target == "attend.out_proj"}
    assert ended == {"attend.query", "attend.key"}


def test_attention_to_another_sequence():
    network = Net(
        lambda n, x: n.attend(n.a(x), n.b(x), n.b(x))[0],
        a=nn.Linear(6, 6), b=nn.Linear(6, 4), attend=nn.MultiheadAttention(6, 2, kdim=4, vdim=4, bias=False),
    )  # fmt: skip
    found = trace(network, example_of(WORDS))
    assert sorted(names(found)) == ["a attend.query", "attend.value attend.out_proj", "b attend.key", "b attend.value"]
    shared = Net(
        lambda n, x: n.attend(n.a(x), n.b(x), n.b(x))[0],
        a=nn.Linear(6, 6), b=nn.Linear(6, 6), attend=nn.MultiheadAttention(6, 2),
    )  # fmt: skip
    assert sorted(names(trace(shared, example_of(WORDS)))) == sorted(names(found))


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer(norm_first):
    """Everything that adds to the stream feeds everything that reads it later."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=norm_first)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).requires_grad_(False)
    found = trace(network, example_of(WORDS))
    first, second = ([f"layers.{i}.{n}" for n in ("self_attn.out_proj", "linear2")] for i in (0, 1))
    readers = ["self_attn.query", "self_attn.key", "self_attn.value", "linear1"]
    expected = [(source, f"layers.1.{reader}") for source in first for reader in readers]
    expected += [(second[0], "layers.1.linear1"), (first[0], "layers.0.linear1")]
    for i in (0, 1):
        expected += [(f"layers.{i}.self_attn.value", f"layers.{i}.self_attn.out_proj")]
        expected += [(f"layers.{i}.linear1", f"layers.{i}.linear2")]
    assert sorted(found.features) == sorted(Connection(*pair) for pair in expected)
    assert list(found.layers)[:4] == [f"layers.0.{n}" for n in (*readers[:3], "self_attn.out_proj")]


ENDS = {
    "a product with other weights": (lambda n, x: n.b(n.a(x) @ n.w), "a product sums over its units"),
    "a sum over units": (
        lambda n, x: n.b(n.a(x).sum(1, keepdim=True).expand(-1, 4)), "a sum or a maximum over its units"
    ),
    "two orders": (lambda n, x: n.b((y := n.a(x)) + y.flip(1)), "an operation mixes its units"),
    "a strange operation": (lambda n, x: n.b(n.a(x).cumprod(1)), "ended by cumprod"),
    "the weight the other way": (lambda n, x: n.b((n.a(x) @ n.a.weight)[:, :4]), "a product sums over its units"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_a_path_is_listed(name):
    run, why = ENDS[name]
    network = Net(run, **linears(a=(5, 4), b=(4, 2)))
    network.w = nn.Parameter(torch.randn(4, 4))
    found = trace(network, example_of(ROWS))
    assert not found.features
    assert found.skipped[0][:2] == ("a", "b")
    assert found.skipped[0].why in (why, "its weight is used another way, too")


def test_a_path_that_ends_beside_one_that_does_not_is_a_connection():
    """A norm written by hand: the mean over units mixes them, their division by it does not."""
    network = Net(
        lambda n, x: n.b((y := n.a(x)) * y.pow(2).mean(-1, keepdim=True).rsqrt()), **linears(a=(5, 4), b=(4, 2))
    )
    found = trace(network, example_of(ROWS))
    assert names(found) == ["a b"] and not found.skipped


def test_what_has_no_places_is_listed():
    network = Net(
        lambda n, x: n.b(n.conv(x).flatten(1)), conv=nn.Conv1d(3, 4, 3), b=nn.Linear(24, 2), idle=nn.Linear(2, 2)
    )
    found = trace(network, example_of((2, 3, 8)))
    assert [str(each) for each in found.skipped] == [
        "idle: not used in the example's forward pass",
        "conv: Conv1d has no places, Linear, Conv2d and MultiheadAttention have",
    ]
    assert str(Skipped("a", "b", "why")) == "a -> b: why"


def test_batch_norms_right_behind_a_layer_are_found():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    network.extend([nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 2)])
    assert trace(network, example_of(IMAGES)).norms == {"0": "1", "4": "5"}


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: n.b(n.norm(n.a(x)) + n.a(x)),
        lambda n, x: n.b(n.norm(n.a(x).relu())),
        lambda n, x: (y := n.a(x), n.b(n.norm(y) + y))[1],
        lambda n, x: n.b(n.norm(n.norm(n.a(x)) * 0 + x[:, :4]) + n.a(x)),
    ],
)
def test_a_batch_norm_that_reads_something_else_as_well_is_not(run):
    """Nor is one behind an activation, nor behind a layer that something else reads."""
    network = Net(run, norm=nn.BatchNorm1d(4), **linears(a=(5, 4), b=(4, 2)))
    assert trace(network, example_of(ROWS)).norms == {}


def test_the_network_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes, draws = [each.training for each in network.modules()], torch.get_rng_state()
    trace(network, example_of(IMAGES))
    assert [each.training for each in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draws) and torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(each.grad is None for each in network.parameters())


def test_a_compiled_network():
    network = torch.compile(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert names(trace(network, example_of(ROWS))) == ["_orig_mod.0 _orig_mod.2"]


def test_several_arguments_and_named_ones():
    network = Net(lambda n, x, y: n.b(n.a(x) + y), **linears(a=(5, 4), b=(4, 2)))
    x, y = example_of(ROWS), torch.ones(4)
    assert names(trace(network, (x, y))) == names(trace(network, {"x": x, "y": y})) == ["a b"]


def test_an_example_that_does_not_fit_is_one_line():
    with pytest.raises(ValueError, match=re.escape("the example does not go through the network: ")) as caught:
        trace(nn.Linear(5, 4), example_of((2, 3)))
    assert "\n" not in str(caught.value)


def test_shared_weights_have_places_once():
    network = Net(lambda n, x: n.b(n.a(x)), **linears(a=(5, 5), b=(5, 5)))
    network.b.weight = network.a.weight
    assert list(placeable(network)) == ["a"]
    assert names(trace(network, example_of(ROWS))) == ["a a"]


def test_autocast_within_the_network():
    def run(n, x):
        with torch.autocast("cpu", torch.bfloat16):
            return n.b(n.a(x).relu())

    assert names(trace(Net(run, **linears(a=(5, 4), b=(4, 2))), example_of(ROWS))) == ["a b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vgg16", "resnet50", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16",
             "swin_t", "shufflenet_v2_x1_0", "regnet_y_400mf"],
)  # fmt: skip
def test_torchvisions_networks_are_followed_to_the_end(name):
    """Every layer but the first is fed, and every batch norm behind a convolution is found."""
    network = getattr(torchvision.models, name)()
    found = trace(network, example_of((2, 3, 224, 224)))
    first, *others = found.layers
    assert {edge.target for edge in found.features} == set(others), first
    assert not [
        each for each in found.skipped if each.target is not None and not each.source.endswith(("query", "key"))
    ]
    modules = list(network.named_modules())
    behind = {
        before: after for (before, a), (after, b) in itertools.pairwise(modules)
        if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) and a.out_channels == b.num_features
    }  # fmt: skip
    if name not in ("densenet121", "resnet50", "shufflenet_v2_x1_0"):  # these list norms in another order than they run
        assert found.norms == behind
