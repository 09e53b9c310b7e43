"""Models as data: the stored format, input encoding, predictions as columns, and the MLflow registry."""
