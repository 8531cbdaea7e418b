"""How often people are told: once within the hour for each value of this label of an event's resource."""

from __future__ import annotations

ALERT_KEY = "ccaas.alert.key"
"""Label of the resource of every event that raises an alert. What is alike at all tenants has the same value."""
