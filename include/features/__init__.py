"""One SQL file a use case, run as of each night's decision, serves training and scoring alike."""
