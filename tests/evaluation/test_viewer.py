"""The map of a page: what it carries, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from fusion.evaluation import Section, write_report
from fusion.evaluation.viewer import ClassLayer, Ground, PhotoLayer, QuantityLayer, Viewer

SHAPE = (30, 40)
GROUND = Ground(SHAPE, Affine(10, 0, 500_000, 0, -10, 5_400_000), "EPSG:32632", (10.0, 10.0))
NAMES, COLOURS = ("water", "oak </script> & beech", "maize"), ("#0000ff", "#00ff00", "#ff0000")


def codes() -> np.ndarray:
    """Three strips of classes from west to east, and a corner without data."""
    found = np.repeat(np.arange(40) * 3 // 40, 30).reshape(40, 30).T.astype(np.uint8)
    found[:5, :5] = 255
    return found


def heights() -> np.ndarray:
    """100 in the west to 490 in the east."""
    return np.broadcast_to(100 + 10 * np.arange(40, dtype=np.float32), SHAPE).copy()


def viewer() -> Viewer:
    classes = ClassLayer("Map", codes(), NAMES, COLOURS, ("120 ha", "130 ha", "140 ha"))
    values = QuantityLayer("Height", heights(), "m", ends=("Lower end", "Upper end"))
    ends = [QuantityLayer(f"{name} end", heights() + by, "m") for name, by in (("Lower", -20), ("Upper", 30))]
    photo = PhotoLayer(
        "True colour", np.full((60, 80, 3), (10, 200, 30), np.uint8), np.ones((60, 80), bool), "Of June."
    )
    return Viewer(GROUND, [classes, values, *ends, photo], "A caption.")


def carried(text: str) -> list[dict]:
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])["layers"]


def pixels(layer: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(layer["source"].partition(",")[2]))))


def test_the_page_carries_codes_of_every_pixel_and_the_same_layers_give_the_same_bytes():
    text = viewer().html()
    assert text == viewer().html()
    layers = {layer["title"]: layer for layer in carried(text)}
    assert np.array_equal(pixels(layers["Map"]), codes())
    height = layers["Height"]
    stored = pixels(height).astype(int)
    values = height["low"] + (256 * stored[..., 0] + stored[..., 1]) / height["steps"] * (
        height["high"] - height["low"]
    )
    assert np.abs(values - heights()).max() < 0.01
    assert not stored[..., 2].any()  # all known
    assert layers["True colour"]["note"] == "Of June."
    assert not re.search(r"https?://|@import|url\(", text)


def test_values_that_are_unknown_are_marked_and_a_layer_without_any_is_no_error():
    values = heights()
    values[3, 4] = np.nan
    marks = pixels(QuantityLayer("a", values).described())[..., 2]
    assert np.flatnonzero(marks).tolist() == [3 * 40 + 4]
    assert (pixels(QuantityLayer("a", np.full(SHAPE, np.nan, np.float32)).described())[..., 2] == 255).all()


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="has codes \\[2\\] but 2 names"):
        Viewer(GROUND, [ClassLayer("Map", codes(), NAMES[:2], COLOURS[:2])])
    with pytest.raises(ValueError, match=r"'a' has \(30, 20\) pixels, the map \(30, 40\)"):
        Viewer(GROUND, [QuantityLayer("a", heights()[:, :20])])
    with pytest.raises(ValueError, match="titles of their own"):
        Viewer(GROUND, [QuantityLayer("a", heights()), QuantityLayer("a", heights())])


# In a browser.


class Page:
    """A page of a map in Chromium."""

    def __init__(self, browser) -> None:
        self.browser = browser
        self.canvas = browser.find_element("css selector", ".map-canvas")
        self.side = [browser.execute_script(f"return arguments[0].client{d}", self.canvas) for d in ("Width", "Height")]
        self.scale = min(self.side[0] / SHAPE[1], self.side[1] / SHAPE[0])

    def at(self, column: float, row: float) -> tuple[float, float]:
        """Where the middle of a pixel is on the whole map, from the middle of the canvas."""
        return (column + 0.5 - SHAPE[1] / 2) * self.scale, (row + 0.5 - SHAPE[0] / 2) * self.scale

    def actions(self):
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser, duration=20)

    def hover(self, column: float, row: float) -> str:
        x, y = self.at(column, row)
        self.actions().move_to_element_with_offset(self.canvas, round(x), round(y)).perform()
        return self.readout()

    def readout(self) -> str:
        self.settle()
        return self.browser.find_element("css selector", ".map-readout").text

    def place(self) -> tuple[float, float]:
        """x and y that are shown."""
        found = re.search(r"x (-?[\d.]+), y (-?[\d.]+) \(EPSG:32632\)", self.readout())
        return float(found[1]), float(found[2])

    def settle(self) -> None:
        """Until two frames are drawn."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def colour(self, column: float, row: float) -> list[int]:
        x, y = (offset + side / 2 for offset, side in zip(self.at(column, row), self.side, strict=True))
        self.settle()
        script = """const [canvas, x, y] = arguments, ratio = devicePixelRatio;
            return [...canvas.getContext("2d").getImageData(x * ratio, y * ratio, 1, 1).data]"""
        return self.browser.execute_script(script, self.canvas, x, y)

    def choose(self, value: str) -> None:
        self.browser.find_element("css selector", f".map-side input[value='{value}']").click()

    def slide(self, value: int) -> None:
        script = """const slider = document.querySelector(".map-slider");
            slider.value = arguments[0];
            slider.dispatchEvent(new Event("input"))"""
        self.browser.execute_script(script, value)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "map.html"
    return write_report(path, "A map", [Section("The map", "", [viewer()])]).as_uri()


