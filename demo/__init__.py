"""The outside world, the servers and the story that `make demo` plays; Evergreen needs none of it."""
