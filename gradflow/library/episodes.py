"""Episodes: an actor tries a task, sees what comes of it, and may have notes from earlier tries; a writer reads what happened and writes a note.

`episode` is one try at each task, by a language model or by a script; `generate` is one text for each text that it is given. Whether a try was
right is the task set's verifier's word, and what the world says to an answer is its `feedback`. Nothing here is trained: a record of `generate`
is scored and learnt from like one of `sample`.

Axes: prompt (a task that is tried), task (the data set's prompts: notes belong to one), sample (a text), token, place and word as in `rollouts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import DataSpec, FieldSpec, LeafSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import pad_left
from gradflow.library.sampling import Decoding, draws_of, response_fields
from gradflow.library.sampling import generate as respond
from gradflow.library.sampling import texts as texts_of
from gradflow.library.scripts import SCRIPTS
from gradflow.library.text_tasks import Tasks, cut_splits, exact_match, task_spec

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
SYMPTOMS = "+-*/=()"  # of these characters, which the character tokenizer knows early, a lock's complaints are made


# ---- who acts


@primitive("model", script=" | ".join(SCRIPTS))
def scripted_actor(script: str = "follow") -> ModelSpec:
    """An actor without parameters, which reads the question and its notes and answers by a fixed rule.

    `follow`: the first number in the newest note, 0 without one. `calculator`: the value of the expression in the question, taken from left to
    right, as a pocket calculator does; with a note that speaks of precedence, order, brackets or of multiplying, as it is meant.
    """
    return ModelSpec(f"scripted_actor({script})", (LeafSpec("unused", (0,), False),), lambda seed: _script_module(script), methods=("act",))


def _script_module(script: str) -> Any:
    import torch

    class Script(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(0), requires_grad=False)

        def act(self, question: str, notes: Sequence[str]) -> str:
            return SCRIPTS[script](question, notes)

    return Script()


# ---- the world


@primitive("data", causes="int in [2, 10]", prompts="int >= 1", test="int >= 0", seed="int >= 0", batch="int >= 1")
def lock_game(causes: int = 8, prompts: int = 64, test: int = 0, seed: int = 0, batch: int | None = None) -> DataSpec:
    """Locks that open to one of a few keys, 0 .. causes - 1. Which one cannot be read off the lock's number, but a lock that a wrong key was
    tried on complains, and every key's locks have their own complaint, the same for all locks: who has learnt what it means can tell the key.

    Question: `(17)`, a lock's number; answer: its key, a digit; reward 1 for exactly that. What a lock says to another key is two of the
    characters `+-*/=()`. The locks of the split `test` (numbered on) have the same complaints. Source: the smallest task of arXiv:2308.02151's kind.
    """
    sizes = {"train": prompts, "test": test}

    @cache
    def made() -> tuple[list[str], list[str], list[str]]:
        drawn = random.uniform(random.key(seed, "lock_game"), numpy.arange(prompts + test))
        keys = (drawn * causes).astype(numpy.int64)
        words = random.subset(random.key(seed, "complaints"), len(SYMPTOMS) ** 2, causes).tolist()
        complaints = [SYMPTOMS[word // len(SYMPTOMS)] + SYMPTOMS[word % len(SYMPTOMS)] for word in words]
        return [f"({number})" for number in range(prompts + test)], [str(key) for key in keys], [complaints[key] for key in keys]

    def feedback(ids: Any, answers: list[str]) -> list[str]:
        _, keys, complaints = made()
        return ["" if answer.strip() == keys[int(row)] else complaints[int(row)] for row, answer in zip(ids, answers)]

    spec = task_spec("lock_game", sizes, lambda: cut_splits(*made()[:2], sizes), exact_match(lambda: made()[1]), batch, causes=causes)
    return replace(spec, feedback=feedback)


# ---- one try


@primitive("call", actor="model", tasks="data", notes="record", max_tokens="int >= 1", temperature="real >= 0")
def episode(
    actor: Any,
    tasks: Tasks,
    notes: Mapping[str, Any] | None = None,
    max_tokens: int = 24,
    temperature: float = 0.0,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
) -> Record:
    """One try at each of the tasks, by a script or a language model, that may read notes: texts of earlier records that belong to the same task.

    `notes`: a record with `text` and `task`, in the order in which they were written (none: no notes); a language model reads them before the
    question, a line each; `temperature`: 0 is the likeliest answer. Returns task [prompt -> task], reward real[prompt], correct bool[prompt],
    answer and text: the text is what happened, question, answer and what the world said to it, and never the right answer.
    """
    import torch

    rows = numpy.arange(len(tasks)) if tasks.rows is None else numpy.asarray(tasks.rows)
    ids = tasks.ids[rows]
    asked = [tasks.questions[row] for row in rows]
    known = notes_by_task(notes)
    read = [known.get(int(task), []) for task in ids]
    if hasattr(actor, "act"):
        answers = [actor.act(question, told) for question, told in zip(asked, read)]
    else:
        prompts = [actor.tokenizer.encode(actor.tokenizer.chat("\n".join([*told, question]))) for question, told in zip(asked, read)]
        draws = draws_of(random.key(seed, "episode", tick, *site), ids, numpy.zeros_like(ids), max_tokens) if temperature > 0 else None
        drawn = respond(actor, prompts, numpy.arange(len(ids)), draws, Decoding(max_tokens, float(temperature)))
        answers = texts_of(drawn["action"], drawn["mask"], actor.tokenizer)
    reward = tasks.verify(ids, answers)
    said = tasks.feedback(ids, answers) if tasks.feedback is not None else [""] * len(ids)
    return {
        "task": torch.as_tensor(ids),
        "reward": torch.as_tensor(reward, dtype=torch.float64),
        "correct": torch.as_tensor(reward >= 1),
        "answer": answers,
        "text": [" ".join(filter(None, parts)) for parts in zip(asked, answers, said)],
    }


def notes_by_task(notes: Mapping[str, Any] | None) -> dict[int, list[str]]:
    """The texts of a record by the task that they belong to, oldest first."""
    found: dict[int, list[str]] = {}
    if notes:
        for task, text in zip(notes["task"].tolist(), notes["text"]):
            found.setdefault(int(task), []).append(" ".join(text.split()))
    return found


def episode_fields(actor: ModelSpec, tasks: DataSpec, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `episode`."""
    sizes = [tasks.fields[split]["question"].axes[0][1] for split in tasks.splits]
    drawn = tasks.facts.get("drawn", sizes[0])
    prompt = (("prompt", drawn if isinstance(drawn, int) and drawn >= 0 else None),)
    return {
        "task": FieldSpec("int", prompt, target=("task", None if None in sizes else sum(size or 0 for size in sizes))),
        "reward": FieldSpec("real", prompt),
        "correct": FieldSpec("bool", prompt),
        "answer": FieldSpec("text", prompt),
        "text": FieldSpec("text", prompt),
    }


