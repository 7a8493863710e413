"""The page to try a student on, in headless Chromium."""

import importlib.util
import socket
import time

import numpy as np
import pytest
from PIL import Image

import sak_jax
from sak_jax import predict, recipe
from tests import runs
from tests.report import browser
from tools import demo

needed = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio: pip install 'sak_jax[demo]'"
)

EVIL = "<img src=x onerror=\"document['title']='pwned'\"><script>document['title']='pwned'"
WAIT = 120


def fresh(tasks, *overrides):
    """A student of the tiny recipe with fresh weights and other tasks."""
    config = recipe.load(runs.TINY, overrides)
    config.tasks = tasks
    return predict.Predictor(sak_jax.build(config), config, "multitask")


def one(driver, selector):
    return driver.find_element("css selector", selector)


def many(driver, selector):
    return driver.find_elements("css selector", selector)


def until(found):
    """What `found` returns once that is true."""
    from selenium.common.exceptions import StaleElementReferenceException

    ends = time.monotonic() + WAIT
    while time.monotonic() < ends:
        try:
            if value := found():
                return value
        except StaleElementReferenceException:  # The page has just replaced it.
            pass
        time.sleep(0.2)
    raise AssertionError(f"nothing came within {WAIT} s")


def sources(driver, selector):
    """The addresses of the pictures in a part of the page, once all are decoded."""
    images = many(driver, f"{selector} img")
    loaded = all(driver.execute_script("return arguments[0].naturalWidth > 0", image) for image in images)
    return [image.get_attribute("src") for image in images] if loaded else []


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Opens a student's page; afterwards nothing but its own server may have been asked for anything."""
    reached = set()
    connect = socket.socket.connect

    def noted(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            reached.add(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    opened, pages = [], []

    def open_page(student):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pages.append(demo.build(student))
        address = demo.launch(pages[-1], "127.0.0.1", port)
        context = browser.opened(tmp_path / "profile", (1280, 1000))
        opened.append((context, driver := context.__enter__(), address))
        browser.requests(driver)  # Those of the browser's own first page.
        driver.get(address)
        return driver

    yield open_page
    for context, driver, address in opened:
        asked = browser.requests(driver)
        # Gradio itself says "Method not implemented." when a picture is removed.
        complaints = [words for words in browser.complaints(driver) if "Method not implemented." not in words]
        context.__exit__(None, None, None)
        foreign = {url for url in asked if not url.startswith((address, "chrome:", "blob:" + address))}
        assert not foreign and not complaints
    for page in pages:
        page.close(verbose=False)
    assert reached <= {"127.0.0.1", "::1", "localhost"}


@needed
@browser.needed
def test_a_dropped_picture_is_predicted(show, tmp_path):
    driver = show(fresh({"semseg": {"channels": 3, "names": ["wall", "floor", "lamp"]}, "depth": {}}))
    before = until(lambda: sources(driver, "#gallery"))  # Of the picture that comes with the package.
    assert len(before) == 2 and {label.text for label in many(driver, "#task label")} == {"semseg", "depth"}
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), np.uint8)).save(tmp_path / "mine.png")
    one(driver, "#picture button[aria-label='Remove Image']").click()
    field = until(lambda: many(driver, "#picture input[type=file]"))[0]
    field.send_keys(str(tmp_path / "mine.png"))
    after = until(lambda: (found := sources(driver, "#gallery")) and not set(found) & set(before) and found)
    assert len(after) == 2
    slides = until(lambda: sources(driver, "#slider"))
    sizes = {tuple(driver.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image))
             for image in many(driver, "#slider img")}  # fmt: skip
    assert len(slides) == 2 and sizes == {(480, 800)}
    many(driver, "#task label")[1].click()
    until(lambda: (found := sources(driver, "#slider")) and found[1] != slides[1] and found)
    rows = [[float(cell.text) for cell in row.find_elements("css selector", "td")]
            for row in many(driver, "#routing tbody tr")]  # fmt: skip
    assert len(rows) == 2 * 4 and all(len(row) == 3 and abs(sum(row) - 1) < 0.02 for row in rows)
    assert [cell.text for cell in many(driver, "#routing thead th")[:4]] == ["level", "stem", "scene", "geometry"]


@needed
@browser.needed
def test_names_are_shown_and_never_run(show):
    rows = {EVIL: {"channels": 2, "kind": "classes", "weight": 1.0, "metric": "mIoU"}, "depth": {}}
    driver = show(fresh(rows))
    until(lambda: sources(driver, "#gallery"))
    assert driver.title == "sak_jax"
    for part in ("#task", "#gallery", "#routing"):
        assert EVIL in one(driver, part).get_attribute("textContent"), part
    assert not many(driver, "img[src=x]")


@needed
@browser.needed
def test_what_is_no_picture_is_told(show, tmp_path):
    driver = show(fresh({"depth": {}}, "--config.model.router=none"))
    until(lambda: sources(driver, "#gallery"))
    assert one(driver, "#routing").text == "This student has no routers."
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    one(driver, "#picture button[aria-label='Remove Image']").click()
    until(lambda: many(driver, "#picture input[type=file]"))[0].send_keys(str(tmp_path / "broken.png"))
    words = until(lambda: " ".join(toast.text for toast in many(driver, ".toast-body")))
    assert "broken.png: is not a whole PNG or JPEG file" in words and "/tmp" not in words


@needed
def test_a_student_without_tasks_is_refused():
    config = recipe.load(runs.TINY, ["--config.multitask.steps=0"])
    with pytest.raises(sak_jax.errors.UserError, match="no tasks"):
        demo.build(predict.Predictor(sak_jax.build(config), config, "distill"))


@needed
def test_a_mistake_is_one_line(capsys, monkeypatch):
    assert demo.main(["--checkpoint=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert demo.main([f"--port={taken.getsockname()[1]}"]) == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--port=99999", "--port=-5", "--port=0", "--host="])
def test_an_address_that_cannot_be_is_told_at_once(flag, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_gradio", lambda: pytest.fail("began"))  # Which may not be installed.
    assert demo.main([flag]) == 2
    error = capsys.readouterr().err
    assert flag.partition("=")[0] in error and error.count("\n") == 1
