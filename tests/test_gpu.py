"""What only a GPU shows: the same numbers as on the CPU, and no waiting for the device within an epoch."""

from copy import deepcopy

import pytest
import torch
from helpers import conv, mlp, noise_tasks

from spatial import kernels, training
from spatial.costs import proximity, transport
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
    """All epochs, and the networks' values on the CPU."""
    seeds = range(len(models))
    epochs = list(fit(models, tasks, tasks, seeds=seeds, **{"epochs": 2, "batch_size": 8, **COSTS, **options}))
    return epochs, [{name: value.cpu() for name, value in model.state_dict().items()} for model in models]


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
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_waits_for_the_device_within_an_epoch(optimizer, replicas, monkeypatch):
    def strict(batches, **_):
        try:
            for batch in batches:
                torch.cuda.set_sync_debug_mode("error")
                yield batch
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training, "tqdm", strict)
    tasks = moved(noise_tasks())
    models = [mlp(classes=tasks.classes, seed=seed).double().cuda() for seed in range(replicas)]
    epochs, _ = trained(models, tasks, optimizer=optimizer, lr=1e-3)
    assert len(epochs) == 2


def test_the_images_live_on_the_device():
    tasks = moved(noise_tasks())
    assert tasks.device.type == "cuda"
    batch = next(iter(tasks.batches(tasks.training_order(0, 1), 4)))
    assert batch.images.is_cuda and batch.labels.is_cuda
