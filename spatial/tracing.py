"""Which placed layer of any network feeds which: units are followed through one forward pass.

Beside every tensor of the pass lie labels: of which unit of which layer an element is made. Operations that keep units
apart hand the labels on (elementwise ones, norms, pooling, sums over places in an image or in a sequence, whatever only
moves elements about: a flattening, a concatenation, the splitting and joining of heads); a product or a sum over units
ends them. What arrives at the next layer is a connection. A view shares its tensor's memory, and so its labels.

The pass is one of the operations below autograd, so attention, branches and loops are followed as they come.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from spatial.errors import UserError
from spatial.graph import Connection

ELEMENTWISE = (  # that torch does not tag as such, in one form or another
    "hardswish", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise", "rsub", "masked_fill", "where", "polar",
    "floor_divide", "native_dropout",
)  # fmt: skip
EMPTY = ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "empty_like", "zeros_like", "ones_like",
         "full_like", "rand_like", "randn_like", "fill", "zero")  # fmt: skip
SAME_MEMORY = (
    "as_strided",
    "squeeze",
    "unsqueeze",
    "t",
    "transpose",
    "resize",
    "set",
)  # also where they change in place
KEEP = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "_softmax", "_log_softmax")
MOVE = (
    "clone", "contiguous", "_to_copy", "cat", "stack", "index_select", "index", "gather", "repeat", "roll", "flip",
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest1d",
    "upsample_nearest2d", "im2col", "tril", "triu", "slice_scatter", "select_scatter", "_unsafe_view", "view_copy",
    "index_put", "_unsafe_index", "index_copy", "channel_shuffle", "native_channel_shuffle", "unfold_copy",
    "_reshape_copy",
)  # fmt: skip
SUM = (
    "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "cumsum",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "col2im",
)  # fmt: skip
LARGEST = ("max_pool2d_with_indices", "max_pool3d_with_indices", "amax", "max", "adaptive_max_pool2d", "amin", "min")
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv")
PROJECTIONS = ("query", "key", "value")


class Layer(NamedTuple):
    """A layer of a network that can have places: some rows of a module's weight.

    Attributes:
        module: that holds the parameters.
        weight, bias: their names in it; without a bias, None.
        first, units: the rows.
    """

    module: nn.Module
    weight: str
    bias: str | None
    first: int
    units: int


class Skipped(NamedTuple):
    """What has no places, or where a path from one layer to another ends, and why."""

    source: str
    target: str | None
    why: str

    def __str__(self) -> str:
        return f"{self.source}: {self.why}" if self.target is None else f"{self.source} -> {self.target}: {self.why}"


class Found(NamedTuple):
    """What one forward pass shows.

    Attributes:
        layers: those that were used, by name, in the order of their first use.
        features: for every connection which unit of the source each feature is that the target reads, ``[in_features]``
            (of a convolution ``[in_channels]``); -1 for those of others.
        norms: the batch norm right behind a layer, by the layer's name.
        skipped: what ended on the way.
    """

    layers: dict[str, Layer]
    features: dict[Connection, Tensor]
    norms: dict[str, str]
    skipped: list[Skipped]


def placeable(network: nn.Module) -> dict[str, Layer]:
    """The layers of a network that can have places, by name, in the order of its modules.

    Every ``Linear`` and ``Conv2d``, and of a ``MultiheadAttention`` its ``query``, ``key`` and ``value`` projections
    under these names. Parameters that several modules share belong to the first.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()

    def add(name: str, module: nn.Module, weight: str, bias: str | None, first: int, units: int, own: Any) -> None:
        if (id(own), first) not in seen:
            seen.add((id(own), first))  # type: ignore[arg-type]
            found[name] = Layer(module, weight, bias, first, units)

    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bias = "bias" if module.bias is not None else None
            own = module._parameters.get("weight", module)  # a parametrised weight is another at every reading
            add(name, module, "weight", bias, 0, module.weight.shape[0], own)
        elif isinstance(module, nn.MultiheadAttention):
            bias, width = (None if module.in_proj_bias is None else "in_proj_bias"), module.embed_dim
            for index, part in enumerate(PROJECTIONS):
                packed = module.in_proj_weight is not None
                weight = "in_proj_weight" if packed else f"{part[0]}_proj_weight"
                first = index * width if packed else 0
                add(f"{name}.{part}" if name else part, module, weight, bias, first, width, getattr(module, weight))
    return found


