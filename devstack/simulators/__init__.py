"""Vendor simulators: separate processes that speak the vendors' contracts over HTTP on loopback and play a trace.

An event's way: ``trace`` and ``agents`` read what happened, a vendor's ``…_events`` say which native events that is,
``schedule`` puts them in order, ``replay`` lets them go by the ``clock`` (with ``misbehaviour`` on request), and the
vendor's transport carries them: ``eventlog`` (with ``garbage`` on request), ``notifications`` and ``sockets``, or
``webhooks``. What happened can also be asked for: ``details``, ``users`` and ``queries``, or ``contacts``,
``state_history`` and ``polling``. ``control`` starts, disturbs and reports; ``oauth``, ``ratelimit``,
``registrations``, ``signing``, ``keyset`` and ``serving`` are what a vendor's HTTP side needs. A further vendor is one
more module beside ``genesys`` and ``cxone``.
"""
