"""What Evergreen costs, measured: `make bench`."""
