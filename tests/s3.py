"""A real S3 server (moto) on loopback, as pyarrow's S3 client sees it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs


class S3Server:
    """Stops and starts on the same port; it keeps what it holds."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = int(self._server.get_host_and_port()[1])

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def new_folder(self) -> str:
        """URL of a folder in a bucket of its own."""
        url = f"s3://b-{uuid.uuid4().hex}/zone?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        filesystem, root = fs.FileSystem.from_uri(f"{url}&allow_bucket_creation=true")
        filesystem.create_dir(root.partition("/")[0])
        return url


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server, and credentials for it in the environment, where pyarrow looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3Server(0)
        server.start()
        try:
            yield server
        finally:
            server.stop()
