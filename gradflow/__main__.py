"""`python -m gradflow ..`, as torchrun calls it."""

import os
import sys

from gradflow.cli.main import main


def leave(code: int) -> None:
    """Ends the process. A rank ends at once: threads of torch's groups may still be there, and taking them down with the interpreter can abort it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
