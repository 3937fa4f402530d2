"""Pictures of neurons on their sheets, for any network with places, and what figures are made of."""

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from PIL import Image
from torch import Tensor, nn

from spatial import graph
from spatial.metrics import live_units

# Okabe and Ito's palette, told apart by colour-blind readers too; a marker for each task says it twice
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
NOBODY = "#888888"
DARK = "#333333"
SHADES = "cividis"
PANEL = 3.2  # inches
LENGTH = "sd of the start"  # the unit of length: positions start standard normal
SPACING = "spacing of the sheet"  # where units lie on one
COUNTED = 20  # neurons at one place from which their number is written
DPI, MOVIE_DPI = 150, 80
# of text, in points: a panel's title; notes and names of rows and columns; numbers beside marks; numbers on marks.
# A page shows a figure about 800 pixels wide, where 9 points of one 11 inches wide are 9 pixels: none is much wider
TITLE, NOTE, SMALL, LEAST = 10, 9, 8, 7
STYLE: dict[Any, Any] = {  # of figures as they are made and written
    "text.parse_math": False,  # a run may be called a$b
    "svg.fonttype": "none", "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "spatial",  # equal figures get equal names within
}  # fmt: skip
# of still pictures, each with what keeps the day and the program out of it
FORMATS: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


class Heaps(NamedTuple):
    """Neurons that lie too close to be told apart, drawn as one."""

    places: np.ndarray  # [heaps, 2]
    counts: np.ndarray  # [heaps]
    values: np.ndarray  # [heaps], the mean of their values
    total: int  # neurons of the layer


def heaps(places: np.ndarray, reach: float, values: np.ndarray | None = None, which: np.ndarray | None = None) -> Heaps:
    """Group neurons (all, or those of the mask ``which``) by cells of 1/100 of a panel from ``-reach`` to ``reach``.

    Neurons outside the panel are left out. A heap takes what lies within a cell's width of it in the next cells, so
    that no edge cuts it in two.
    """
    chosen = within(places, reach) & (True if which is None else which)
    x, y = (each[chosen] for each in sheet(places, reach))
    apart = places[chosen] if places.shape[1] > 1 else np.stack([x, y], 1)  # in all dimensions, not only the two drawn
    width = reach / 50
    _, member, counts = np.unique(np.round(apart / width), axis=0, return_inverse=True, return_counts=True)
    member = member.ravel()
    centres = np.stack([np.bincount(member, each, len(counts)) / counts for each in apart.T], 1)
    into = np.arange(len(counts))
    for cell in np.argsort(-counts, kind="stable"):
        if counts[cell] > 1 and into[cell] == cell:
            near = ((centres - centres[cell]) ** 2).sum(1) < width**2
            into[near & (into == np.arange(len(into))) & (counts <= counts[cell])] = cell
    _, member, counts = np.unique(into[member], return_inverse=True, return_counts=True)

    def mean(each: np.ndarray) -> np.ndarray:
        return np.bincount(member, each, len(counts)) / counts

    means = mean(np.ones(len(x)) if values is None else values[chosen])
    return Heaps(np.stack([mean(x), mean(y)], 1), counts, means, len(places))


