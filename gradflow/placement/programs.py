"""A program for one of several processes: the axis that it is spread over, the placement of its entries, and every region, state and model
made over for what the rank holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradflow.graph.graph import Graph
from gradflow.graph.operations import Operations
from gradflow.passes.constants import is_closed
from gradflow.placement.devices import DEVICE, Unplaced, on_devices, placement_on_devices, shards_of, spread_updates, too_few_rows
from gradflow.placement.events import placed_events
from gradflow.placement.partition import Placement, partition
from gradflow.placement.sparse import Mixing, sparse_of, sparsely
from gradflow.placement.spread import Spreader
from gradflow.plan.program import Action, Program, Update
from gradflow.plan.rewriting import all_nodes, rewritten


def placement_of(program: Program, ranks: int, rank: int = 0) -> Placement:
    """Where the nodes of a program are; over devices, a place for each process. Raises Unplaced."""
    sizes = {update.topology.nodes for update in _updates(program) if update.topology is not None}
    if any(spread_updates(program)):
        few = too_few_rows(program, ranks)
        if sizes or few:
            raise Unplaced(
                few or f"`{program.name}` has flows over devices and flows over a topology; only one of the two can be spread over processes"
            )
        placement = placement_on_devices(ranks, rank)
        shards_of(program, placement)
        return placement
    if not sizes:
        raise Unplaced(
            f"`{program.name}` has no nodes to place on {ranks} processes, so each of them would do all of it; "
            "let a flow run over a topology (`flow net over ring(16): ..`) or over devices (`flow net over devices(): ..`), or run it without --nproc"
        )
    if len(sizes) > 1 or None in sizes:
        said = ", ".join(sorted(map(str, sizes)))
        raise Unplaced(f"the topologies of `{program.name}` have {said} nodes; only one number of nodes, known before the run, can be placed")
    (nodes,) = sizes
    links = sorted({pair for update in _updates(program) if update.topology is not None for pair in _links(update)})
    try:
        return Placement(partition(nodes, links, ranks), rank)
    except ValueError as error:
        raise Unplaced(f"`{program.name}`: {error}; use --nproc {nodes} at most") from None


def _updates(program: Program) -> Iterator[Update]:
    return (action for phase in program.phases for action in phase.actions if isinstance(action, Update))


def _links(update: Update) -> list[tuple[int, int]]:
    """The links of a topology that does not change, i before j; none where it is not known before the run."""
    adjacency = update.topology.adjacency
    if not is_closed(adjacency):
        return []
    heard = sparse_of(adjacency, "node", "from").matrix.tocoo()
    return sorted({(int(min(pair)), int(max(pair))) for pair in zip(heard.row, heard.col, strict=True)})


def sparse(program: Program) -> Program:
    """The program with the zeros of known weights left out where that pays."""
    return rewritten(program, sparsely(Operations(_fresh(program))))


def _fresh(program: Program) -> Graph:
    return Graph(count=max((node.id for node in all_nodes(program)), default=0))


def _without_events(program: Program) -> Program:
    def action(one: Action) -> Action:
        return replace(one, events=None) if isinstance(one, Update) else one

    return replace(program, phases=tuple(replace(phase, actions=tuple(map(action, phase.actions))) for phase in program.phases))


def placed(program: Program, placement: Placement, exact: bool = False) -> Program:
    """The program of the placement's rank: what it computes, and what it keeps."""
    if placement.axis == DEVICE:
        return on_devices(program, placement)
    ops = Operations(_fresh(program))
    spreader = Spreader(ops, placement, exact, Mixing(ops))
    events = {update.flow: update.events for update in _updates(program) if update.events is not None}
    program = rewritten(_without_events(program), spreader.region)

    def action(one: Action) -> Action:
        if not isinstance(one, Update):
            return one
        states = tuple(replace(state, type=spreader.type(state.type)) for state in one.states)
        own = events.get(one.flow)
        return replace(one, states=states, events=None if own is None else placed_events(own, spreader))

    models = {
        name: replace(plan, lifted=tuple(spreader.axis if spreader.ours(a) else a for a in plan.lifted)) for name, plan in program.models.items()
    }
    phases = tuple(replace(phase, actions=tuple(map(action, phase.actions))) for phase in program.phases)
    return replace(program, models=models, phases=phases)


__all__ = ["Unplaced", "placed", "placement_of"]
