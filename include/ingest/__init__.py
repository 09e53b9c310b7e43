"""From a source's bytes to a published partition: fetch, keep, read, standardise, check, publish."""
