"""The command line, ``python -m include``: one module per group of commands."""
