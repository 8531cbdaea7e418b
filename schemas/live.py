"""An encoder that follows the registry: a newer version of the schema is used without a restart."""

from __future__ import annotations

import threading

import structlog
from prometheus_client import Gauge

from schemas.canonical import CanonicalEvent
from schemas.codec import Encoder
from schemas.registry import Registry

log = structlog.get_logger()

fields_promoted = Gauge("ccaas_schema_promoted_fields", "Promoted fields of the schema that events are written with")
schema_in_use = Gauge("ccaas_schema_id", "Registry id of the schema that events are written with")


class LiveEncoder(Encoder):
    """Encodes under the newest registered version.

    Args:
        registry: Asked by :meth:`refresh`; closed with the encoder.

    Raises:
        ServiceUnavailableError: the registry can't be reached.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._ended = threading.Event()
        self._use(registry.encoder())

    def encode(self, event: CanonicalEvent) -> bytes:
        """See :meth:`~schemas.codec.Encoder.encode`."""
        return self._encoder.encode(event)

    def refresh(self) -> None:
        """Use the newest version from the next event on.

        Raises:
            CcaasError: the registry can't be asked, or refuses; the encoder goes on with what it has.
        """
        newest = self._registry.encoder()
        if newest.schema_id != self._encoder.schema_id:
            log.info("a newer schema is in use", schema_id=newest.schema_id, promoted=len(newest.promoted))
            self._use(newest)

    def follow(self, every_s: float, stop: threading.Event) -> None:
        """Refresh again and again in a thread of its own until closed, or ``stop``."""
        threading.Thread(target=self._follow, args=(every_s, stop), name="schema", daemon=True).start()

    def close(self) -> None:
        """Follow the registry no longer. A service that is built anew begins with an encoder of its own."""
        self._ended.set()
        self._registry.close()

    def _follow(self, every_s: float, stop: threading.Event) -> None:
        is_silent = False
        while not self._ended.wait(every_s) and not stop.is_set():
            try:
                self.refresh()
                is_silent = False
            except Exception as error:  # noqa: BLE001 (whatever somebody registered: events go on under what is there)
                if not is_silent and not self._ended.is_set():  # said once an outage
                    log.warning("newer schemas are not looked for; the one in use serves on", error=str(error))
                is_silent = True

    def _use(self, encoder: Encoder) -> None:
        # One assignment: another thread encodes meanwhile, under the one or the other.
        self._encoder = encoder
        self.schema_id, self.promoted = encoder.schema_id, encoder.promoted
        schema_in_use.set(encoder.schema_id)
        fields_promoted.set(len(encoder.promoted))
