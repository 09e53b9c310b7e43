"""Score: every row gets a prediction from the fallback chain; models on trial score in parallel."""
