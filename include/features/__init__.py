"""Point-in-time correct features and labels, computed by the use case's SQL."""
