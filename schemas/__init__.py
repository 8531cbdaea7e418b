"""The canonical event: Avro schema, registry, vendor field maps and the normaliser that applies them."""