def trace(network: nn.Module, example: Any) -> Found:
    """Follow the units of a network's layers through one forward pass in evaluation mode; the network stays as it is.

    Args:
        network: any.
        example: one input batch: a tensor, a tuple of arguments or a dictionary of named ones.

    Raises:
        UserError: if the example does not go through the network.
    """
    layers = placeable(network)
    arguments, named = ((), example) if isinstance(example, Mapping) else (_as_tuple(example), {})
    with _still(network):
        follower = _Follower(network, layers)
        try:
            with follower:
                network(*arguments, **named)
        except Exception as error:
            words = str(error).splitlines() or [type(error).__name__]
            raise UserError(f"the example does not go through the network: {words[0]}") from error
    used = {name: layers[name] for name in follower.used}
    others = [Skipped(name, None, "not used in the example's forward pass") for name in layers if name not in used]
    others += [
        Skipped(name, None, f"{type(module).__name__} has no places, Linear, Conv2d and MultiheadAttention have")
        for name, module in network.named_modules()
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention)
        and any(each.ndim > 1 for each in module.parameters(recurse=False))
    ]
    return Found(used, follower.features, follower.norms(), [*follower.skipped.values(), *others])


def _as_tuple(example: Any) -> tuple:
    return tuple(example) if isinstance(example, tuple | list) else (example,)


@contextmanager
def _still(network: nn.Module) -> Iterator[None]:
    """Within it the network is as in evaluation, draws no random numbers of anyone's, and takes no shortcuts."""
    training = {module: module.training for module in network.modules()}
    shortcuts = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(parametrize.cached())
        torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer
        network.eval()
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(shortcuts)
            for module, mode in training.items():
                module.training = mode


Labels = dict[str, Tensor]  # by layer: unit + 1 where an element is made of a unit, 0 where of none, below 0: ended


