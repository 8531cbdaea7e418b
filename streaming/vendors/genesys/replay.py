"""Dead letters of Genesys, normalised again: messages of the stream, and rows of REST details."""

from __future__ import annotations

from typing import Any

from schemas.normalise import normaliser
from streaming.deadletter import Described
from streaming.errors import BadEventError
from streaming.reprocess.hook import Normalised, VendorReplay
from streaming.settings import Tenant
from streaming.vendors import connection_of
from streaming.vendors.genesys.connection import VENDOR, GenesysConnection
from streaming.vendors.genesys.details import conversation_messages, status_messages
from streaming.vendors.genesys.recovery import STAGE, wanted_kinds


def genesys_replay(tenant: Tenant) -> VendorReplay:
    """See :class:`VendorReplay`.

    Raises:
        ConfigurationError: the tenant's connection section is wrong.
    """
    vendor, tenant_id = normaliser(VENDOR), tenant.tenant_id
    kinds = wanted_kinds(connection_of(tenant, GenesysConnection))

    def normalise(letter: Described, document: Any) -> Normalised:
        if letter.stage != STAGE:
            return vendor.normalise_document(vendor.require_object(document), tenant_id), None
        is_conversation = isinstance(document, dict) and "conversationId" in document
        messages = conversation_messages(document) if is_conversation else status_messages(document)
        events = []
        first: BadEventError | None = None
        for message in messages:
            if message["topicName"].endswith(kinds):
                try:
                    events += vendor.normalise_document(message, tenant_id)
                except BadEventError as error:
                    first = first or error
        return events, first

    return VendorReplay(normalise)
