"""``torch.compile`` where it works, and the plain code, with one warning, where it does not."""

import warnings
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """Calls compiled code; plain code once that has failed.

    Args:
        fused: the code through ``torch.compile``.
        plain: the code as it is.
        name: what it computes, for a person.
        say: is told, in a line, what takes so long, and what went wrong.
    """

    def __init__(self, fused: Callable, plain: Callable, name: str, say: Callable[[str], None]):
        self.fused, self.plain, self.name, self.say = fused, plain, name, say
        self.known: set[Any] = set()
        self.working = True

    def __call__(self, case: Any, *arguments: Any) -> Any:
        """The result for ``arguments``; of each ``case`` the first is compiled."""
        if case in self.known or not self.working:
            return (self.fused if self.working else self.plain)(*arguments)
        self.say(f"compiling the {self.name}, once for these layers (seconds)")
        try:
            with warnings.catch_warnings(action="ignore"):  # torch warns of itself
                result = self.fused(*arguments)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of many kinds: no compiler, one that is too old, no room for its files
            self.working = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.say(f"warning: --compile: the {self.name} are not compiled ({reason}); training goes on without")
            return self.plain(*arguments)
        self.known.add(case)
        return result


def compiled_network(model: nn.Module, say: Callable[[str], None]) -> Callable[[Tensor], Tensor]:
    """``model``'s logits of a batch of images through ``torch.compile``; its own where there is no compiler."""
    # torch compiles one piece of code 8 times at most: this network's is its own
    forward = type(model).forward
    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    logits = Compiled(torch.compile(MethodType(own, model), dynamic=False), model.forward, "network's layers", say)
    return lambda images: logits((images.shape, images.dtype), images)
