"""A real browser for tests: Chromium without a window, driven over its DevTools pipe.

The browser reads commands from its descriptor 3 and writes answers and events to its descriptor 4:
JSON, each message ended by a NUL. Nothing listens on a port. Every wait is bounded; at the end the
browser's session is killed, so that none of its processes is left.

Example::

    with Browser(tmp_path) as browser:
        page = browser.page("http://127.0.0.1:8080/", width=320)
        page.wait("document.querySelector('h1')")
        page.click("#theme")
"""

import base64
import fcntl
import json
import os
import select
import time
from pathlib import Path
from typing import Any, Self

from tests.support import processes, tools
from tests.support.waiting import PATIENCE, wait_until

ABOVE = 10  # descriptors from here on are not in the way of the browser's 3 and 4
SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--lang=en-US",
)
# By the name of a key: its virtual key code, and the text it gives
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    " ": (32, " "),
    "Escape": (27, ""),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}
SHIFT = 8  # Input.dispatchKeyEvent, modifiers


class BrowserError(AssertionError):
    """The browser refused a command, or a script of the test's failed in it."""


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are ABOVE."""
    high = []
    for low in os.pipe():
        high.append(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, ABOVE))
        os.close(low)
    return high[0], high[1]


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        """Start it; the test is skipped where Chromium is missing. Args: folder: of the profile"""
        program = tools.require("chromium")
        commands, self._to = _pipe()
        self._from, answers = _pipe()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._pid = os.posix_spawn(
            program,
            [program, *SWITCHES, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            os.environ | {"HOME": str(folder), "TZ": "UTC"},
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, commands, 3),
                (os.POSIX_SPAWN_DUP2, answers, 4),
            ],
            setsid=True,
        )
        for fd in (commands, answers, null):
            os.close(fd)
        self._home = str(folder)
        self._pending = bytearray()
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def page(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light",
             scale: float = 1, script: str = "") -> "Page":
        """Open a page and wait until it is loaded.

        Args: width and height in CSS pixels; theme: what the system prefers; scale: pixels of the
        screen for one of CSS; script: is run before those of the page
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        page.size(width, height, scale)
        page.prefer(theme)
        page.navigate(url)
        return page

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Give a command and return its result. Raises: BrowserError"""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data):]
        deadline = time.monotonic() + PATIENCE
        while number not in self._answers:
            self._hear(deadline, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _hear(self, deadline: float, what: str) -> None:
        """Read once and sort what came into answers and events."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._from], [], [], left)[0]:
            raise BrowserError(f"the browser does not answer: {what}")
        piece = os.read(self._from, 1 << 20)
        if not piece:
            raise BrowserError(f"the browser is gone: {what}")
        self._pending += piece
        *whole, self._pending = self._pending.split(b"\0")
        for raw in whole:
            message = json.loads(raw)
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.on_event(message["method"], message["params"])

    def close(self) -> None:
        """Kill the browser with all of its processes."""
        processes.kill_session(self._pid)
        os.waitpid(self._pid, 0)
        # what waits for its crashes has a session of its own, and ends when the browser is gone
        wait_until(lambda: not self._others(), what="the processes of the browser are gone")
        os.close(self._to)
        os.close(self._from)

    def _others(self) -> list[int]:
        """Return processes that were started for this browser, whatever session they are in."""
        return [pid for pid in processes.all_pids() if self._home in processes.title(pid)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Page:
    """One tab. What goes wrong in it is in `wrong`: exceptions, dialogs, refusals by its policy."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self.wrong: list[str] = []

    def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Give a command to this page and return its result."""
        return self._browser.call(method, self._session, **params)

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        """Keep what nobody wants to see."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.wrong.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Page.javascriptDialogOpening":
            self.wrong.append(f"dialog: {params['message']}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            said = [one.get("value", one.get("description")) for one in params["args"]]
            self.wrong.append(f"console: {said}")
        elif method == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.wrong.append(params["entry"]["text"])

    def navigate(self, url: str) -> None:
        """Go to an address; return when the document is there."""
        self.call("Page.navigate", url=url)
        is_there = f"location.href.startsWith({json.dumps(url)})"
        self.wait(f"{is_there} && document.readyState !== 'loading'")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """Make the window this large, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )

    def prefer(self, theme: str) -> None:
        """Let the system prefer "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited.

        Raises: BrowserError
        """
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if details := result.get("exceptionDetails"):
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def wait(self, condition: str, timeout: float = PATIENCE) -> Any:
        """Wait until an expression is true in the page; return its value."""
        return wait_until(lambda: self.evaluate(condition), timeout, condition, every=0.05)

    def text(self, selector: str) -> str:
        """Return the text that an element shows, empty if there is none."""
        found = f"document.querySelector({json.dumps(selector)})"
        return self.evaluate(f"({found} || {{innerText: ''}}).innerText")

    def click(self, selector: str) -> None:
        """Click with the mouse into the middle of an element, which must be what is seen there."""
        found = f"document.querySelector({json.dumps(selector)})"
        x, y, is_seen = self.evaluate(
            f"""(() => {{
                const node = {found};
                node.scrollIntoView({{block: "center"}});
                const box = node.getBoundingClientRect();
                const x = box.x + box.width / 2, y = box.y + box.height / 2;
                return [x, y, node.contains(document.elementFromPoint(x, y))];
            }})()"""
        )
        if not is_seen:
            raise BrowserError(f"{selector} is covered or out of sight")
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key of KEYS."""
        number, text = KEYS[key]
        common = {
            "key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": number,
            "modifiers": SHIFT if shift else 0,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, *, kind: str = "png", quality: int = 80,
                whole: bool = False) -> None:
        """Write a picture of what is seen. Args: whole: of the whole page, not of the window"""
        options: dict[str, Any] = {"format": kind, "captureBeyondViewport": whole}
        if kind != "png":
            options["quality"] = quality
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)
