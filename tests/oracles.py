"""Every formula once more, in plain Python loops over floats. Shares no code with ``spatial`` and does not import it.

Points, weights and logits are nested lists: a layer's weights are ``weights[out][in]``, a network is a list of those.
"""

import itertools
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


def top_accuracy(logits, labels, classes, top):
    """Per task, over the images that have a label: whether fewer than ``top`` guesses are better than the right one."""
    result = []
    for task, own in enumerate(heads(classes)):
        hits = []
        for row, wanted in zip(logits, labels, strict=True):
            if wanted[task] >= 0:
                guesses = [row[output] for output in own]
                hits.append(len([each for each in guesses if each > guesses[wanted[task]]]) < top)
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


def distinct_places(points, tolerance):
    """Groups of points that are chained by distances <= ``tolerance``: flooded from one point after another."""
    dry, groups = list(range(len(points))), 0
    while dry:
        wet, groups = [dry.pop()], groups + 1
        while wet:
            point = wet.pop()
            reached = [other for other in dry if distance(points[point], points[other]) <= tolerance]
            dry = [other for other in dry if other not in reached]
            wet += reached
    return groups


def purity(points, owners, neighbours):
    """Every way of choosing among the neighbours tied at the last distance is tried, and all are averaged."""
    k = min(neighbours, len(points) - 1)
    shares = []
    for unit in range(len(points)):
        d = {i: distance(points[unit], points[i]) for i in range(len(points)) if i != unit}
        last = sorted(d.values())[k - 1]
        tied = [i for i in d if math.isclose(d[i], last, rel_tol=1e-6)]
        nearer = [i for i in d if d[i] < last and i not in tied]
        for_each_way = []
        for chosen in itertools.combinations(tied, k - len(nearer)):
            for_each_way.append(sum(owners[i] == owners[unit] for i in [*nearer, *chosen]) / k)
        shares.append(sum(for_each_way) / len(for_each_way))
    return sum(shares) / len(shares)


def kappa(points, owners, neighbours):
    chance = sum((owners.count(owner) / len(owners)) ** 2 for owner in set(owners))
    return (purity(points, owners, neighbours) - chance) / (1 - chance)


def silhouette(points, owners):
    terms = []
    for unit in range(len(points)):
        means = {}
        for owner in set(owners):
            d = [distance(points[unit], points[i]) for i in range(len(points)) if owners[i] == owner and i != unit]
            means[owner] = sum(d) / len(d) if d else None
        a = means.pop(owners[unit])
        b = min(means.values())
        terms.append(0.0 if a is None or max(a, b) == 0 else (b - a) / max(a, b))
    return sum(terms) / len(terms)


def crossing(weight, target_owners, source_owners):
    across = total = 0.0
    for j, reader in enumerate(target_owners):
        for i, read in enumerate(source_owners):
            if reader >= 0 and read >= 0:
                total += size_of(weight[j][i], "l1")
                across += size_of(weight[j][i], "l1") if reader != read else 0.0
    return across / total


def wire_length(weight, target, source):
    total = 0.0
    for j in range(len(target)):
        for i in range(len(source)):
            total += size_of(weight[j][i], "l1") * distance(target[j], source[i])
    return total


def adjusted_rand(a, b):
    """Hubert and Arabie's index, pair by pair of units."""
    both = in_a = in_b = pairs = 0
    for j in range(len(a)):
        for k in range(j):
            pairs += 1
            in_a += a[j] == a[k]
            in_b += b[j] == b[k]
            both += a[j] == a[k] and b[j] == b[k]
    chance, most = in_a * in_b / pairs, (in_a + in_b) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def pixel_grid(shape, dim):
    """Every pixel's place, in the order of a flattened image: channel by channel, row by row from the top."""
    channels, height, width = shape

    def step(index, n):  # the steps of n pixels have the variance (n^2 - 1) / 12
        return (index - (n - 1) / 2) / math.sqrt((n * n - 1) / 12) if n > 1 else 0.0

    places = []
    for _ in range(channels):
        for row in range(height):
            for column in range(width):
                places.append([step(column, width), -step(row, height)] + [0.0] * (dim - 2))
    return places


def sheet(units, other, topology):
    """Every unit's place, counted from 0, beside a layer of ``other`` units: the smaller of two grids is stretched."""

    def steps(count, largest):
        if count == 1:
            return [(largest - 1) / 2]
        return [index * (largest - 1) / (count - 1) for index in range(count)]

    if topology == "line":
        return [[x, 0.0] for x in steps(units, max(units, other))]
    edge, longest = round(math.sqrt(units)), round(math.sqrt(max(units, other)))
    return [[x, y] for y in steps(edge, longest) for x in steps(edge, longest)]


