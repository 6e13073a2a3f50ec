"""Runs in progress, in a browser on the same machine.

A server that reads a results folder and nothing else: GET and HEAD, no cookie, no path
that leaves the folder, and no answer to a page of another site (the Host header must
name this machine, so that no foreign name can be pointed here).
"""

import json
import os
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fedjax_sim.core.errors import InputError
from fedjax_sim.pages.assets import page
from fedjax_sim.pages.progress import Known, standings
from fedjax_sim.pages.run import run_data, run_page

_HERE = ("127.0.0.1", "localhost", "::1")
# What a page may do: its own scripts and styles, pictures in itself, this server. Vega
# compiles the expressions of a chart, which is the `unsafe-eval`.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def server(results: Path, address: str, port: int) -> ThreadingHTTPServer:
    """Returns a server of a results folder, not started yet.

    Args:
      results: the folder; it may be empty, or not there yet.
      address: to listen at.
      port: 0 takes a free one, which is then `server_address[1]`.

    Raises:
      InputError: nobody may listen there.
    """
    if not address:  # the socket would take it for every address of the machine
        raise InputError(
            f"--address={address}: must be an address of this machine, such as "
            "127.0.0.1; 0.0.0.0 is all of them"
        )
    handler = partial(_Handler, results.resolve(), Lock(), {}, address)
    try:
        return ThreadingHTTPServer((address, port), handler)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--address={address} --port={port}: {reason}") from None


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server_version, sys_version = "fedjax_sim", ""

    def __init__(
        self, results: Path, lock: Lock, known: Known, address: str, *args: Any
    ):
        self._results, self._lock, self._known = results, lock, known
        self._address = address
        super().__init__(*args)

    def do_GET(self) -> None:
        """The list, a run's page, or their numbers."""
        if not self._is_asked_here():
            self._say(HTTPStatus.FORBIDDEN, "this server answers to its own name alone")
            return
        try:
            kind, text = self._answer()
        except LookupError as error:
            self._say(HTTPStatus.NOT_FOUND, str(error.args[0]))
        except InputError as error:
            self._say(HTTPStatus.CONFLICT, str(error))
        except (OSError, ValueError) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, what)
        else:
            self._send(kind, text)

    do_HEAD = do_GET

    def _answer(self) -> tuple[str, str]:
        """Returns the type and the text of what was asked for."""
        # A name that is not UTF-8 comes back as the bytes that it is on the disk.
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        if path == "/":
            rows = rows_of(self._results, self._known)
            return "text/html", list_page(rows, self._results)
        if path == "/runs.json":
            rows = rows_of(self._results, self._known)
            return "application/json", json.dumps(rows, allow_nan=False)
        if path.startswith("/run/"):
            run = self._run(path.removeprefix("/run/"))
            live = f"/data/{_quoted(str(run.relative_to(self._results)))}"
            with self._lock:  # one at a time: the model is loaded
                return "text/html", run_page(run, live=live)
        if path.startswith("/data/"):
            run = self._run(path.removeprefix("/data/"))
            data, _, _ = run_data(run, whole=False)
            unused = ("row", "provenance", "config", "clients")
            left = {k: v for k, v in data.items() if k not in unused}
            return "application/json", json.dumps(left, allow_nan=False)
        raise LookupError("no such page")

    def _is_asked_here(self) -> bool:
        """Whether the address in the browser is this server's."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:  # such as `[::1`
            return False
        return host in (*_HERE, self._address) or self._address == "0.0.0.0"

    def _run(self, name: str) -> Path:
        """The folder of a run, which lies inside of the results."""
        if "\0" in name:
            raise LookupError("no such run")
        try:
            place = (self._results / name).resolve()
            inside = place == self._results or self._results in place.parents
            found = inside and (place / "config.json").is_file()
        except (OSError, RuntimeError):  # too long a name; a link to itself
            found = False
        if not found:
            raise LookupError("no such run")
        return place

    def _send(self, kind: str, text: str, status: int = HTTPStatus.OK) -> None:
        body = text.encode(errors="replace")  # names that are not UTF-8
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        with suppress(ConnectionError):  # the reader has gone to another page
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def _say(self, status: int, text: str) -> None:
        self._send("text/plain", f"{text}\n", status)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal is the user's."""


def rows_of(results: Path, known: Known) -> list[dict[str, Any]]:
    """The list of runs as JSON can hold it, with the address of each page."""
    return [
        {
            **one._asdict(),
            "run": os.fsencode(one.run).decode(errors="replace"),
            "page": f"/run/{_quoted(one.run)}",
        }
        for one in standings(results, known)
    ]


def _quoted(name: str) -> str:
    """The name of a folder in an address; it need not be UTF-8."""
    return quote(name, errors="surrogateescape")


def list_page(rows: list[dict[str, Any]], results: Path) -> str:
    """The list of runs, which keeps itself up to date."""
    return page("live.html", title=results.name, folder=str(results), rows=rows)
