"""The local stack: Kafka, schema registry, Prefect, PostgreSQL and the vendor simulators, as child processes."""
