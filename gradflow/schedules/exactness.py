"""The proof that a schedule is exact, taken on records of every awkward shape: ragged groups and lengths, prompts padded on either side, groups
of one.

A slot of a row computes what the last token of some plain sequence computes if it sees exactly the tokens of that sequence, each at its own
position, and if all that it sees do so too: then, layer by layer, every value is the same. So it is enough that each slot sees one slot for each
position up to its own, that a slot seen from it sees those of them that stand before it, and that the prediction of a response's token is read
where the tokens seen are the prompt and what stands before it in the response. All of this is decided by the regions, on any model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.schedules.plan import RESULTS

if TYPE_CHECKING:
    import numpy

    from gradflow.graph.graph import Region

# (tokens of each prompt; for each of its responses the number of tokens), and where prompts are padded
SHAPES: tuple[tuple[tuple[tuple[int, tuple[int, ...]], ...], str], ...] = (
    (((3, (2, 1, 3)),), "left"),
    (((1, (1,)), (4, (2, 2, 1)), (2, (3, 1))), "left"),
    (((2, (1, 4)), (3, (2,))), "right"),
)


def difference(layout: Region, sees: Region) -> str:
    """What a schedule changes, or what of it cannot be computed; empty if it is exact."""
    from gradflow.backends.reference import EvaluationError, lower

    run, look = lower(layout), lower(sees)
    for groups, padded in SHAPES:
        for shuffled in (False, True):
            record = example(groups, padded, shuffled)
            given: dict[tuple[str, ...], Any] = {("input", name): value for name, value in record.items()}
            try:
                rows: Any = run(given)
                visible = look(given)["visible"]
            except EvaluationError as error:
                return f"at {error.span.line}:{error.span.column}, `{error.op}` cannot be computed: {error.reason}"
            found = wrong({name: rows[name] for name in RESULTS}, visible, record)
            if found:
                return found
    return ""


def example(groups: tuple[tuple[int, tuple[int, ...]], ...], padded: str, shuffled: bool) -> dict[str, numpy.ndarray]:
    """A record whose tokens are all different; `shuffled`: the responses of a prompt do not stand together."""
    import numpy

    owners = [(prompt, length) for prompt, (_, lengths) in enumerate(groups) for length in lengths]
    owners = owners[::2] + owners[1::2] if shuffled else owners
    places, tokens = max(size for size, _ in groups), max(length for _, length in owners)
    at = numpy.arange(places)[None]
    sizes = numpy.array([[size] for size, _ in groups])
    mask = at >= places - sizes if padded == "left" else at < sizes
    lengths = numpy.array([[length] for _, length in owners])
    return {
        "prefix": numpy.where(mask, 1 + numpy.arange(mask.size).reshape(mask.shape), 0),
        "prefix_mask": mask,
        "response": numpy.where(numpy.arange(tokens)[None] < lengths, 1000 + numpy.arange(len(owners) * tokens).reshape(len(owners), tokens), 0),
        "response_mask": numpy.arange(tokens)[None] < lengths,
        "group": numpy.array([prompt for prompt, _ in owners]),
    }


def wrong(rows: dict[str, numpy.ndarray], visible: numpy.ndarray, record: dict[str, numpy.ndarray]) -> str:
    """The first thing that is not as in plain rows."""
    word, place, filled = rows["word"], rows["place"], rows["filled"]
    for row in range(len(word)):
        for slot in filled[row].nonzero()[0]:
            seen = visible[row, slot].nonzero()[0]
            if not filled[row, seen].all():
                return f"slot {slot} of a row sees padding"
            if sorted(place[row, seen]) != list(range(place[row, slot] + 1)) or slot not in seen:
                return f"slot {slot} of a row stands at position {place[row, slot]} and sees the positions {sorted(map(int, place[row, seen]))}"
            for other in seen:
                before = [one for one in seen if place[row, one] <= place[row, other]]
                if before != list(visible[row, other].nonzero()[0]):
                    return f"slot {slot} of a row sees slot {other}, which does not see the same tokens before it"
    for sample, prompt in enumerate(record["group"]):
        start = [int(one) for one in record["prefix"][prompt][record["prefix_mask"][prompt]]]
        said = [int(one) for one in record["response"][sample][record["response_mask"][sample]]]
        if list(rows["known"][sample].nonzero()[0][: len(said)]) != list(range(len(said))):
            return "a token of a response is predicted nowhere"
        for step in range(len(said)):
            slot = rows["slot"][sample, step]
            seen = sorted(visible[prompt, slot].nonzero()[0], key=lambda one: place[prompt, one])
            if [int(word[prompt, one]) for one in seen] != start + said[:step]:
                return f"token {step} of a response is predicted from other tokens than its prompt and the {step} before it"
    return ""
