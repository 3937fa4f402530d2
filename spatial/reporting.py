"""A run on one page: what was run, its numbers, its figures, and its neurons as they move, in one HTML file.

The page asks nothing of any network. `report.html`, beside this module, is its frame, its style and its script.
"""

import json
import re
import shlex
import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from spatial import drawing, plotting, storing
from spatial.costs import STARTS
from spatial.errors import UserError
from spatial.metrics import live_units
from spatial.plotting import BESIDE, KINDS, Asked, Drawn, Missing, missing
from spatial.runs import Run
from spatial.scoring import GROUPS, WHOLE, accuracy_cells, measure_cells, methods_of, metrics_of

FRAME = Path(__file__).with_name("report.html")
MOST = 5_000_000  # bytes of a page: what would not fit is left out, and named
MOST_OF_SHEETS = 1_500_000  # bytes of the first network's neurons
SMALL = 50_000  # bytes of a page that are not counted: remarks and names
FRAMES = 60  # of a network's epochs
UNITS = 1000  # of a layer
FINE = 10_000  # steps from a panel's middle to its edge
PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"GIF89a": "gif"}  # by how their files begin
CAPTIONS = {  # by kind of figure, what is seen; what it means
    "positions": ("Scatter plots, one per layer", "each layer's neurons at their places, by the task that owns them"),
    "wiring": ("Sheets of neurons, one above another", "the strongest connections between neurons of two layers"),
    "activations": ("Scatter plots, a column per task", "how active each neuron is while a task is shown alone"),
    "labels": ("Small scatter plots, one per label", "how active each neuron is for each label"),
    "curves": ("Line charts over epochs", "loss, accuracy and costs while the network was trained"),
    "trajectory": ("Animated scatter plots, one per layer", "the neurons moving from their start, epoch by epoch"),
    "scores": ("Bar chart", "accuracy before the cut and after it by every split"),
    "transfer": ("Coloured matrices, one per split", "accuracy of every part on every task"),
    "prior": ("Maps of a sheet", "what the locality prior leaves of a unit's connections"),
    "maps": ("Maps of a sheet, one per label", "each label's mean activation"),
    "variance": ("Bar chart and histogram", "how far activation spreads over the sheet"),
    "filters": ("Small images at their units' places", "what every unit of a layer reads"),
}


def report(run: Run, asked: Asked, usual: Mapping[str, Any]) -> Drawn:
    """Draw figures as :func:`spatial.plotting.plot` does, and write a page that holds all there are.

    Args:
        run: a trained run.
        asked: of the files beside the page, which has every kind and its own pictures; and with which split's colours
            and which network the page begins.
        usual: the options that ``train`` would have by default, by name.

    Raises:
        UserError: as ``plot``, or of a file that does not fit the run, before anything is written.
    """
    beside = plotting.draw(run, asked, report=True)
    files = plotting.render(beside, asked.format)
    others = {kind: make for kind, make in KINDS.items() if kind not in beside.made.keys() | beside.left_out.keys()}
    more, lacking = plotting.possible(run, others, beside.method, beside.seed)
    shown = beside._replace(made=beside.made | more, left_out=beside.left_out | lacking)
    drawn = {name: content for name, content in files.items() if _kind_of(content)}
    there = {Path(name).stem for name in drawn}
    rest = shown._replace(made={kind: made for kind, made in shown.made.items() if kind not in there})
    pictures = _of_folder(run) | drawn | plotting.render(rest)
    files[run.report.name] = page(run, usual, shown, pictures).encode(errors="replace")
    return Drawn(plotting.write(run, files), beside.left_out)


def _of_folder(run: Run) -> dict[str, bytes]:
    """The pictures that earlier commands have drawn."""
    paths = sorted(path for path in run.figures.glob("*.*") if path.suffix in (".png", ".gif") and path.is_file())
    return {path.name: content for path in paths if _kind_of(content := path.read_bytes())}


