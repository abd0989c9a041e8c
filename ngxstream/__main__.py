"""`python -m ngxstream`."""

import sys

from ngxstream.process import cli

if __name__ == "__main__":
    sys.exit(cli.program())
