import oracles
import pytest
import torch
from helpers import alexnet, hooks, lenet, mlp, noise_tasks, parameters
from torch import nn

from spatial.models import ACTIVATIONS
from spatial.recording import BY, Moments, record_groups, watching
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


MEASURES = ("mean", "mean_abs", "variance")
SIZES, CLASSES = (9, 5, 7), (3, 8, 2)  # 5 images have no more than 5 of 8 labels


def network(input, activation="ReLU"):
    return mlp((3 if input == "concatenate" else 1, 4, 4), (4, 3), CLASSES, activation)


def alone(model, tasks, task, images):
    """Hidden activations of some images of one task, by the oracle: ``[layer][image][unit]``."""
    weights, biases = parameters(model)
    activations = []
    for image in images:
        pixels = (tasks.images[task][image].flatten() / 255).tolist()
        if tasks.input == "concatenate":
            pixels = [x for channel in range(3) for x in (pixels if channel == task else [0.0] * 16)]
        activations.append(oracles.forward(weights, biases, model.activation, pixels)[:-1])
    return [list(layer) for layer in zip(*activations, strict=True)]


def assert_row_of(recorded, row, activations):
    for layer, images in enumerate(activations):
        for unit, column in enumerate(zip(*images, strict=True)):
            found = [recorded[f"layer-{layer}/{measure}"][row, unit] for measure in MEASURES]
            assert found == pytest.approx(oracles.moments(column), rel=1e-6, abs=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_tasks_own_activity_is_that_of_its_images_alone(input, activation):
    tasks, model = noise_tasks(input, SIZES, CLASSES), network(input, activation)
    recorded = record_groups(model, tasks, "task", batch_size=4)
    assert recorded["count"].tolist() == list(SIZES)
    for task, size in enumerate(SIZES):
        assert_row_of(recorded, task, alone(model, tasks, task, range(size)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("batch_size", [1, 2, 4, 1000])
def test_a_labels_activity_is_that_of_its_images_alone(input, batch_size):
    tasks, model = noise_tasks(input, SIZES, CLASSES), network(input)
    recorded = record_groups(model, tasks, "label", batch_size)
    pairs = [(task, label) for task, classes in enumerate(CLASSES) for label in range(classes)]
    assert all(len(array) == len(pairs) == 13 for array in recorded.values())
    for row, (task, label) in enumerate(pairs):
        own = tasks.labels[task].tolist()
        images = [image for image in range(SIZES[task]) if own[image] == label]
        assert recorded["count"][row] == len(images)
        if images:
            assert_row_of(recorded, row, alone(model, tasks, task, images))
    assert 0 in recorded["count"] and recorded["count"].sum() == sum(SIZES)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_a_label_without_images_has_no_statistics(batch_size):
    recorded = record_groups(network("mix"), noise_tasks(sizes=SIZES, classes=CLASSES), "label", batch_size)
    empty = torch.from_numpy(recorded["count"] == 0)
    assert empty.any() and not empty.all()
    for layer in (0, 1):
        for measure in MEASURES:
            undefined = torch.from_numpy(recorded[f"layer-{layer}/{measure}"]).isnan()
            assert torch.equal(undefined, empty[:, None].expand_as(undefined))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("input", INPUTS)
def test_labels_together_are_their_task(input):
    tasks, model = noise_tasks(input, (90, 50, 70), CLASSES), network(input, "Tanh")
    whole, parts = (record_groups(model, tasks, by, batch_size=16) for by in ("task", "label"))
    for task, rows in enumerate(torch.arange(sum(CLASSES)).split(CLASSES)):
        share = (torch.from_numpy(parts["count"])[rows] / whole["count"][task])[:, None]
        assert share.sum() == pytest.approx(1)
        for layer in (0, 1):
            names = [f"layer-{layer}/{measure}" for measure in MEASURES]
            mean, mean_abs, variance = (torch.from_numpy(whole[name])[task] for name in names)
            means, means_abs, variances = (torch.from_numpy(parts[name])[rows].nan_to_num() for name in names)
            torch.testing.assert_close((share * means).sum(0), mean, rtol=0, atol=1e-12)
            torch.testing.assert_close((share * means_abs).sum(0), mean_abs, rtol=0, atol=1e-12)
            total = (share * (variances + (means - mean).square())).sum(0)  # the law of total variance
            torch.testing.assert_close(total, variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("by", "rows"), [("task", 2), ("label", 5)])
def test_what_is_recorded_has_one_row_per_group(by, rows):
    recorded = record_groups(mlp(layers=(4, 3)), noise_tasks(sizes=(9, 5)), by)
    assert list(recorded) == ["count", *(f"layer-{layer}/{measure}" for layer in (0, 1) for measure in MEASURES)]
    assert recorded["count"].shape == (rows,)
    assert all(
        recorded[f"layer-{layer}/{measure}"].shape == (rows, units)
        for layer, units in ((0, 4), (1, 3))
        for measure in MEASURES
    )
    assert all(recorded[f"layer-0/{measure}"].dtype == "float64" for measure in MEASURES)


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("by", BY)
def test_every_image_is_shown_once_and_alone(by, input):
    tasks, model, shown = noise_tasks(input, SIZES, CLASSES), network(input), []
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    record_groups(model, tasks, by, batch_size=4)
    expected = torch.cat([tasks.batch(tasks.alone(task)).images for task in range(3)])
    assert 0 not in map(len, shown)
    found = torch.cat(shown)
    assert torch.equal(found[found.sum((1, 2, 3)).argsort()], expected[expected.sum((1, 2, 3)).argsort()])


class Channels(nn.Module):
    """One convolution as a placed layer, whose units are channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.conv.positions = nn.Parameter(torch.randn(3, 2))
        self.activity = {"conv": "conv"}

    def forward(self, images):
        return self.conv(images)


@pytest.mark.usefixtures("float64")
def test_labels_of_feature_maps_count_images():
    tasks, model = noise_tasks(sizes=SIZES, classes=CLASSES), Channels()
    recorded = record_groups(model, tasks, "label", batch_size=4)
    assert recorded["count"].sum() == sum(SIZES)
    for label in range(CLASSES[0]):
        images = tasks.images[0][:-1][tasks.labels[0][:-1] == label] / 255
        columns = model(images).transpose(0, 1).flatten(1).tolist()
        assert_row_of(recorded, label, [list(zip(*columns, strict=True))])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [lenet, alexnet])
def test_labels_of_a_network_with_dropout_are_those_of_evaluation(make):
    """Whatever mode it is in."""
    size = 16 if make is lenet else 63
    tasks, model = noise_tasks(sizes=(6, 4), size=size), make(layers=(9, 9)).double().train()
    recorded = record_groups(model, tasks, "label", batch_size=4)
    assert recorded["count"].sum() == 10
    heard = {}
    for label in range(3):
        images = tasks.images[0][:-1][tasks.labels[0][:-1] == label] / 255
        if len(images):
            with torch.no_grad(), watching(model.eval(), lambda layer, activation: heard.update({layer: activation})):
                model(images)
            assert_row_of(recorded, label, [values.tolist() for values in heard.values()])


def test_an_unknown_grouping_is_refused():
    with pytest.raises(ValueError, match="by must be one of task, label, got 'image'"):
        record_groups(mlp(), noise_tasks(), "image")


def test_hooks_are_removed():
    model, tasks = mlp(), noise_tasks()
    record_groups(model, tasks, "task", 8)
    assert hooks(model) == 0


def test_hooks_are_removed_after_an_interruption(monkeypatch):
    model, tasks = mlp(), noise_tasks()

    def interrupted(chunks):
        yield tasks.batch(torch.tensor([[0, 0]]))
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "series", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_groups(model, tasks, "task")
    assert hooks(model) == 0


def test_watching_hears_every_hidden_layer_in_its_order():
    model, images = mlp(layers=(6, 5)), torch.rand(3, 1, 4, 4)
    heard = []
    with watching(model, lambda layer, activation: heard.append((layer, activation))):
        model(images)
        model(images[:1])
    model(images)  # nobody listens any more
    assert [(layer, *activation.shape) for layer, activation in heard] == [
        ("linear.0", 3, 6), ("linear.1", 3, 5), ("linear.0", 1, 6), ("linear.1", 1, 5),
    ]  # fmt: skip
    weights, biases = parameters(model)
    first, second, _ = oracles.forward(weights, biases, "ReLU", images[2].flatten().tolist())
    assert heard[0][1][2].tolist() == pytest.approx(first, abs=1e-6)
    assert heard[1][1][2].tolist() == pytest.approx(second, abs=1e-6)


def test_watching_ends_with_an_interruption():
    model = mlp()
    with pytest.raises(KeyboardInterrupt), watching(model, lambda *_: None):
        assert hooks(model) == 2
        raise KeyboardInterrupt
    assert hooks(model) == 0
