"""The costs' arithmetic: values and gradients together, in one pass over the pairs of units, block by block.

Autograd would keep a dozen arrays of the weights' size; here nothing larger than a block of rows is held beside the
weights' own gradient. Differences of places stay explicit: ``p sum(G) - G q`` for ``sum(G (p - q))`` would be a matrix
product, and wrong in the third digit in float32.

Arrays have the replicas first: weights ``[replicas, out, in, taps]``, places ``[replicas, units, dim]``. In the
formulas unit j reads unit i, ``phi_ji`` is the size of the weights that join them, ``d_ji`` their distance.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spatial.compiling import Compiled

PHI = {"l1": torch.abs, "l2": torch.square}
BLOCK = 1 << 17  # pairs: so many, with all that is made of them, a processor's cache holds
WHOLE = 1 << 24  # elsewhere, and under a compiler: few calls matter more


class Wire(NamedTuple):
    """One connection: its part in the sum of all, and the indices of its weights and of its units' places."""

    part: float
    weight: int
    target: int
    source: int


class Plan(NamedTuple):
    """Which costs are computed of a list of tensors, and how.

    Attributes:
        wires: the connections that the transport cost sums.
        crowds: indices of the places whose mean crowding is the proximity cost.
        norm: ``l1`` or ``l2``.
        per: ``connection`` or ``neuron``.
        compute: :func:`compute`; None stands for it.
    """

    wires: tuple[Wire, ...]
    crowds: tuple[int, ...]
    norm: str = "l2"
    per: str = "connection"
    compute: "Compute | None" = None


class Sum:
    """A sum over blocks, in the first one's memory: what lives long between blocks would leave holes behind."""

    value: Tensor

    def add(self, term: Tensor) -> None:
        self.value = self.value.add_(term) if hasattr(self, "value") else term


