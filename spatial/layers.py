"""Layers born with places."""

import torch
from torch import nn

from spatial.positions import random_places


class SpatialLinear(nn.Linear):
    """Linear layer whose output neurons have learnable positions: ``y = x W^T + b``.

    ``positions`` does not enter ``forward``; the costs read it.

    Args:
        in_features: width of the input ``[batch, in_features]``.
        out_features: width of the output ``[batch, out_features]``; one position each.
        bias: whether to add ``b``.
        dim: dimensions of the space, 2 for a sheet.

    Attributes:
        weight: ``[out_features, in_features]``.
        positions: ``[out_features, dim]``, standard normal at first.

    Source: arXiv:1910.02776, section 3.
    """

    positions: nn.Parameter

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dim: int = 2):
        super().__init__(in_features, out_features, bias=bias)
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.positions = nn.Parameter(torch.empty(out_features, dim))
        self.reset_positions()

    def reset_positions(self, generator: torch.Generator | None = None) -> None:
        """Draw the positions anew, standard normal."""
        with torch.no_grad():
            self.positions.copy_(random_places(self.out_features, self.dim, generator))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dim={self.dim}"
