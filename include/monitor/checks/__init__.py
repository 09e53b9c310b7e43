"""The monitoring checks, one module per subject."""
