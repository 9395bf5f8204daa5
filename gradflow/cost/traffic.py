"""What one update of a flow over a topology will send, predicted from its graph: `network/crossings.py` finds what crosses, here it is weighed.

What is sent is as large as the value without its nodes, or as what the stage says of its compressor: k entries with their places, bits an
entry, r columns and rows. Everybody is taken to take part; the run counts who does.
"""

from __future__ import annotations

from gradflow.cost.figures import Message
from gradflow.events.traffic import sent_in_a_unit
from gradflow.network.crossings import Crossing, Wire, crossings_of, shapes_of, wire_for, wire_of
from gradflow.plan.program import Program, Update, asked_for


def messages_of(update: Update, program: Program, width: int, unit: str = "steps", *, started: bool = False) -> tuple[Message, ...]:
    """The messages of one update, or what events are expected to send in a unit of training; `width`: bytes of a real number. `started`: those
    that only the first update sends besides."""
    if update.events is not None:
        sent = sent_in_a_unit(update.events, width, unit)
        return () if sent is None or started else (Message("events at links", "link", *sent),)
    facts = asked_for(update.facts.get("topology"))
    links = facts.links if facts is not None else None
    wire, shapes = wire_for(update), shapes_of(update, program)
    found = (_message(one, update, wire, shapes, width, links) for one in crossings_of(update, program) if one.started == started)
    return tuple(message for message in found if message is not None)


def share_of(crossing: Crossing, wire: Wire, shapes: tuple[tuple[int, ...], ...], width: int) -> int:
    """Bytes that one node sends, by what its stage says."""
    dense = crossing.dense(width)
    return wire.size(dense, width, None, shapes) if crossing.compressible else dense


def _message(crossing: Crossing, update: Update, wire: Wire, shapes: tuple[tuple[int, ...], ...], width: int, links: int | None) -> Message | None:
    sent, times = share_of(crossing, wire, shapes, width), crossing.times
    if crossing.kind == "walk":
        return Message(crossing.what, "walk", 1, sent, sent)
    if crossing.kind == "gather":
        facts = asked_for(update.facts.get("topology"))
        others, whole = update.topology.nodes - (0 if getattr(facts, "hub", False) else 1), sent + crossing.dense(width)
        return Message(crossing.what, "gather", 2 * others * times, whole, others * whole * times)
    if links is None:
        return None  # they change from round to round
    arcs = (links if update.topology.directed else 2 * links) * times
    return Message(crossing.what, "link", arcs, sent, arcs * sent)


def compressed(gives: str, dense: int, width: int) -> int:
    """Bytes of what a compressor lets through, by what the stage says of it; `dense` where it says nothing."""
    return wire_of(gives).size(dense, width)


__all__ = ["compressed", "messages_of", "share_of"]