def length(a, b, metric):
    """The distance of two points of a sheet."""
    x, y = (abs(p - q) for p, q in zip(a, b, strict=True))
    return {"euclidean": math.sqrt(x * x + y * y), "cityblock": x + y, "chebyshev": max(x, y)}[metric]


def sheet_distances(inputs, outputs, topology, metric):
    """``d(i, j)`` as ``[out][in]``, the two layers one above the other."""
    source, target = sheet(inputs, outputs, topology), sheet(outputs, inputs, topology)
    return [[length(reader, read, metric) for read in source] for reader in target]


def locality_prior(inputs, outputs, topology, metric, decay, normalize):
    """``P`` as ``[out][in]``."""
    prior = []
    for distances in sheet_distances(inputs, outputs, topology, metric):
        row = []
        for d in distances:
            row.append(1 / {"linear": d + 1, "sqrt": math.sqrt(d + 1), "square": (d + 1) * (d + 1)}[decay])
        mean = sum(row) / len(row) if normalize else 1.0
        prior.append([p / mean for p in row])
    return prior


def prior_linear(weight, bias, prior, on, inputs):
    """What a layer with a locality prior makes of one input, a list of numbers."""
    outputs = []
    for row, b, near in zip(weight, bias, prior, strict=True):
        if on == "connections":
            outputs.append(b + sum(p * w * x for p, w, x in zip(near, row, inputs, strict=True)))
        else:
            plain = b + sum(w * x for w, x in zip(row, inputs, strict=True))
            outputs.append(sum(near) / len(near) * plain)
    return outputs


def attenuated(weight, prior, on):
    """The weights that join two units once the prior has had its say, ``[out][in]``."""
    result = []
    for row, near in zip(weight, prior, strict=True):
        gain = sum(near) / len(near)
        result.append([w * (p if on == "connections" else gain) for w, p in zip(row, near, strict=True)])
    return result


def scaled(weight, factor):
    """Nested weights times a factor."""
    return [scaled(each, factor) for each in weight] if isinstance(weight, list) else weight * factor


def folded(weight, gains, variances, eps):
    """Weights ``[out][in]...`` as a batch norm behind them makes them."""
    return [
        scaled(row, gain / math.sqrt(variance + eps))
        for row, gain, variance in zip(weight, gains, variances, strict=True)
    ]


def ungrouped(weight, groups):
    """A grouped convolution's weights, ``[out][in]``; no taps, ``[]``, where two channels are of different groups."""
    outs, width = len(weight), len(weight[0])
    full = [[[] for _ in range(width * groups)] for _ in range(outs)]
    for j in range(outs):
        group = j * groups // outs
        for i in range(width):
            full[j][group * width + i] = weight[j][i]
    return full


def by_unit(weight, units):
    """Weights ``[out][features]`` as ``[out][unit][feature of the unit]``: a flattened channel's are side by side."""
    per = len(weight[0]) // units
    return [[row[per * unit : per * unit + per] for unit in range(units)] for row in weight]


def mean_over_joined(weight, target, source, norm):
    """``mean of d phi`` over the pairs that have weights; with every distance 1 if ``target`` is None."""
    terms = []
    for j in range(len(weight)):
        for i in range(len(weight[j])):
            if weight[j][i] != []:
                d = 1.0 if target is None else distance(target[j], source[i])
                terms.append(d * size_of(weight[j][i], norm))
    return sum(terms) / len(terms)


def strengths(weight):
    """``|w|`` summed over the weights that join each pair, ``[out][in]``."""
    return [[size_of(pair, "l1") for pair in row] for row in weight]


def relative(weights, classes):
    """``r`` of every layer as ``rescale`` propagates it, ``[layer][task][unit]``, the outputs last."""
    tasks = range(len(classes))
    result = [[[float(output in own) for output in range(sum(classes))] for own in heads(classes)]]
    for readers in reversed(weights[1:]):
        layer = [[0.0] * len(readers[0]) for _ in tasks]
        for unit in range(len(readers[0])):
            score = []
            for task in tasks:
                score.append(sum(result[0][task][i] * abs(readers[i][unit]) for i in range(len(readers))))
            for task in tasks:
                layer[task][unit] = score[task] / max(score) if max(score) > 0 else 0.0
        result.insert(0, layer)
    return result


def convolution(maps, height, width, filters, stride, padding):
    """Cross-correlation of feature maps ``{channel: [row][column]}`` by ``filters``, ``{unit: [in][row][column]}``.

    A channel that is not there is not read.
    """
    result = {}
    for unit, kernels in filters.items():
        size_y, size_x = len(kernels[0]), len(kernels[0][0])
        result[unit] = []
        for y in range(-padding, height + padding - size_y + 1, stride):
            row = []
            for x in range(-padding, width + padding - size_x + 1, stride):
                total = 0.0
                for channel, map_ in maps.items():
                    for dy in range(max(0, -y), min(size_y, height - y)):
                        for dx in range(max(0, -x), min(size_x, width - x)):
                            total += kernels[channel][dy][dx] * map_[y + dy][x + dx]
                row.append(total)
            result[unit].append(row)
    return result


