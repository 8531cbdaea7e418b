"""Takes back what a replay made on a cluster that is not the stack's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streaming.settings import KafkaSettings

_REQUEST_S = 10.0
# A member that was killed stays in its group for the sink's session timeout, 30 s.
_GROUP_S = 40.0
_TICK_S = 1.0
_GONE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND})


def remove_from_cluster(
    kafka: KafkaSettings, endings: Sequence[str], groups: Sequence[str], *, request_s: float = _REQUEST_S
) -> list[str]:
    """Delete the topics whose names end so, and these consumer groups; what is not there is passed over.

    Args:
        kafka: The cluster.
        endings: Of the topics' names, for example ``.genesys.bank-north``.
        groups: Their ids. One that still has members is waited for, at most 40 s.
        request_s: How long each request may take, seconds.

    Returns:
        One line for each that could not be deleted, with the reason; empty if all are gone.
    """
    admin = AdminClient(kafka.client_config())
    try:
        names = admin.list_topics(timeout=request_s).topics
    except KafkaException as error:
        return [f"topics {', '.join(f'…{end}' for end in endings)}, groups {', '.join(groups)}: {_said(error)}"]
    topics = [name for name in names if name.endswith(tuple(endings))]
    removals = admin.delete_topics(topics, operation_timeout=request_s, request_timeout=request_s) if topics else {}
    refusals = {topic: _error(removal) for topic, removal in removals.items()}
    failed = [f"topic {topic}: {_said(refusal)}" for topic, refusal in refusals.items() if refusal is not None]
    deadline = time.monotonic() + _GROUP_S
    for group in groups:
        while (refusal := _group_error(admin, group, request_s)) is not None:
            if refusal.args[0].code() != KafkaError.NON_EMPTY_GROUP or time.monotonic() > deadline:
                failed.append(f"group {group}: {_said(refusal)}")
                break
            time.sleep(_TICK_S)
    return failed


def _group_error(admin: AdminClient, group: str, request_s: float) -> KafkaException | None:
    (removal,) = admin.delete_consumer_groups([group], request_timeout=request_s).values()
    return _error(removal)


def _error(removal: Future[Any]) -> KafkaException | None:
    try:
        removal.result()  # bounded by the request's timeout
    except KafkaException as error:
        return None if error.args[0].code() in _GONE else error
    return None


def _said(error: KafkaException) -> str:
    return str(error.args[0].str())
