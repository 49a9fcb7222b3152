"""A tab of a headless Chromium that resolves no name, with everything that its page sent and complained about."""

import re
import shutil
import urllib.request

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SETTLED = "main[aria-busy=false] #explore:not([hidden])"
DESKTOP = (1280, 900)


class Tab:
    """One page in a browser of its own profile, with what it sent and what went wrong.

    Args:
        browser: the browser.
        address: host and port of the server.
        size: width and height of the window.
    """

    def __init__(self, browser, address, size=DESKTOP):
        self.address = address
        self.context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)))
        self.page = self.context.new_page()
        self.faults = []
        self.excused = None  # words of a fault that the test causes
        self.requests = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))

    def open(self):
        """Load the page and wait until it is usable."""
        self.page.goto(f"http://{self.address}/")
        self.settle()

    def settle(self):
        """Wait until everything that was asked is answered."""
        self.page.locator(SETTLED).wait_for(timeout=30_000)

    def posts(self):
        """Return the recorded POSTs as (path, rows, scores, gradients)."""
        found = []
        for request in [request for request in self.requests if request.method == "POST"]:
            assert "application/octet-stream" == request.headers["content-type"]
            table = np.frombuffer(request.response().body(), "<f4").reshape(-1, self.dim + 1)
            rows = np.frombuffer(request.post_data_buffer, "<f4").reshape(-1, self.dim)
            found.append((request.url.partition(self.address)[2], rows, table[:, 0], table[:, 1:]))
        return found

    @property
    def dim(self):
        """The dimension, as the list of models shows it."""
        return int(self.page.locator(".model.chosen dd").first.inner_text())

    def asked_again(self):
        """Send the row of the page's curl command to its address; return the answer's own text."""
        command = self.page.locator("#curl").inner_text()
        address, body = re.fullmatch(r"curl '(.*)' -d '(.*)'", command, re.DOTALL).groups()
        with urllib.request.urlopen(urllib.request.Request(address, body.encode()), timeout=10) as response:
            return response.read().decode()

    def text(self, name):
        """Return the text of the element with this id."""
        return self.page.locator(f"#{name}").inner_text()

    def value(self, name):
        """Return the value of the field with this id."""
        return self.page.locator(f"#{name}").input_value()

    def bars(self):
        """Return {feature: printed gradient entry}, largest first."""
        entries = self.page.locator("#gradient li").all()
        return {entry.locator(".entry").inner_text(): entry.locator("data").inner_text() for entry in entries}


def printed(answer):
    """Return score and gradient entries of an answer as the server printed them, digit by digit."""
    score, gradient = re.search(r'"score":\[([^]]*)\],"gradient":\[\[([^]]*)\]\]', answer).groups()
    return score, gradient.split(",")


def digits(text):
    """Return the significant digits of a printed number."""
    return text.lower().partition("e")[0].lstrip("-").replace(".", "").strip("0")