def conv_forward(filters, norms, weight, bias, activation, image, kept, factors=None):
    """Logits of a network of blocks (convolution of stride 2 and padding 2, batch norm, activation), maximum, linear.

    Args:
        filters: of each block, ``[out][in][row][column]``.
        norms: of each block, its gains, offsets, means, variances and eps.
        weight, bias: of the output layer.
        image: ``[channel][row][column]``.
        kept: for each block the channels that are there; all others are not computed at all.
        factors: for each block what each channel's activation is multiplied by; 1 by default.
    """
    maps, height, width = dict(enumerate(image)), len(image[0]), len(image[0][0])
    for block, (kernels, (gains, offsets, means, variances, eps)) in enumerate(zip(filters, norms, strict=True)):
        maps = convolution(maps, height, width, {unit: kernels[unit] for unit in kept[block]}, 2, 2)
        height, width = (height + 1) // 2, (width + 1) // 2
        for unit in maps:
            scale = gains[unit] / math.sqrt(variances[unit] + eps)
            factor = factors[block][unit] if factors else 1.0
            maps[unit] = [
                [ACTIVATIONS[activation](scale * (x - means[unit]) + offsets[unit]) * factor for x in row]
                for row in maps[unit]
            ]
    top = {unit: max(max(row) for row in map_) for unit, map_ in maps.items()}
    return [bias[j] + sum(weight[j][unit] * x for unit, x in top.items()) for j in range(len(weight))]


def task_losses(logits, labels, classes):
    """Each task's cross-entropy, summed over the images that have a label; -1 is none."""
    sums = []
    for task, own in enumerate(heads(classes)):
        total = 0.0
        for row, wanted in zip(logits, labels, strict=True):
            if wanted[task] >= 0:
                total += cross_entropy([row[output] for output in own], wanted[task])
        sums.append(total)
    return sums


def spatial_variance(activity, places):
    """Half the mean squared distance of two distinct units drawn from a map; 0 for one unit, None for an empty map."""
    if sum(activity) == 0:
        return None
    squares = pairs = 0.0
    for j, one in enumerate(activity):
        for k, other in enumerate(activity):
            if j != k:
                pairs += one * other
                squares += one * other * distance(places[j], places[k]) ** 2
    return squares / pairs / 2 if pairs > 0 else 0.0


def paired_t(a, b):
    """Mean and sample standard deviation of the differences, and Student's t."""
    mean, deviation = mean_and_deviation([x - y for x, y in zip(a, b, strict=True)])
    return mean, deviation, mean / (deviation / math.sqrt(len(a)))


def ranks(differences):
    """Ranks of |d| from 1, equal ones share the mean of theirs."""
    sizes = sorted(abs(d) for d in differences)
    result = []
    for d in differences:
        places = [place for place, size in enumerate(sizes, 1) if size == abs(d)]
        result.append(sum(places) / len(places))
    return result


def wilcoxon(differences):
    """The smaller of the sums of ranks by sign, zeros left out, and how often chance alone has one as small."""
    kept = [d for d in differences if d != 0]
    own = ranks(kept)

    def smaller(signs):
        plus = sum(rank for rank, sign in zip(own, signs, strict=True) if sign > 0)
        return min(plus, sum(own) - plus)

    found = smaller(kept)
    draws = [smaller(signs) for signs in itertools.product((-1, 1), repeat=len(kept))]
    return found, sum(draw <= found for draw in draws) / len(draws)


def components(values):
    """Variances of seeds, images and rest of ``values[seed][image]``, from the mean squares; below 0 they are 0."""
    seeds, images = len(values), len(values[0])
    mean = sum(map(sum, values)) / (seeds * images)
    of_seed = [sum(row) / images for row in values]
    of_image = [sum(row[image] for row in values) / seeds for image in range(images)]
    rest = 0.0
    for seed in range(seeds):
        for image in range(images):
            rest += (values[seed][image] - of_seed[seed] - of_image[image] + mean) ** 2
    rest /= (seeds - 1) * (images - 1)
    by_seed = images * sum((x - mean) ** 2 for x in of_seed) / (seeds - 1)
    by_image = seeds * sum((x - mean) ** 2 for x in of_image) / (images - 1)
    return max((by_seed - rest) / images, 0.0), max((by_image - rest) / seeds, 0.0), rest