def sheet(places: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The first two coordinates; in one dimension the second is a fixed scatter, lest neurons hide each other."""
    if places.shape[1] > 1:
        return places[:, 0], places[:, 1]
    return places[:, 0], np.random.default_rng(0).uniform(-0.5, 0.5, len(places)) * reach


def bubbles(
    axis: Axes, heaped: Heaps, *, size: float = 1.0, scale: Normalize | None = None, **style: Any
) -> PathCollection:
    """Draw heaps with an area that grows with their neurons, the small ones on top; by their values on a ``scale``."""
    if scale is not None:
        style |= {"c": [], "cmap": SHADES, "norm": scale}
    drawn = axis.scatter([], [], linewidths=0.4, edgecolors="white", clip_on=False, **style)
    place_bubbles(drawn, heaped, size)
    return drawn


def place_bubbles(drawn: PathCollection, heaped: Heaps, size: float = 1.0) -> None:
    """Make :func:`bubbles` show these heaps."""
    order = np.argsort(-heaped.counts, kind="stable")
    areas = 8 + 5 * heaped.counts[order] * min(1, 300 / max(heaped.total, 1))  # square points
    drawn.set_offsets(heaped.places[order])
    drawn.set_sizes(np.maximum(size * areas, 4))
    if drawn.get_array() is not None:
        drawn.set_array(heaped.values[order])


def count(axis: Axes, drawn: Iterable[tuple[int, Heaps]], reach: float) -> bool:
    """Write the number of neurons on a panel's large heaps, given by task; false where one would cover a larger one's.

    It is left out then.
    """
    large = [
        (int(number), x, y, task)
        for task, heaped in drawn
        for (x, y), number in zip(heaped.places.tolist(), heaped.counts, strict=True)
        if number >= COUNTED
    ]
    written: list[tuple[float, float]] = []
    for number, x, y, task in sorted(large, key=lambda heap: -heap[0]):
        if all(abs(x - u) > 0.17 * reach or abs(y - v) > 0.09 * reach for u, v in written):
            written.append((x, y))
            shade = ink(to_rgba(colour(task)))
            axis.text(x, y, str(number), ha="center", va="center", fontsize=LEAST, color=shade)
    return len(written) == len(large)


def ink(fill: Sequence[float]) -> str:
    """Black or white, whichever is read better on a colour."""
    return "black" if np.dot(fill[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"


def panels(rows: int, columns: int, *, height: float = 1.12 * PANEL, margin: float = 1.1) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels, ``axes[row][column]``; ``margin`` is for a legend above and a note below."""
    figure = Figure(figsize=(PANEL * columns + 0.6, height * rows + margin), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def wrapped(number: int, most: int = 4) -> tuple[Figure, list[Axes]]:
    """``number`` panels in as few rows of at most ``most`` as hold them."""
    rows = -(-number // most)
    figure, axes = panels(rows, -(-number // rows))
    for unused in axes.flat[number:]:
        unused.remove()
    return figure, list(axes.flat[:number])


def first_of_row(axis: Axes) -> bool:
    """Whether nothing stands to the left of a panel."""
    return axis.get_subplotspec().is_first_col()  # type: ignore[union-attr]


def explain(figure: Figure, handles: Sequence[Artist], *notes: str, title: str = "") -> None:
    """One legend for all panels, above them, and lines of explanation below; a figure grows by what they need."""
    width, height = figure.get_size_inches()
    if text := "; ".join(each for each in notes if each):
        filled = textwrap.fill(text, int(13 * width))
        figure.supxlabel(filled, fontsize=NOTE, color="#444444")
        height += 0.16 * filled.count("\n")
    if handles:
        wide = [0.6 + 0.08 * len(str(handle.get_label())) for handle in handles]
        columns = len(wide) if sum(wide) <= width else max(1, int(width / max(wide)))
        figure.legend(
            handles=list(handles), loc="outside upper center", ncols=columns, frameon=False, title=title or None
        )
        height += 0.22 * (-(-len(wide) // columns) - 1)
    figure.set_figheight(height)


def dress(
    axis: Axes, dim: int, title: str, limits: tuple[float, float], *, first: bool, last: bool = True, unit: str = LENGTH
) -> None:
    """Title, names of the axes (y on the ``first`` panel of a row, x on the ``last`` of a column), equal aspect."""
    axis.set_title(title, fontsize=TITLE)
    frame(axis, limits)
    axis.locator_params(nbins=6)
    if last:
        axis.set_xlabel(f"x, {unit}")
    if first:
        axis.set_ylabel(f"y, {unit}" if dim > 1 else "(spread for sight)")
    if dim == 1:
        axis.set_yticks([])
    axis.spines[["top", "right"]].set_visible(False)


def frame(axis: Axes, limits: tuple[float, float]) -> None:
    """The square that a panel shows."""
    axis.set_aspect("equal")
    axis.set_xlim(limits)
    axis.set_ylim(limits)


def name_row(axis: Axes, *lines: str) -> None:
    """What a row of small panels shows, to the left of the first."""
    axis.set_ylabel("\n".join(lines), fontsize=NOTE, rotation=0, ha="right", va="center")


def width_of(lines: Iterable[str]) -> float:
    """About how many inches :func:`name_row` takes."""
    return 0.078 * max(map(len, lines)) + 0.1


def limits_of(places: Iterable[np.ndarray]) -> tuple[float, float]:
    """A square around the origin that holds all of ``places``, with a margin."""
    reach = max((float(np.abs(each[..., :2]).max(initial=0)) for each in places), default=0) * 1.1 + 0.1
    return -reach, reach


def within(places: np.ndarray, reach: float) -> np.ndarray:
    """Which neurons a panel shows, ``[units]``."""
    return np.abs(places[:, :2]).max(1, initial=0) <= reach


def hidden_dimensions(dim: int) -> str:
    return f"the first two of {dim} dimensions" if dim > 2 else ""


def layer_name(index: int, layers: int) -> str:
    return "output layer" if index == layers - 1 else f"hidden layer {index + 1}"


def colour(task: int) -> str:
    return NOBODY if task < 0 else COLOURS[task % len(COLOURS)]


def marker(task: int) -> str:
    """With its colour it is a task's own, for the first 49."""
    return "o" if task < 0 else MARKERS[(task + task // len(COLOURS)) % len(MARKERS)]


def handle(task: int, label: str, **style: Any) -> Line2D:
    """A task's neurons in a legend."""
    return Line2D([], [], linestyle="", marker=marker(task), color=colour(task), label=label, **style)


def shade(values: np.ndarray) -> Normalize:
    """From 0 to where nearly all of ``values`` lie: a few neurons are far above the others."""
    known = values[np.isfinite(values)]
    return Normalize(0, max(float(np.quantile(known, 0.98)) if len(known) else 0.0, 1e-12))


def shade_bar(figure: Figure, scale: Normalize, axes: Iterable[Axes], **style: Any) -> None:
    """The legend of a :func:`shade`."""
    figure.colorbar(ScalarMappable(scale, SHADES), ax=list(axes), extend="max", **style)


# Neurons of any network on their sheets.


class Sheets(NamedTuple):
    """The neurons of the placed layers, by layer's name, the output layer last."""

    names: list[str]  # of the tasks
    places: dict[str, np.ndarray]  # [units, dim]
    owners: dict[str, np.ndarray]  # [units], -1 for no task
    alive: dict[str, np.ndarray]  # [units], whether they are live; outputs always are
    unit: str = LENGTH  # of length
    named: bool = False  # whether the layers are called by their names, there being no one output layer

    @property
    def dim(self) -> int:
        return next(iter(self.places.values())).shape[1]

    @property
    def limits(self) -> tuple[float, float]:
        """The square that holds the live neurons of all layers."""
        return limits_of(self.places[layer][self.alive[layer]] for layer in self.places)


def sheets_of(network: nn.Module, owners: Mapping[str, Tensor], names: Sequence[str], named: bool = False) -> Sheets:
    """What figures show of a network whose units belong to tasks; ``owners`` by placed layer's name."""
    places = places_of(network)
    alive = {layer: each.cpu().numpy() for layer, each in live_units(network).items()}
    owned = {layer: owners[layer].cpu().numpy() for layer in places}
    return Sheets(list(names), places, owned, alive, unit_of(network), named)


def unit_of(network: nn.Module) -> str:
    """The unit of length of a network's places."""
    return SPACING if graph.on_sheet(network) else LENGTH


def places_of(network: nn.Module) -> dict[str, np.ndarray]:
    """The places of every placed layer's units, ``[units, dim]``, by the layer's name."""
    return {layer: place.detach().cpu().numpy() for layer, place in graph.positions(network).items()}


def by_owner(sheets: Sheets, layer: str) -> list[tuple[int, float, np.ndarray]]:
    """What is drawn alike in a layer: task, opacity and which neurons; the silent first, below the others."""
    own, alive = sheets.owners[layer], sheets.alive[layer]
    return [
        (task, alpha, (own == task) & which)
        for which, alpha in ((~alive, 0.25), (alive, 0.9))
        for task in range(-1, len(sheets.names))
        if ((own == task) & which).any()
    ]


def owner_handles(sheets: Sheets) -> list[Line2D]:
    """A legend of the tasks and of what else is seen."""
    handles = [handle(task, name) for task, name in enumerate(sheets.names)]
    if any((own == -1).any() for own in list(sheets.owners.values())[:-1]):
        handles.append(handle(-1, "no task"))
    if any((~alive).any() for alive in sheets.alive.values()):
        handles.append(handle(-1, "silent (faint)", alpha=0.3))
    return handles


def _census(sheets: Sheets, layer: str) -> str:
    """How many neurons are live and silent, and how many of the silent ones lie outside the panel."""
    alive = sheets.alive[layer]
    outside = int((~within(sheets.places[layer], sheets.limits[1])).sum())
    return f"{alive.sum()} live, {(~alive).sum()} silent" + (f" ({outside} outside)" if outside else "")


def layer_bubbles(axis: Axes, sheets: Sheets, layer: str, reach: float, size: float = 1.0) -> list[tuple[int, Heaps]]:
    """Draw a layer's neurons, coloured by the task that owns them, silent ones faint; returns each task's heaps."""
    drawn = []
    for task, alpha, which in by_owner(sheets, layer):
        heaped = heaps(sheets.places[layer], reach, which=which)
        bubbles(axis, heaped, size=size, color=colour(task), marker=marker(task), alpha=alpha)
        drawn.append((task, heaped))
    return drawn


def neurons(sheets: Sheets, note: str, remarks: Mapping[str, str] | None = None) -> Figure:
    """Every layer's neurons at their places, coloured by the task that owns them; silent ones faint.

    Args:
        sheets: of any network.
        note: what is said below, before how to read the figure.
        remarks: by layer's name, a line to put above its panel.
    """
    figure, axes = wrapped(len(sheets.places))
    figure.set_figheight(figure.get_figheight() + 0.2 * bool(remarks))
    limits, counted = sheets.limits, True
    for index, (axis, layer) in enumerate(zip(axes, sheets.places, strict=True)):
        counted = count(axis, layer_bubbles(axis, sheets, layer, limits[1]), limits[1]) and counted
        title = [layer if sheets.named else layer_name(index, len(axes)), (remarks or {}).get(layer, "")]
        if sheets.named or index < len(axes) - 1:
            title.insert(1, _census(sheets, layer))
        dress(axis, sheets.dim, "\n".join(filter(None, title)), limits, first=first_of_row(axis), unit=sheets.unit)
    how = f"area and, from {COUNTED} up{'' if counted else ' where there is room'}, number: neurons at one place"
    explain(figure, owner_handles(sheets), note, how, hidden_dimensions(sheets.dim))
    return figure


CROSSING = -2  # in the place of a task: a line that joins two
LINES = 300  # of :func:`wires`


class Lines(NamedTuple):
    """The strongest connections between live neurons of two layers, the weakest of them first."""

    target: np.ndarray  # [lines], the units that read
    source: np.ndarray  # [lines], those that are read
    strength: np.ndarray  # [lines], 0 to 1, the strongest
    task: np.ndarray  # [lines], of both ends; CROSSING where they differ, -1 where one has none


def strongest(size: np.ndarray, sheets: Sheets, edge: graph.Connection, number: int) -> Lines:
    """At most ``number`` lines of a connection whose sizes are ``[out, in]``."""
    seen = np.where(sheets.alive[edge.target][:, None] & sheets.alive[edge.source], size, 0)
    order = np.argsort(seen, axis=None, kind="stable")[-number:]
    target, source = np.unravel_index(order[seen.flat[order] > 0], seen.shape)
    mine, other = sheets.owners[edge.target][target], sheets.owners[edge.source][source]
    task = np.where(mine == other, mine, CROSSING)
    task[(mine < 0) | (other < 0)] = -1
    return Lines(target, source, seen[target, source] / seen.max(initial=1e-30), task)


def wires(network: nn.Module, sheets: Sheets, note: str) -> Figure:
    """The sheets stacked, the first at the bottom, and the strongest connections between live neurons as lines."""
    layers, reach = list(sheets.places), sheets.limits[1]
    gap = min(1.3, 6 / len(layers))  # between sheets, in halves of a sheet's width
    flat = {layer: np.stack(sheet(place, reach), 1) / reach for layer, place in sheets.places.items()}

    def project(places: np.ndarray, layer: str) -> np.ndarray:
        """``[n, 2]`` on a layer's sheet from -1 to 1, seen obliquely from the front and above."""
        u, v = places.T
        return np.stack([u + 0.45 * v, 0.32 * v + gap * layers.index(layer)], 1)

    figure = Figure(figsize=(7.8, 2 * gap * (len(layers) - 1) + 2.7), layout="constrained")
    axis = figure.subplots()
    axis.set_aspect("equal")
    axis.axis("off")
    axis.set_xlim(-2.2, 1.5)
    axis.set_ylim(-0.4, gap * (len(layers) - 1) + 0.4)
    for level, layer in enumerate(layers):
        corners = project(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), layer)
        axis.add_patch(Polygon(corners, facecolor="#F4F4F4", edgecolor="#BBBBBB", alpha=0.6, zorder=3 * level))
        for task, alpha, which in by_owner(sheets, layer):
            heaped = heaps(sheets.places[layer], reach, which=which)
            heaped = heaped._replace(places=project(heaped.places / reach, layer))
            style: dict[str, Any] = {"color": colour(task), "marker": marker(task), "alpha": alpha}
            bubbles(axis, heaped, size=0.6, zorder=3 * level + 1, **style)
        name = layer_name(level, len(layers)) + ("" if layer == layers[-1] else f"\n{_census(sheets, layer)}")
        axis.text(-1.2, gap * level + 0.05, name, ha="right", va="center", fontsize=NOTE)

    between = [edge for edge in graph.connections(network) if edge.source != graph.INPUT]
    each = LINES // len(between) if between else 0
    tasks: list[int] = []
    owned = crossed = 0.0
    for edge in between:
        size = graph.weight(network, edge).detach().abs().sum(2).numpy()  # [out, in]
        mine, other = sheets.owners[edge.target][:, None], sheets.owners[edge.source]
        both = (mine >= 0) & (other >= 0)
        owned, crossed = owned + float(size[both].sum()), crossed + float(size[both & (mine != other)].sum())
        lines = strongest(size, sheets, edge, each)
        tasks += lines.task.tolist()
        if not len(lines.task):  # matplotlib draws no nothing
            continue
        ends = [
            project(flat[edge.source][lines.source], edge.source),
            project(flat[edge.target][lines.target], edge.target),
        ]
        opacity = 0.25 + 0.6 * lines.strength
        paint = [to_rgba(DARK if task == CROSSING else colour(task)) for task in lines.task]
        drawn = LineCollection(np.stack(ends, 1).tolist(), colors=paint, alpha=opacity)
        drawn.set(linewidths=0.5 + 1.5 * lines.strength, zorder=3 * layers.index(edge.source) + 2)
        axis.add_collection(drawn, autolim=False)

    handles = owner_handles(sheets)
    if len(sheets.names) > 1:
        handles.append(Line2D([], [], color=DARK, label="joins two tasks"))
    if -1 in tasks:
        handles.append(Line2D([], [], color=NOBODY, label="an end without task"))
    share = f"{100 * crossed / owned:.1f} %" if owned else "undefined"
    explain(
        figure,
        handles,
        note,
        f"{len(tasks)} lines, the {each} strongest between live neurons of each two layers, wide and opaque by |w|",
        f"{tasks.count(CROSSING)} of them join two tasks, and so does {share} of all |w| between owned neurons",
        f"sheets span {-reach:.1f} to {reach:.1f} {sheets.unit}, x to the right, "
        + ("y to the back" if sheets.dim > 1 else "to the back spread for sight"),
        hidden_dimensions(sheets.dim),
    )
    return figure


# Pictures as files.


class Movie(NamedTuple):
    """A figure that changes: ``show(moment)`` sets it to each of ``moments`` in turn."""

    figure: Figure
    moments: Sequence[float]
    show: Callable[[float], None]


def rendered(drawn: Figure | Movie, format: str = "png") -> tuple[str, bytes]:
    """A file's suffix and content, of one of ``FORMATS``; a movie is a GIF. The same bytes for the same figure."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        if isinstance(drawn, Movie):
            write_gif(drawn, buffer)
            return "gif", buffer.getvalue()
        drawn.savefig(buffer, format=format, dpi=DPI, metadata=FORMATS[format])
    return format, buffer.getvalue()


def write_png(drawn: Figure, file: IO[bytes]) -> None:
    """The same bytes for the same figure."""
    file.write(rendered(drawn)[1])


def write_gif(drawn: Movie, file: IO[bytes], *, dpi: int = MOVIE_DPI, frame_ms: int = 90, last_ms: int = 2500) -> None:
    """A GIF that repeats, its last frame held; the same bytes for the same movie."""
    canvas = FigureCanvasAgg(drawn.figure)
    drawn.figure.set_dpi(dpi)
    frames = []
    for moment in drawn.moments:
        drawn.show(moment)
        canvas.draw()
        drawn.figure.set_layout_engine("none")  # the first frame's stays, so that nothing jumps
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3] @ np.array([65536, 256, 1], np.int32))
    first, *others = _indexed(frames)
    durations = [frame_ms] * len(others) + [last_ms]
    first.save(file, "gif", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)


def _indexed(frames: Sequence[np.ndarray], colours: int = 128) -> list[Image.Image]:
    """Frames (``[height, width]``, 0xRRGGBB) with one palette, so that what does not change costs nothing."""
    seen, times = np.unique(np.stack([frames[0], frames[-1]]), return_counts=True)
    kept = _channels(seen[np.argsort(-times, kind="stable")[:colours]])
    images = []
    for frame in frames:
        used, index = np.unique(frame, return_inverse=True)
        nearest = ((_channels(used)[:, None] - kept) ** 2).sum(2).argmin(1).astype(np.uint8)
        images.append(Image.fromarray(nearest[index].reshape(frame.shape), "P"))
        images[-1].putpalette(kept.astype(np.uint8).ravel().tolist())
    return images


def _channels(rgb: np.ndarray) -> np.ndarray:
    """``[n, 3]`` of 0xRRGGBB."""
    return rgb[:, None] >> np.array([16, 8, 0]) & 255
