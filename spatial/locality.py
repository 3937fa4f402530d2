"""The locality prior: connections attenuated, once and for all, by the distance of the neurons that they join."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatial.layers import Placed
from spatial.positions import SHEETS

METRICS = {"euclidean": 2.0, "cityblock": 1.0, "chebyshev": math.inf}  # orders of a p-norm
DECAYS = {"linear": torch.positive, "sqrt": torch.sqrt, "square": torch.square}
ON = ("connections", "activations")


def locality_prior(
    in_features: int,
    out_features: int,
    *,
    topology: str = "plane",
    metric: str = "euclidean",
    decay: str = "linear",
    normalize: bool = False,
) -> Tensor:
    """How much of a connection a fixed distance leaves: ``P_ji = 1 / f(d(i, j) + 1)``.

    ``f(x)`` is ``x`` (``linear``), ``sqrt(x)`` or ``x^2`` (``square``). ``d`` is the distance of unit i of the inputs
    and unit j of the outputs, each on a sheet of its own, one above the other: :func:`spatial.positions.line` or
    :func:`spatial.positions.plane`, unit spacing. Of different widths both sheets are stretched over the larger's
    extent.

    Args:
        in_features: number of units that are read, a square number on a plane.
        out_features: number of units that read, likewise.
        topology: ``line`` or ``plane``.
        metric: ``euclidean``, ``cityblock`` (sum of the two coordinates' differences) or ``chebyshev`` (the larger of
            them); on a line all are the same.
        decay: ``linear``, ``sqrt`` or ``square``.
        normalize: whether every output's row is rescaled to mean 1.

    Returns:
        ``[out_features, in_features]``, each in (0, 1] unless normalized, of torch's default type.

    Raises:
        ValueError: if a name is unknown, a width is below 1 or, on a plane, not square.

    Source: Sax, Locality-Prior (2017), README, "Methods".

    >>> locality_prior(3, 3, topology="line")
    tensor([[1.0000, 0.5000, 0.3333],
            [0.5000, 1.0000, 0.5000],
            [0.3333, 0.5000, 1.0000]])
    """
    return _exact(in_features, out_features, topology, metric, decay, normalize).to(torch.get_default_dtype())


def _exact(inputs: int, outputs: int, topology: str, metric: str, decay: str, normalize: bool) -> Tensor:
    """:func:`locality_prior` in float64, on the CPU."""
    for kind, given, known in (("topology", topology, SHEETS), ("metric", metric, METRICS), ("decay", decay, DECAYS)):
        if given not in known:
            raise ValueError(f"{kind} must be one of {', '.join(known)}, got {given!r}")
    span = max(SHEETS[topology].span(outputs), SHEETS[topology].span(inputs))
    target, source = (SHEETS[topology].places(units, span) for units in (outputs, inputs))
    d = torch.cdist(target, source, p=METRICS[metric], compute_mode="donot_use_mm_for_euclid_dist")
    prior = 1 / DECAYS[decay](d + 1)  # [out, in]
    return prior / prior.mean(1, keepdim=True) if normalize else prior


class Fold(NamedTuple):
    """A product that is kept, and what it was made from."""

    product: Tensor
    weight: Tensor  # shares the weight's memory: while it is kept no other tensor can have its address
    stamp: tuple[int, ...]


class LocalityPriorLinear(Placed, nn.Linear):
    """Linear layer whose connections a fixed prior ``P`` (:func:`locality_prior`) attenuates by distance.

    * ``on="connections"``, read connection by connection, what its author's code does:
      ``A_j = sum_i P_ji W_ji x_i + b_j``.
    * ``on="activations"``, the literal reading of that README's ``A = P * (Wx + b)``, a gain on a finished activation:
      ``A_j = g_j (sum_i W_ji x_i + b_j)`` with ``g_j = mean over i of P_ji``.

    A batch norm right behind cancels a positive gain per unit, so ``on="activations"`` is then a plain layer, and
    ``normalize`` changes nothing, up to the batch norm's eps (and, in evaluation, to what its running statistics still
    remember of their start).

    In evaluation mode, where no gradient is asked for, the product of prior and weight is computed once and kept until
    the weight changes, moves, or is loaded. (What torch itself does not see, a change through ``weight.data`` or a
    fused optimizer's step without a forward pass before it, counts from the next ``eval()``.)

    Args:
        in_features: width of the input ``[batch, in_features]``.
        out_features: width of the output ``[batch, out_features]``.
        bias: whether to add ``b``.
        topology, metric, decay, normalize: see :func:`locality_prior`.
        on: ``connections`` or ``activations``.

    Attributes:
        weight: ``[out_features, in_features]``, as in a plain layer.
        positions: ``[out_features, 2]``, the outputs' places on the sheet, unit spacing, centred, never learned.
        prior: ``[out_features, in_features]``, a buffer that is not saved, made again on loading.

    Raises:
        ValueError: as :func:`locality_prior`, or if ``on`` is unknown.

    Source: Sax, Locality-Prior (2017).
    """

    prior: Tensor
    gain: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        topology: str = "plane",
        metric: str = "euclidean",
        decay: str = "linear",
        normalize: bool = False,
        on: str = "connections",
    ):
        if on not in ON:
            raise ValueError(f"on must be one of {', '.join(ON)}, got {on!r}")
        prior = _exact(in_features, out_features, topology, metric, decay, normalize)  # refuses bad widths first
        super().__init__(in_features, out_features, bias=bias)
        self.topology, self.metric, self.decay, self.normalize, self.on = topology, metric, decay, normalize, on
        self.register_buffer("prior", None, persistent=False)
        self.register_buffer("gain", None, persistent=False)
        self._set_prior(prior)
        self.place_on_sheet(topology, out_features, in_features)

    def _set_prior(self, prior: Tensor) -> None:
        self.prior = prior.to(self.weight)  # its device and type
        self.gain = prior.mean(1).to(self.weight) if self.on == "activations" else None
        self._fold: Fold | None = None

    def _rebuild(self) -> None:
        self._set_prior(
            _exact(self.in_features, self.out_features, self.topology, self.metric, self.decay, self.normalize)
        )

    @property
    def _factor(self) -> Tensor:
        """What multiplies the weight, ``[out, in]`` or ``[out, 1]``."""
        return self.prior if self.gain is None else self.gain[:, None]

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``[out, in]`` and bias of the plain linear layer that computes the same, with their gradients."""
        self._fold = None  # see _folded
        gained = self.bias if self.gain is None or self.bias is None else self.gain * self.bias
        return self._factor * self.weight, gained

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, out_features]``."""
        if self.gain is not None:
            return self.gain * F.linear(x, self.weight, self.bias)  # a gain on the output is the cheaper product
        return F.linear(x, self.prior * self.weight if self.training else self._folded(), self.bias)

    def _folded(self) -> Tensor:
        """``P * W``, computed when it is not the one that is kept."""
        if torch.compiler.is_compiling():
            return self.prior * self.weight
        if torch.is_grad_enabled() and self.weight.requires_grad:
            self._fold = None  # a fused optimizer's step, which may follow, changes the weight but not its version
            return self.prior * self.weight
        try:
            stamp = tuple(each for part in (self.weight, self.prior) for each in (part.data_ptr(), part._version))
        except RuntimeError:  # torch keeps no version of it: made in inference mode, or traced
            return self.prior * self.weight
        if self._fold is None or self._fold.stamp != stamp:
            with torch.inference_mode(False), torch.no_grad():  # what inference mode makes is of no use outside it
                weight = self.weight.detach()
                self._fold = Fold(self.prior * weight, weight, stamp)
        return self._fold.product

    def train(self, mode: bool = True) -> "LocalityPriorLinear":
        self._fold = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "LocalityPriorLinear":
        """torch's way of moving and converting."""
        before = self.weight.dtype
        super()._apply(fn, recurse)
        self._fold = None
        if self.weight.dtype != before:
            self._rebuild()  # rounded once, not twice
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._rebuild()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_fold": None}  # a copy makes its own

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.topology}, {self.metric}, {self.decay}, normalize={self.normalize}, " + (
            f"on={self.on}"
        )
