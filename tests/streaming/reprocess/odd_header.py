"""Writes a record with a header whose name is no UTF-8: any client but Python's can."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import confluent_kafka

_TOPIC, _VALUE, _HEADER, _END_BYTES = 1, 4, 9, 64
_PRODUCER = 0


class _Bytes(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_void_p), ("size", ctypes.c_ssize_t))


class _Value(ctypes.Union):
    _fields_ = (("text", ctypes.c_char_p), ("bytes", _Bytes), ("header", _Header), ("room", ctypes.c_char * _END_BYTES))


class _Argument(ctypes.Structure):
    """``rd_kafka_vu_t`` of librdkafka."""

    _fields_ = (("kind", ctypes.c_int), ("value", _Value))


def produce(bootstrap_servers: str, topic: str, name: bytes, value: bytes) -> None:
    """One record of one header, by the librdkafka that Python's client has with it."""
    package = Path(confluent_kafka.__file__).parent
    found = [*package.parent.glob("confluent_kafka.libs/librdkafka-*"), *package.glob(".dylibs/librdkafka*")]
    library = ctypes.CDLL(str(found[0]))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    signatures: tuple[tuple[Any, list[Any], Any], ...] = (
        (library.rd_kafka_conf_new, [], pointer),
        (library.rd_kafka_conf_set, [pointer, text, text, text, size], ctypes.c_int),
        (library.rd_kafka_new, [ctypes.c_int, pointer, text, size], pointer),
        (library.rd_kafka_produceva, [pointer, pointer, size], pointer),
        (library.rd_kafka_flush, [pointer, ctypes.c_int], ctypes.c_int),
        (library.rd_kafka_destroy, [pointer], None),
    )
    for function, arguments, result in signatures:
        function.argtypes, function.restype = arguments, result
    configuration = library.rd_kafka_conf_new()
    error = ctypes.create_string_buffer(512)
    library.rd_kafka_conf_set(configuration, b"bootstrap.servers", bootstrap_servers.encode(), error, 512)
    producer = library.rd_kafka_new(_PRODUCER, configuration, error, 512)
    assert producer, error.value
    buffer = ctypes.create_string_buffer(value, len(value))
    address = ctypes.cast(buffer, pointer).value
    record = (_Argument * 3)()
    record[0].kind, record[0].value.text = _TOPIC, topic.encode()
    record[1].kind, record[1].value.bytes = _VALUE, _Bytes(address, len(value))
    record[2].kind, record[2].value.header = _HEADER, _Header(name, address, len(value))
    assert not library.rd_kafka_produceva(producer, ctypes.byref(record), len(record))
    assert library.rd_kafka_flush(producer, 20_000) == 0
    library.rd_kafka_destroy(producer)
