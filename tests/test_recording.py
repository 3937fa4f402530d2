import oracles
import pytest
import torch
from helpers import mlp, noise_tasks, parameters

from spatial.models import ACTIVATIONS
from spatial.recording import Moments, record, record_tasks
from spatial.tasks import INPUTS


def moments_of(values, *sizes):
    """Moments of a matrix that arrives in batches of the given sizes."""
    moments = Moments()
    for batch in values.split(list(sizes) or [len(values)]):
        moments.add(batch)
    return moments


def assert_two_pass(moments, columns, rel=1e-6):
    for unit, column in enumerate(columns):
        mean, mean_abs, variance = oracles.moments(column)
        assert moments.mean[unit].item() == pytest.approx(mean, rel=rel)
        assert moments.mean_abs[unit].item() == pytest.approx(mean_abs, rel=rel)
        assert moments.variance[unit].item() == pytest.approx(variance, rel=rel)


@pytest.mark.parametrize(
    "sizes", [(), (1000,), (1, 999), (3, 500, 1, 496), (10,) * 100], ids=lambda sizes: f"{len(sizes)} batches"
)
@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (1e4, 1e-2), (-1e4, 1)])
def test_moments_are_those_of_two_passes(sizes, offset, spread):
    values = offset + spread * torch.randn(1000, 3, dtype=torch.float64)
    moments = moments_of(values, *sizes)
    assert moments.count == 1000
    assert_two_pass(moments, values.T.tolist())


def test_moments_of_float32_do_not_cancel():
    values = 1e4 + 0.1 * torch.randn(1000, 2)
    assert_two_pass(moments_of(values, 300, 700), values.T.tolist())


def test_moments_of_one_value_and_of_none():
    moments = moments_of(torch.tensor([[-3.0, 2.0]]))
    assert moments.mean.tolist() == [-3, 2]
    assert moments.mean_abs.tolist() == [3, 2]
    assert moments.variance.tolist() == [0, 0]
    moments.add(torch.zeros(0, 2))
    assert moments.count == 1
    assert moments.mean.tolist() == [-3, 2]


def test_every_place_of_a_feature_map_counts():
    maps = torch.randn(4, 3, 2, 5)
    moments = moments_of(maps, 1, 3)
    assert moments.count == 40
    assert_two_pass(moments, [maps[:, unit].flatten().tolist() for unit in range(3)])


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_tasks_own_activity_is_that_of_its_images_alone(input, activation):
    tasks = noise_tasks(input, sizes=(9, 5), classes=(3, 2))
    model = mlp((2 if input == "concatenate" else 1, 4, 4), (4, 3), activation=activation)
    recorded = record_tasks(model, tasks, batch_size=4)
    assert recorded["count"].tolist() == [9, 5]
    for task, size in enumerate((9, 5)):
        layers = alone(model, tasks, task, size, input)
        for layer in range(2):
            for unit, column in enumerate(zip(*layers[layer], strict=True)):
                found = [
                    recorded[f"layer-{layer}/{measure}"][task, unit] for measure in ("mean", "mean_abs", "variance")
                ]
                assert found == pytest.approx(oracles.moments(column), rel=1e-4, abs=1e-6)


def alone(model, tasks, task, size, input):
    """Hidden activations of every image of one task, by the oracle: ``[layer][image][unit]``."""
    weights, biases = parameters(model)
    images = []
    for image in range(size):
        pixels = (tasks.images[task][image].flatten() / 255).tolist()
        blank = [0.0] * 16
        if input == "concatenate":
            pixels = pixels + blank if task == 0 else blank + pixels
        images.append(oracles.forward(weights, biases, model.activation, pixels)[:-1])
    return [list(layer) for layer in zip(*images, strict=True)]


def test_what_is_recorded_has_one_row_per_task():
    recorded = record_tasks(mlp(layers=(4, 3)), noise_tasks(sizes=(9, 5)))
    measures = ("mean", "mean_abs", "variance")
    assert set(recorded) == {"count"} | {f"layer-{layer}/{measure}" for layer in (0, 1) for measure in measures}
    assert all(
        recorded[f"layer-{layer}/{measure}"].shape == (2, units)
        for layer, units in ((0, 4), (1, 3))
        for measure in measures
    )
    assert all(recorded[f"layer-0/{measure}"].dtype == "float64" for measure in measures)


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_removed():
    model, tasks = mlp(), noise_tasks()
    record(model, tasks.batches(tasks.scoring_order(), 8))
    assert hooks(model) == 0


def test_hooks_are_removed_after_an_interruption():
    def interrupted():
        yield noise_tasks().batch(torch.tensor([[0, 0]]))
        raise KeyboardInterrupt

    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        record(model, interrupted())
    assert hooks(model) == 0
