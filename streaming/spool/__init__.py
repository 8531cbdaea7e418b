"""The durable spool between a webhook's 200 and Kafka: one SQLite file a receiver, a FIFO a tenant in it.

A receiver is the only writer of its file, and a publisher the only one that drains it; each holds a lock file for that.
A file whose receiver or publisher died is taken over by another on the same volume. A lost disk is what reconciliation
is for.
"""
