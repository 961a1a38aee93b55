"""A headless Chromium that tests drive; where it is absent they are skipped with a reason."""

import os
import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium(profile):
    """Start Chromium with its profile in a folder; yield selenium's driver and stop both."""
    browser, driver, webdriver = _find()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    page = webdriver.Chrome(options=options, service=service)
    try:
        yield page
    finally:
        page.quit()


def show(page, path, *, width, dark=False):
    """Open a file in a window of this inner width in CSS pixels, under the system's colours."""
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    page.get(path.as_uri())
    page.execute_script("localStorage.clear(); delete document.documentElement.dataset.theme")


def _find():
    missing = []
    try:
        from selenium import webdriver
    except ImportError:
        missing.append("the package selenium")
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing += [name for name, path in paths.items() if path is None]
    if not missing:
        return paths["chromium"], paths["chromedriver"], webdriver
    reason = f"not installed: {', '.join(missing)} (Debian: chromium, chromium-driver)"
    if os.environ.get("HIDDENKEY_REQUIRE_TOOLS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
