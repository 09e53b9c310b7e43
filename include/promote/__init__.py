"""The gate: evidence, the verdict on it, the two ledgers, the switch and the way back."""
