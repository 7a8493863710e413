"""Take pictures of a report in a light and a dark window.

    python tools/screenshots.py REPORT.html --output=DIR [--parts=results,predictions] [--width=1280] [--height=900]

Writes `PART-light.png` and `PART-dark.png` for each part of the page. Needs Chromium and its driver
(`apt-get install chromium chromium-driver`) and `pip install selenium`.
"""

import base64
import shutil
import sys
import tempfile
from collections.abc import Sequence

from sak_jax import cli
from sak_jax.errors import UserError

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


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("report", metavar="REPORT.html")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--parts", default="results,curves,predictions,routing", help="anchors of the page's parts")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    options = parser.parse_args(argv)
    from etils import epath

    from sak_jax import paths

    report, output = epath.Path(options.report).expanduser().resolve(), epath.Path(options.output).expanduser()
    if not report.is_file():
        raise UserError(f"{options.report} is not there: give a report's index.html")
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            for dark in (False, True):
                for part in options.parts.split(","):
                    file = output / f"{part}-{'dark' if dark else 'light'}.png"
                    address = f"{report.as_uri()}#{part}"
                    paths.write_bytes(file, screenshot(browser, address, options.width, options.height, dark))
                    print(f"wrote {file}")
        finally:
            browser.quit()


def open_browser(profile: str):
    """Headless Chromium, whose console and requests can be read by `get_log`.

    Raises:
      UserError: Chromium, its driver or selenium is missing.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise UserError("Chromium and its driver are missing: apt-get install chromium chromium-driver")
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError("selenium is missing: pip install selenium") from error
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def set_window(browser, width: int, height: int, dark: bool) -> None:
    """The window's size in pixels (a phone's behaviour below 600), and the colours that the user prefers."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def screenshot(browser, address: str, width: int, height: int, dark: bool) -> bytes:
    """The window on a page as PNG."""
    set_window(browser, width, height, dark)
    browser.get("about:blank")  # So that another anchor of the same page is a fresh start.
    browser.get(address)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"])


if __name__ == "__main__":
    sys.exit(main())