class Pulls:
    """Gradients by places: sums of ``apart * force`` over columns, by rows of targets, and over rows."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.columns = Sum()

    def add(self, apart: list[Tensor], force: Tensor) -> None:
        moved = [chunk.mul_(force) for chunk in apart]
        self.rows.append(_over(moved, -1))
        self.columns.add(_over(moved, -2))

    def sides(self) -> tuple[Tensor, Tensor]:
        """``[dim, replicas, units]`` of the targets and, to be subtracted, of the sources."""
        return torch.cat(self.rows, -1) if len(self.rows) > 1 else self.rows[0], self.columns.value


def per_connection(
    weight: Tensor, a: Tensor, b: Tensor, *, norm: str, grows: bool, moves: bool, block: int
) -> tuple[Tensor, Tensor | None, Pulls | None]:
    """``sum over (j, i) of d_ji phi_ji`` ``[replicas]`` and its gradients.

    Those are ``d_ji phi'(w_ji)`` for the weights (None unless it ``grows``; half of it for ``l2``) and
    ``phi_ji (p_j - p_i) / d_ji``, summed over i for targets and, to be subtracted, over j for sources (None unless it
    ``moves``).
    """
    grown = torch.empty_like(weight) if grows else None
    total, pulls = Sum(), Pulls()
    for rows in _blocks(weight, block):
        w = weight[:, rows]
        apart, d, inverse = _apart(a[..., rows], b)
        if grown is not None:
            _slope(w, norm, grown[:, rows]).mul_(d.unsqueeze(-1))
        phi = sizes(w, norm)
        total.add(d.mul_(phi).sum((-1, -2)))
        if moves:
            pulls.add(apart, inverse.mul_(phi))
    return total.value, grown, pulls if moves else None


def per_neuron(
    weight: Tensor, a: Tensor, b: Tensor, *, norm: str, grows: bool, moves: bool, block: int
) -> tuple[Tensor, Tensor | None, Pulls | None]:
    """``1/2 [mean_j L_j + mean_i M_i]``, ``L_j = sum_i phi_ji d_ji / S_j``, ``S_j = sum_i phi_ji``; M, R over j.

    With ``alpha_j = 1 / (2 outs S_j)`` and ``beta_i = 1 / (2 ins R_i)``, 0 where the sum is, it is
    ``sum over (j, i) of (alpha_j + beta_i) phi_ji d_ji``; its gradient by ``phi_ji`` is
    ``(alpha_j + beta_i) d_ji - alpha_j L_j - beta_i M_i``. Arguments and results as :func:`per_connection`'s.
    """
    outs, ins = weight.shape[1:3]
    read, fed = [], Sum()
    for rows in _blocks(weight, block):
        phi = sizes(weight[:, rows], norm)
        read.append(phi.sum(-1, keepdim=True))
        fed.add(phi.sum(-2, keepdim=True))
    alpha, beta = _inverse(2 * outs * torch.cat(read, 1)), _inverse(2 * ins * fed.value)

    grown = torch.empty_like(weight) if grows else None
    kept = None  # the gradient by phi, but for beta_i M_i
    if grown is not None:
        kept = grown.squeeze(-1) if weight.shape[-1] == 1 else weight.new_empty(weight.shape[:3])
    reached, reach, pulls = [], Sum(), Pulls()
    for rows in _blocks(weight, block):
        apart, d, inverse = _apart(a[..., rows], b)
        own = alpha[:, rows]
        share = own + beta
        phi = sizes(weight[:, rows], norm)
        if kept is not None:
            torch.mul(share, d, out=kept[:, rows])
        wires = d.mul_(phi)
        lengths = wires.sum(-1, keepdim=True)
        reached.append(lengths)
        reach.add(wires.sum(-2, keepdim=True))
        if kept is not None:
            kept[:, rows].sub_(2 * outs * own * (own * lengths))
        if moves:
            pulls.add(apart, inverse.mul_(phi.mul_(share)))
    if grown is not None and kept is not None:
        mean = 2 * ins * beta * (beta * reach.value)
        for rows in _blocks(weight, block):
            left = kept[:, rows].sub_(mean).unsqueeze(-1)
            torch.mul(left, _slope(weight[:, rows], norm), out=grown[:, rows])
    value = (alpha * torch.cat(reached, 1)).sum((-1, -2)) + (beta * reach.value).sum((-1, -2))
    return value, grown, pulls if moves else None


def crowding(a: Tensor, *, moves: bool, block: int) -> tuple[Tensor, Tensor]:
    """``mean over pairs j < k of exp(-d_jk)`` ``[replicas]`` and its gradient.

    A block of rows meets itself and the rows after it, so that only the pairs within a block are computed twice.
    """
    replicas, n = a.shape[1:]
    total, pull = a.new_zeros(replicas), torch.zeros_like(a)
    start = 0
    while start < n and n > 1:
        end = min(n, start + max(1, block // (replicas * (n - start))))
        apart, d, inverse = _apart(a[..., start:end], a[..., start:])
        near = d.mul_(-1 / math.log(2)).exp2_()  # three times as fast as exp
        own = end - start
        near = _no_diagonal(near)  # each unit with itself
        total += near[..., :own].sum((-1, -2)) / 2  # every pair twice
        if moves:
            force = inverse.mul_(near)
            moved = [chunk.mul_(force) for chunk in apart]
            pull[..., start:end] -= _over(moved, -1)
        if end < n:
            total += near[..., own:].sum((-1, -2))
            if moves:
                pull[..., end:] += _over([each[..., own:] for each in moved], -2)
        start = end
    pairs = max(n * (n - 1) / 2, 1)
    return total / pairs, pull.div_(pairs)


PER = {"connection": per_connection, "neuron": per_neuron}


def _blocks(weight: Tensor, block: int) -> Iterator[slice]:
    replicas, outs, ins = weight.shape[:3]
    step = max(1, block // (replicas * ins))
    return (slice(start, min(start + step, outs)) for start in range(0, outs, step))


def _apart(a: Tensor, b: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Differences ``[dim, replicas, n, m]``, distances and their inverses, ``[replicas, n, m]``.

    Where two places are one the distance is 0 and the inverse merely large: times the difference it is 0. A compiler
    gets the differences axis by axis, so that it never writes them down.
    """
    steps = 1 if torch.compiler.is_compiling() else len(a)
    apart = [p.unsqueeze(-1) - q.unsqueeze(-2) for p, q in zip(a.split(steps), b.split(steps), strict=True)]
    first, *others = (axis for chunk in apart for axis in chunk.unbind())
    d = first * first
    for axis in others:
        d.addcmul_(axis, axis)
    inverse = d.clamp_min(torch.finfo(d.dtype).tiny).rsqrt_()
    return apart, d.mul_(inverse), inverse


