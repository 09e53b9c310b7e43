"""The entry point of ``python -m include``; the commands are in `include.cli.app`."""

from include.cli.app import main

if __name__ == "__main__":
    main()