# ---- one text for each text


@primitive(
    "call", writer="model", texts="record", instruction="text", group="int >= 1", max_tokens="int >= 1", temperature="real > 0",
    top_p="real in (0, 1]", top_k="int >= 0", stop="text",
)  # fmt: skip
def generate(
    writer: Any,
    texts: Mapping[str, Any],
    instruction: str = "",
    group: int = 1,
    max_tokens: int = 24,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str = "",
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
) -> Record:
    """`group` texts by the writer for each text of a record, which it reads behind `instruction`. Nothing is verified.

    `texts`: a record with `text`; what else it says of a row (task, reward, ..) is not passed on, but for `task`. `temperature`, `top_p`, `top_k`,
    `stop` as in `sample`. Returns the fields of `sample` without reward, correct and prompt_id; group [sample -> prompt] is the text that was read,
    `read` that text itself (without the instruction), `text` what was written.
    """
    import torch

    read = [instruction + text for text in texts["text"]]
    asked = [writer.tokenizer.encode(writer.tokenizer.chat(text)) for text in read]
    owner = numpy.repeat(numpy.arange(len(asked)), group)
    copies = numpy.tile(numpy.arange(group), len(asked))
    device = writer.head.device
    index = torch.as_tensor(owner, device=device)
    task = {"task": texts["task"].to(device)[index]} if "task" in texts else {}
    keys = task["task"].cpu().numpy() if task else owner  # so that a draw does not depend on what else is asked
    marks = (stop,) if stop else ()
    draws = draws_of(random.key(seed, "generate", tick, *site), keys, copies, max_tokens)
    drawn = respond(writer, asked, owner, draws, Decoding(max_tokens, float(temperature), float(top_p), top_k, marks))
    prompt, prompt_mask = (torch.tensor(rows, device=device)[index] for rows in pad_left(asked, writer.tokenizer.pad_id))
    return task | {
        "ids": torch.cat([prompt, drawn["action"]], dim=1),
        "prompt_mask": torch.cat([prompt_mask, torch.zeros_like(drawn["mask"])], dim=1),
        "mask": drawn["mask"],
        "action": drawn["action"],
        "logp_old": drawn["logp"],
        "entropy_old": drawn["entropy"],
        "length": drawn["mask"].sum(-1),
        "finished": drawn["finished"],
        "group": index,
        "copy": torch.as_tensor(copies, device=device),
        "read": [texts["text"][row] for row in owner],
        "text": written(drawn, writer, marks),
    }


def written(drawn: Mapping[str, Tensor], writer: Any, marks: Sequence[str]) -> list[str]:
    """What was written, as one line: blanks and new lines around and inside are single blanks."""
    return [" ".join(text.split()) for text in texts_of(drawn["action"], drawn["mask"], writer.tokenizer, marks)]


def generate_fields(
    writer: ModelSpec, texts: Mapping[str, FieldSpec], group: Any = 1, max_tokens: Any = 24, **options: Any
) -> Mapping[str, FieldSpec]:
    """The record of `generate`."""
    vocabulary = writer.facts.get("vocabulary")
    read = texts["text"].axes[0][1] if "text" in texts else None
    sample, token = (
        ("sample", read * group if read is not None and isinstance(group, int) else None),
        ("token", max_tokens if isinstance(max_tokens, int) else None),
    )
    word = ("word", vocabulary if isinstance(vocabulary, int) else None)
    fields = {
        **response_fields(sample, token, word),
        "group": FieldSpec("int", (sample,), target=("prompt", read)),
        "copy": FieldSpec("int", (sample,)),
        "read": FieldSpec("text", (sample,)),
        "text": FieldSpec("text", (sample,)),
    }
    if "task" in texts:
        fields["task"] = FieldSpec("int", (sample,), target=texts["task"].target)
    return fields
