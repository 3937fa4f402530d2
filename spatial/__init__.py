"""Neurons with places: layers, costs and networks of the program ``main.py``.

The names are imported when they are first asked for: ``spatial.commands`` lies in this package, and ``--help`` must not
wait for torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "LocalityPriorLinear": "locality",
    "SpatialConv2d": "layers",
    "SpatialLinear": "layers",
    "load": "runs",
    "locality_prior": "locality",
    "place": "sheet",
    "proximity": "costs",
    "relax": "costs",
    "transport": "costs",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spatial' has no attribute {name!r}")
    return getattr(import_module(f"spatial.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
