"""An encoder that follows the registry: a newer version of the schema is used without a restart."""

from __future__ import annotations

import threading

import structlog
from prometheus_client import Gauge

from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.errors import CcaasError

log = structlog.get_logger()

fields_promoted = Gauge("ccaas_schema_promoted_fields", "Promoted fields of the schema that events are written with")
schema_in_use = Gauge("ccaas_schema_id", "Registry id of the schema that events are written with")


class LiveEncoder(Encoder):
    """Encodes under the newest registered version.

    Args:
        registry: Asked by :meth:`refresh`.

    Raises:
        ServiceUnavailableError: the registry can't be reached.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._encoder = self._newest()

    def encode(self, event: CanonicalEvent) -> bytes:
        """See :meth:`~schemas.codec.Encoder.encode`."""
        return self._encoder.encode(event)

    def refresh(self) -> None:
        """Use the newest version from the next event on.

        Raises:
            CcaasError: the registry can't be asked, or refuses; the encoder goes on with what it has.
        """
        newest = self._newest()
        if newest.schema_id != self._encoder.schema_id:
            log.info("a newer schema is in use", schema_id=newest.schema_id, promoted=len(newest.promoted))
            # One assignment: another thread encodes meanwhile, under the one or the other.
            self._encoder = newest

    def follow(self, every_s: float, stop: threading.Event) -> None:
        """Refresh again and again in a thread of its own until ``stop``."""
        threading.Thread(target=self._follow, args=(every_s, stop), name="schema", daemon=True).start()

    def _follow(self, every_s: float, stop: threading.Event) -> None:
        is_silent = False
        while not stop.wait(every_s):
            try:
                self.refresh()
                is_silent = False
            except CcaasError as error:
                if not is_silent:  # said once an outage
                    log.warning("newer schemas are not looked for; the one in use serves on", error=str(error))
                is_silent = True

    def _newest(self) -> Encoder:
        encoder = self._registry.encoder()
        schema_in_use.set(encoder.schema_id)
        fields_promoted.set(len(encoder.promoted))
        return encoder