@pytest.fixture
def page(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 10).until(
        lambda b: b.find_element("css selector", ".map-viewer").get_attribute("data-ready") == "true"
    )
    return Page(browser)


def test_it_opens_from_disk_without_an_error_and_asks_nothing_of_any_network(page, address):
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert address in asked
    assert all(url == address or url.startswith("data:") for url in asked)
    assert page.browser.get_log("browser") == []


def test_a_known_pixel_tells_its_class_its_value_with_interval_and_its_coordinates(page):
    told = page.hover(30, 10)
    assert "Map: maize" in told
    assert "Height: 400 m (380 to 430)" in told
    x, y = page.place()
    assert abs(x - 500_305) <= 1  # a pixel of the screen is less than a metre
    assert abs(y - 5_399_895) <= 1
    assert "Map: oak </script> & beech" in page.hover(20, 10)
    assert "Map: no data" in page.hover(2, 2)
    page.browser.find_element("css selector", ".map-out").click()
    assert page.hover(-3, 10) == "outside the map"


def test_the_wheel_enlarges_about_the_pointer_and_dragging_moves_the_map(page):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    page.hover(10, 20)
    before, drawn = page.place(), page.canvas.screenshot_as_png
    x, y = (round(v) for v in page.at(10, 20))
    page.actions().scroll_from_origin(ScrollOrigin.from_element(page.canvas, x, y), 0, -240).perform()
    assert page.canvas.screenshot_as_png != drawn
    assert np.allclose(page.place(), before, atol=1)
    page.actions().move_to_element_with_offset(page.canvas, x + 100, y).perform()
    metre = 10 / page.scale / np.exp(240 / 400)  # of a pixel of the screen
    assert abs(page.place()[0] - before[0] - 100 * metre) <= 1.5
    drawn = page.canvas.screenshot_as_png
    held = page.actions().move_to_element_with_offset(page.canvas, x, y).click_and_hold()
    held.move_by_offset(60, -30).release().perform()
    assert page.canvas.screenshot_as_png != drawn
    assert np.allclose(page.place(), before, atol=1)  # what was held is still under the pointer
    page.browser.find_element("css selector", ".map-reset").click()
    page.hover(10, 20)
    assert np.allclose(page.place(), before, atol=1)


def test_two_fingers_enlarge_it(page):
    box = page.canvas.rect
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    left = page.browser.execute_script("return window.scrollY")

    def touch(kind: str, *offsets: float) -> None:
        points = [{"x": middle[0] + by, "y": middle[1] - left, "id": k} for k, by in enumerate(offsets)]
        page.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = page.browser.find_element("css selector", ".map-scale").text
    assert before.endswith(" m")
    touch("touchStart", -40, 40)
    for wide in range(50, 161, 10):
        touch("touchMove", -wide, wide)
    touch("touchEnd")
    page.settle()
    after = page.browser.find_element("css selector", ".map-scale").text
    assert int(after.removesuffix(" m")) < int(before.removesuffix(" m"))


def test_keys_enlarge_and_move_it_and_tell_what_is_in_the_middle(page):
    from selenium.webdriver.common.keys import Keys

    page.canvas.send_keys("+")
    assert np.allclose(page.place(), (500_200, 5_399_850), atol=1)
    page.canvas.send_keys(Keys.ARROW_RIGHT)
    assert abs(page.place()[0] - 500_200 - 60 * 10 / page.scale / 1.5) <= 1


def test_an_entry_of_the_legend_hides_its_class(page):
    assert page.colour(30, 10) == [255, 0, 0, 255]
    page.choose("maize")
    page.slide(100)
    assert page.colour(30, 10) == [10, 200, 30, 255]  # what lies below
    assert page.colour(5, 10) == [0, 0, 255, 255]
    page.choose("maize")
    assert page.colour(30, 10) == [255, 0, 0, 255]
    assert "140 ha" in page.browser.find_element("css selector", ".map-legend").text


def test_layers_are_switched_and_compared_with_true_colour(page):
    page.slide(50)
    assert page.colour(30, 10) == pytest.approx([132, 100, 15, 255], abs=2)  # half of both
    page.choose("swipe")
    assert page.colour(30, 10) == [10, 200, 30, 255]  # right of the edge
    assert page.colour(5, 10) == [0, 0, 255, 255]
    page.choose("True colour")
    assert page.colour(5, 10) == [10, 200, 30, 255]
    assert not page.browser.find_element("css selector", ".map-compare").is_displayed()
    assert page.browser.find_element("css selector", ".map-note").text == "Of June."
    page.choose("Height")
    assert page.browser.find_element("css selector", ".map-ends").text.split() == ["100", "m", "490"]


def test_it_is_enlarged_without_blur(page):
    left, right = page.colour(13, 10), page.colour(14, 10)  # the last pixel of water, the first of oak
    assert (left, right) == ([0, 0, 255, 255], [0, 255, 0, 255])
    edge = {tuple(page.colour(13.5 + by, 10)) for by in np.linspace(-0.4, 0.4, 9)}
    assert edge <= {tuple(left), tuple(right)}
