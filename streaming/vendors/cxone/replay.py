"""Dead letters of CXone, normalised again: bodies of webhooks, and rows of agent states."""

from __future__ import annotations

from typing import Any

from schemas.normalise import normaliser
from streaming.deadletter import Described
from streaming.reprocess.hook import Normalised, VendorReplay
from streaming.settings import Tenant
from streaming.vendors.cxone import agent_states, reconcile
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.messages import normalise_parsed


def cxone_replay(tenant: Tenant) -> VendorReplay:
    """See :class:`VendorReplay`. A contact's row is matched with its webhooks: only cxone-reconcile can do that."""
    vendor, tenant_id = normaliser(VENDOR), tenant.tenant_id

    def normalise(letter: Described, document: Any) -> Normalised:
        if letter.transport == agent_states.TRANSPORT:
            document = agent_states.as_message(document)
        return normalise_parsed(vendor, document, tenant_id)

    return VendorReplay(normalise, asks_again=frozenset({reconcile.STAGE}))
