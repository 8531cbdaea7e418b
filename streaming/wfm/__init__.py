"""wfm-realtime: live queues and agents. Facts of every partition meet in one fold a tenant (docs/wfm-live.md)."""
