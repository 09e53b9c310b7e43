"""``python -m include``: the command line, see `include.cli.app`."""

from include.cli.app import main

if __name__ == "__main__":
    main()
