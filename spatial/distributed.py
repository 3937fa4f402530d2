"""Where the work is done: the device, and the processes that share a run under ``torchrun``."""

import inspect
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spatial import process
from spatial.errors import UserError

PATIENCE = timedelta(days=1)  # where the others wait for the first process, which may look through a folder of images


def device(name: str) -> torch.device:
    """The device of ``--device``: ``auto`` is the accelerator where there is one. Under torchrun each has its own.

    Raises:
        UserError: if it is not on this machine, or there are more processes than devices.
    """
    found = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    here = found or torch.device("cpu" if name == "auto" else name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(here.type, True):
        raise UserError(
            f"--device {name}: there is none here; use --device {' or '.join(k for k, v in available.items() if v)}"
        )
    if process.COUNT == 1 or here.type == "cpu":
        return here
    if (devices := torch.accelerator.device_count()) < process.COUNT_HERE:
        raise UserError(
            f"{process.COUNT_HERE} processes on a machine with {devices} {here.type} devices: use torchrun "
            f"--nproc-per-node {devices}, or --device cpu"
        )
    return torch.device(here.type, process.NUMBER_HERE)


def free_memory(here: torch.device) -> float:
    """Bytes that are free where networks are trained, as far as the system says."""
    return torch.cuda.mem_get_info(here)[0] if here.type == "cuda" else process.memory()


@contextmanager
def repeatable(on: bool) -> Iterator[None]:
    """Within it the same numbers come twice from a GPU, too, as far as torch can; it warns of what cannot."""
    if not on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the GPU is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fastest, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = fastest


@dataclass(frozen=True)
class World:
    """The processes that share a run, and which of them this is. Alone, every method leaves things as they are.

    Attributes:
        number: 0 is the first, which alone writes.
        count: of processes.
        patient: the group in which they wait for each other as long as it takes, on the CPU.
    """

    number: int = 0
    count: int = 1
    patient: Any = None

    @property
    def first(self) -> bool:
        return self.number == 0

    @property
    def mark(self) -> tuple[str, ...]:
        """A name for draws that are this process's own; the first's are those of a process alone."""
        return () if self.first else (f"process {self.number}",)

    def split(self, index: Tensor, batch_size: int) -> tuple[Tensor, int]:
        """This process's rows of a training index ``[..., n, tasks]``, and how many of them make a step.

        A step's rows are dealt out in equal, consecutive shares. What does not fill a step is left out (of an index
        that is shorter than one step: what does not divide).
        """
        if self.count == 1:
            return index, batch_size
        n = index.shape[-2]
        size = batch_size if n >= batch_size else n // self.count * self.count
        steps = index[..., : n // max(size, 1) * size, :].unflatten(-2, (-1, self.count, max(size // self.count, 1)))
        return steps.select(-3, self.number).flatten(-3, -2), size // self.count

    def part(self, index: Tensor) -> Tensor:
        """This process's rows of an index ``[n, tasks]`` of what is scored: every row belongs to one process."""
        return index.tensor_split(self.count)[self.number]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, in double precision where it is no integer."""
        if self.count == 1:
            return values
        total = values.to(torch.float64 if values.is_floating_point() else values.dtype, copy=True)
        distributed.all_reduce(total)
        return total

    def minimum(self, value: int) -> int:
        if self.count == 1:
            return value
        least = torch.tensor(value)
        distributed.all_reduce(least, distributed.ReduceOp.MIN, group=self.patient)
        return int(least)

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite, in place, with the first process's."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)

    def told(self, content: Any) -> Any:
        """The first process's content, tensors and plain values: in the others as read from a file."""
        if self.count == 1:
            return content
        data = _packed(content if self.first else None)
        length = torch.tensor(len(data))
        distributed.broadcast(length, 0, group=self.patient)
        if not self.first:
            data = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(data, 0, group=self.patient)
        return content if self.first else _unpacked(data)

    def gathered(self, content: Any) -> list[Any]:
        """Every process's content, plain values and tensors on the CPU, by its number; of use in the first."""
        if self.count == 1:
            return [content]
        own = _packed(content)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.count)]
        distributed.all_gather(lengths, torch.tensor(len(own)), group=self.patient)
        longest = max(map(int, lengths))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        distributed.all_gather(parts, torch.cat([own, own.new_zeros(longest - len(own))]), group=self.patient)
        return [_unpacked(part[: int(length)]) for part, length in zip(parts, lengths, strict=True)]

    def leading(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns in the first process, which alone does it; where it fails, everybody's UserError."""
        if self.count == 1:
            return work()
        if self.first:
            try:
                result = work()
            except Exception as error:
                self.told((None, str(error)))
                raise
            return self.told((result, None))[0]
        result, mistake = self.told(None)
        if mistake is not None:
            raise UserError(mistake)
        return result

    def shared(self, objective: nn.Module, here: torch.device) -> nn.Module:
        """``objective`` with gradients that are the mean over processes."""
        if self.count == 1:
            return objective
        devices = None if here.type == "cpu" else [here]
        # buffers are not sent in every step: fit cares for batch norms', a prior, 64 MiB, is the same everywhere
        known = inspect.signature(DistributedDataParallel).parameters
        quiet: dict[str, Any] = {name: False for name in ("forward_sync_buffers", "broadcast_buffers") if name in known}
        quiet = dict(list(quiet.items())[:1])  # newer torch warns of the older name
        return DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True, **quiet)


SOLO = World()


def _packed(content: Any) -> Tensor:
    """Tensors and plain values as bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)


def apart(objective: nn.Module, wait: bool) -> AbstractContextManager:
    """Within it gradients are this process's own: what comes before a step's last part need not be exchanged."""
    return objective.no_sync() if wait and isinstance(objective, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(here: torch.device) -> Iterator[World]:
    """The processes that torchrun has started, able to speak to each other; this one alone where it did not."""
    if process.COUNT == 1:
        yield SOLO
        return
    if here.type == "cuda":
        torch.cuda.set_device(here)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo")
    yield World(process.NUMBER, process.COUNT, distributed.new_group(backend="gloo", timeout=PATIENCE))
    distributed.destroy_process_group()  # not after an error: it would wait for the others
