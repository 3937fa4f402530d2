"""The run folder: every path in it, and what its files must hold."""

import hashlib
import math
import re
import reprlib
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatial import graph, models, storing
from spatial.errors import UserError
from spatial.loading import FileSet, as_tasks, input_shape, load_sets
from spatial.locking import Lock, locked
from spatial.positions import OUTPUTS, SHEETS
from spatial.sources import FOLDER, check_names
from spatial.tasks import INPUTS, Tasks

VERSION = 2
WHOLE, GROUPS = "whole", "groups"  # in the place of a split's name: before the cut; of `--outputs arbitrary`
LAYOUT = (  # what the commands write, and nothing else is ever removed
    "environment.json", "timing.json", "history.csv", "positions.npz", "scores.csv", "transfer.csv", "measures.csv",
    "metrics.json", "variance.csv", "variance.npz", "against/*.json", "weights/seed-*.pt", "resume/seed-*.pt",
    "activations/seed-*/task-*.npz", "activations/seed-*/label-*.npz", "parts/*/seed-*/*.pt", "parts/*/seed-*/*.onnx",
    "parts/*/seed-*/owners.npz", "figures/*.png", "figures/*.gif", "figures/*.svg", "figures/*.pdf",
    "figures/report.html", "config.json",
)  # fmt: skip
MOST_SEEDS = 10_000
NORMS, PER = ("l1", "l2"), ("connection", "neuron")  # of spatial.costs


def _whole(least: int, most: int = 2**31 - 1) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least} to {most:,}", lambda value: type(value) is int and least <= value <= most


def _one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: type(value) is str and value in names


STRENGTH = ("a number of at least 0", lambda value: type(value) in (float, int) and 0 <= value <= storing.MOST)
# options that other commands need: what they must be, in words, and whether a value is
READ_LATER: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "datasets": ("a list of names", lambda names: type(names) is list and {*map(type, names)} == {str}),
    "input": _one_of(*INPUTS),
    "root": ("a folder", lambda path: type(path) is str and not any(map(_is_control, path))),
    "seed": _whole(0),
    "seeds": _whole(1, MOST_SEEDS),
    "epochs": _whole(1),
    "holdout": _whole(0),
    "resize": ("null or a whole number from 1 to 10,000", lambda size: size is None or _whole(1, 10_000)[1](size)),
    "outputs": _one_of(*OUTPUTS),
    "transport": STRENGTH,
    "proximity": STRENGTH,
    "norm": _one_of(*NORMS),
    "transport_per": _one_of(*PER),
    "model": _one_of(*models.MODELS),
    "locality": _one_of("none", *SHEETS),
    "trust_images": ("true or false", lambda value: type(value) is bool),
}
LATER = {"locality": "none", "trust_images": False}  # what a run had before there was the option


