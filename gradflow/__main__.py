"""`python -m gradflow ..`, as torchrun calls it."""

import sys

from gradflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
