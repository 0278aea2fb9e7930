"""The report's page in a real browser, with rows of beta that are known."""

import shutil

import numpy as np
import pytest

from sagan.sampling.attention_maps import AttentionGrid
from sagan.visualization.report_page import render_page
from tests.support import pages

pytestmark = pytest.mark.slow
EVIL = "</script><img src=x onerror=\"document.title='executed'\">"
COARSE, FINE = AttentionGrid(16, 8), AttentionGrid(16, 16)
# headless, and quiet: nothing of its own to the network
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync"]


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def turned(grid):
    """The key at which each query looks: its own place, mirrored at the diagonal."""
    y, x = np.divmod(np.arange(grid.queries**2), grid.queries)
    return x // 2 * grid.keys + y // 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with two planted layers of G, and one of D that looks elsewhere."""
    folder = tmp_path_factory.mktemp("page")
    layers = [(f"attention{g.queries}", g, pages.focused(g, turned(g))) for g in GRIDS]
    still = [("attention8", COARSE, pages.focused(COARSE, np.full(64, 5)))]
    explorers = [
        pages.explorer_of(layers, labels=("0", EVIL))._replace(note=EVIL),
        pages.explorer_of(still, player="d", logit=1.5),
    ]
    metrics = [
        {"step": i, "d_loss": 1.0 + i, "gamma/g/attention8": -0.1} for i in (1, 2)
    ]
    run = pages.run(
        folder, explorers, "a_long_name_" * 12, metrics, g__attention=(8, 16)
    )
    findings = [{"step": 1, "message": EVIL}]
    run = run._replace(record=run.record._replace(findings=findings, notes=[EVIL]))
    path = folder / "report.html"
    path.write_text(render_page([run]))
    return path


GRIDS = (COARSE, FINE)


@pytest.fixture
def visit(chromium, path):
    """Opens the page in a window of some kind; nothing may go wrong in it."""
    contexts, wrong = [], []

    def open_page(width=1280, **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, **options
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("[data-group='1'] [data-row]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    shown = [line for line in wrong if not line.startswith(("data:", path.as_uri()))]
    assert shown == []


def panel(tab, layer=0, group=0):
    return tab.locator(f"[data-group='{group}'] [data-layer='{layer}']")


def light(tab, layer=0, group=0):
    """The brightness of every pixel of a map."""
    pixels = (
        panel(tab, layer, group)
        .locator("canvas")
        .evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
    )
    return np.array(pixels).reshape(16, 16, 4)[..., :3].sum(axis=-1)


def assert_looks_at(tab, grid, key, layer=0, group=0):
    """Every pixel of the key is brighter than any other, whatever the image has."""
    keys = np.arange(16) * grid.queries // 16 // 2
    inside = keys[:, None] * grid.keys + keys == key
    found = light(tab, layer, group)
    assert found[inside].min() > found[~inside].max()


def place(tab, grid, y, x, layer=0, group=0):
    """The point of the window in the middle of a position."""
    frame = panel(tab, layer, group).locator(".frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    part = box["width"] / grid.queries
    return box["x"] + (x + 0.5) * part, box["y"] + (y + 0.5) * part


def assert_shows(tab, grid, y, x, layer=0):
    found = panel(tab, layer).evaluate("p => [p.dataset.row, p.dataset.column]")
    assert found == [str(y), str(x)]
    assert_looks_at(tab, grid, turned(grid)[y * grid.queries + x], layer)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_map_is_that_of_the_position_under_the_pointer(visit, layer):
    tab, grid = visit(), GRIDS[layer]
    for y, x in [(0, 0), (2, 5), (7, 1), (grid.queries - 1, grid.queries - 1)]:
        tab.mouse.move(*place(tab, grid, y, x, layer))
        assert_shows(tab, grid, y, x, layer)
        other = GRIDS[1 - layer]  # shows the position at the same place
        times = other.queries / grid.queries
        within = [int((i + 0.5) * times) for i in (y, x)]
        key = turned(other)[within[0] * other.queries + within[1]]
        assert_looks_at(tab, other, key, 1 - layer)
    assert_looks_at(tab, COARSE, 5, group=1)  # the other network stays as it was


def test_the_numbers_are_those_of_the_position(visit):
    tab = visit()
    tab.mouse.move(*place(tab, COARSE, 2, 5))
    text = panel(tab).inner_text().replace("\n", " ").replace("\u00a0", " ")
    assert "row 3, column 6 of 8" in text
    assert "75.0 % (uniform 6.3 %)" in text
    bits = -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25 / 15)
    assert f"{bits:.2f} of 4.00 bits" in text
    assert "gamma −0.500" in text and "strength 0.250" in text
    assert "logit of the discriminator: 1.50" in tab.inner_text("[data-group='1']")


def test_a_tap_shows_the_position_on_a_phone(visit):
    tab = visit(390, has_touch=True, is_mobile=True, device_scale_factor=2)
    for y, x in [(1, 6), (5, 0)]:
        tab.touchscreen.tap(*place(tab, COARSE, y, x))
        assert_shows(tab, COARSE, y, x)


def test_everything_is_reached_by_the_keyboard(visit):
    tab = visit()
    for _ in range(30):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.className") == "stage":
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(f"{outline} + document.activeElement.tabIndex") == "solid0"
    assert_shows(tab, FINE, 8, 8, layer=1)
    for key, place_then in [
        ("ArrowUp", (7, 8)),
        ("ArrowRight", (7, 9)),
        ("End", (7, 15)),
        ("ArrowRight", (7, 15)),  # there is nothing further right
        ("PageDown", (15, 15)),
        ("ArrowLeft", (15, 14)),
        ("Home", (15, 0)),
        ("PageUp", (0, 0)),
        ("ArrowDown", (1, 0)),
    ]:
        tab.keyboard.press(key)
        assert_shows(tab, FINE, *place_then, layer=1)
    live = tab.locator("[aria-live]").filter(has_text="attention16: row 2, column 1")
    live.wait_for(state="attached")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.ariaLabel").startswith("image 2")
    assert_shows(tab, FINE, 1, 0, layer=1)


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(visit, width):
    tab = visit(width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_text_from_files_stays_text(visit):
    tab = visit()
    assert tab.locator("img[src=x]").count() == 0
    assert EVIL in tab.inner_text("[data-group='0']").replace("\n", "")
    assert EVIL in tab.inner_text("#training")
    assert tab.title() != "executed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit, scheme):
    tab = visit(color_scheme=scheme)
    colours = tab.evaluate(
        """() => ['body', '.quiet', 'nav a', '.warn', 'figcaption'].map(name => [
            getComputedStyle(document.querySelector(name)).color,
            getComputedStyle(document.body).backgroundColor])"""
    )
    for pair in colours:
        assert contrast(*pair) >= 4.5, (scheme, pair)  # WCAG 2.2, level AA


def contrast(*colours):
    """Of two colours as rgb(r, g, b), by WCAG 2.2."""
    lights = []
    for colour in colours:
        rgb = np.array([float(v) for v in colour[4:-1].split(",")]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
