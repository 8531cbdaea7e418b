"""Benchmarks: each measures the platform beside a named peer, in the same run. Run by ``python -m bench``."""
