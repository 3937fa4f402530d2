"""What only a GPU shows: the same numbers as on the CPU, and no waiting for the device within an epoch."""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from helpers import PLANE, alexnet, conv, lenet, mlp, noise_tasks

from spatial import kernels
from spatial.costs import proximity, transport
from spatial.progress import Watch
from spatial.tasks import INPUTS
from spatial.training import OPTIMIZERS, fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.usefixtures("float64"),
]
COSTS = {"transport": 0.3, "proximity": 0.2, "weight_penalty": 0.1, "norm": "l1", "per": "neuron"}


def moved(tasks):
    """The same tasks on the GPU."""
    there = deepcopy(tasks)
    there.images = [images.cuda() for images in tasks.images]
    there.labels = [labels.cuda() for labels in tasks.labels]
    return there


def trained(models, tasks, **options):
    """All yields of training, and the networks' values on the CPU."""
    seeds = range(len(models))
    points = list(fit(models, tasks, tasks, seeds=seeds, **{"epochs": 2, "batch_size": 8, **COSTS, **options}))
    return points, [{name: value.cpu() for name, value in model.state_dict().items()} for model in models]


@pytest.mark.parametrize("block", [7, kernels.WHOLE])
@pytest.mark.parametrize("per", kernels.PER)
@pytest.mark.parametrize("norm", kernels.PHI)
def test_costs_are_the_cpus(norm, per, block, monkeypatch):
    monkeypatch.setattr(kernels, "WHOLE", block)
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        tensors = [torch.randn(*shape).to(device).requires_grad_() for shape in ((9, 7), (9, 2), (7, 2))]
        value = transport(*tensors, norm, per) + proximity(tensors[1])
        found.append([each.cpu() for each in (value, *torch.autograd.grad(value, tensors))])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("make", [mlp, conv])
def test_training_together_on_a_gpu_is_training_alone_on_the_cpu(make, input):
    tasks = noise_tasks(input)
    shape = (2 if input == "concatenate" else 1, 4, 4)
    here = [make(shape, classes=tasks.classes, seed=seed).double() for seed in range(3)]
    there = [deepcopy(model).cuda() for model in here]
    _, together = trained(there, moved(tasks))
    for seed, model in enumerate(here):
        for _ in fit([model], tasks, tasks, seeds=[seed], epochs=2, batch_size=8, **COSTS):
            pass
        torch.testing.assert_close(together[seed], dict(model.state_dict()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(
    "options",
    [*({"optimizer": name} for name in OPTIMIZERS), {"accumulate": 4, "warmup": 1.0}, {"precision": "bf16"}],
    ids=str,
)
def test_nothing_waits_for_the_device_within_an_epoch(options, replicas, monkeypatch):
    @contextmanager
    def strict(watch, seeds, epoch, done, steps):
        yield each(range(done, steps))

    def each(steps):
        try:
            for step in steps:
                torch.cuda.set_sync_debug_mode("error")
                yield step
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Watch, "steps", strict)
    monkeypatch.setattr(Watch, "due", lambda watch: False)
    torch.set_default_dtype(torch.float32 if "precision" in options else torch.float64)  # doubles are never shortened
    tasks = moved(noise_tasks())
    dtype = torch.get_default_dtype()
    models = [mlp(classes=tasks.classes, seed=seed).to("cuda", dtype) for seed in range(replicas)]
    points, _ = trained(models, tasks, lr=1e-3, **options)
    assert [(point.epoch, point.step, len(point.results)) for point in points] == [(1, 0, replicas), (2, 0, replicas)]


@pytest.mark.parametrize("make", [lenet, alexnet])
def test_resuming_in_the_midst_of_an_epoch_drops_the_same(make):
    """The device's own generator goes on where it was."""
    whole = make(prior=PLANE).double().cuda()
    tasks, states = moved(noise_tasks(size=whole.shape[-1])), []
    options = {"epochs": 2, "batch_size": 8, "optimizer": "SGD", "lr": 0.01}
    for point in fit([whole], tasks, tasks, seeds=[0], save_every=1, **options):
        states.append((deepcopy(whole.state_dict()), deepcopy(point)))
    for state, start in states[0], states[4]:  # in the first epoch, and in the second
        assert start.step in (1, 2)
        resumed = make(prior=PLANE, seed=5).double().cuda()
        resumed.load_state_dict(state)
        torch.cuda.manual_seed(3)
        before = torch.cuda.get_rng_state()
        for _ in fit([resumed], tasks, tasks, seeds=[0], start=start, **options):
            pass
        assert torch.equal(torch.cuda.get_rng_state(), before)
        torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=1e-7, atol=1e-9)


def test_training_in_short_products_on_a_gpu_is_that_on_the_cpu():
    torch.set_default_dtype(torch.float32)
    tasks, here = noise_tasks(), mlp()
    there = deepcopy(here).cuda()
    options = {"epochs": 1, "precision": "bf16", "optimizer": "SGD", "lr": 0.01}
    (one,), found = trained([there], moved(tasks), **options)
    (other,), wanted = trained([here], tasks, **options)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    assert one.results[0].train.loss == pytest.approx(other.results[0].train.loss, rel=0.02)
    assert all(value.dtype == torch.float32 for value in found[0].values())


def test_the_images_live_on_the_device():
    tasks = moved(noise_tasks())
    assert tasks.device.type == "cuda"
    batch = next(iter(tasks.batches(tasks.training_order(0, 1), 4)))
    assert batch.images.is_cuda and batch.labels.is_cuda
