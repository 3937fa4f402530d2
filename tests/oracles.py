"""Every formula once more, in plain Python loops over floats. Shares no code with ``spatial`` and does not import it.

Points, weights and logits are nested lists: a layer's weights are ``weights[out][in]``, a network is a list of those.
"""

import math


def distance(a, b):
    """``||a - b||_2`` of two points."""
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def size_of(weight, norm):
    """``phi``: ``|w|`` or ``w^2``, summed over nested taps."""
    if isinstance(weight, list):
        return sum(size_of(tap, norm) for tap in weight)
    return abs(weight) if norm == "l1" else weight**2


def transport(weight, target, source, norm, per):
    phi = [[size_of(weight[j][i], norm) for i in range(len(source))] for j in range(len(target))]
    d = [[distance(target[j], source[i]) for i in range(len(source))] for j in range(len(target))]
    if per == "connection":
        total = 0.0
        for j in range(len(target)):
            for i in range(len(source)):
                total += d[j][i] * phi[j][i]
        return total / (len(target) * len(source))
    incoming = 0.0
    for j in range(len(target)):
        strength = sum(phi[j][i] for i in range(len(source)))
        if strength > 0:
            incoming += sum(phi[j][i] * d[j][i] for i in range(len(source))) / strength
    outgoing = 0.0
    for i in range(len(source)):
        strength = sum(phi[j][i] for j in range(len(target)))
        if strength > 0:
            outgoing += sum(phi[j][i] * d[j][i] for j in range(len(target))) / strength
    return (incoming / len(target) + outgoing / len(source)) / 2


def proximity(places):
    terms = []
    for j in range(len(places)):
        for k in range(len(places)):
            if j != k:
                terms.append(math.exp(-distance(places[j], places[k])))
    return sum(terms) / len(terms) if terms else 0.0


def heads(classes):
    """The indices of each task's outputs."""
    starts = [sum(classes[:task]) for task in range(len(classes))]
    return [list(range(start, start + number)) for start, number in zip(starts, classes, strict=True)]


def cross_entropy(logits, label):
    top = max(logits)
    return top + math.log(sum(math.exp(x - top) for x in logits)) - logits[label]


def task_loss(logits, labels, classes):
    """The mean cross-entropy over every (image, task) with a label; -1 is none."""
    terms = []
    for row, wanted in zip(logits, labels, strict=True):
        for own, label in zip(heads(classes), wanted, strict=True):
            if label >= 0:
                terms.append(cross_entropy([row[output] for output in own], label))
    return sum(terms) / len(terms)


def accuracy(logits, labels, classes):
    """Per task, over the images that have a label."""
    result = []
    for task, own in enumerate(heads(classes)):
        hits = []
        for row, wanted in zip(logits, labels, strict=True):
            if wanted[task] >= 0:
                guesses = [row[output] for output in own]
                hits.append(guesses.index(max(guesses)) == wanted[task])
        result.append(sum(hits) / len(hits))
    return result


def moments(values):
    """Mean, mean |a| and population variance of a list of numbers, in two passes."""
    mean = math.fsum(values) / len(values)
    mean_abs = math.fsum(abs(value) for value in values) / len(values)
    return mean, mean_abs, math.fsum((value - mean) ** 2 for value in values) / len(values)


def mean_and_deviation(values):
    """The mean and the sample standard deviation, None for a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def outgoing(readers):
    """``sum |w|`` over the weights that read each unit, of ``readers[out][in]``."""
    return [sum(abs(row[unit]) for row in readers) for unit in range(len(readers[0]))]


def live(readers):
    sums = outgoing(readers)
    return [each > 0.1 * sum(sums) / len(sums) for each in sums]


def owners(weights, classes, method):
    """Owner of every unit, layer by layer, the output layer last; ``greedy`` or ``balanced``; -1: feeds nothing.

    Args:
        weights: of all placed layers, the first hidden layer's first.
    """
    tasks = range(len(classes))
    result = [[task for task in tasks for _ in range(classes[task])]]
    for readers in reversed(weights[1:]):
        score = [[0.0] * len(readers[0]) for _ in tasks]
        for task in tasks:
            for unit in range(len(readers[0])):
                for reader, owner in enumerate(result[0]):
                    if owner == task:
                        score[task][unit] += abs(readers[reader][unit])
        if method == "balanced":
            totals = [sum(row) for row in score]
            score = [[x / total if total > 0 else 0.0 for x in row] for row, total in zip(score, totals, strict=True)]
        layer = []
        for unit in range(len(readers[0])):
            best = max(score[task][unit] for task in tasks)
            layer.append(-1 if best == 0 else min(task for task in tasks if score[task][unit] == best))
        result.insert(0, layer)
    return result


ACTIVATIONS = {
    "ReLU": lambda x: max(x, 0.0),
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "Tanh": math.tanh,
    "GELU": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
}


def forward(weights, biases, activation, pixels, kept=None):
    """Activations of every hidden layer, then the logits, of a fully connected network.

    Args:
        pixels: the input, flat.
        kept: for each hidden layer the units that are there; all others are not computed at all.
    """
    inputs = dict(enumerate(pixels))  # by unit: what is not there feeds nothing
    layers = []
    for depth, (matrix, bias) in enumerate(zip(weights, biases, strict=True)):
        last = depth == len(weights) - 1
        units = range(len(matrix)) if last or kept is None else kept[depth]
        outputs = {}
        for unit in units:
            total = bias[unit] + sum(matrix[unit][i] * x for i, x in inputs.items())
            outputs[unit] = total if last else ACTIVATIONS[activation](total)
        layers.append([outputs[unit] for unit in units])
        inputs = outputs
    return layers
