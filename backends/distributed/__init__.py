"""The distributed backend: what a `transfer` of a placed region does, on torch.distributed (gloo on CPUs, NCCL on GPUs).

Regions themselves are lowered by the torch or the reference backend, on the rank's part of the data; these call `transfer` where something
crosses to another rank. `communicator.py` carries it out and counts it, `launch.py` starts processes through torchrun's own launcher.
"""

from __future__ import annotations

from gradflow.backends.distributed.communicator import Communicator, RankLost, array_transfer, connected, transfer, use

__all__ = ["Communicator", "RankLost", "array_transfer", "connected", "transfer", "use"]
