"""Random Markov decision processes solved exactly, and preferences between pieces of their trajectories: control that fits into a table.

Several processes stand side by side as one whose states fall into parts that never meet, so that one table of logits and one run learn all of
them. Everything is drawn from the parameter `seed`, not from the seed of the run; the optimum comes from soft value iteration, to rounding.

Axes: P processes, S states (of all processes), s states of one process, A actions, N pairs of segments, T steps of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.synthetic_data import normals

CONVERGED = 1e-13


def soft_optimum(transition: Any, reward: Any, gamma: float, temperature: float) -> tuple[Any, Any]:
    """(advantage [.., s, A], value [.., s]) of max-entropy control, by value iteration on transition [.., s, A, s] and reward [.., s, A].

    value = temperature * log sum_a exp(q / temperature), q = reward + gamma * transition value, advantage = q - value; the optimal policy is
    exp(advantage / temperature). At temperature 0 the maximum takes the place of the soft one.
    """
    value = numpy.zeros(reward.shape[:-1])
    while True:
        q = reward + gamma * (transition @ value[..., None, :, None])[..., 0]
        best = q.max(-1, keepdims=True)
        spread = temperature * numpy.log(numpy.exp((q - best) / temperature).sum(-1)) if temperature else 0.0
        new = best[..., 0] + spread
        if numpy.abs(new - value).max() <= CONVERGED * max(1.0, float(numpy.abs(new).max())):
            return q - new[..., None], new
        value = new


def soft_policy(advantage: Any, temperature: float) -> Any:
    """The policy proportional to exp(advantage / temperature), [.., s, A]; at temperature 0 the best action alone."""
    if not temperature:
        return (advantage == advantage.max(-1, keepdims=True)) / (advantage == advantage.max(-1, keepdims=True)).sum(-1, keepdims=True)
    scaled = numpy.exp((advantage - advantage.max(-1, keepdims=True)) / temperature)
    return scaled / scaled.sum(-1, keepdims=True)


def picked(law: Any, uniform: Any) -> Any:
    """Where each uniform number [..] falls in its law [.., k]: int64 [..]."""
    place = (law.cumsum(-1) / law.sum(-1, keepdims=True) <= uniform[..., None]).sum(-1)
    return numpy.minimum(place, law.shape[-1] - 1)


def trajectories(transition: Any, policy: Any, starts: Any, length: int, seed: int) -> tuple[Any, Any]:
    """(states, actions), int64 [n, T] each, of `policy` [S, A] from `starts` [n] on under transition [S, A, S]."""
    drawn = random.uniform(random.key(seed, "trajectories"), numpy.arange(2 * length * len(starts))).reshape(length, 2, len(starts))
    states, actions = [starts], []
    for choice, move in drawn:
        actions.append(picked(policy[states[-1]], choice))
        states.append(picked(transition[states[-1], actions[-1]], move))
    return numpy.stack(states[:-1], 1), numpy.stack(actions, 1)


def side_by_side(blocks: Any) -> Any:
    """[P, s, A, s] as one [S, A, S]: a process leads nowhere but into itself."""
    count, states, actions, _ = blocks.shape
    whole = numpy.zeros((count, states, actions, count, states))
    for i, block in enumerate(blocks):
        whole[i, :, :, i] = block
    return whole.reshape(count * states, actions, count * states)


@primitive(
    "data", processes="int >= 1", states="int >= 1", actions="int >= 2", pairs="int >= 1", length="int >= 1", gamma="real in [0, 1)",
    temperature="real > 0", sharp="real >= 0", blur="real >= 0", label="drawn | likely | sure", seed="int >= 0",
    batch="int >= 1",
)  # fmt: skip
def preference_segments(
    processes: int = 5,
    states: int = 30,
    actions: int = 4,
    pairs: int = 1500,
    length: int = 8,
    gamma: float = 0.9,
    temperature: float = 0.3,
    sharp: float = 3.0,
    blur: float = 5.0,
    label: str = "drawn",
    seed: int = 0,
    batch: int | None = None,
) -> DataSpec:
    """Pairs of trajectory segments in random decision processes, and which one of two is preferred: the one with less regret, mostly.

    In each of `processes`: rewards normal, next states softmax(sharp * normal), optimum by soft value iteration at `temperature`. A segment
    starts anywhere in its process and follows half the time a uniform policy, half the time exp(advantage / (blur * temperature)).
    With regret(i) = -sum of optimal advantages, the second is preferred with probability sigmoid((regret(1) - regret(2)) / temperature);
    `label` is `drawn` with it, is it (`likely`), or says which regret is smaller (`sure`, 1/2 for equal ones).
    Split `train`: states_1, states_2 [pair, time -> state], actions_1, actions_2 [pair, time -> action], label real[pair]; pairs of all
    processes, `pairs` of each. Split `process`: transition [state, action, next], reward, advantage, optimal, behavior [state, action],
    over the states of all processes. Facts: `states`, `actions` (of all), `gamma`, `temperature`. The task of CPL's smallest experiment.
    """
    total = processes * states

    @cache
    def load() -> Mapping[str, Mapping[str, Any]]:
        logits = sharp * normals((processes, states, actions, states), seed, "transition")
        moves = numpy.exp(logits - logits.max(-1, keepdims=True))
        moves /= moves.sum(-1, keepdims=True)
        reward = normals((processes, states, actions), seed, "reward")
        advantage, _ = soft_optimum(moves, reward, gamma, temperature)
        behavior = 0.5 / actions + 0.5 * soft_policy(advantage, blur * temperature)
        process = {"transition": side_by_side(moves)} | {
            name: table.reshape(total, actions)
            for name, table in {
                "reward": reward, "advantage": advantage, "optimal": soft_policy(advantage, temperature), "behavior": behavior,
            }.items()
        }  # fmt: skip
        where = random.uniform(random.key(seed, "starts"), numpy.arange(2 * processes * pairs)).reshape(processes, 2 * pairs)
        first = (where * states).astype(numpy.int64) + states * numpy.arange(processes)[:, None]
        seen, done = trajectories(process["transition"], process["behavior"], first.reshape(-1), length, seed)
        gain = process["advantage"][seen, done].sum(-1).reshape(-1, 2)
        chance = 1 / (1 + numpy.exp(numpy.clip((gain[:, 0] - gain[:, 1]) / temperature, -700, 700)))
        coin = random.uniform(random.key(seed, "label"), numpy.arange(len(chance)))
        told = {"drawn": coin < chance, "likely": chance, "sure": (1 + numpy.sign(gain[:, 1] - gain[:, 0])) / 2}[label]
        train = {f"{name}_{i + 1}": table.reshape(-1, 2, length)[:, i] for name, table in (("states", seen), ("actions", done)) for i in (0, 1)}
        return {"train": {**train, "label": told.astype(numpy.float64)}, "process": process}

    state, action, pair = ("state", total), ("action", actions), ("pair", processes * pairs)
    steps = (pair, ("time", length))
    train = {f"states_{i}": FieldSpec("int", steps, target=state) for i in (1, 2)}
    train |= {f"actions_{i}": FieldSpec("int", steps, target=action) for i in (1, 2)} | {"label": FieldSpec("real", (pair,))}
    process = {"transition": FieldSpec("real", (state, action, ("next", total)))}
    process |= {name: FieldSpec("real", (state, action)) for name in ("reward", "advantage", "optimal", "behavior")}
    facts: dict[str, int | float | str] = {"states": total, "actions": actions, "gamma": gamma, "temperature": temperature}
    return DataSpec("preference_segments", ("train", "process"), {"train": train, "process": process}, load, batch=batch, facts=facts)
