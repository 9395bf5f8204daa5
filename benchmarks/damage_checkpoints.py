"""Damages the newest of two checkpoints thousands of times: each change is refused in a sentence, the checkpoint before it is read instead.

python benchmarks/damage_checkpoints.py --times 10000
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

PEAK = 64  # MiB that reading may add


def main() -> int:
    from tests.runtime.damaging import damage
    from tests.runtime.harness import LOCK, written
    from tests.runtime.interrupting import begun, stopped

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        run, folder = begun(written(LOCK), Path(parent), "cut", save_every=0)
        stopped(run, folder, 5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused, harmless = damage(folder.path, options.times, options.seed)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.times} changes: {refused} refused, {harmless} of the manifest's layout only, {grown:.0f} MiB more memory at most")
    return 0 if refused + harmless == options.times and grown < PEAK else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
