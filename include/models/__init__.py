"""Models as data: artifact format, input encoding, outputs, and the registry."""
