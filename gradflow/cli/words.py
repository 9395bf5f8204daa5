"""Words of a spec that are no definitions: constructs with their form, settings, and the fields of what policies draw. For `gradflow explain`."""

from __future__ import annotations

WORDS = {
    "pipeline": (
        "pipeline name(parameters) { data ..; model ..; flow ..; train .. }",
        "An experiment: what is learnt from, what learns, and for how long.",
    ),
    "data": (
        "data train, test = digits(batch: 64)",
        "What there is to learn from; several names are its splits. `gradflow list data` shows which there are.",
    ),
    "model": (
        "model net = mlp(64, 32, 10); model frozen = copy(net)",
        "What learns, or is compared with. `gradflow list models` shows which there are.",
    ),
    "flow": (
        "flow net: loss -> backprop -> PROJECTION -> UPDATE",
        "The objective, its gradient, what becomes of it, and how the parameters move. Gradients go down the chain, the step comes back up it.",
    ),
    "train": (
        "train N unit (seed: 0, epochs: 1, minibatches: 1, micro: 1, precision: float32, whole: group) { .. every M unit { .. } }",
        "The clock. Units are steps, epochs, rounds, rollouts, time and events; `epochs`, `minibatches` and `whole` are of rollouts.",
    ),
    "every": (
        "every 10 rollouts { report name = value; checkpoint }",
        "What a person sees and what is kept, before the first unit and every so often.",
    ),
    "report": (
        "report name = value",
        "In an `every` block a value that is shown and stored; in an objective or a stage one of its metrics, a field of its value.",
    ),
    "checkpoint": ("every 100 rollouts { checkpoint }", "Keeps the state of the run, from where `gradflow run --resume RUN` goes on."),
    "rollouts": (
        "train 100 rollouts (epochs: 2, minibatches: 4)",
        "A unit of training: what is drawn with `~` is drawn once, and gone through `epochs` times in `minibatches` updates each.",
    ),
    "minibatches": (
        "train 100 rollouts (minibatches: 4)",
        "How many updates one pass over a rollout is cut into. A number of pieces, not their size.",
    ),
    "epochs": ("train 100 rollouts (epochs: 2)", "How many times each rollout is gone through; as a unit, passes over the data."),
    "micro": ("train 100 rollouts (micro: 4)", "How many pieces an update is cut into to save memory. The pieces add up to the same update."),
    "whole": ("train 100 rollouts (minibatches: 2, whole: group)", "Mini-batches that keep all responses to a prompt together."),
    "require": ("require memory < 4GB", "An error where the condition is known to fail before anything runs; `prefer` warns."),
    "input": ("input reward : [sample]", "What a body takes from the record that it is called with, by name and axes."),
    "state": ("state m, v = 0", "Kept from step to step, for each leaf, node or task that its axes name."),
    "minimize": ("minimize mean(x, where: mask)", "What an objective makes small: a number."),
    "=": ("x = formula", "A live name: evaluated for whoever reads it, at the present parameters."),
    "~": ("samples ~ sample(policy, tasks)", "A draw, from chance or from the world: once a unit, then held."),
    "<-": ("frozen <- where(mod(t, 64) == 0, policy, frozen)", "A new value for state, a parameter or a model, a constant for every derivative."),
}
FIELDS = {
    "reward": "[sample]: what the verifier gives a response, 1 where it is right",
    "correct": "bool[sample]: whether it is right",
    "group": "[sample -> prompt]: which prompt it answers, for `mean(x, by: group)`",
    "task": "[sample -> task]: which of the data set's tasks, for states that remember tasks",
    "mask": "bool[sample, token]: tokens that the policy wrote, the end token among them",
    "length": "[sample]: how many tokens a response has",
    "finished": "bool[sample]: whether it ended by itself, before `max_tokens`",
    "logp_old": "[sample, token]: the log-probability of each token when it was drawn, at the temperature `scored_at`",
    "entropy_old": "[sample, token]: the entropy of the distribution that it was drawn from, in nats",
    "text": "text[sample]: the response, for `matches` and `python_reward`",
    "ids": "[sample, place]: the tokens of the prompt, padded on the left; `prompt_mask` says where they are",
    "prompt_mask": "bool[sample, place]: where the prompt has tokens",
    "action": "[sample, token -> word]: the token that was drawn",
    "copy": "[sample]: which of the responses to its prompt it is",
    "prompt_id": "[prompt]: the prompt's stable number in the data set",
    "tokens_per_second": "how fast it was drawn",
    "logp": "[sample, token], of `score(policy, samples)`: the log-probability under the present parameters; the gradient flows through it",
    "logp_ref": "[sample, token], of `score(policy, samples, reference: frozen)`: the log-probability under the reference",
    "entropy": "[sample, token], of `score(policy, samples)`: the entropy under the present parameters, in nats",
    "value": "[sample, token], of `score(critic, samples)`, where `critic` is a `value_head(..)`; `value_old` is what it was when the unit began",
}


def word_page(name: str) -> str:
    """What a word of the language or a field of samples is, or nothing. `samples.reward` is the field `reward`."""
    if name in WORDS:
        form, text = WORDS[name]
        return f"`{name}`, a word of the language\n\n  {form}\n\n{text}\n\n`docs/language.md` says more."
    field = name.rpartition(".")[2]
    if field not in FIELDS:
        return ""
    others = ", ".join(one for one in FIELDS if one != field)
    return f"`{field}`, a field of the record that `sample` and `score` return\n\n  {FIELDS[field]}\n\nThe others: {others}."


__all__ = ["FIELDS", "WORDS", "word_page"]
