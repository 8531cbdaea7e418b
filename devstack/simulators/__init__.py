"""Vendor simulators: separate processes that speak the vendors' contracts over HTTP on loopback and play a trace.

An event's way: ``trace`` and ``agents`` read what happened, a vendor's module says which native events that is,
``schedule`` puts them in order, ``replay`` lets them go by the ``clock`` (with ``misbehaviour`` on request), and the
vendor's transport (``eventlog`` or ``webhooks``) carries them. ``control`` starts, disturbs and reports; ``oauth``,
``registrations``, ``signing`` and ``serving`` are what a vendor's HTTP side needs. A further vendor is one more module
beside ``genesys`` and ``cxone``.
"""
