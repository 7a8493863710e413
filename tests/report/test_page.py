"""The page in a browser: nothing but itself is loaded, and it is usable by mouse and by keyboard."""

import re

import pytest

from sak_jax.report import page
from tests.report import browser, runs

LIMIT = 20_000_000
EVIL = '<script>document.title="pwned"</script><img src=x onerror="document.title=\'pwned\'">"\'&'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def show(chromium, tmp_path):
    """Opens the page of some runs; afterwards nothing may have been logged or asked for."""
    file = tmp_path / "a page.html"

    def open_page(found, anchor=""):
        page.write(file, found)
        assert file.stat().st_size < LIMIT
        chromium.get("about:blank")
        browser.requests(chromium), browser.complaints(chromium)
        chromium.get(f"{file.as_uri()}{anchor}")
        return chromium

    yield open_page
    assert browser.complaints(chromium) == []
    assert browser.requests(chromium) == {file.as_uri()}


def one(driver, selector):
    return driver.find_element("css selector", selector)


def many(driver, selector):
    return driver.find_elements("css selector", selector)


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def visible_panels(driver):
    return [panel.get_attribute("id") for panel in many(driver, ".panel") if panel.is_displayed()]


ALL = ["results", "curves", "predictions", "routing", "features", "classes", "details"]


@browser.needed
def test_tabs_by_mouse_and_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    driver = show([runs.full()])
    assert [tab.get_attribute("aria-controls") for tab in many(driver, "[role=tab]")] == ALL
    assert visible_panels(driver) == ["results"]
    one(driver, "#tab-routing").click()
    assert visible_panels(driver) == ["routing"]
    press(driver, Keys.ARROW_RIGHT)
    assert (
        visible_panels(driver) == ["features"] and driver.switch_to.active_element.get_attribute("id") == "tab-features"
    )
    press(driver, Keys.HOME, Keys.ARROW_LEFT)
    assert visible_panels(driver) == ["details"]
    assert [tab.get_attribute("tabindex") for tab in many(driver, "[role=tab]")] == ["-1"] * 6 + ["0"]
    press(driver, Keys.TAB)
    assert driver.switch_to.active_element.get_attribute("id") == "details"


@browser.needed
def test_an_anchor_opens_its_tab(show):
    assert visible_panels(show([runs.full()], "#curves")) == ["curves"]


def layers(driver, index=0):
    """What a viewer shows: the texts of its two layers and how much of the upper one is seen."""
    viewer = many(driver, ".viewer")[index]
    base, top = (viewer.find_element("css selector", name) for name in (".base", ".top"))
    clip = float(re.search(r"inset\(0(?:px|%)? ([\d.]+)%", top.value_of_css_property("clip-path"))[1])
    return base.get_attribute("alt"), top.get_attribute("alt"), 100 - clip


@browser.needed
def test_the_slider_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    driver = show([runs.full()], "#predictions")
    wipe = one(driver, "#wipe")
    assert layers(driver) == ("semseg: image", "semseg: prediction", 50)
    assert wipe.get_attribute("aria-valuetext") == "prediction 50 %, image 50 %"
    wipe.send_keys(Keys.ARROW_RIGHT)
    assert layers(driver)[2] == 51
    wipe.send_keys(Keys.END)
    assert layers(driver) == ("semseg: truth", "semseg: error", 100) and wipe.get_attribute("aria-valuetext") == "error"
    wipe.send_keys(Keys.HOME)
    assert layers(driver) == ("semseg: image", "", 0)


@browser.needed
def test_the_slider_by_mouse(show):
    from selenium.webdriver.common.action_chains import ActionChains

    driver = show([runs.full()], "#predictions")
    many(driver, ".stops button")[1].click()
    assert one(driver, "#wipe").get_attribute("aria-valuetext") == "prediction"
    many(driver, ".stops button")[2].click()
    assert layers(driver) == ("semseg: truth", "", 0)
    stage = many(driver, ".stage")[0]
    ActionChains(driver).move_to_element(stage).click_and_hold().move_by_offset(40, 0).release().perform()
    (base, top, seen), width = layers(driver), stage.size["width"]
    assert (base, top) == ("semseg: prediction", "semseg: truth") and seen == pytest.approx(50 + 4000 / width, abs=1)
    assert layers(driver, 1)[2] == pytest.approx(seen, abs=0.6)  # All pictures move together.


