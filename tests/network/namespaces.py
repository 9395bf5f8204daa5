"""Two network namespaces of this machine, joined by a line that takes its time: real packets, real sockets, one rank of a run in each.

Where the kernel can delay (`tc netem`), a pair of veth devices is the line. Where it cannot, two tun devices are, and `delay_line` hands every
packet over so many seconds later. `Unavailable` says what is missing: it takes root, `ip`, and namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import multiprocessing
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ADDRESSES = ("10.77.31.1", "10.77.31.2")
TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
LONGEST = 65536


class Unavailable(Exception):
    """`str(error)` says why there can be no namespaces here."""


def call(*words: str) -> None:
    """Raises Unavailable with what the tool says."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"`{' '.join(words)}`: {(done.stderr or done.stdout).strip()}")


@contextmanager
def joined(delay: float) -> Iterator[tuple[tuple[str, str], tuple[str, str], str]]:
    """(the namespaces, their devices, what delays). `delay`: seconds, one way."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise Unavailable("namespaces take root and the tool `ip`")
    names = (f"gradflow{os.getpid()}a", f"gradflow{os.getpid()}b")
    devices = (f"gf{os.getpid()}a", f"gf{os.getpid()}b")
    line: Any = None
    try:
        for name in names:
            call("ip", "netns", "add", name)
            call("ip", "-n", name, "link", "set", "lo", "up")
        how = "tc netem"
        try:
            call("ip", "link", "add", devices[0], "netns", names[0], "type", "veth", "peer", "name", devices[1], "netns", names[1])
            for name, device in zip(names, devices, strict=True):
                call("tc", "-n", name, "qdisc", "add", "dev", device, "root", "netem", "delay", f"{delay * 1000:g}ms")
        except (Unavailable, FileNotFoundError):
            with suppress(Unavailable):
                call("ip", "-n", names[0], "link", "del", devices[0])
            how, line = "tun", begun(names, devices, delay)
        for name, device, address in zip(names, devices, ADDRESSES, strict=True):
            call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
            call("ip", "-n", name, "link", "set", device, "up")
        yield names, devices, how
    finally:
        if line is not None:
            line.kill()
            line.join()
        for name in names:
            with suppress(Unavailable):
                call("ip", "netns", "del", name)


# ---- a line of two tun devices


def begun(names: tuple[str, str], devices: tuple[str, str], delay: float) -> Any:
    """The process of a delay line, once its devices are there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=delay_line, args=(names, devices, delay, there), daemon=True)
    process.start()
    told = here.recv() if here.poll(60) else "the delay line does not begin"
    if told:
        process.kill()
        raise Unavailable(told)
    return process


def delay_line(names: tuple[str, str], devices: tuple[str, str], delay: float, told: Any) -> None:
    try:
        ends = [tun_in(name, device) for name, device in zip(names, devices, strict=True)]
    except OSError as error:
        told.send(f"there can be no tun device: {error}")
        return
    told.send("")
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for place in (ends.index(end) for end in select.select(ends, [], [], wait)[0]):
            number += 1
            heapq.heappush(waiting, (time.monotonic() + delay, number, ends[1 - place], os.read(ends[place], LONGEST)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            with suppress(OSError):  # a device that is not up yet loses what it is sent, as a cable does
                os.write(end, packet)


def tun_in(namespace: str, device: str) -> int:
    """A tun device in a namespace, which this process enters."""
    handle = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"the namespace {namespace} cannot be entered")
    os.close(handle)
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return tun