class _Follower(TorchDispatchMode):
    """Keeps labels beside the memory of every tensor.

    Attributes:
        used: names of layers in the order of their first use.
        features: see :class:`Found`.
        skipped: by source and target.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, Layer]):
        super().__init__()
        self.used: list[str] = []
        self.features: dict[Connection, Tensor] = {}
        self.skipped: dict[tuple[str, str], Skipped] = {}
        self.labels: dict[int, Labels] = {}  # by memory, flat
        self.alive: dict[int, StorageWeakRef] = {}  # no other memory has a place's name while this is kept
        self.whys: list[str] = []
        self.weights: dict[int, tuple[Tensor, list[tuple[str, Layer]]]] = {}
        for name, layer in layers.items():
            weight = getattr(layer.module, layer.weight)
            behind = [] if isinstance(layer.module, nn.MultiheadAttention) else layer.module.parameters(recurse=False)
            same = [each for each in behind if each.shape == weight.shape]  # a pruned weight has one behind it
            for each in {id(each): each for each in (weight, *same)}.values():
                self.weights.setdefault(_memory(each), (each, []))[1].append((name, layer))
        self.biases = {_memory(getattr(each.module, each.bias)) for each in layers.values() if each.bias is not None}
        self.means = {
            _memory(module.running_mean): name
            for name, module in network.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
        }
        self.fresh: dict[int, str] = {}  # outputs of layers, by memory
        self.readers: dict[str, list[str | None]] = {}  # by layer: batch norms that read its output, None for others

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func.overloadpacket.__name__
        changes = func._schema.is_mutable
        name = name.removesuffix("_") if changes else name
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        known = {_memory(each) for each in given}
        new = [each for each in made if changes or _memory(each) not in known]
        if not new or (changes and name in SAME_MEMORY):  # a view: its memory has the labels
            return
        self._forget()
        self._note_readers(name, given, new)
        if (weight := _weight_of(name, args)) is not None and _memory(weight) in self.weights:
            self._layer(name, args, new[0], weight)
            return
        if _elementwise(func, name) or name in ("clone", "_to_copy"):
            self._pass_on_weights(given, new[0])
        sources = sorted({source for each in given for source in self.labels.get(_memory(each), ())})
        if not sources or name in EMPTY:
            for each in new:
                self._write(each, {})
            return
        rule = self._rule(func, name)
        for index, out in enumerate(new):
            if index and rule is not None:
                continue  # indices, statistics
            own = {}
            for source in sources:
                labels = None if rule is None else rule(source, func, args, kwargs, out)
                if labels is None or labels.shape != out.shape:
                    labels = torch.full(out.shape, self._ended(source, name), dtype=torch.int32)
                own[source] = labels
            self._write(out, own)

    def _pass_on_weights(self, given: Sequence[Tensor], made: Tensor) -> None:
        """A weight that is masked, attenuated or cast is a weight."""
        for each in given:
            whole, owners = self.weights.get(_memory(each), (None, []))
            if whole is not None and each.shape == whole.shape == made.shape and made.is_contiguous():
                self.weights[_memory(made)] = (made, owners)
                self.alive[_memory(made)] = StorageWeakRef(made.untyped_storage())

    def _forget(self) -> None:
        """Labels of memory that nobody holds any more: they take as much as the network's activations."""
        for memory in [memory for memory, held in self.alive.items() if held.expired()]:
            del self.alive[memory]
            for each in (self.labels, self.weights, self.fresh):
                each.pop(memory, None)

    # Rules: the labels of one source in what an operation makes.

    def _rule(self, func: Any, name: str) -> Callable[..., Tensor | None] | None:
        if name == "copy":
            return lambda source, func, args, kwargs, out: self._read(args[1], source).expand(out.shape)
        if any(each in name for each in KEEP):
            return lambda source, func, args, kwargs, out: self._read(args[0], source)
        if "scaled_dot_product" in name:
            return self._attention
        rules = {MOVE: self._move, SUM: self._sum, LARGEST: self._largest, PRODUCTS: self._product}
        for names, rule in rules.items():
            if name in names:
                return rule
        return self._elementwise if _elementwise(func, name) else None

    def _elementwise(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        merged = torch.zeros(out.shape, dtype=torch.int32)
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor) and source in self.labels.get(_memory(each), ()):
                merged = self._merged(merged, self._read(each, source).expand(out.shape), source)
        return merged

    def _merged(self, a: Tensor, b: Tensor, source: str) -> Tensor:
        """A unit goes before what has ended, that before nothing; two different units end each other."""
        both = (a > 0) & (b > 0)
        merged = torch.where(both | (a <= 0) & (b <= 0), torch.minimum(a, b), torch.maximum(a, b))
        mixed = both & (a != b)
        return merged.masked_fill(mixed, self._ended(source, "units are mixed")) if mixed.any() else merged

    def _move(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        def stand_in(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            return self._read(each, source).float() if each.is_floating_point() else each.cpu()

        args, kwargs = tree_map(stand_in, (args, kwargs))
        if func.overloadpacket.__name__ == "constant_pad_nd":
            args = args[:2]  # filled with no unit's label
        kwargs = {key: value for key, value in kwargs.items() if key not in ("dtype", "device", "layout", "pin_memory")}
        return tree_leaves(func(*args, **kwargs))[0].to(torch.int32)

    def _sum(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        labels = self._read(args[0], source).double()
        unit, kwargs = labels.clamp(min=0), {key: value for key, value in kwargs.items() if key != "dtype"}

        def of(values: Tensor) -> Tensor:
            return func(values, *args[1:], **kwargs)

        size, first, second = of((unit > 0).double()), of(unit), of(unit.square())
        mean = first / size
        same = (second / size - mean.square()).abs() < 1e-3  # so all of them are one unit
        return self._one(source, func, mean, same, size != 0, of((labels < 0).double()) != 0)

    def _largest(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        labels = self._read(args[0], source).double()

        def of(values: Tensor) -> Tensor:  # the smallest, for a minimum
            return tree_leaves(func(values, *args[1:], **kwargs))[0]

        least = func.overloadpacket.__name__ in ("amin", "min")
        nothing = torch.inf if least else -torch.inf
        one = of(labels.masked_fill(labels <= 0, nothing))
        other = -of((-labels).masked_fill(labels <= 0, nothing))
        sign = -1 if least else 1
        ended = sign * of(sign * (labels < 0).double()) != 0
        return self._one(source, func, one, one == other, one.isfinite(), ended)

    def _one(self, source: str, func: Any, unit: Tensor, same: Tensor, some: Tensor, ended: Tensor) -> Tensor:
        """``unit`` where there is ``some`` and it is the ``same`` for all that an element is made of."""
        gone = (some & ~same) | (ended & ~some)
        labels = torch.where(some & same, unit.nan_to_num(0, 0, 0).round(), 0).to(torch.int32)
        if gone.any():
            labels[gone] = self._ended(source, func.overloadpacket.__name__)
        return labels

    def _product(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        """Of ``a b``: the rows' units of ``a``, the columns' units of ``b``."""
        name = func.overloadpacket.__name__
        *added, a, b = args[:3] if name in ("addmm", "baddbmm", "addmv") else args[:2]
        rows, columns = self._read(a, source), self._read(b, source)
        columns = columns.unsqueeze(-1) if b.ndim < a.ndim else columns
        shape = (*rows.shape[:-1], columns.shape[-1])
        merged = self._merged(
            self._common(rows, -1, source, name).expand(shape), self._common(columns, -2, source, name).expand(shape),
            source,
        )  # fmt: skip
        merged = merged.reshape(out.shape)
        for each in added:
            merged = self._merged(merged, self._read(each, source).expand(out.shape), source)
        return merged

    def _attention(self, source: str, func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        """Weighted sums of the values over the sequence; queries and keys only weigh."""
        name = "an attention's weights"
        query, key, value = (self._read(each, source) for each in args[:3])
        if value.shape[:-2] != out.shape[:-2]:
            return None
        summed = self._common(value, -2, source, "attention").expand(out.shape)
        weighs = bool((query != 0).any() or (key != 0).any())
        ended = self._ended(source, name) if weighs else 0
        return self._merged(summed, torch.full(out.shape, ended, dtype=torch.int32), source)

    def _common(self, labels: Tensor, dim: int, source: str, name: str) -> Tensor:
        """The one unit along an axis, which stays, of size 1."""
        high = labels.amax(dim, keepdim=True)
        low = labels.masked_fill(labels <= 0, torch.iinfo(torch.int32).max).amin(dim, keepdim=True)
        ended = labels.clamp(max=0).amin(dim, keepdim=True)
        one = torch.where(high == low, high, self._ended(source, name))
        return torch.where(high > 0, one, ended).to(torch.int32)

    # Layers.

    def _layer(self, name: str, args: Any, out: Tensor, weight: Tensor) -> None:
        whole, owners = self.weights[_memory(weight)]
        read, rows = (args[0], (0, len(whole))) if name == "convolution" else _rows(name, args, weight, whole)
        if rows is None or (name == "convolution" and args[6]):  # transposed
            first = owners[0][0]
            own = {
                source: torch.full(out.shape, self._ended(source, name), dtype=torch.int32)
                for source in self.labels.get(_memory(read), ())
            }
            own[first] = torch.full(out.shape, self._ended(first, "its weight is used another way"), dtype=torch.int32)
            self._write(out, own)
            return
        axis = 1 if name == "convolution" else -1  # of the features, and of the units
        start, stop = rows
        made: Labels = {}
        shape = [1] * out.ndim
        shape[axis] = stop - start
        for layer, part in owners:
            index = torch.arange(start, stop) - part.first
            inside = (index >= 0) & (index < part.units)
            if not inside.any():
                continue
            if layer not in self.used:
                self.used.append(layer)
            self._connect(read, axis, layer)
            made[layer] = torch.where(inside, index + 1, 0).to(torch.int32).view(shape).expand(out.shape)
        self._write(out, made)
        for layer in made:
            self.fresh[_memory(out)] = layer
            self.readers.setdefault(layer, [])

    def _connect(self, read: Tensor, axis: int, layer: str) -> None:
        for source in sorted(self.labels.get(_memory(read), ()), key=self.used.index):
            labels = self._read(read, source).movedim(axis, 0).reshape(read.shape[axis], -1)
            common = self._common(labels, 1, source, "its units lie differently from place to place").squeeze(1)
            edge = Connection(source, layer)
            if (common > 0).any():
                units = common.clamp(min=0).long() - 1
                if edge in self.features and not torch.equal(self.features[edge], units):
                    self.skipped.setdefault(edge, Skipped(*edge, "feeds it in another order, too: the first counts"))
                self.features.setdefault(edge, units)
                self.skipped.pop(edge, None) if edge not in self.features else None
            elif (common < 0).any() and edge not in self.features:
                why = self.whys[-int(common.min()) - 1]
                self.skipped.setdefault(edge, Skipped(*edge, why))

    def _note_readers(self, name: str, given: Sequence[Tensor], new: Sequence[Tensor]) -> None:
        """Remember what reads a layer's output: only a batch norm that alone does can be folded into its weights."""
        for each in given:
            layer = self.fresh.get(_memory(each))
            if layer is None or (name == "add" and any(_memory(other) in self.biases for other in given)):
                continue
            norm = next((self.means[_memory(other)] for other in given if _memory(other) in self.means), None)
            units = self._read(given[0], layer).movedim(1, 0) if each is given[0] and each.ndim > 1 else each
            apart = torch.arange(1, len(units) + 1).view(-1, *[1] * (units.ndim - 1))
            self.readers[layer].append(norm if "batch_norm" in name and bool((units == apart).all()) else None)

    def norms(self) -> dict[str, str]:
        """The batch norm right behind a layer that reads nothing else, nor is anything else behind the layer."""
        behind = {layer: read[0] for layer, read in self.readers.items() if len(read) == 1 and read[0] is not None}
        return {layer: norm for layer, norm in behind.items() if list(behind.values()).count(norm) == 1}

    # Labels.

    def _ended(self, source: str, name: str) -> int:
        why = WHY.get(name, f"ended by {name}")
        if why not in self.whys:
            self.whys.append(why)
        return -(self.whys.index(why) + 1)

    def _read(self, tensor: Tensor, source: str) -> Tensor:
        flat = self.labels.get(_memory(tensor), {}).get(source)
        if flat is None or len(flat) != _elements(tensor):
            return torch.zeros(tensor.shape, dtype=torch.int32)
        return flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def _write(self, tensor: Tensor, labels: Labels) -> None:
        memory = _memory(tensor)
        if memory not in self.alive:
            self.alive[memory] = StorageWeakRef(tensor.untyped_storage())
        flat = self.labels.setdefault(memory, {})
        for source in [*{**flat, **labels}]:
            if source not in flat or len(flat[source]) != _elements(tensor):
                flat[source] = torch.zeros(_elements(tensor), dtype=torch.int32)
            own = flat[source].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
            own.copy_(labels[source]) if source in labels else own.zero_()
        self.labels[memory] = {source: each for source, each in flat.items() if each.any()}


WHY = {
    "units are mixed": "an operation mixes its units",
    "an attention's weights": "it only weighs an attention's values",
    **dict.fromkeys(PRODUCTS, "a product sums over its units"),
    **dict.fromkeys([*SUM, *LARGEST], "a sum or a maximum over its units"),
    "convolution": "a convolution that has no places",
    "its units lie differently from place to place": "its units lie differently from place to place",
    "its weight is used another way": "its weight is used another way, too",
}


def _elementwise(func: Any, name: str) -> bool:
    return torch.Tag.pointwise in func.tags or name in ELEMENTWISE


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _weight_of(name: str, args: Sequence[Any]) -> Tensor | None:
    """The operand of a product or a convolution that may be a layer's weight."""
    if name == "convolution":
        return args[1]
    if name in PRODUCTS:
        matrices = args[1:3] if name in ("addmm", "baddbmm", "addmv") else args[:2]
        return matrices[0] if name.endswith("mv") else matrices[1]
    return None


def _rows(name: str, args: Sequence[Any], weight: Tensor, whole: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
    """What a product reads, and the rows of a layer's weight that it reads it by; None if not row by row."""
    matrices = args[1:3] if name in ("addmm", "baddbmm", "addmv") else args[:2]
    vector = name.endswith("mv")
    read = matrices[1] if vector else matrices[0]
    of = weight if vector else weight.mT
    if whole.ndim != 2 or not whole.is_contiguous() or of.shape[-1] != whole.shape[1]:
        return read, None
    if of.stride()[-2:] != whole.stride() and of.shape[-2] > 1:
        return read, None
    first, beyond = divmod(int(of.storage_offset() - whole.storage_offset()), whole.shape[1])
    return read, None if beyond else (first, first + of.shape[-2])
