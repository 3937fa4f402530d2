"""Layers born with places."""

from typing import Any

import torch
from torch import Tensor, nn

from spatial.positions import SHEETS, random_places


class Placed(nn.Module):
    """What makes a layer placed: a position for each of its units, learnable unless they lie on a sheet."""

    weight: Tensor
    positions: nn.Parameter
    dim: int
    on_sheet = False

    def place(self, units: int, dim: int) -> None:
        """Give ``units`` units standard normal positions in ``dim`` dimensions."""
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.positions = nn.Parameter(random_places(units, dim).to(self.weight))  # its device and type

    def place_on_sheet(self, topology: str, units: int, wider: int = 1) -> None:
        """Fix ``units`` units on a ``line`` or a ``plane``, stretched over the extent of ``wider`` units if larger."""
        sheet = SHEETS[topology]
        places = sheet.places(units, max(sheet.span(units), sheet.span(wider)))
        self.dim, self.on_sheet = places.shape[1], True
        self.positions = nn.Parameter(places.to(self.weight), requires_grad=False)

    def reset_positions(self, generator: torch.Generator | None = None) -> None:
        """Draw the positions anew, standard normal; those on a sheet stay, but the generator moves on all the same."""
        drawn = random_places(len(self.positions), self.dim, generator)
        if not self.on_sheet:
            with torch.no_grad():
                self.positions.copy_(drawn)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dim={self.dim}"


class SpatialLinear(Placed, nn.Linear):
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

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dim: int = 2):
        super().__init__(in_features, out_features, bias=bias)
        self.place(out_features, dim)


class SpatialConv2d(Placed, nn.Conv2d):
    """2-D convolution whose output channels have learnable positions; a channel is one unit.

    ``y_j = b_j + sum_i w_ji * x_i``, ``*`` the cross-correlation of torch's ``Conv2d``; ``positions`` does not enter
    ``forward``. The taps of a kernel all join the same two units, so the costs sum over them.

    Args:
        in_channels: of the input ``[batch, in_channels, height, width]``.
        out_channels: of the output; one position each.
        kernel_size: height and width of a kernel.
        dim: dimensions of the space, 2 for a sheet.
        options: torch's own, in its order: ``stride``, ``padding``, ``dilation``, ``groups``, ``bias``, ...

    Attributes:
        weight: ``[out_channels, in_channels / groups, height, width]`` of the kernel.
        positions: ``[out_channels, dim]``, standard normal at first.

    Source: arXiv:1910.02776, section 3, whose neurons these channels are.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, *options: Any, dim: int = 2, **named: Any
    ):
        super().__init__(in_channels, out_channels, kernel_size, *options, **named)
        self.place(out_channels, dim)
