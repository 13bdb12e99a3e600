"""A report that follows a run: a small HTTP server on this machine only, and a page that fetches itself anew."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from hwnas.report.make import build_page
from hwnas.report.page import plotly_source
from hwnas.run import Run
from hwnas.spaces.errors import ConfigError, HwnasError

__all__ = ["ReportServer", "serve_report"]

#: The page of a long run takes seconds: it is made anew at most so many times its own making apart.
_REST = 10.0
_HOST = "127.0.0.1"


class ReportServer:
    """Serves the page of one run; make it with `serve_report`, and close it (or use ``with``).

    Attributes
    ----------
    url
        Where the page is.
    """

    def __init__(self, run: str | os.PathLike[str], against: str | os.PathLike[str] | None, port: int) -> None:
        self._run, self._against = Path(run), against
        self._made = threading.Lock()
        self._state: tuple[Any, ...] = ()
        self._next = 0.0
        self._page = self._build()
        try:
            self._server = ThreadingHTTPServer((_HOST, port), _handler(self))
        except OSError as error:
            raise ConfigError(f"cannot serve on port {port}: {error.strerror}; choose another --port") from error
        self._server.daemon_threads = True
        self.url = f"http://{_HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _build(self) -> tuple[int, bytes, str]:
        """A status of HTTP, the page, and its tag."""
        began = time.monotonic()
        self._state = self._signature()
        page, _ = build_page(Run.open(self._run, write=False), self._against)
        self._next = time.monotonic() + _REST * (time.monotonic() - began)
        return 200, page.html(live=True).encode(), f'"{abs(hash(self._state)):x}"'

    def _signature(self) -> tuple[Any, ...]:
        """What changes when the run goes on."""
        found = []
        for name in ("run.toml", "trials.jsonl", "finalists.jsonl", "state.json", "best.json", "best.onnx"):
            try:
                status = (self._run / name).stat()
            except OSError:
                continue
            found.append((name, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def page(self) -> tuple[int, bytes, str]:
        """Status, page and tag as the run is now; one sentence of plain text, if the run is damaged meanwhile."""
        with self._made:
            if time.monotonic() >= self._next and self._signature() != self._state:
                try:
                    self._page = self._build()
                except HwnasError as error:
                    self._page = 503, f"hwnas: {error}".encode(), ""
            return self._page

    def wait(self) -> None:
        """Serve until interrupted."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_report(
    run: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None, port: int = 0
) -> ReportServer:
    """Serve the page of a run on this machine; other machines cannot reach it.

    Parameters
    ----------
    run, against
        See `hwnas.report.make_report`.
    port
        Where to listen; 0 for a free port.

    Raises
    ------
    ConfigError
        If `run` is not a run folder or is damaged, or the port is taken.
    """
    return ReportServer(run, against, port)


def _handler(owner: ReportServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers two paths, and only to who asks for this machine by its own name."""

        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            """The page, or plotly."""
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            if host not in (_HOST, "localhost"):  # a foreign page that had its name point here
                self._answer(403, b"this page is for this machine only", "text/plain")
            elif self.path in ("/", "/index.html"):
                code, content, tag = owner.page()
                self._answer(code, content, f"text/{'html' if code == 200 else 'plain'}; charset=utf-8", tag)
            elif self.path == "/plotly.js" and (source := plotly_source()) is not None:
                self._answer(200, source.encode(), "text/javascript; charset=utf-8", '"plotly"')
            else:
                self._answer(404, b"there is nothing here", "text/plain")

        def _answer(self, code: int, content: bytes, kind: str, tag: str = "") -> None:
            if tag and self.headers.get("If-None-Match") == tag:
                code, content = 304, b""
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-cache")
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it so
            """Nothing on the terminal for every request."""

    return Handler
