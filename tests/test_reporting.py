"""The page of a run: what is on it, that it is safe, small and the same for the same run."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import NAMES, command, copied, last, register_sheets, reoptioned, sheet_run, small, tree

from spatial import drawing, graph, plotting, reporting, scoring, storing
from spatial.errors import UserError
from spatial.metrics import live_units
from spatial.runs import Run

NASTY = "<script>alert(1)<!--"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self):
        (text,) = (each for each in self.texts["script"] if each.startswith("{"))
        return json.loads(text)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Movies of few frames, and pictures of few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "FRAMES", 3)
        patch.setattr(drawing, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A run with all that the commands make."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for line in (
        ["train", folder, *small(root, "--seeds", "2", "--transport", "1", "--norm", "l1")],
        ["record", folder],
        ["record", folder, "--by", "label"],
        ["split", folder, "--method", "balanced", "random"],
        ["score", folder],
    ):
        assert command(*line) == 0
    return Run(folder)


@pytest.fixture(scope="module")
def read(run):
    """Its page, with every figure."""
    assert command("plot", run.folder, "--report") == 0
    return Reader(run.report.read_text())


@pytest.fixture
def few(monkeypatch):
    """Where the figures do not matter: curves alone."""
    monkeypatch.setattr(reporting, "KINDS", {"curves": plotting.KINDS["curves"]})


def page_of(run, *words):
    assert command("plot", run.folder, "--kind", "curves", "--report", *words) == 0
    return Reader(run.report.read_text())


def items(read):
    return "\n".join(read.texts.get("li", []))


# The command.


@pytest.mark.usefixtures("few")
def test_the_page_is_written_where_it_is_asked_for_alone(run, tmp_path, capsys):
    other = copied(run, tmp_path / "other")
    assert command("plot", other.folder, "--kind", "curves") == 0
    assert not other.report.exists()
    capsys.readouterr()
    assert command("plot", other.folder, "--kind", "curves", "--report") == 0
    assert capsys.readouterr().out.splitlines() == [str(other.figures / "curves.png"), str(other.report)]
    assert {path.name for path in other.figures.iterdir()} == {"curves.png", "report.html"}
    other.clear()
    assert not other.report.exists()


def test_the_page_shows_figures_whatever_the_format_beside_it(run, tmp_path):
    other = copied(run, tmp_path / "other")
    read = page_of(other, "--format", "svg")
    assert {path.name for path in other.figures.iterdir()} == {"curves.svg", "report.html"}
    assert any(each["alt"].startswith("Line charts") for each in read.all("img"))


@pytest.mark.usefixtures("few")
def test_equal_runs_give_equal_pages(run, tmp_path, monkeypatch):
    pages = []
    for name in "ab":
        copied(run, tmp_path / name / "run")
        monkeypatch.chdir(tmp_path / name)
        assert command("plot", "run", "--kind", "curves", "--report") == 0
        pages.append((tmp_path / name / "run/figures/report.html").read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.usefixtures("few")
def test_a_mistake_writes_nothing(run, tmp_path, capsys):
    other = copied(run, tmp_path / "other")
    other.metrics.write_text("{}")
    before = tree(other.folder)
    assert command("plot", other.folder, "--kind", "curves", "--report") == 2
    assert last(capsys).startswith(f"main.py plot: error: {other.metrics}: not of this version")
    assert tree(other.folder) == before


@pytest.mark.parametrize(
    "spoil",
    [
        {"accuracy": {"whole": {"Alpha": 1}}, "measures": {}},
        {"accuracy": {"whole": {"Alpha": {"mean": "<b>", "std": None}}}, "measures": {}},
        {"accuracy": {"whole": {}, "random": {"Alpha": {"mean": 1, "std": None}}}, "measures": {}},
        {"accuracy": {"whole": {}}, "measures": {"random": {"layer-0": {"live": {"mean": 1, "std": None}}}}},
        {"accuracy": {"random": {}}, "measures": {}},
        {"accuracy": {"whole": {}}, "measures": {"random": {"first": {}}}},
        [],
    ],
)
def test_numbers_of_another_version_are_refused(run, tmp_path, spoil):
    other = copied(run, tmp_path / "other")
    storing.save_json(other.metrics, spoil)
    with pytest.raises(UserError, match=r"metrics\.json: not of this version; make it again with: .* score"):
        scoring.metrics_of(other)


# What is on the page.


def test_tables_are_those_of_the_scores(run, read):
    metrics = storing.read_json(run.metrics)
    cells = read.texts["td"]
    for method in ("whole", "balanced", "random"):
        for task in (*NAMES[:2], "mean"):
            assert scoring.spread(metrics["accuracy"][method][task], 100) in cells
    assert "hidden layer 2" in cells
    assert scoring.spread(metrics["measures"]["random"]["layer-1"]["kappa"], digits=2) in cells


def test_options_that_are_not_as_by_default_are_listed(read):
    heads = read.texts["th"]
    for option in ("--layers", "--seeds", "--transport", "--norm", "--datasets", "--epochs"):
        assert option in heads
    assert "--optimizer" not in heads and "--proximity" not in heads
    assert "12 8" in read.texts["td"]


def test_versions_and_dates_are_those_of_training(run, read):
    found = storing.read_json(run.environment)
    for name in ("python", "torch", "started"):
        assert found[name] in read.texts["td"]


def test_every_figure_that_the_files_allow_is_there(read):
    pictures = read.all("img")
    kinds = [kind for kind in plotting.KINDS if kind not in ("prior", "maps", "variance", "filters")]
    assert [each["alt"].split(":")[0] for each in pictures] == [reporting.CAPTIONS[kind][0] for kind in kinds]
    for each in pictures:
        head, _, content = each["src"].partition(";base64,")
        assert base64.b64decode(content).startswith({"data:image/png": b"\x89PNG", "data:image/gif": b"GIF89a"}[head])
        assert int(each["width"]) > 400
    assert [words.split(":")[0] for words in read.texts["figcaption"]] == kinds


def test_every_kind_has_a_caption():
    assert list(reporting.CAPTIONS) == list(plotting.KINDS)


@pytest.mark.usefixtures("few")
def test_figures_of_earlier_commands_are_there_too(run, tmp_path, monkeypatch):
    monkeypatch.setitem(plotting.RELAXING, "steps", 2)
    other = copied(run, tmp_path / "other")
    plotting.plot(other, relax="random")
    (other.figures / "maps-against-control.png").write_bytes((other.figures / "relaxed-random.png").read_bytes())
    (other.figures / "text.png").write_text("no picture")
    captions = page_of(other).texts["figcaption"]
    assert "relaxed-random: the neurons relaxed from a random start, weights frozen." in captions
    assert "maps-against-control: each label's mean activation, beside control." in captions
    assert not any(each.startswith("text") for each in captions)


def test_neurons_are_those_of_the_run(run, read):
    data = read.data()
    assert [task["name"] for task in data["tasks"]] == list(NAMES[:2])
    assert [task["colour"] for task in data["tasks"]] == [drawing.colour(0), drawing.colour(1)]
    assert data["methods"] == ["balanced", "random"] and data["method"] == "balanced"
    assert [each["seed"] for each in data["networks"]] == [0, 1]
    stored = storing.load_arrays(run.positions)
    for each in data["networks"]:
        network = run.network(each["seed"])
        assert each["moments"] == [0, 1, 2]
        alive = live_units(network)
        recorded = run.recorded("task", "train", each["seed"], network)["mean_abs"]
        for index, (name, layer) in enumerate(zip(graph.positions(network), each["layers"], strict=True)):
            path = stored[f"seed-{each['seed']}/layer-{index}"]
            shown = np.array(layer["places"]).reshape(path.shape) / data["fine"] * each["reach"]
            assert shown == pytest.approx(path, abs=1e-3)
            assert layer["live"] == alive[name].int().tolist()
            assert layer["owners"]["random"] == run.split("random", each["seed"], network)[1][name].tolist()
            if name in recorded:
                assert np.array(layer["activity"]) == pytest.approx(recorded[name].numpy(), rel=5e-3)
            else:
                assert layer["activity"] is None


@pytest.mark.usefixtures("few")
def test_the_page_begins_with_what_was_asked_for(run, tmp_path):
    data = page_of(copied(run, tmp_path / "other"), "--seed", "1", "--method", "random").data()
    assert data["method"] == "random" and [each["seed"] for each in data["networks"]] == [1, 0]


# Safety.


@pytest.mark.usefixtures("few")
def test_names_can_do_no_harm(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (f"{NAMES[0]}@permuted", NAMES[1])
    assert command("train", NASTY, *small(root, names=names)) == command("split", NASTY) == 0
    run = Run(tmp_path / NASTY)
    environment = storing.read_json(run.environment)
    storing.save_json(run.environment, environment | {"machine": "</script>" + NASTY, "</td>": "\u2028"})
    assert command("plot", NASTY, "--kind", "curves", "--report") == 0
    text = run.report.read_text()
    read = Reader(text)
    assert len(read.all("script")) == text.count("<script") == 2
    assert text.count("</script") == 2 and "alert(1)<" not in text
    assert read.texts["h1"] == read.texts["title"] == [NASTY]
    assert read.data()["tasks"][0]["name"] == names[0]


def test_json_cannot_end_its_element():
    text = reporting._json({"</script>": ["<!--", "&", "a\u2028b"]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script>": ["<!--", "&", "a\u2028b"]}


def test_nothing_is_asked_of_a_network(run, read):
    text = run.report.read_text()
    (policy,) = (each["content"] for each in read.all("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    asked = [each[name] for _, each in read.elements for name in ("src", "href", "action") if name in each]
    assert asked and all(each.startswith("data:") for each in asked)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|@import|url\(|fetch\(", text)
    assert any("width=device-width" in each.get("content", "") for each in read.all("meta"))


def test_controls_have_labels(read):
    labelled = {each["for"] for each in read.all("label")}
    controls = [each["id"] for tag in ("input", "select") for each in read.all(tag)]
    assert controls and {*controls} <= labelled


# Runs that lack something, and large ones.


def test_a_run_that_is_only_trained_has_a_page_that_says_what_would_add_to_it(root, tmp_path):
    folder = tmp_path / "run"
    assert command("train", folder, *small(root, "--epochs", "1", names=NAMES[:1])) == 0
    read = page_of(Run(folder))
    data, said = read.data(), items(read)
    assert data["methods"] == [] and data["method"] is None
    assert data["networks"][0]["moments"] == [0, 1]
    for line in ("record", "record --by label", "split", "score"):
        name, *words = line.split()
        assert " ".join([f"first run: python main.py {name} {folder}", *words]) in said
    assert "locality" not in said  # what no command could add to this run
    assert [each["alt"].split(":")[0] for each in read.all("img")] == ["Line charts over epochs"]


def test_without_positions_and_history_the_page_shows_where_neurons_ended(run, tmp_path):
    other = copied(run, tmp_path / "other", "positions.npz", "history.csv", "environment.json", "metrics.json")
    assert command("plot", other.folder, "--report") == 0
    read = Reader(other.report.read_text())
    assert read.data()["networks"][0]["moments"] == [2]
    assert f"python main.py train {other.folder} ... --resume" in items(read)
    assert f"python main.py score {other.folder}" in items(read)
    assert "environment.json, with versions and dates, is not there" in " ".join(read.texts["p"])


@pytest.mark.usefixtures("few")
def test_scores_of_other_splits_are_left_out(run, tmp_path):
    other = copied(run, tmp_path / "other")
    shutil.rmtree(other.parts / "random")
    assert "metrics.json: is of other splits than there are now; make it again with: python main.py score" in items(
        page_of(other)
    )


@pytest.mark.usefixtures("few")
def test_a_seed_that_is_not_trained_to_its_end_is_named(run, tmp_path):
    read = page_of(copied(run, tmp_path / "other", "seed-1.pt", "metrics.json"))
    assert [each["seed"] for each in read.data()["networks"]] == [0]
    assert "Seed 1 has not been trained to its end." in read.texts["p"]


def test_places_that_never_move_are_kept_once(tmp_path, monkeypatch):
    register_sheets(monkeypatch, tmp_path / "data")
    run = sheet_run(tmp_path / "data", tmp_path / "run", "--model", "lenet")
    read = page_of(run)
    (network,) = read.data()["networks"]
    moving = [len(layer["places"]) for layer in network["layers"]]
    assert moving[:2] == [1, 1] and network["moments"] == [0, 1]
    assert network["unit"] == drawing.SPACING
    assert len(read.all("img")) >= 4


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("far", [1e30, 3e38])
def test_neurons_that_are_far_away_are_no_harm(run, tmp_path, far):
    other = copied(run, tmp_path / "other")
    stored = storing.load_arrays(run.positions)
    stored["seed-0/layer-0"][1, 3] = far
    storing.save_arrays(other.positions, stored)
    assert page_of(other).data()["networks"][0]["reach"] >= far


@pytest.mark.usefixtures("few")
def test_large_layers_and_long_runs_are_thinned_and_say_so(run, tmp_path, monkeypatch):
    other = copied(run, tmp_path / "other")
    stored = storing.load_arrays(run.positions)
    storing.save_arrays(other.positions, {name: each[np.arange(101) % 3] for name, each in stored.items()})
    reoptioned(other, epochs=100)
    monkeypatch.setattr(reporting, "UNITS", 10)
    other.history.unlink()
    assert command("plot", other.folder, "--kind", "positions", "--report") == 0
    read = Reader(other.report.read_text())
    network = read.data()["networks"][0]
    assert len(network["moments"]) == 60 and network["moments"][-1] == 100
    assert len(network["layers"][0]["units"]) == 10 == len(network["layers"][0]["live"])
    said = " ".join(read.texts["p"])
    assert "10 of the 12 units of hidden layer 1 are shown, drawn by lot." in said
    assert "Places are shown at 60 of 101 moments, evenly chosen." in said
    monkeypatch.setattr(reporting, "MOST_OF_SHEETS", 9000)
    assert command("plot", other.folder, "--kind", "positions", "--report") == 0
    read = Reader(other.report.read_text())
    assert len(read.data()["networks"][0]["moments"]) < 60
    assert sum("Places are shown" in words for words in read.texts["p"]) == 1


@pytest.mark.usefixtures("few")
def test_what_would_make_the_page_too_large_is_left_out_and_named(run, tmp_path, monkeypatch):
    other = copied(run, tmp_path / "other")
    whole = len(page_of(other).data()["networks"])
    assert whole == 2
    for more, pictures, seeds in ((1_000, 0, 1), (10**6, 1, 2)):
        most = reporting.FRAME.stat().st_size + reporting.SMALL + more
        monkeypatch.setattr(reporting, "MOST", most)
        read = page_of(other)
        assert other.report.stat().st_size < most
        assert len(read.all("img")) == pictures
        assert ("is left out, it is too large for this page." in items(read)) is (pictures == 0)
        assert len(read.data()["networks"]) == seeds
        assert ("MB: seed 1." in " ".join(read.texts["p"])) is (seeds == 1)
