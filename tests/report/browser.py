"""A page opened in headless Chromium, with what it logged and what it asked the network for."""

import contextlib
import json
import shutil

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needed = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)


@contextlib.contextmanager
def opened(profile, size=(1280, 900), dark=False):
    """A browser with a fresh profile; `requests` and `complaints` read what it has done."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        resize(browser, *size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield browser
    finally:
        browser.quit()


def resize(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def complaints(browser) -> list[str]:
    """All that the console has shown."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser) -> set[str]:
    """The addresses that the page asked for, data URIs aside."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = (
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    )
    return {address for address in addresses if not address.startswith("data:")}