def _kind_of(content: bytes) -> str | None:
    return next((kind for start, kind in PICTURES.items() if content.startswith(start)), None)


def page(run: Run, usual: Mapping[str, Any], figures: plotting.Figures, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        run: a trained run.
        usual: the options that ``train`` would have by default, by name.
        figures: what could be drawn of the run, and what could not.
        pictures: files of figures, by name.
    """
    options = run.options()
    lacking, remarks = dict(figures.left_out), list[str]()
    accuracy = measures = ""
    try:
        metrics = _metrics(run)
        heads, *rows = accuracy_cells({run.name: metrics})
        rows = rows if len(options["datasets"]) > 1 else rows[:-1]  # of one task its mean says nothing
        accuracy = _table("accuracy", [heads[1:], *(row[1:] for row in rows)])
        heads, *rows = measure_cells(metrics)
        named = [[method, drawing.layer_name(int(layer), -1), *cells] for method, layer, *cells in rows]
        measures = _table("measures", [["split", *heads[1:]], *named], left=2) if rows else ""
    except Missing as error:
        lacking["tables"] = str(error)
    if not methods_of(run):
        lacking["owners of the neurons"] = str(missing(run, "split"))
    sheets, frames = _first_network(run, figures.seed, lacking, remarks)
    parts = {
        "title": escape(run.name), "summary": escape(_summary(run, options)), "accuracy": accuracy,
        "measures": measures, "options": _options(options, usual), "environment": _environment(run),
    }  # fmt: skip
    room = MOST - sum(map(len, parts.values())) - len(sheets) - FRAME.stat().st_size - SMALL
    shown, omitted = _figures(pictures, room)
    room -= len(shown)
    others = [each for each in run.seeds() if each != figures.seed]
    trained = [each for each in others if run.weights(each).is_file()]
    remarks += [f"Seed {each} has not been trained to its end." for each in others if each not in trained]
    while trained:
        each = _json(_network(run, trained[0], frames, {}, []))
        if len(each) > room:
            remarks.append(f"Left out, as the page would be larger than {MOST / 1e6:g} MB: {_seeds(trained)}.")
            break
        sheets, room = f"{sheets},{each}", room - len(each)
        del trained[0]
    start = {"seed": figures.seed, "method": figures.method if figures.method in methods_of(run) else None}
    parts |= {
        "figures": shown, "omitted": _items(omitted), "remarks": "".join(f"<p>{escape(each)}</p>" for each in remarks),
        "lacking": _items(f"{name}: {why}" for name, why in lacking.items() if "python main.py" in why),
        "data": _json(_common(run) | start)[:-1] + f',"networks":[{sheets}]}}',
    }  # fmt: skip
    return re.sub(r"<!-- (\w+) -->", lambda mark: parts[mark[1]], FRAME.read_text(encoding="utf-8"))


def _metrics(run: Run) -> dict[str, Any]:
    """What `score` said of the splits that there are."""
    if not run.metrics.is_file():
        raise missing(run, "score")
    metrics = metrics_of(run)
    same = metrics["accuracy"].keys() - {GROUPS} == {WHOLE, *methods_of(run)}
    if not same or metrics["accuracy"][WHOLE].keys() != {*run.options()["datasets"], "mean"}:
        raise Missing(
            f"{run.metrics}: is of other splits than there are now; make it again with: {run.command('score')}"
        )
    return metrics


# Words and tables.


def _summary(run: Run, options: Mapping[str, Any]) -> str:
    tasks, seeds = options["datasets"], run.seeds()
    epochs = f"{options['epochs']} epochs" if options["epochs"] > 1 else "one epoch"
    layers = options.get("layers")
    hidden = f" with hidden layers of {_and(layers)}" if isinstance(layers, list) and layers else ""
    how = f", input {options['input']}" if len(tasks) > 1 else ""
    return f"{options['model']}{hidden} on {_and(tasks)}{how}; {epochs}, {_seeds(seeds)}."


def _and(each: Sequence[Any]) -> str:
    *first, last = map(str, each)
    return f"{', '.join(first)} and {last}" if first else last


def _seeds(seeds: Sequence[int]) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _options(options: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The options of ``train`` that are not as by default."""
    changed = [name for name in options if name not in usual or options[name] != usual[name]]
    rows = [[f"--{name.replace('_', '-')}", _word(options[name]), _word(usual.get(name))] for name in changed]
    if not rows:
        return "<p>All options are the defaults.</p>"
    return _table("options that are not as by default", [["option", "value", "by default"], *rows], left=3)


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environment(run: Run) -> str:
    """On what the run was trained, and when."""
    if not run.environment.is_file():
        return f"<p>{escape(run.environment.name)}, with versions and dates, is not there: train writes it.</p>"
    found = storing.read_json(run.environment)
    if not isinstance(found, dict):
        raise UserError(f"{run.environment}: not an environment.json of this program")
    if isinstance(words := found.get("command"), list):
        found["command"] = shlex.join(["python", *map(str, words)])
    return _table(
        "versions, machine and dates", [["", ""], *([name, _word(each)] for name, each in found.items())], left=2
    )


def _table(name: str, rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of cells, the heads of the columns first; the first ``left`` columns are words, the others numbers."""
    head, *body = [[escape(cell) for cell in row] for row in rows]
    kinds = ["" if column < left else ' class="number"' for column in range(len(head))]
    heads = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, head, strict=True))
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in body
    )
    top = f"<thead><tr>{heads}</tr></thead>" if any(head) else ""
    table = f"<table>{top}<tbody>{lines}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">{table}</div>'


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _figures(pictures: Mapping[str, bytes], room: int) -> tuple[str, list[str]]:
    """Pictures with captions, in the order of ``KINDS``, as many as there is room for, and which there is none for."""
    order = [*KINDS, "relaxed"]
    ranks = {name: next((i for i, kind in enumerate(order) if name.startswith(kind)), len(order)) for name in pictures}
    parts, omitted = [], []
    for name in sorted(pictures, key=lambda name: (ranks[name], name)):
        content = pictures[name]
        alt, caption = (escape(words) for words in _caption(Path(name).stem))
        source = f"data:image/{_kind_of(content)};base64,{b64encode(content).decode()}"
        width, height = _size(content)
        image = f'<img src="{source}" alt="{alt}" width="{width}" height="{height}">'
        part = f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n"
        if len(part) > room:
            omitted.append(f"{name} ({len(content) / 1e6:.1f} MB) is left out, it is too large for this page.")
            continue
        room -= len(part)
        parts.append(part)
    return "".join(parts), omitted


def _size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture on the page, so that text on it is as large as a figure says."""
    if content.startswith(b"GIF"):
        sides, dpi = struct.unpack("<HH", content[6:10].ljust(4, b"\1")), drawing.MOVIE_DPI
    else:
        sides, dpi = struct.unpack(">II", content[16:24].ljust(8, b"\1")), drawing.DPI
    return round(sides[0] * 96 / dpi), round(sides[1] * 96 / dpi)


def _caption(stem: str) -> tuple[str, str]:
    """A figure's alternative text and its caption."""
    kind, _, control = stem.partition("-against-")
    if kind in CAPTIONS and (not control or kind in BESIDE):
        seen, meant = CAPTIONS[kind]
        beside = f", beside {control}" if control else ""
        return f"{seen}: {meant}{beside}.", f"{stem}: {meant}{beside}."
    start = STARTS.get(stem.removeprefix("relaxed-"), "") if stem.startswith("relaxed-") else ""
    if start:
        return f"Scatter plots, one per layer: neurons {start}.", f"{stem}: the neurons {start}, weights frozen."
    return stem, stem


# Neurons on their sheets, for the page's script.


def _common(run: Run) -> dict[str, Any]:
    """What every network of the run has."""
    tasks = [
        {"name": name, "colour": drawing.colour(task), "shape": drawing.marker(task)}
        for task, name in enumerate(run.options()["datasets"])
    ]
    shades = [to_hex(each) for each in matplotlib.colormaps[drawing.SHADES](np.linspace(0, 1, 32))]
    return {"tasks": tasks, "methods": methods_of(run), "nobody": drawing.NOBODY, "shades": shades, "fine": FINE}


def _first_network(run: Run, seed: int, lacking: dict[str, str], remarks: list[str]) -> tuple[str, int]:
    """The neurons of ``seed`` as JSON, and at how many moments; says what they lack and how they were thinned."""
    frames = FRAMES
    while True:
        thinned: list[str] = []
        first = _json(_network(run, seed, frames, lacking, thinned))
        if len(first) <= MOST_OF_SHEETS or frames <= 2:
            remarks += thinned
            return first, frames
        frames //= 2


def _network(run: Run, seed: int, frames: int, lacking: dict[str, str], remarks: list[str]) -> dict[str, Any]:
    """One network's layers: places at some epochs in parts of a panel, owners by split, liveness, activity by task."""
    network = run.network(seed)
    now, alive = drawing.places_of(network), {layer: each.numpy() for layer, each in live_units(network).items()}
    epochs = run.options()["epochs"]
    try:
        moves = plotting.moves_of(run, seed, now)
    except Missing as error:
        lacking["movement of the neurons"] = str(error)
        moves = {layer: place[None] for layer, place in now.items()}
    try:
        _, recorded, images = plotting.recorded_by(run, "task", seed)
    except Missing as error:
        lacking["activity of the neurons"] = str(error)
        recorded, images = {}, ""
    owners = {method: run.split(method, seed, network)[1] for method in methods_of(run)}
    reach = drawing.limits_of(moves[layer][:, alive[layer]] for layer in moves)[1]
    last = max(map(len, moves.values())) - 1
    chosen = np.unique(np.linspace(0, last, min(frames, last + 1)).round().astype(int))
    if len(chosen) <= last:
        remarks.append(f"Places are shown at {len(chosen)} of {last + 1} moments, evenly chosen.")
    layers = []
    for index, (layer, path) in enumerate(moves.items()):
        name, units = drawing.layer_name(index, len(moves)), path.shape[1]
        kept = np.arange(units)
        if units > UNITS:
            kept = np.sort(np.random.default_rng(0).choice(units, UNITS, replace=False))
            remarks.append(f"{UNITS:,} of the {units:,} units of {name} are shown, drawn by lot.")
        flat = [np.stack(drawing.sheet(each.astype(float), reach), 1)[kept] for each in path[chosen]]
        moved = np.rint(FINE * (np.stack(flat) / reach).clip(-99, 99)).astype(int)  # [frames, units, 2]
        if (moved == moved[0]).all():
            moved = moved[:1]
        activity = recorded.get(layer)  # [tasks, units]
        layers.append(
            {
                "name": name, "of": units, "units": kept.tolist() if len(kept) < units else None,
                "places": moved.reshape(len(moved), -1).tolist(), "live": alive[layer][kept].astype(int).tolist(),
                "owners": {method: own[layer].numpy()[kept].tolist() for method, own in owners.items()},
                "activity": None if activity is None else [[_short(value) for value in row[kept]] for row in activity],
                "most": None if activity is None else _short(drawing.shade(activity).vmax or 0),
            }
        )  # fmt: skip
    where = drawing.hidden_dimensions(next(iter(now.values())).shape[1])
    return {
        "seed": seed, "epochs": epochs, "moments": (chosen if last else np.array([epochs])).tolist(), "layers": layers,
        "reach": round(float(reach), 3), "unit": drawing.unit_of(network), "images": images, "dimensions": where,
        "line": next(iter(now.values())).shape[1] == 1,
    }  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _json(content: Any) -> str:
    """JSON that can stand in a page: nothing in it ends the element around it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
