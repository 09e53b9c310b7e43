"""The ingest stage: fetch, parse, validate and publish one source's partition."""
