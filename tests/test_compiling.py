"""A network through torch.compile: the same logits and gradients, told once for every shape, plain where it fails."""

import pytest
import torch
from helpers import PLANE, alexnet, conv, lenet, local, mlp

from spatial.compiling import Compiled, compiled_network

NOTICE = "compiling the network's layers, once for these layers (seconds)"
NETWORKS = {
    "mlp": mlp,
    "conv": conv,
    "local": local,
    "lenet": lambda: lenet(prior=PLANE),
    "alexnet": lambda: alexnet(prior=PLANE),
}


@pytest.fixture
def forgetful():
    """Nothing that another test compiled is known."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at it as it compiles
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_torch_reads_computes_the_same(make, forgetful, monkeypatch):
    """In one piece; read by torch, and run as it was read."""
    graphs, lines, compile = [], [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *given, **options: compile(*given, backend=backend, **options))
    model = make()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    model.train()
    network, images = compiled_network(model, lines.append), torch.rand(4, *model.shape)
    found = []
    for compute in (network, network, model):
        model.zero_grad()
        logits = compute(images)
        logits.square().sum().backward()
        found.append([logits, *(each.grad for each in model.parameters() if each.grad is not None)])
    for one, other, wanted in zip(*found, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, wanted, rtol=1e-4, atol=1e-5)
    assert lines == [NOTICE] and len(graphs) == 1


def test_every_shape_and_type_is_told_once(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda compute, **_: compute)
    model, lines = mlp(), []
    network = compiled_network(model, lines.append)
    for number, (size, dtype) in enumerate([(4, None), (3, None), (4, None), (3, None)]):
        assert torch.equal(network(images := torch.rand(size, 1, 4, 4, dtype=dtype)), model(images))
        assert lines == [NOTICE] * min(number + 1, 2)


def test_a_network_that_cannot_be_compiled_computes_plainly_with_one_warning(monkeypatch):
    tries, lines = [], []

    def broken(*_):
        tries.append(0)
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    model = mlp()
    network = compiled_network(model, lines.append)
    for size in (4, 3, 4):
        images = torch.rand(size, 1, 4, 4)
        assert torch.equal(network(images), model(images))
    assert tries == [0]
    warning = "warning: --compile: the network's layers are not compiled (no compiler); training goes on without"
    assert lines == [NOTICE, warning]


def test_what_is_compiled_may_fail_later_and_says_so():
    """Where it has worked before, the failure is its own."""
    lines = []

    def fused(value):
        if value < 0:
            raise ZeroDivisionError
        return 2 * value

    compute = Compiled(fused, abs, "sums", lines.append)
    assert (compute("a", 3), compute("a", 4)) == (6, 8)
    with pytest.raises(ZeroDivisionError):
        compute("a", -1)
    assert compute("b", -1) == 1  # of another case: plain from here on
    assert compute("a", -5) == 5
    assert [line.split(":")[0] for line in lines] == ["compiling the sums, once for these layers (seconds)"] * 2 + [
        "warning"
    ]
