"""The page of a run in a real browser: by keyboard and pointer, on a desk and on a phone, light and dark."""

import pytest
from browser import PROGRAM, browser
from helpers import NAMES, command, small

from spatial.runs import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]
DESK, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """Its folder has a name that a page must escape."""
    folder = tmp_path_factory.mktemp("runs") / "<script>alert(1)<!--"
    options = ["--seeds", "2", "--epochs", "4", "--transport", "1", "--proximity", "1", "--position-lr", "0.1"]
    names = (f"{NAMES[0]}@permuted", NAMES[1])
    for line in (
        ["train", folder, *small(root, *options, names=names)],
        ["record", folder],
        ["split", folder, "--method", "greedy", "balanced"],
        ["score", folder],
        ["plot", folder, "--report"],
    ):
        assert command(*line) == 0
    return Run(folder)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(tab, run, request):
    """The page, just opened; what the browser complains of fails the test."""
    tab.show_as(*request.param)
    tab.open(run.report.resolve().as_uri())
    yield tab
    assert tab.complaints() == []


def test_the_browser_tells_of_errors_and_of_addresses(tab):
    tab.open("data:text/html,<img src='http://localhost:9/x.png'><script>throw 1</script>")
    assert "x.png" in "".join(tab.complaints()) and "Uncaught" in "".join(tab.complaints())


def words(page, selector):
    return page.value(f"document.querySelector({selector!r}).textContent")


def fills(page):
    return page.value("[...document.querySelectorAll('.panel path')].map(path => path.getAttribute('fill'))")


def places(page):
    return page.value("[...document.querySelectorAll('.panel path')].map(path => path.getAttribute('transform'))")


def reach(page, selector):
    """Goes on with Tab until an element has the focus."""
    for _ in range(40):
        if page.value(f"document.activeElement.matches({selector!r})"):
            return
        page.press("Tab")
    raise AssertionError(f"{selector} is not reached by Tab")


def test_nothing_is_wider_than_the_window(page, run):
    assert page.value("document.documentElement.scrollWidth") <= page.width
    assert page.value("document.querySelector('h1').textContent") == run.name
    assert page.value("document.images.length") == 7
    assert page.value("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")


def test_the_slider_is_moved_by_keyboard(page):
    reach(page, "#epoch")
    assert words(page, "#now") == "epoch 4 of 4"
    last = places(page)
    page.press("Home")
    assert words(page, "#now") == "epoch 0 of 4"
    assert places(page) != last
    page.press("ArrowRight")
    assert words(page, "#now") == "epoch 1 of 4"
    page.press("End")
    assert places(page) == last


def test_play_goes_to_the_end_and_pauses(page):
    reach(page, "#play")
    page.press("Enter")
    assert words(page, "#play") == "Pause"
    assert words(page, "#now") != "epoch 4 of 4"
    page.press(" ")
    assert words(page, "#play") == "Play"
    stood = places(page)
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert places(page) == stood
    page.press("Enter")
    page.wait("document.querySelector('#play').textContent === 'Play'")
    assert words(page, "#now") == "epoch 4 of 4"


def test_colours_are_those_of_the_choice(page):
    reach(page, "#colouring")
    options = page.value("[...document.querySelectorAll('#colouring option')].map(each => each.textContent)")
    tasks = [f"{NAMES[0]}@permuted", NAMES[1]]
    assert options == [
        "owner by greedy", "owner by balanced", *(f"activity for {name}" for name in tasks), "live or silent"
    ]  # fmt: skip
    assert words(page, "#legend").startswith("".join(tasks))
    seen = [fills(page)]
    assert {"#0072B2", "#E69F00"} <= {*seen[0]}
    for _ in options[1:]:
        page.press("ArrowDown")
        seen.append(fills(page))
    assert len({*map(tuple, seen)}) >= 4
    assert words(page, "#legend").startswith("livesilent")


def test_a_unit_says_what_it_is(page, run):
    assert page.value("document.querySelectorAll('.panel svg').length") == 3
    reach(page, ".panel svg")
    for press in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.press(press)
    said = words(page, ".tip").split("\n")
    network = run.network(0)
    owner = (f"{NAMES[0]}@permuted", NAMES[1])[int(run.split("greedy", 0, network)[1]["linear.0"][10])]
    strength = run.recorded("task", "train", 0, network)["mean_abs"]["linear.0"][:, 10]
    assert said[0].startswith("unit 10, ")
    assert said[1] == f"owner: {owner} (greedy split)"
    found = [float(each.split()[-1]) for each in said[2].removeprefix("mean |activation|: ").split(", ")]
    assert found == pytest.approx(strength.tolist(), rel=5e-3)
    assert said[3].startswith("at ")
    page.press("Tab")
    assert page.value("document.activeElement === document.querySelectorAll('.panel svg')[1]")  # one stop per panel


def test_pointing_at_a_unit_says_what_it_is(page):
    page.value("document.querySelector('.panel svg').scrollIntoView()")
    x, y = page.value(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "(document.querySelectorAll('.panel path')[3].getBoundingClientRect())"
    )
    page.point(x, y)
    assert words(page, ".tip").startswith("unit 3, ")


def test_another_seed_is_another_network(page):
    reach(page, "#seed")
    first = places(page)
    page.press("ArrowDown")
    page.wait("document.querySelector('#seed').value === '1'")
    assert places(page) != first


def test_a_reader_who_wants_no_motion_gets_steps(page):
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    try:
        page.value("document.querySelector('#play').click()")
        start = places(page)
        page.wait("document.querySelector('#now').textContent === 'epoch 1 of 4'")
        page.value("document.querySelector('#play').click()")
        shown = places(page)
        page.value("document.querySelector('#epoch').focus()")
        page.press("Home")
        assert places(page) == start
        page.press("ArrowRight")
        assert places(page) == shown  # not between two epochs
    finally:
        page.call("Emulation.setEmulatedMedia", features=[])


def test_a_printed_page_is_white_and_nothing_is_cut_off(tab, run):
    tab.show_as(720, 1000)  # between the margins of A4
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.call("Emulation.setEmulatedMedia", media="print", features=dark)
    tab.open(run.report.resolve().as_uri())
    assert tab.value("document.documentElement.scrollWidth") <= tab.width
    assert luminance(tab.value("getComputedStyle(document.body).backgroundColor")) == 1
    assert tab.value("document.querySelector('#controls').offsetHeight") == 0
    tab.call("Emulation.setEmulatedMedia", media="", features=[])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_page(tab, run, scheme):
    tab.show_as(*DESK, color_scheme=scheme)
    tab.open(run.report.resolve().as_uri())
    for selector in ("body", ".soft", ".tip"):
        ink, page = (
            tab.value(f"getComputedStyle(document.querySelector('{each}')).{name}")
            for each, name in ((selector, "color"), ("body", "backgroundColor"))
        )
        dark, light = sorted(luminance(colour) for colour in (ink, page))
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG AA
    assert (luminance(page) > 0.5) is (scheme == "light")
    tab.show_as(*DESK)


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
