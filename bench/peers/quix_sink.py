"""Peer of ``landing``: Quix Streams' own file sink, in the environment that ``bench.peers.environment`` makes.

``python quix_sink.py BOOTSTRAP TOPIC GROUP COUNT FILE_ROWS SCHEMA_FILE columns|text`` lands so many records in
``./landed`` and ends. Run by path, with the peer's Python: it imports nothing of the platform.

Its best settings: fastavro called directly instead of through Confluent's deserialiser, and files of the size that the
platform writes. ``columns`` keeps payload and metadata as columns of Parquet; ``text`` makes JSON text of both, which
is less than the platform lands, and faster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import orjson
from quixstreams import Application
from quixstreams.models import Deserializer, SerializationContext
from quixstreams.sinks.community.file.formats import ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

_WIRE_FORMAT_BYTES = 5
_SECONDS = 600.0


class Events(Deserializer):  # type: ignore[misc]  # not installed here
    """Confluent's wire format under one schema known beforehand: no registry is asked."""

    def __init__(self, schema: dict[str, Any], *, text: bool) -> None:
        super().__init__()
        self._schema = fastavro.parse_schema(schema)
        self._text = text

    def __call__(self, value: bytes, ctx: SerializationContext) -> Mapping[str, Any]:  # noqa: ARG002
        buffer = BytesIO(value)
        buffer.seek(_WIRE_FORMAT_BYTES)
        event: dict[str, Any] = fastavro.schemaless_reader(buffer, self._schema, None)  # type: ignore[assignment]
        if self._text:
            event["payload"] = orjson.dumps(event["payload"])
            event["metadata"] = orjson.dumps(event["metadata"])
        return event


def main() -> None:
    bootstrap, name, group, count, file_rows, schema_file, maps = sys.argv[1:]
    application = Application(
        broker_address=bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        commit_interval=60.0,
        commit_every=int(file_rows),
        auto_create_topics=False,
        loglevel="WARNING",
    )
    schema = json.loads(Path(schema_file).read_text(encoding="utf-8"))
    topic = application.topic(name, value_deserializer=Events(schema, text=maps == "text"), key_deserializer="bytes")
    sink = LocalFileSink(directory="landed", format=ParquetFormat(compression="zstd"))
    application.dataframe(topic).sink(sink)
    application.run(count=int(count), timeout=_SECONDS)


if __name__ == "__main__":
    main()
