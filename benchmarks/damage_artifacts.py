"""Changes compiled artifacts at random and reads them: each must be refused with a sentence, or be taken for what it then is.

    python benchmarks/damage_artifacts.py --times 10000

Half of the changes leave the checksum wrong, half are framed anew, so that they reach the reading of the document itself. Reported are how many
were refused, and by how much the process grew; anything but an ArtifactError ends the script with its traceback.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource

from gradflow import compiler
from gradflow.passes.scope import module, standard_folder
from gradflow.plan.artifact import decode, encode
from gradflow.plan.header import FORMAT, HEADER, MAGIC, ArtifactError

SPECS = (
    ("methods/17_diffgrad", "valley"),
    ("methods/14_econtrol", "compressed_digits"),
    ("methods/18_sapo", "locks"),
    ("methods/15_qzo", "quantized_digits"),
)


def artifact(file: str, pipeline: str) -> bytes:
    program, _ = compiler.build(module(standard_folder() / f"{file}.gflow"), pipeline)
    assert program is not None
    return encode(program)


def changed(data: bytes, dice: random.Random) -> bytes:
    """Bits flipped, a stretch cut out, doubled, or replaced."""
    found = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(found)), dice.randint(1, 40)
        kind = dice.randrange(4)
        if kind == 0:
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        else:
            found[at : at + length] = dice.randbytes(length)
        found = found or bytearray(b"\0")
    return bytes(found)


def framed(payload: bytes) -> bytes:
    return MAGIC + HEADER.pack(FORMAT, len(payload), hashlib.sha256(payload).digest()) + payload


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    whole = [artifact(*spec) for spec in SPECS]
    for data in whole:
        decode(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(options.times):
        data = dice.choice(whole)
        spoiled = changed(data, dice) if number % 2 else framed(changed(data[len(MAGIC) + HEADER.size :], dice))
        try:
            decode(spoiled)
        except ArtifactError as error:
            refused += 1
            assert str(error) and "\n" not in str(error), repr(str(error))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.times:,} changed artifacts of at most {max(map(len, whole)) / 1000:.0f} kB: {refused:,} refused, "
          f"{options.times - refused:,} read as the plan that they then are; the process grew by {grown:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
