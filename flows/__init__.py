"""Prefect deployments, one module each and thin: parameters, retries, artifacts."""
