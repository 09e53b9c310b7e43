"""The ingest stage: fetches a source's partitions, validates them, and publishes them as tables."""
