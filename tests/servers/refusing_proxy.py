"""An HTTP proxy before an object store that can refuse, drop or forbid requests for a while, and counts them.

It is as strict as Ceph 16's gateway, which takes no body without a length (checksums that are appended to it).
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any, Literal

WRITES = ("PUT", "POST", "DELETE")
ALL = ("GET", "HEAD", *WRITES)
BLOCK = 1 << 16
#: Headers between two neighbours, not for the other end.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade"}

How = Literal["slow down", "reset", "forbidden"]
ANSWERS = {"slow down": (503, "SlowDown"), "forbidden": (403, "AccessDenied")}


@dataclass(frozen=True, kw_only=True)
class Rule:
    until: float
    methods: tuple[str, ...]
    how: How


class RefusingProxy:
    """Serves at ``endpoint`` what the server at ``target_port`` answers, except while it refuses.

    Attributes:
        passed, refused: how many requests, by method.
        refused_paths: of which objects.
        read_bytes: how much of objects was answered.
        pause_s: how long each write waits on its way.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._rule = Rule(until=0.0, methods=(), how="slow down")
        self.passed, self.refused = Counter[str](), Counter[str]()
        self.refused_paths = set[str]()
        self.read_bytes = 0
        self.pause_s = 0.0
        self._lose: list[str] = []
        self._ended = set[str]()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="refusing proxy").start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refuse(self, seconds: float, methods: tuple[str, ...] = ALL, how: How = "slow down") -> None:
        """From now on, for so long; returns at once."""
        self._rule = Rule(until=time.monotonic() + seconds, methods=methods, how=how)

    def refuse_writes(self, seconds: float) -> None:
        self.refuse(seconds, WRITES)

    def lose_answers(self, count: int, method: str) -> None:
        """The next requests of a method are carried out, but the connection breaks before the answer.

        Asked once more to end a multipart upload, the store then says that there is none: some do, moto does not.
        """
        self._lose = [method] * count

    @contextmanager
    def refusing(self, methods: tuple[str, ...] = ALL, how: How = "slow down") -> Iterator[None]:
        self.refuse(3600, methods, how)
        try:
            yield
        finally:
            self.refuse(0)

    def _refusal(self, method: str) -> How | None:
        rule = self._rule
        return rule.how if method in rule.methods and time.monotonic() < rule.until else None

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # `self` is the request, inside
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    body = list(_body(self.rfile, self.headers))  # read in any case: the next request follows it
                except EOFError:  # a store takes nothing from a client that died before it had said all
                    self.close_connection = True
                    return
                how = proxy._refusal(self.command)
                (proxy.passed if how is None else proxy.refused)[self.command] += 1
                if how is not None:
                    proxy.refused_paths.add(self.path.partition("?")[0])
                if self.command in WRITES:
                    time.sleep(proxy.pause_s)
                if how is None and self.headers.get("Transfer-Encoding"):
                    self._refuse(411, "MissingContentLength")
                elif how is None and self.path in proxy._ended:
                    self._refuse(404, "NoSuchUpload")
                elif how is None:
                    self._forward(body)
                elif how == "reset":
                    self.close_connection = True
                else:
                    self._refuse(*ANSWERS[how])

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def _refuse(self, status: int, code: str) -> None:
                answer = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def _forward(self, body: list[bytes]) -> None:
                other = http.client.HTTPConnection("127.0.0.1", proxy._target_port, timeout=60)
                try:
                    other.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in HOP_BY_HOP | {"content-length"}:
                            other.putheader(name, value)
                    other.putheader("Content-Length", str(sum(map(len, body))))
                    other.endheaders()
                    for block in body:
                        other.send(block)
                    answer = other.getresponse()
                    if self.command in proxy._lose and "uploads" not in self.path:
                        proxy._lose.remove(self.command)
                        proxy._ended.add(self.path if "uploadId=" in self.path else "")
                        self.close_connection = True
                        return
                    self.send_response_only(answer.status, answer.reason)
                    for name, value in answer.getheaders():
                        if name.lower() not in HOP_BY_HOP:
                            self.send_header(name, value)
                    if answer.getheader("Content-Length") is None:
                        self.send_header("Connection", "close")
                    self.end_headers()
                    while self.command != "HEAD" and (block := answer.read(BLOCK)):
                        self.wfile.write(block)
                        proxy.read_bytes += len(block)
                except OSError:  # either side is gone
                    self.close_connection = True
                finally:
                    other.close()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _body(stream: IO[bytes], headers: Any) -> Iterator[bytes]:
    """Blocks of a request's body, sent with a length or chunk by chunk."""
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        while size := int(_line(stream).split(b";")[0], 16):
            yield _exactly(stream, size)
            _line(stream)
        while stream.readline().strip():  # trailers
            pass
        return
    left = int(headers.get("Content-Length", 0))
    while left > 0:
        yield (block := _exactly(stream, min(left, BLOCK)))
        left -= len(block)


def _line(stream: IO[bytes]) -> bytes:
    if not (line := stream.readline()):
        raise EOFError
    return line


def _exactly(stream: IO[bytes], size: int) -> bytes:
    if len(block := stream.read(size)) < size:
        raise EOFError
    return block