class Run:
    """A folder that holds one experiment: a command line, trained with one or more seeds.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.config_file = self.folder / "config.json"
        self.history = self.folder / "history.csv"
        self.positions = self.folder / "positions.npz"
        self.scores = self.folder / "scores.csv"
        self.transfer = self.folder / "transfer.csv"
        self.measures = self.folder / "measures.csv"
        self.metrics = self.folder / "metrics.json"
        self.variance = self.folder / "variance.csv"
        self.variances = self.folder / "variance.npz"
        self.environment = self.folder / "environment.json"
        self.timing = self.folder / "timing.json"
        self.parts = self.folder / "parts"
        self.figures = self.folder / "figures"
        self.report = self.figures / "report.html"

    def weights(self, seed: int) -> Path:
        return self.folder / "weights" / f"seed-{seed}.pt"

    def resume(self, seed: int) -> Path:
        return self.folder / "resume" / f"seed-{seed}.pt"

    def activations(self, seed: int, by: str, subset: str) -> Path:
        return self.folder / "activations" / f"seed-{seed}" / f"{by}-{subset}.npz"

    def part(self, method: str, seed: int, task: str) -> Path:
        return self.parts / method / f"seed-{seed}" / f"{task}.pt"

    def extracted(self, method: str, seed: int, task: str) -> Path:
        return self.parts / method / f"seed-{seed}" / f"{task}-extracted.pt"

    def owners(self, method: str, seed: int) -> Path:
        return self.parts / method / f"seed-{seed}" / "owners.npz"

    @property
    def lock(self) -> Path:
        """The file of the lock that a command holds while it changes the run."""
        return self.folder / "resume" / "lock"

    def locked(self) -> AbstractContextManager[Lock]:
        """Within it no other ``train``, ``record``, ``split`` or ``score`` changes the run.

        Raises:
            UserError: one does.
        """
        return locked(self.lock, busy=f"{self.folder}: another command is at work on it, wait until that has ended")

    def drawing(self) -> AbstractContextManager[Lock]:
        """Within it no other ``plot`` writes figures: it waits for that, but not for training, to be watched."""
        busy = f"{self.folder}: another plot writes its figures, waiting for it"
        return locked(self.lock.with_name("drawing"), busy=busy, wait=True)

    def against(self, other: "Run") -> Path:
        return self.folder / "against" / f"{other.name}.json"

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    def command(self, name: str, *words: str) -> str:
        """The command line, as one would type it, of a command on this run."""
        return shlex.join(["python", "main.py", name, str(self.folder), *words])

    def config(self) -> dict[str, Any]:
        """What ``train`` was told.

        Raises:
            UserError: if the folder is not a run.
        """
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder (make it with: {self.command('train')})")
        if not self.config_file.is_file():
            raise UserError(
                f"{self.folder}: not a run, it has no config.json (runs are made by: python main.py train RUN)"
            )
        config = storing.read_json(self.config_file)
        kinds = {"options": dict, "data": dict, "version": int}
        whole = isinstance(config, dict) and all(type(config.get(name)) is kind for name, kind in kinds.items())
        if not whole or config["version"] != VERSION or not {*map(type, config["data"].values())} <= {dict}:
            raise UserError(f"{self.config_file}: not a config.json of this program's version {VERSION}")
        config["options"] = options = LATER | config["options"]
        for name, (words, fits) in READ_LATER.items():
            if not fits(options.get(name)):
                got = reprlib.repr(options.get(name))
                raise UserError(f"{self.config_file}: {name} should be {words}, got {got}")
        try:
            check_names([name for name in options["datasets"] if options["datasets"] != [FOLDER]])
        except UserError as error:
            raise UserError(f"{self.config_file}: {error}") from None
        return config

    def options(self) -> dict[str, Any]:
        """The options of ``train``, by name."""
        return self.config()["options"]

    def seeds(self) -> list[int]:
        """The seeds that ``train`` was told to train."""
        return seeds_of(self.options())

    def charged(self) -> bool:
        """Whether a cost read the places of the units."""
        options = self.options()
        return bool(options["transport"] or options["proximity"])

    def sheets(self, *others: "Run") -> set[str]:
        """The kinds of sheet that this run, or another beside it, is about: of a control alone a plane."""
        priors = {each.options()["locality"] for each in (self, *others)} - {"none"}
        return priors or {"plane"}

    def tasks(
        self, subset: str, root: str | None = None, device: torch.device | str = "cpu", workers: int | None = None,
        networks: Mapping[int, nn.Module] | None = None,
    ) -> Tasks:  # fmt: skip
        """The run's tasks on its ``train`` or ``test`` images (with ``--holdout``, ``test`` are those held out).

        Args:
            root: the folder of the data, where it has moved.
            device: where batches go.
            workers: processes that decode image files; None: as many as there are cores.
            networks: by seed, which are to see the images; None: those that are trained.

        Raises:
            UserError: if a folder of image files is not that of training, or images are not like a network's.
        """
        config = self.config()
        options = config["options"]
        root = root or options["root"]
        kept = {name: options[name] for name in ("holdout", "resize")}
        kept["trust"] = options["trust_images"]
        if workers is not None and FOLDER not in options["datasets"]:
            raise UserError(f"--workers is read only of runs on {FOLDER}: other images are held in memory")
        try:
            sets = load_sets(options["datasets"], root, options["input"], workers=workers, **kept)
            shape = input_shape(sets, options["input"])
        except UserError as error:  # of an option, it is the config that says it
            raise UserError(f"{self.config_file}: {error}" if str(error).startswith("--") else str(error)) from None
        if isinstance(sets[0], FileSet):
            known = config["data"].get(sets[0].name, {})
            if any(known.get(name) != checksum for name, checksum in sets[0].checksums.items()):
                raise UserError(f"{root}: its images are not those that the run was trained on, by name and size")
        seen = shape, tuple(getattr(each, subset).classes for each in sets)
        if networks is None:
            networks = {seed: self.network(seed) for seed in self.seeds() if self.weights(seed).is_file()}
        for seed, network in networks.items():
            if (network.shape, network.classes) != seen:
                raise UserError(f"{self.weights(seed)}: is of other images than those of {root}, by shape or classes")
        return as_tasks(sets, subset, options["input"], device, workers=workers)

    def network(self, seed: int) -> nn.Module:
        """The trained network of ``seed``.

        Raises:
            UserError: if there is none, or it is not the one that the options of ``train`` ask for.
        """
        if not self.weights(seed).is_file():
            raise UserError(
                f"{self.weights(seed)}: no such file, training has not finished "
                f"(continue it with the command that began it and --resume)"
            )
        network, options = load(self.weights(seed)), self.options()
        shape, classes = network.shape, network.classes
        try:
            asked = models.constructor_arguments(options["model"], options, shape=shape, classes=classes)  # type: ignore[arg-type]
        except LookupError as error:
            raise UserError(f"{self.config_file}: does not say {error.args[0]}, which makes the network") from None
        same = type(network) is models.MODELS[options["model"]] and models.arguments_of(network) == asked
        if not same or len(classes) != len(options["datasets"]):  # type: ignore[arg-type]
            raise UserError(f"{self.weights(seed)}: is not the network that {self.config_file} asks for")
        return network

    def methods(self, complete: bool = True) -> list[str]:
        """The splits that there are for every seed; with ``complete=False`` those that were begun, but are not."""
        seeds = self.seeds()
        found = sorted(path.name for path in self.parts.glob("*") if path.is_dir())
        return [method for method in found if all(self.owners(method, seed).is_file() for seed in seeds) is complete]

    def clear_split(self, method: str, seed: int) -> None:
        """Remove what an earlier split left: first owners.npz, without which the parts do not count."""
        folder = self.owners(method, seed).parent
        self.owners(method, seed).unlink(missing_ok=True)
        for pattern in ("*.pt", "*.onnx"):
            for path in folder.glob(pattern):
                path.unlink()

    def save_split(self, method: str, seed: int, k: dict[str, Tensor], owners: dict[str, Tensor]) -> None:
        """Write owners.npz: ``layer-l`` every unit's task (-1: none), ``layer-l/k`` its factor in each task's part."""
        arrays = {f"layer-{index}": owner.cpu().numpy() for index, owner in enumerate(owners.values())}
        arrays |= {f"layer-{index}/k": factors.cpu().numpy() for index, factors in enumerate(k.values())}
        storing.save_arrays(self.owners(method, seed), arrays)

    def split(self, method: str, seed: int, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What :meth:`save_split` wrote: ``k`` ``[tasks, units]`` and owners ``[units]``, by placed layer's name.

        Raises:
            UserError: if the file does not fit the network.
        """
        units = {layer: len(place) for layer, place in graph.positions(network).items()}
        tasks = len(self.options()["datasets"])
        shapes: dict[str, tuple[int, ...]] = {}
        for index, n in enumerate(units.values()):
            shapes |= {f"layer-{index}": (n,), f"layer-{index}/k": (tasks, n)}
        stored = storing.load_arrays(self.owners(method, seed), shapes)
        for name, each in stored.items():
            factors = name.endswith("/k")
            kind, low, high = ("f", 0, 1) if factors else ("i", -1, tasks - 1)
            if each.dtype.kind != kind or not ((each >= low) & (each <= high)).all():
                raise UserError(f"{self.owners(method, seed)}: {name} should hold numbers from {low} to {high}")
        arrays = {name: torch.from_numpy(each) for name, each in stored.items()}
        owners = {layer: arrays[f"layer-{index}"] for index, layer in enumerate(units)}
        return {layer: arrays[f"layer-{index}/k"] for index, layer in enumerate(units)}, owners

    def part_networks(self, method: str, seed: int, network: nn.Module) -> list[nn.Module]:
        """The parts of ``network``, task by task."""
        return [_fitting(self.part(method, seed, name), network) for name in self.options()["datasets"]]

    def extracted_networks(self, method: str, seed: int, network: nn.Module) -> dict[str, nn.Module]:
        """The extracted parts of ``network`` that there are, by task."""
        paths = {name: self.extracted(method, seed, name) for name in self.options()["datasets"]}
        return {
            name: _fitting(path, network, task) for task, (name, path) in enumerate(paths.items()) if path.is_file()
        }

    def recorded(self, by: str, subset: str, seed: int, network: nn.Module) -> dict[str, dict[str, Tensor]]:
        """What `record` measured, by measure (``mean``, ``mean_abs``, ``variance``) and hidden layer's name.

        Each ``[rows, units]``: a row per task, or per task and label.

        Raises:
            UserError: if it was not recorded, naming the command, or does not fit the network.
        """
        path = self.activations(seed, by, subset)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with: {self.command('record', '--by', by, '--subset', subset)}"
            )
        classes: tuple[int, ...] = network.classes  # type: ignore[assignment]
        rows = len(classes) if by == "task" else sum(classes)
        units = {layer: len(place) for layer, place in list(graph.positions(network).items())[:-1]}
        measures = ("mean", "mean_abs", "variance")
        shapes = {f"layer-{i}/{measure}": (rows, n) for i, n in enumerate(units.values()) for measure in measures}
        arrays = storing.load_arrays(path, shapes)
        for name, each in arrays.items():  # a label that no image has is NaN
            least = -math.inf if name.endswith("/mean") else 0
            wrong = (by == "task" and np.isnan(each).any()) or (each < least).any() or np.isinf(each).any()
            if each.dtype.kind != "f" or wrong:
                raise UserError(f"{path}: {name} should hold {'numbers' if least else 'numbers of at least 0'}")
        return {
            measure: {layer: torch.from_numpy(arrays[f"layer-{i}/{measure}"]) for i, layer in enumerate(units)}
            for measure in measures
        }

    def map_variances(self) -> tuple[np.ndarray, dict[str, dict[int, np.ndarray]]]:
        """What `score` measured of every input's activation maps.

        Returns:
            Labels ``[inputs, tasks]``; spatial variances ``[inputs]`` by ``layer-l/sheet``, then by seed; NaN for an
            empty map. No layers where there is no such file: no layer lies on a sheet.

        Raises:
            UserError: if the file is not of this run.
        """
        if not self.variances.is_file():
            return np.empty((0, 0), np.int64), {}
        stored, seeds = storing.load_arrays(self.variances), self.seeds()
        labels = stored.pop("labels", np.empty(0))
        found: dict[str, dict[int, np.ndarray]] = {}
        for name, values in stored.items():
            known = re.fullmatch(r"seed-(\d{1,10})/(layer-\d{1,4}/(?:line|plane))", name)
            if known and values.dtype.kind == "f" and values.shape == labels.shape[:1] and not (values < 0).any():
                found.setdefault(known[2], {})[int(known[1])] = values
        whole = all(list(each) == seeds for each in found.values()) and sum(map(len, found.values())) == len(stored)
        finite = not any((values > storing.MOST).any() for each in found.values() for values in each.values())
        tasks = len(self.options()["datasets"])
        if labels.shape[1:] != (tasks,) or labels.dtype.kind != "i" or not found or not whole or not finite:
            raise UserError(f"{self.variances}: does not fit the run; make it again with: {self.command('score')}")
        return labels, found

    def is_blank(self) -> bool:
        """Whether the folder holds nothing but what an interruption before the first whole file may have left."""
        left = {self.lock, storing.temporary(self.config_file)}
        return all(path in left for path in self.folder.rglob("*") if path != self.lock.parent)

    def is_run(self) -> bool:
        """Whether this is a run's folder, or holds nothing but a run's files (a clone has a run's results alone)."""
        if self.config_file.is_file() or (self.folder / "resume").is_dir():
            return True
        own = set(self._files())
        return all(path in own for path in self.folder.rglob("*") if not path.is_dir())

    def _files(self, keep: str | None = None) -> Iterator[Path]:
        """The files of the layout that there are, half-written ones too, but for those in the folder ``keep``."""
        for pattern in LAYOUT:
            if keep is None or not pattern.startswith(f"{keep}/"):
                yield from self._matching(pattern)
        yield from self._half_written()

    def _half_written(self) -> Iterator[Path]:
        for pattern in LAYOUT:
            yield from self._matching(str(storing.temporary(Path(pattern))))

    def _matching(self, pattern: str) -> Iterator[Path]:
        yield from sorted(path for path in self.folder.glob(pattern) if path.is_symlink() or not path.is_dir())

    def sweep(self) -> None:
        """Remove what killed commands have left half-written."""
        for path in self._half_written():
            path.unlink()

    def clear(self, keep: str | None = None) -> None:
        """Remove the files of the layout and the folders that they leave empty, and nothing else.

        But for config.json, which is replaced: an interruption leaves a run.

        Args:
            keep: a folder of the layout to leave as it is.
        """
        for path in self._files(keep):
            if path == self.config_file:
                continue
            path.unlink()
            for inner in list(path.relative_to(self.folder).parents)[:-1]:
                folder = self.folder / inner
                if not folder.is_symlink() and not any(folder.iterdir()):
                    folder.rmdir()


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc"


def _fitting(path: Path, whole: nn.Module, task: int | None = None) -> nn.Module:
    """A part of ``whole``, its own outputs alone where a task is given; UserError if it is none."""
    part = load(path)
    classes = whole.classes if task is None else (whole.classes[task],)  # type: ignore[index]
    if type(part) is not type(whole) or part.shape != whole.shape or part.classes != classes:
        raise UserError(f"{path}: is not a part of this run's network")
    return part


def seeds_of(options: dict[str, Any]) -> list[int]:
    """The seeds that the options of ``train`` ask for."""
    return list(range(options["seed"], options["seed"] + options["seeds"]))


def scored_subset(options: dict[str, Any]) -> str:
    """The images that are scored after every epoch."""
    return "holdout" if options["holdout"] else "test"


def load(path: str | Path) -> nn.Module:
    """The network of a weights file or a part, in evaluation mode on the CPU.

    Raises:
        UserError: if there is no such file or it does not hold a network.
    """
    return models.unpack(storing.load_plain(Path(path)), path)


def code_checksums() -> dict[str, str]:
    """SHA-256 of every source file of the package, by its path within it."""
    root = Path(__file__).parent
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.py"))
    }
