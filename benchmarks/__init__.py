"""What a night costs, measured: `make bench`."""
