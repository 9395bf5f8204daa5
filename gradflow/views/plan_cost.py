"""The cost of a plan for people: rows of memory, work, network and time, what was fused and what was not, and predicted beside measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Row = tuple[str, ...]
SMALLEST_SHARE = 0.02  # of the peak, below which a part is not named
MOST_REASONS = 12


def memory_rows(cost: Mapping[str, Any]) -> Iterator[Row]:
    peak = cost["peak"]
    place = f" in {cost['peak_place']}" if cost["peak_place"] and cost["complete"] else ""
    yield ("memory", f"peak {size(peak)}{place}" if cost["complete"] else f"at least {size(peak)}")
    parts = [f"{name} {size(held)}" for name, held in cost["at_peak"].items() if held >= SMALLEST_SHARE * peak]
    if parts:
        yield ("", "then: " + ", ".join(parts))
    kept = [(name, cost[f"{key}_bytes"]) for name, key in (("parameters", "parameter"), ("states", "state"), ("data", "data"))]
    yield ("kept", ", ".join(f"{name} {size(held)}" for name, held in kept if held) or "nothing")
    if cost["activation_bytes"]:
        yield ("activations", f"{size(cost['activation_bytes'])} kept from a forward pass for its backward pass")


def work_rows(phase: Mapping[str, Any], times: Mapping[str, float] | None, machine: str) -> Iterator[Row]:
    """What one unit of a phase does."""
    a_unit, unit = phase["a_unit"], phase["unit"].removesuffix("s")
    one = f"{'an' if unit[0] in 'aeiou' else 'a'} {unit}"
    passes = sum(action["passes"] * action["times"] for action in phase["actions"] if action["kind"] != "report")
    work = f"{number(a_unit['flops'])}FLOP in contractions, {number(a_unit['elementwise'])}FLOP elementwise"
    yield ("work", f"{one}: {work}; {size(a_unit['bytes'])} moved in {passes:,.0f} passes")
    yield from network_rows(phase, one)
    if times is not None:
        split = f" ({seconds(times['computing'])} computing, {seconds(times['sending'])} sending)" if times["sending"] else ""
        yield ("time", f"{one}: at least {seconds(times['unit'])} on {machine}{split}")


def network_rows(phase: Mapping[str, Any], unit: str) -> Iterator[Row]:
    messages = [message for action in phase["actions"] for message in action["messages"]]
    if not messages:
        return
    a_unit = phase["a_unit"]
    yield ("network", f"{unit}: {a_unit['messages']:,.0f} messages, {size(a_unit['bytes_sent'])} together")
    for message in messages:
        where = {"gather": "to the center and back", "link": "over a link, each way", "walk": "over one link"}[message["kind"]]
        yield ("", f"{message['what']}: {size(message['per_link'])} {where}")


def time_row(cost: Mapping[str, Any]) -> Iterator[Row]:
    if "time" in cost:
        time = cost["time"]
        room = "" if cost["peak"] <= time["memory"] else f"; its memory of {size(time['memory'])} is too small"
        yield ("in all", f"at least {seconds(time['whole'])} on {time['machine']} ({time['title']}), without reports and draws{room}")


def network_time_rows(cost: Mapping[str, Any]) -> Iterator[Row]:
    if "network" not in cost:
        return
    network = cost["network"]
    for number, (phase, time) in enumerate(zip(cost["phases"], network["phases"]), 1):
        unit = phase["unit"].removesuffix("s")
        one = f"{'an' if unit[0] in 'aeiou' else 'a'} {unit}" + (f" of phase {number}" if len(cost["phases"]) > 1 else "")
        took = seconds(time) if time is not None else "not known before the run, since its links change"
        yield (
            f"on {network['network']}" if number == 1 else "",
            f"{one}: {took}" + (f" ({network['title']})" if number == 1 and network["title"] else ""),
        )
    if network["whole"] is not None:
        yield ("", f"in all: {seconds(network['whole'])}, computing as the description says")


def fusion_rows(cost: Mapping[str, Any], every: bool) -> Iterator[Row]:
    """Kernels, and what did not become one; without `every` the first few of these."""
    fused = [note for note in cost["fusion"] if note["fused"]]
    apart = [note for note in cost["fusion"] if not note["fused"]]
    for note in fused:
        yield ("one kernel", note["what"] if not note["reason"] else short(note["reason"].partition(": reads")[0]))
    shown = apart if every else apart[:MOST_REASONS]
    for note in shown:
        yield ("apart", f"{note['what']}: {short(note['reason'])}")
    if len(apart) > len(shown):
        yield ("", f"and {len(apart) - len(shown)} more, in --format json")


def short(reason: str) -> str:
    """A reason without the folders of the files that it names."""
    return re.sub(r"[^\s(]*/([\w.-]+:\d+)", r"\1", reason)


def against_rows(compared: list[Mapping[str, Any]]) -> Iterator[Row]:
    """Predicted beside measured: (what, predicted, measured, ratio)."""
    for one in compared:
        show = {"bytes": size, "seconds": seconds}.get(one["unit"], number)
        ratio = f"{one['predicted'] / one['measured']:.2f} of what was measured" if one["measured"] else ""
        yield (one["what"], show(one["predicted"]), show(one["measured"]), ratio)


# ---- what was sent


def sent_lines(sent: Mapping[str, Any]) -> Iterator[str]:
    """Counted beside predicted, and the network's time: `ledger.Ledger.totals`."""
    if not sent:
        return
    predicted = sent.get("predicted")
    beside = f"predicted {size(predicted['bytes'])}" if predicted else "not predicted: its links change"
    counts = ((sent["messages"], "message"), (sent["rounds"], "round"))
    messages, rounds = (f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts)
    yield f"sent: {size(sent['bytes'])} in {messages} over {rounds} ({beside}); one node at most {size(sent['largest'])}"
    if sent.get("seconds") is not None:
        yield f"network: {seconds(sent['seconds'])} on {sent['network']}"


# ---- figures as text


def size(count: float) -> str:
    for unit, one in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:.0f} B"


def number(count: float) -> str:
    """`3.65 M`, with the letter before the unit that follows."""
    for letter, one in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {letter}"
    return f"{count:.0f} "


def seconds(time: float) -> str:
    for unit, one in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if time >= one:
            return f"{time / one:.3g} {unit}"
    return f"{time / 1e-6:.3g} us"
