"""The contract: which rows are quarantined, and which partition is refused."""