@browser.needed
def test_pictures_are_decoded_and_others_are_chosen(show):
    from selenium.webdriver.common.keys import Keys

    driver = show([runs.full()], "#predictions")
    sources = [image.get_attribute("src") for image in many(driver, ".viewer .base")]
    many(driver, ".strip button")[0].click()
    press(driver, Keys.ARROW_RIGHT)
    assert [button.get_attribute("aria-checked") for button in many(driver, ".strip button")] == [
        "false",
        "true",
        "false",
    ]
    assert sources != [image.get_attribute("src") for image in many(driver, ".viewer .base")]
    one(driver, "#tab-features").click()
    assert driver.execute_script("return [...document.images].every(i => !i.src || i.naturalWidth > 0)")
    assert one(driver, ".feature img").is_displayed()


@browser.needed
def test_curves_tell_their_values(show):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver = show([runs.full()], "#curves")
    chart = many(driver, ".chart")[1]
    svg, output = (chart.find_element("css selector", name) for name in ("svg", "output"))
    before = output.text
    assert before == "0.5 at step 20"
    ActionChains(driver).move_to_element(svg).perform()
    assert output.text.split() == ["step", "9", "1.111"]  # The middle of the picture, left of the axis' middle.
    ActionChains(driver).move_to_element(one(driver, "h1")).perform()
    assert output.text == before
    driver.execute_script("arguments[0].focus()", svg)
    press(driver, Keys.HOME)
    assert output.text.split() == ["step", "1", "10"]
    press(driver, Keys.ARROW_RIGHT)
    assert output.text.split() == ["step", "2", "5"]


@browser.needed
def test_routing_of_one_image(show):
    from selenium.webdriver.support.ui import Select

    driver = show([runs.full()], "#routing")
    weights = lambda: [[cell.text for cell in many(box, "td")] for box in many(driver, ".routed") if box.is_displayed()]  # noqa: E731
    means = [["0.25", "0.75", "0.50", "0.50"], ["0.90", "0.10", "0.20", "0.80"]]
    assert weights() == means and "Means over 3" in one(driver, "#routing").text
    choice = Select(one(driver, "#routed"))
    assert [option.text for option in choice.options] == ["the mean over images", "image 1", "image 2", "image 3"]
    choice.select_by_visible_text("image 3")
    assert weights() == [["0.20", "0.80", "0.00", "1.00"]]  # The other task's weights of this image are not known.
    assert "Means" not in one(driver, "#routing").text and one(driver, "#routed-image").is_displayed()
    strong = [cell.get_attribute("class") for cell in many(driver, ".routed td")[:4]]
    assert strong == ["num", "num high mid", "num", "num high mid"]
    choice.select_by_visible_text("the mean over images")
    assert weights() == means and not one(driver, "#routed-image").is_displayed()


@browser.needed
def test_runs_side_by_side(show):
    other = runs.full(
        "no router", routing={}, config={"seed": 1, "model": {"router": "none"}}, pictures=runs.examples(2)
    )
    driver = show([runs.full(), other])
    heads = [cell.text for cell in many(driver, "#results thead th")]
    assert heads == ["metric", "rooms", "no router", "single-task", "published"]
    one(driver, "#tab-predictions").click()
    assert len([viewer for viewer in many(driver, ".viewer") if viewer.is_displayed()]) == 4
    many(driver, ".strip button")[2].click()  # The other run has no third image.
    assert len([viewer for viewer in many(driver, ".viewer") if viewer.is_displayed()]) == 2
    one(driver, "#tab-details").click()
    shown = [row.text.split()[0] for row in many(driver, ".recipe tbody tr") if row.is_displayed()]
    assert shown == ["seed", "model.router", "tasks.semseg.channels"]
    one(driver, "#only").click()
    assert len(many(driver, ".recipe tbody tr")) == 3


