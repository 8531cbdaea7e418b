"""The warehouse: tables, landing zone reads, idempotent loads. Works and tests without Prefect."""
