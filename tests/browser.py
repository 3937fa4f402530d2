"""A headless Chromium, spoken to through a pipe: its DevTools protocol needs no package then."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from contextlib import contextmanager

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
         "--no-first-run", "--disable-background-networking")  # fmt: skip
PATIENCE = 60  # seconds


class Page:
    """A tab: calls go out one after another, events that come meanwhile are kept."""

    def __init__(self, reading, writing):
        self.reading, self.writing, self.rest, self.number = reading, writing, b"", 0
        self.events, self.session = [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _message(self, until):
        while b"\0" not in self.rest:
            if not select.select([self.reading], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self.reading, 2**16)
            if not more:
                raise ConnectionError("the browser has ended")
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while (answer := self._message(until)).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def show_as(self, width, height, **features):
        """The size of the window (a phone's below 500), and what the reader prefers: ``color_scheme="dark"``."""
        self.width = width
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        named = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def value(self, expression):
        """What a line of JavaScript makes."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression):
        until = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < until, expression
            time.sleep(0.05)

    def press(self, key):
        """A key, as the keyboard gives it."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            " ": 32,
            "End": 35,
            "Home": 36,
            "ArrowLeft": 37,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        text = {"Enter": "\r", " ": " "}.get(key, "")
        known = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def point(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, whole=False):
        """A PNG of the window, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def complaints(self):
        """What the browser has logged, and addresses that were asked for, but for the page itself."""
        self.value("0")
        found = []
        for event in self.events:
            about = event.get("params", {})
            if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(about)[:500])
            elif event["method"] == "Network.requestWillBeSent":
                found.append(about["request"]["url"][:200])
        return [each for each in found if not each.startswith(("file:", "data:"))]


@contextmanager
def browser(profile):
    """A page of a browser that keeps its files in a folder."""
    theirs, ours = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs[0], ours[1])]
    actions = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4), strict=True)]  # where it looks
    actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    words = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(PROGRAM, words, os.environ, file_actions=actions)
    for end in (theirs[0], ours[1], *ends):
        os.close(end)
    try:
        yield Page(ours[0], theirs[1])
    finally:
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        os.close(ours[0])
        os.close(theirs[1])