def _no_diagonal(near: Tensor) -> Tensor:
    """Zeros on the diagonal: written there, or, by a compiler, never written down."""
    if torch.compiler.is_compiling():
        rows, columns = (torch.arange(size, device=near.device) for size in near.shape[-2:])
        return torch.where(rows.unsqueeze(-1) == columns, 0, near)
    near.diagonal(dim1=-2, dim2=-1).zero_()
    return near


def _over(chunks: list[Tensor], side: int) -> Tensor:
    sums = [each.sum(side) for each in chunks]
    return torch.cat(sums) if len(sums) > 1 else sums[0]


def sizes(weight: Tensor, norm: str) -> Tensor:
    """``phi_ji``: ``|w|`` or ``w^2``, its sum over the weights that join unit i to unit j, the last axis."""
    phi = PHI[norm](weight)
    return phi.squeeze(-1) if phi.shape[-1] == 1 else phi.sum(-1)


def _slope(weight: Tensor, norm: str, out: Tensor | None = None) -> Tensor:
    """The derivative of ``phi``, half of it for ``l2``."""
    if norm == "l1":
        return torch.sgn(weight, out=out)
    return weight if out is None else out.copy_(weight)


def _inverse(sums: Tensor) -> Tensor:
    """``1 / sums``, 0 where a sum is 0 or its square underflows."""
    empty = sums < torch.finfo(sums.dtype).tiny ** 0.5
    return sums.masked_fill(empty, 1).reciprocal_().masked_fill_(empty, 0)


class Gradient(NamedTuple):
    """What a gradient from :func:`compute` is: of which cost (0: ``T``, 1: ``P``), by which tensor, over ``factor``."""

    cost: int
    tensor: int
    factor: float


def gradients(plan: Plan, needs: tuple[bool, ...]) -> list[Gradient]:
    """The gradients that are needed, in the order of :func:`compute`."""
    slope = {"l1": 1.0, "l2": 2.0}[plan.norm]
    weights = [Gradient(0, wire.weight, slope * wire.part) for wire in plan.wires]
    wired = dict.fromkeys(index for wire in plan.wires for index in (wire.target, wire.source))
    places = [Gradient(0, index, 1.0) for index in wired] + [Gradient(1, index, 1.0) for index in plan.crowds]
    return [each for each in weights + places if needs[each.tensor]]


def compute(plan: Plan, needs: tuple[bool, ...], tensors: Sequence[Tensor]) -> list[Tensor]:
    """``T`` and ``P``, ``[replicas]``, then the :func:`gradients` by the tensors whose ``needs`` are set.

    Places come and go with their axes first, ``[dim, replicas, units]``: arithmetic runs along the units, also where a
    compiler would have skipped the copy.
    """
    block = BLOCK if tensors[0].device.type == "cpu" and not torch.compiler.is_compiling() else WHOLE
    first = len(plan.wires)  # behind the weights come places
    axes = tensors[first:]
    replicas = tensors[0].shape[0 if plan.wires else 1]
    zero = tensors[0].new_zeros(replicas)
    values = [zero, zero]
    found: dict[tuple[int, int], Tensor] = {}
    for part, *indices in plan.wires:
        grows, *moved = (needs[index] for index in indices)
        at, target, source = indices
        value, grown, pulls = PER[plan.per](
            tensors[at],
            axes[target - first],
            axes[source - first],
            norm=plan.norm,
            grows=grows,
            moves=any(moved),
            block=block,
        )
        values[0] = values[0] + part * value
        if grown is not None:
            found[0, at] = grown
        if pulls is not None:
            for index, pull, sign in zip((target, source), pulls.sides(), (part, -part), strict=True):
                pull *= sign
                found[0, index] = found[0, index] + pull if (0, index) in found else pull
    for index in plan.crowds:
        value, pull = crowding(axes[index - first], moves=needs[index], block=block)
        values[1] = values[1] + value / len(plan.crowds)
        found[1, index] = pull.div_(len(plan.crowds))
    chosen = [(cost, tensor) for cost, tensor, _ in gradients(plan, needs)]
    return values + [found[each] for each in chosen]


