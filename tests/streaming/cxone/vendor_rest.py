"""A vendor's REST of a test's own: two lists of contacts over real HTTP, which may change while they are read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Row = dict[str, Any]


class VendorRest:
    """Answers token requests and both lists; ``status`` other than 200 is answered to every list request."""

    def __init__(self) -> None:
        self.completed: list[Row] = []
        self.states: list[Row] = []
        self.status = 200
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.between_pages: Callable[[VendorRest, int], None] = lambda _vendor, _number: None
        self.knows_until = True
        self.most_rows = 10_000
        # Told instead of the true total.
        self.total: Any = ...
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(200, {"access_token": "t", "expires_in": 3600})

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                outer.requests.append((url.path.rpartition("contacts/")[2], query))
                if outer.status != 200:
                    self._answer(outer.status, {"error": "x"})
                    return
                name, rows, at = (
                    ("completedContacts", outer.completed, _ended)
                    if url.path.endswith("completed")
                    else ("contactStates", outer.states, _began)
                )
                since, until = datetime.fromisoformat(query["updatedSince"]), datetime.fromisoformat(query["until"])
                found = [row for row in rows if since <= at(row) and (not outer.knows_until or at(row) < until)]
                skip, top = int(query["skip"]), min(int(query["top"]), outer.most_rows)
                page = found[skip : skip + top]
                outer.between_pages(outer, len(outer.requests))
                if not page:
                    self._answer(204, None)
                    return
                total = len(found) if outer.total is ... else outer.total
                self._answer(200, {"lastPollTime": query["until"], "totalRecords": total, name: page})

            def _answer(self, status: int, document: Any) -> None:
                body = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_ENDS = "_ends"


def _ended(row: Row) -> datetime:
    return datetime.fromisoformat(row[_ENDS])


def _began(row: Row) -> datetime:
    return datetime.fromisoformat(row.get("stateStartDate") or row[_ENDS])


def contact(number: int, **more: Any) -> Row:
    """An answered contact of two minutes and seventeen seconds that ends at 09:02:17 + ``number`` s."""
    minute, second = divmod(number, 60)
    row = {
        "contactId": f"c-{number}", "masterContactId": f"m-{number}", "skillId": "PS", "agentId": "ANNA",
        "contactStartDate": f"2026-11-23T09:{minute:02d}:{second:02d}Z", "inQueueSeconds": 17, "agentSeconds": 120,
        "holdSeconds": 10, "ACWSeconds" if number % 2 else "acwSeconds": 0, "abandoned": False,
        "totalDurationSeconds": 137, "mediaTypeName": "Call", "isOutbound": False, "fromAddress": "1",
        "toAddress": "2", "endReason": "Contact Ended",
        _ENDS: f"2026-11-23T09:{(number + 137) // 60:02d}:{(number + 137) % 60:02d}+00:00",
    }  # fmt: skip
    return {name: value for name, value in (row | more).items() if value is not ...}


def state(number: int, name: str, after: int, **more: Any) -> Row:
    """A state of contact ``number`` that began ``after`` s after its start."""
    minute, second = divmod(number + after, 60)
    return {
        "contactId": f"c-{number}",
        "contactStateName": name,
        "stateStartDate": f"2026-11-23T09:{minute:02d}:{second:02d}Z",
        **more,
    }


def states(number: int) -> list[Row]:
    """All states of an answered contact."""
    return [
        state(number, "PreQueue", 0),
        state(number, "InQueue", 0, skillId="PS"),
        state(number, "Active", 17, skillId="PS", agentId="ANNA"),
        state(number, "EndContact", 137, skillId="PS", agentId="ANNA"),
    ]
