"""A headless Chromium, for screenshots and for the tests; it keeps a list of the hosts it asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "no chromium and chromedriver (Debian: chromium, chromium-driver)"


class Browser:
    """A window, and what the tests do with it.

    Args:
        driver: of selenium.
    """

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        """The first visible element of a CSS selector, waited for."""
        return self.wait(lambda: next((e for e in self.all(selector) if e.is_displayed()), None))

    def all(self, selector: str) -> list[WebElement]:
        """All elements of a CSS selector, now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the first element of a selector, as it is shown; empty where there is none."""
        return next((element.text for element in self.all(selector)), "")

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Waits until a function returns something true, and returns it."""
        waiting = WebDriverWait(self.driver, seconds, 0.1, [StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def hosts(self) -> set[str]:
        """Every host that was asked over the network since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                if url.scheme in ("http", "https", "ws", "wss"):
                    found.add(url.hostname or "")
        return found

    def errors(self) -> list[str]:
        """What the page complained about in its console."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def open_browser(width: int = 1200, height: int = 1400) -> Iterator[Browser]:
    """A browser that is closed when the block ends."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
