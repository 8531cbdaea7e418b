"""The event path: vendor transports, spool, normalise, produce, consume. Works and tests without Prefect."""
