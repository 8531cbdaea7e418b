"""A Maven repository on loopback that can misbehave."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from devstack.lock import Pin


class Repository:
    """Files by path, a count of GETs, and what goes wrong."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gets: Counter[str] = Counter()
        self.cut_off: Counter[str] = Counter()  # so many times only half the file comes
        self.delay_s = 0.0
        self.url = ""

    def add(self, path: str, content: bytes) -> Pin:
        self.files[path] = content
        return Pin(path, len(content), hashlib.sha256(content).hexdigest())

    def add_archive(self, path: str, members: dict[str, bytes]) -> Pin:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return self.add(path, buffer.getvalue())


@contextmanager
def serving() -> Iterator[Repository]:
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            content = repository.files.get(path)
            if content is None:
                self.send_error(404)
                return
            repository.gets[path] += 1
            time.sleep(repository.delay_s)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if repository.cut_off[path] > 0:
                repository.cut_off[path] -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        repository.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield repository
        finally:
            server.shutdown()
            thread.join()
