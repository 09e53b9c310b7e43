"""Validation: which rows of a source are quarantined, and which partitions are refused."""
