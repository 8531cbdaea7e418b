"""analytics-sink: Kafka → Parquet in the landing zone, at least once, ready to be deduplicated by id and offset."""
