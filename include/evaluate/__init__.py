"""A challenger is measured beside champion and baselines, on rows that none was fitted or tuned on."""
