"""A page opened in headless Chromium, with what it logged and what it asked the network for."""

import contextlib
import json
import shutil

import pytest

from tools import screenshots

needed = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
)


@contextlib.contextmanager
def opened(profile, size=(1280, 900), dark=False):
    """A browser with a fresh profile; `requests` and `complaints` read what it has done."""
    pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
    browser = screenshots.open_browser(str(profile))
    try:
        screenshots.set_window(browser, *size, dark)
        yield browser
    finally:
        browser.quit()


def complaints(browser) -> list[str]:
    """All that the console has shown."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser) -> set[str]:
    """The addresses that the page asked for, data URIs aside."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    addresses = (event["request"]["url"] for event in sent)
    return {address for address in addresses if not address.startswith("data:")}
