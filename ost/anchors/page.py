"""The page on which a sheet is answered: served to this machine alone, under an address that cannot be guessed.

What a data set says is a stranger's text: it reaches the page as JSON, is put in by textContent, and a policy that
knows one script and one style by their nonce runs nothing else. Other sites that the browser has open can't ask for
anything: they don't know the token, and a name of theirs that leads to this machine is refused by the Host header.
"""

import contextlib
import hmac
import json
import secrets
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from ost.anchors.answering import Sheet
from ost.errors import DataError

LOOPBACK = "127.0.0.1"
MOST = 1 << 20
"""Bytes of an answer."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """A server of one sheet. Use as a context manager; it listens from the start and answers while it is served."""

    def __init__(self, sheet: Sheet):
        self.sheet, self._token = sheet, secrets.token_urlsafe(24)
        self._server = ThreadingHTTPServer((LOOPBACK, 0), partial(_Handler, sheet, self._token, threading.Lock()))
        self._server.daemon_threads = True

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error) -> None:
        self._server.server_close()

    @property
    def address(self) -> str:
        """Where a browser of this machine finds it."""
        return f"http://{LOOPBACK}:{self._server.server_port}/{self._token}/"

    def serve(self) -> None:
        """Answer requests until the page says that it is done, or Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._server.serve_forever(poll_interval=0.1)

    def end(self) -> None:
        """Let `serve` return, called from another thread."""
        self._server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "ost", ""
    timeout = 60

    def __init__(self, sheet: Sheet, token: str, lock: threading.Lock, *request):
        self.sheet, self.token, self.lock = sheet, token, lock
        super().__init__(*request)

    def do_GET(self) -> None:
        """The page, its questions, and their images."""
        match self._asked():
            case [""]:
                nonce = secrets.token_urlsafe(16)
                text = files("ost.anchors").joinpath("page.html").read_text(encoding="utf-8").replace("NONCE", nonce)
                policy = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
                self._send(text.encode(), "text/html; charset=utf-8", policy)
            case ["questions"]:
                with self.lock:
                    found = {"file": self.sheet.path.name, "questions": self.sheet.to_json()}
                self._send_json(found)
            case ["image", at, number] if at.isdecimal() and number.isdecimal():
                self._send_image(int(at), int(number))
            case asked:
                self._refuse(HTTPStatus.NOT_FOUND if asked else HTTPStatus.FORBIDDEN)

    def do_POST(self) -> None:
        """An answer, or that it is enough."""
        asked, said = self._asked(), self._said()
        match asked:
            case ["answer"] if isinstance(said, dict):
                self._take(said)
            case ["done"]:
                self._send_json({"answered": self.sheet.answered})
                threading.Thread(target=self.server.shutdown).start()  # it waits for the loop that this is called from
            case _:
                self._refuse(HTTPStatus.BAD_REQUEST if asked else HTTPStatus.FORBIDDEN)

    def log_message(self, *words: Any) -> None:
        """Nothing: the address is a secret."""

    def _asked(self) -> list[str] | None:
        """The path behind the token; None for who does not know it, or comes by another name or from another site."""
        host = f"{LOOPBACK}:{self.server.server_port}"
        origin = self.headers.get("Origin")
        if self.headers.get("Host") != host or origin not in (None, f"http://{host}"):
            return None
        _, token, *path = self.path.partition("?")[0].split("/")
        return path if path and hmac.compare_digest(token.encode(), self.token.encode()) else None

    def _said(self) -> Any:
        """The JSON that was sent; None for what is none, or more than MOST."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST or self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # what is left of it is no request
            return None
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError:
            return None

    def _take(self, said: dict) -> None:
        at, text = said.get("at"), said.get("answer")
        if type(at) is not int or not isinstance(text, str):
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        try:
            with self.lock:
                self.sheet.answer(at, text)
                answered = self.sheet.answered
        except (LookupError, UnicodeEncodeError):
            self._refuse(HTTPStatus.BAD_REQUEST)
        except (DataError, OSError) as error:
            self._send_json({"error": str(error)}, HTTPStatus.CONFLICT)
        else:
            self._send_json({"answered": answered})

    def _send_image(self, at: int, number: int) -> None:
        try:
            content, kind = self.sheet.image(at, number)
        except Exception:  # Pillow's readers raise many kinds of error on damaged files
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send(content, kind)

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status.phrase.encode(), "text/plain; charset=utf-8", status=status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status=status)

    def _send(
        self, content: bytes, kind: str, more: dict[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        sent = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": "default-src 'none'",
        }
        for name, value in (HEADERS | sent | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