Compute = Callable[[Plan, tuple[bool, ...], Sequence[Tensor]], list[Tensor]]


class OnePass(torch.autograd.Function):
    """``T`` and ``P`` of a plan's tensors; the forward pass keeps the finished gradients, the backward scales them.

    Weights are ``[out, in]`` or ``[out, in, taps]``, places ``[units, dim]``; ``stacked``, all have replicas first.
    Under ``torch.func.vmap`` the replicas are computed together. To autograd the gradients are constants: a gradient of
    a gradient is 0.
    """

    wanted = staticmethod(cache(gradients))

    @staticmethod
    def forward(plan: Plan, stacked: bool, needs: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        if not stacked:
            tensors = tuple(each.unsqueeze(0) for each in tensors)
        first = len(plan.wires)
        weights = [each.unsqueeze(3) if each.ndim == 3 else each.detach() for each in tensors[:first]]
        axes = [each.movedim(-1, 0).contiguous() for each in tensors[first:]]
        results = (plan.compute or compute)(plan, needs, [*weights, *axes])
        for index, (_, tensor, _) in enumerate(OnePass.wanted(plan, needs), 2):
            found = results[index]
            results[index] = found.view_as(tensors[tensor]) if tensor < first else found.movedim(0, -1)
        return tuple(results) if stacked else tuple(each.squeeze(0) for each in results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        plan, ctx.stacked, needs, *_ = inputs
        ctx.gradients, ctx.inputs = OnePass.wanted(plan, needs), len(inputs)
        ctx.set_materialize_grads(False)  # it would make zeros of the weights' size
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*output[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *asked: Tensor | None) -> tuple[Tensor | None, ...]:
        result: list[Tensor | None] = [None] * ctx.inputs
        for (cost, tensor, factor), gradient in zip(ctx.gradients, ctx.saved_tensors, strict=True):
            if (scale := asked[cost]) is not None:
                if factor != 1:
                    scale = scale * factor
                if ctx.stacked:
                    scale = scale.view(-1, *[1] * (gradient.ndim - 1))
                scaled = gradient * scale  # not in place: a second backward pass would scale it again
                known = result[tensor + 3]
                result[tensor + 3] = scaled if known is None else known.add_(scaled)
        return tuple(result)

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[Any], plan: Plan, stacked: bool, needs: tuple[bool, ...], *tensors: Tensor
    ) -> Any:
        together = [
            each.expand(info.batch_size, *each.shape) if dim is None else each.movedim(dim, 0)
            for each, dim in zip(tensors, dims[3:], strict=True)
        ]
        # what autograd needs beneath vmap does not show from above
        hidden = tuple(
            need or (torch.is_grad_enabled() and each.requires_grad) for need, each in zip(needs, together, strict=True)
        )
        transport, proximity, *found = OnePass.apply(plan, True, hidden, *together)
        wanted = zip(found, OnePass.wanted(plan, hidden), strict=True)
        results = (transport, proximity, *(gradient for gradient, known in wanted if needs[known.tensor]))
        return results, (0,) * len(results)


# torch asks for it in every call
OnePass.forward.__signature__ = inspect.signature(OnePass.forward)  # type: ignore[attr-defined]


def compiled(say: Callable[[str], None]) -> Compute:
    """:func:`compute` through ``torch.compile``; itself, with one warning, where there is no compiler.

    Args:
        say: is told, in a line, what takes so long, and what went wrong.
    """
    # torch compiles one piece of code 8 times at most: this run's is its own
    own = FunctionType(compute.__code__.replace(), compute.__globals__)
    fused = Compiled(torch.compile(own, dynamic=False), compute, "costs", say)

    def run(plan: Plan, needs: tuple[bool, ...], tensors: Sequence[Tensor]) -> list[Tensor]:
        case = plan, needs, tuple((each.shape, each.dtype, each.device) for each in tensors)
        return fused(case, plan, needs, tensors)

    return run
