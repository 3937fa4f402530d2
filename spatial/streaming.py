"""Tasks whose images are files: decoded, cut and resized by worker processes while the network computes."""

import shutil
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spatial import process
from spatial.errors import Alone, UserError
from spatial.folders import Files, decode
from spatial.seeds import seeded
from spatial.tasks import UNLABELLED, Batch, Tasks

MARGIN = 256 / 224  # a scored image's shorter side over the side of what is cut from its middle
AHEAD = 2  # batches that a worker makes before they are asked for
MOST = 256  # images a batch where nothing is learned: in memory for the network's largest map
SHARED = Path("/dev/shm")  # what workers hand their batches over in


class Request(NamedTuple):
    """A batch to make: images by number, and the names of the draws that change them, none where they are scored."""

    images: list[int]
    draws: tuple[int, ...] | None


class Unreadable(NamedTuple):
    """An image that cannot be decoded any more."""

    path: Path
    reason: str


class Pixels(Dataset):
    """Batches of pixels, ``[batch, size, size, 3]`` bytes, by :class:`Request`.

    For training a random part of the image (8 % to all of its area, 3:4 to 4:3), resized and mirrored half of the
    times: drawn from a generator for the seed, the epoch and the image. For scoring the middle ``size`` x ``size``
    pixels of the image resized to a shorter side of ``256 / 224 size``.
    """

    def __init__(self, files: Files, size: int):
        from torchvision import transforms  # seconds to import

        self.files = files
        self.draw = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()])
        self.middle = transforms.Compose([transforms.Resize(round(MARGIN * size)), transforms.CenterCrop(size)])

    def __getitem__(self, request: Request) -> Tensor | Unreadable:
        pixels = []
        for number in request.images:
            try:
                image = decode(self.files.path(number))
            except ValueError as error:  # of one class alone: an exception from a worker comes as a page of text
                return Unreadable(self.files.path(number), str(error))
            if request.draws is None:
                image = self.middle(image)
            else:
                seed, epoch = request.draws
                with seeded(seed, "augment", epoch, number):
                    image = self.draw(image)
            pixels.append(torch.from_numpy(np.array(image)))
        return torch.stack(pixels)


class Plan:
    """What a loader is asked for in its next pass; its workers go on from pass to pass.

    Attributes:
        chunks: the images of each batch, indices ``[n, 1]``.
        draws: see :class:`Request`.
    """

    def __init__(self) -> None:
        self.chunks: Sequence[Tensor] = ()
        self.draws: tuple[int, ...] | None = None

    def __iter__(self) -> Iterator[Request]:
        chunks, draws = self.chunks, self.draws
        return (Request(rows[:, 0].tolist(), draws) for rows in chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class FileTasks(Tasks):
    """One task whose images are files; see :class:`spatial.tasks.Tasks`, whose index and orders are the same.

    Args:
        files: the images.
        size: height and width of what the network sees, pixels.
        device: where the batches go.
        workers: processes that make them; 0: this one does.
        stay: whether they go on from pass to pass, as those of training do.
    """

    top = 5
    most = MOST

    def __init__(
        self, files: Files, size: int, device: torch.device | str = "cpu", *, workers: int = 0, stay: bool = False
    ):
        self.input = "mix"
        self.classes, self.sizes = (files.classes,), (len(files.labels),)
        self.labels = [torch.cat([files.labels, torch.tensor([UNLABELLED])]).to(device)]
        self._plan, pixels = Plan(), Pixels(files, size)
        self._loader = DataLoader(
            pixels,
            batch_size=None,  # a request is a batch
            sampler=self._plan,
            collate_fn=_as_it_is,
            worker_init_fn=_undisturbed,
            num_workers=workers,
            persistent_workers=stay and workers > 0,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # torch's own one is for dropout
        )

    @property
    def device(self) -> torch.device:
        return self.labels[0].device

    def batches(self, index: Tensor, size: int) -> Iterator[Batch]:
        """The images as they are scored, at most ``most`` at a time."""
        return self._made(index.split(min(size, self.most)), None)

    def series(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        return self._made(list(chunks), None)

    def training_batches(self, index: Tensor, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        return self._made(index.split(size), (seed, epoch))

    def batch(self, index: Tensor) -> Batch:
        """One batch, whatever its size: the images as they are scored."""
        (made,) = self.series([index])
        return made

    def _made(self, chunks: Sequence[Tensor], draws: tuple[int, ...] | None) -> Iterator[Batch]:
        """The batches in their order, on the device: channels last, as they come from the files.

        Raises:
            Alone: an image cannot be decoded, naming it.
        """
        if any((rows >= self.sizes[0]).any() for rows in chunks):
            raise ValueError("images from files are never blank")
        self._plan.chunks, self._plan.draws = chunks, draws
        self._pass = own = object()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, of forking beside torch's threads
            made = iter(self._loader)
        # at once: a copy for every batch would wait for the device
        there = torch.cat(list(chunks)).to(self.device).split([len(rows) for rows in chunks]) if chunks else ()
        for rows, pixels in zip(there, made, strict=True):
            if self._pass is not own:
                raise RuntimeError("the images are gone through anew before this pass has ended")
            if isinstance(pixels, Unreadable):
                raise Alone(f"{pixels.path}: can no longer be decoded: {pixels.reason}; mend it or start the run anew")
            images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            yield Batch(images.to(torch.get_default_dtype()).div_(255), self.asked(rows))


def _as_it_is(made: Any) -> Any:
    return made


def _undisturbed(worker: int) -> None:
    """A worker ends with its parent: how Ctrl-C, which both get, ends is the parent's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def default_workers(processes: int = 1) -> int:
    """As many as there are cores to each of ``processes``, 16 at most."""
    return max(1, min(16, process.cores() // processes))


def check_shared_memory(workers: int, batch_size: int, size: int, processes: int = 1) -> None:
    """UserError if the batches that a loader keeps ahead, to train or to score, need more than there is.

    Args:
        workers: of each process.
        batch_size: of each process, computed at once.
        size: height and width of an image.
        processes: on this machine.
    """
    if not workers or not SHARED.is_dir():
        return
    of_one = AHEAD * max(batch_size, MOST) * 3 * size**2 * processes
    free = shutil.disk_usage(SHARED).free
    if workers * of_one > free:
        raise UserError(
            f"--workers {workers} needs {workers * of_one / 2**20:,.0f} MiB of shared memory for the batches ahead, "
            f"{SHARED} has {free / 2**20:,.0f} MiB free; use --workers {free // of_one}, or enlarge it "
            "(docker run --shm-size 8g)"
        )
