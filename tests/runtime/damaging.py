"""Checkpoints damaged at random, and what reading makes of them."""

import random

from gradflow.runtime import checkpoints
from gradflow.runtime.checkpoints import checkpoints_of, newest_checkpoint, read_checkpoint


def mutated(content, generator):
    """One change that damage makes: a bit, a byte, a cut, a hole, something behind the end, nothing left."""
    place = generator.randrange(len(content))
    kind = generator.randrange(6)
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + bytes([generator.randrange(256)]) + content[place + 1 :]
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]
    return content + generator.randbytes(generator.randrange(1, 100)) if kind == 4 else b""


def damage(path, times, seed):
    """Changes one file of the newest checkpoint at a time: (changes refused, changes that left its meaning as it was)."""
    generator = random.Random(seed)
    newest, before = checkpoints_of(path)[-1], checkpoints_of(path)[-2]
    originals = {name: (newest / name).read_bytes() for name in (checkpoints.TENSORS, checkpoints.STATE, checkpoints.MANIFEST)}
    whole_state = read_checkpoint(newest)[1]
    refused = harmless = 0
    for _ in range(times):
        name = generator.choice(list(originals))
        changed = mutated(originals[name], generator)
        (newest / name).write_bytes(changed)
        found, said = newest_checkpoint(path)
        assert found is not None
        if said:
            assert found.path == before and len(said) == 1 and str(newest) in said[0] and "\n" not in said[0]
            refused += 1
        else:
            assert name == checkpoints.MANIFEST or changed == originals[name], "a change of content is never taken"
            assert found.state == whole_state
            harmless += 1
        (newest / name).write_bytes(originals[name])
    return refused, harmless
