"""Headless Chromium from Debian's package: what a person sees of a page, and clicks and types there.

It is told what to do over a pipe, in Chromium's own protocol of JSON messages that end with a zero byte.
"""

import base64
import itertools
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from servers.programs import program

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of a browser of its own.

    Args:
        profile: an empty folder for the browser's files.
        width, height: of the page in pixels.
    """

    def __init__(self, profile: Path, width: int = 1600, height: int = 1000) -> None:
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        command = [program("chromium"), *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        profile.mkdir(parents=True, exist_ok=True)
        self._log = profile / "chromium.log"
        with open(self._log, "wb") as log:
            # The pipe's ends must be the descriptors 3 and 4, which only a shell can say.
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
                pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._ids, self._rest, self._session = itertools.count(1), b"", None
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self._call("Page.enable")
            self._call("Emulation.setDeviceMetricsOverride", **size)
        except BaseException:
            self.close()
            raise

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def remember(self, key: str, value: str) -> None:
        """Pages opened from now on find that they kept this in an earlier visit."""
        source = f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})"
        self._call("Page.addScriptToEvaluateOnNewDocument", source=source)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str, patience_s: float = 60.0) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + patience_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"{condition} did not come true; the page says:\n{self.text()}"
            time.sleep(0.2)

    def click(self, element: str) -> None:
        """On the element that a JavaScript expression finds, when it is there; wherever it moves meanwhile."""
        self.wait_for(element)
        self.run(f"{element}.click()")

    def type(self, element: str, text: str) -> None:
        self.wait_for(element)
        self.run(f"{element}.focus()")
        self._call("Input.insertText", text=text)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def elements(self) -> str:
        """The page as HTML, as scripts have made it."""
        return str(self.run("document.documentElement.outerHTML"))

    def picture(self, png: Path) -> None:
        data = self._call("Page.captureScreenshot", format="png")["data"]
        png.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # it has processes of its own
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"id": next(self._ids), "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != message["id"]:
            pass  # an event
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, patience_s: float = 60.0) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], patience_s)
            block = os.read(self._in, 1 << 20) if ready else b""
            assert block, f"chromium does not answer:\n{self._log.read_text(errors='replace')[-2000:]}"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer
