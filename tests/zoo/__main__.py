"""Runs every torchvision classifier through everything: ``python -m tests.zoo --help``."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """The command line; PyTorch is loaded here, because Ctrl-C may come in the seconds that this takes."""
    try:
        from tests.zoo.all import run

        return run(arguments)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the networks that have no row yet", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