@browser.needed
@pytest.mark.parametrize("anchor", ["#" + name for name in ALL])
def test_names_are_shown_and_never_run(show, anchor):
    curves = [{"step": 1, "split": EVIL, "values": {EVIL: 1.0}}, {"step": 2, "split": EVIL, "values": {EVIL: 2.0}}]
    run = runs.full(
        EVIL,
        command=EVIL,
        config={EVIL: {EVIL: EVIL}},
        versions={EVIL: EVIL},
        scores={EVIL: 1.0},
        baselines={EVIL: 2.0},
        higher_is_better={EVIL: True},
        curves=curves,
        pictures=runs.examples(2, tasks=(EVIL, "b")),
        routing={EVIL: [[0.5, 0.5]]},
        experts=[EVIL, EVIL],
        fidelity={EVIL: [0.5]},
        confusion={EVIL: {"classes": [EVIL, "b"], "counts": [[1, 2], [3, 4]]}},
        notes=[EVIL],
    )
    run.pictures[0]["features"] = {EVIL: runs.picture()}
    driver = show([run, runs.full()], anchor)
    assert driver.title != "pwned" and EVIL in one(driver, "main").get_attribute("textContent")
    assert len(many(driver, "script")) == 2


UNUSUAL = {
    "nothing at all": {
        key: type(getattr(runs.full(), key))() for key in ("scores", "config", "curves", "pictures", "routing")
    },
    "no evaluation": {"scores": {}, "delta_m": None, "notes": ["this run has no finished evaluation"]},
    "one task": {"scores": {"depth/RMSE": 0.5}, "pictures": runs.examples(2, tasks=("depth",)), "routing": {}},
    "one image without truth": {"pictures": [{"image": runs.picture(), "tasks": {"a": (runs.picture(), None, None)}}]},
    "features alone": {"pictures": [{"image": runs.picture(), "tasks": {}, "features": {"a": runs.picture()}}]},
    "NaN in the curves": {"curves": runs.curves(broken=range(1, 21))},
    "NaN everywhere": {
        "scores": {"semseg/mIoU": float("nan")},
        "routing": {"semseg": [[float("nan"), 0.5]]},
        "fidelity": {"scene": [float("nan")]},
        "curves": [{"step": 1, "split": "val", "values": {"x": None}}],
    },
}


@browser.needed
@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_runs_give_a_page(show, case):
    driver = show([runs.full(**UNUSUAL[case])])
    for tab in many(driver, "[role=tab]"):
        tab.click()
        assert one(driver, f"#{tab.get_attribute('aria-controls')}").text
    broken = "[...document.images].filter(i => i.hasAttribute('src') && i.naturalWidth === 0).length"
    assert driver.execute_script(f"return {broken}") == 0


@browser.needed
def test_a_hundred_large_images(show):
    run = runs.full(pictures=runs.examples(100, tasks=("depth", "normals"), size=(448, 576)))
    for example in run.pictures[:3]:
        example["tasks"]["normals"] = tuple(runs.picture(448, 576, seed=index) for index in range(3))
    driver = show([run], "#predictions")
    count = len(many(driver, ".strip button"))
    assert 10 < count < 100 and f"{count} of 100 images" in one(driver, "#predictions").text


@browser.needed
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_can_be_read_in_both_schemes(tmp_path, width, dark):
    page.write(tmp_path / "page.html", [runs.full(), runs.full("a/long/name/" + "x" * 60)])
    with browser.opened(tmp_path / "profile", (width, 800), dark) as driver:
        for anchor in ALL:
            driver.get("about:blank")
            driver.get(f"{(tmp_path / 'page.html').as_uri()}#{anchor}")
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width, anchor
            assert driver.execute_script(CONTRAST) >= 3.0, anchor
        assert browser.complaints(driver) == []


# The least contrast (WCAG 2) of any visible text with the ground behind it.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (colour, under) => {
  canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (parts) => parts.map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/(transparent|, 0\\)|\\/ 0\\))/.test(colour)) return colour;
  }
  return "white";
};
let least = 21;
const texts = "h1, h2, h3, p, th, td, button, figcaption, output, code, label, .change, .quiet";
for (const element of document.querySelectorAll(texts)) {
  if (!element.checkVisibility() || !element.textContent.trim()) continue;
  const under = ground(element);
  const [a, b] = [light(rgb(getComputedStyle(element).color, under)), light(rgb(under, "white"))].sort((x, y) => y - x);
  least = Math.min(least, (a + 0.05) / (b + 0.05));
}
return least;
"""
