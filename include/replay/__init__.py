"""Replays a past range of partitions under several policies, and compares what serving cost."""
