"""Take pictures of a report and of the demo, in a light and a dark window.

    python tools/screenshots.py REPORT.html --output=DIR [--parts=results,predictions] [--width=1280] [--height=900]
        [--quality=80] [--checkpoint=DIR]

Writes `PART-light.webp` and `PART-dark.webp` for each part of the page, and with --checkpoint, a student as
`sak_jax.load` takes it, `demo-light.webp` and `demo-dark.webp`; then REPORT.html may be left out. Needs Chromium and
its driver (`apt-get install chromium chromium-driver`) and `pip install selenium`, for the demo `'sak_jax[demo]'` too.
"""

import base64
import shutil
import socket
import sys
import tempfile
import time
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
    parser.add_argument("report", metavar="REPORT.html", nargs="?")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--parts", default="results,curves,predictions,routing", help="anchors of the page's parts")
    parser.add_argument("--width", type=cli.count, default=1280)
    parser.add_argument("--height", type=cli.count, default=900)
    parser.add_argument("--quality", type=int, default=80, help="of the pictures, 1..100 (default %(default)s)")
    parser.add_argument("--checkpoint", metavar="DIR", help="what holds the demo's student, e.g. rooms")
    options = parser.parse_args(argv)
    from etils import epath

    from sak_jax import paths

    if options.report is None and options.checkpoint is None:
        parser.error("there is nothing to show: give a report's index.html, or --checkpoint=DIR for the demo")
    pages = {}
    if options.report is not None:
        report = epath.Path(options.report).expanduser().resolve()
        if not report.is_file():
            raise UserError(f"{options.report} is not there: give a report's index.html")
        pages = {part: (f"{report.as_uri()}#{part}", "") for part in options.parts.split(",")}
    served = None
    if options.checkpoint is not None:
        served, address = serve(options.checkpoint)
        pages["demo"] = (address, "#gallery img")
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            for dark in (False, True):
                for name, (address, wanted) in pages.items():
                    file = paths.given(options.output) / f"{name}-{'dark' if dark else 'light'}.webp"
                    size = (options.width, options.height, options.quality)
                    paths.write_bytes(file, screenshot(browser, address, *size, dark=dark, wanted=wanted))
                    print(f"wrote {file}")
        finally:
            browser.quit()
            if served is not None:
                served.close(verbose=False)


def serve(checkpoint: str):
    """The demo of a student on a free port, and its address."""
    import sak_jax
    from sak_jax.command import tool

    demo = tool("demo")
    page = demo.build(sak_jax.load(checkpoint))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return page, demo.launch(page, "127.0.0.1", port)


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


def screenshot(browser, address: str, width: int, height: int, quality: int, *, dark: bool, wanted: str = "") -> bytes:
    """The window on a page as WebP.

    Args:
      browser: of `open_browser`.
      address: of the page.
      width, height: in pixels.
      quality: 1..100.
      dark: the colours that the user prefers.
      wanted: a selector; the page is waited for until something is there and all pictures are decoded.

    Raises:
      UserError: nothing of the kind came within two minutes.
    """
    set_window(browser, width, height, dark)
    browser.get("about:blank")  # So that another anchor of the same page is a fresh start.
    browser.get(address)
    ends = time.monotonic() + 120
    while wanted and not browser.execute_script(_READY, wanted):
        if time.monotonic() > ends:
            raise UserError(f"{address} shows nothing after two minutes: open it in a browser to see why")
        time.sleep(0.2)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": quality})
    return base64.b64decode(taken["data"])


_READY = """
const wanted = document.querySelectorAll(arguments[0]);
return wanted.length > 0 && [...document.images].every((image) => image.complete && image.naturalWidth > 0);
"""


if __name__ == "__main__":
    sys.exit(main())
