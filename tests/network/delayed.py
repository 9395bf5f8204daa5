"""`gradflow` with a rank that is late: every transfer of rank `sys.argv[1]` begins `sys.argv[2]` seconds after the others'. Run by torchrun."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gradflow.backends import distributed
from gradflow.cli.main import main

LATE, SECONDS = int(sys.argv[1]), float(sys.argv[2])


class Late(distributed.Communicator):
    """A communicator whose transfers begin late."""

    held = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self.rank == LATE:
            time.sleep(SECONDS)
            Late.held += 1
        with super().waiting():
            yield


if __name__ == "__main__":
    distributed.Communicator = Late  # type: ignore[misc]
    code = main(sys.argv[3:])
    if Late.held:
        print(f"held back {Late.held} times", file=sys.stderr)
    sys.exit(code)
