"""Versioned migrations of the warehouse, for DuckDB and PostgreSQL alike."""
