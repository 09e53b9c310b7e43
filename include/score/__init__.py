"""The score stage: every row gets a prediction from the fallback chain."""
