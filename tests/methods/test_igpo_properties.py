"""Invariants of IGPO: the sampler and the hints against the procedures written out, what replacement does to advantages, which tokens teach."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.verify import drivers, evaluate

from .cases import close, seeds

BOTH = pytest.mark.parametrize("backend", ["reference", "torch"])
some = settings(max_examples=12, deadline=None)
BLANK, EOT, WORDS = 6, 5, 7


def found(component: str, inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return {name: value.numpy() for name, value in evaluate(f"09-igpo.{component}", params, inputs, backend).items()}


# ---- the sampler


def tables(r: numpy.random.Generator, places: int, ending: float = 0.0) -> dict[str, numpy.ndarray]:
    """A toy model that never says the blank; `ending`: how much it likes to end."""
    made = {"Wpos": r.normal(size=(places, WORDS))} | {name: r.normal(size=(WORDS, WORDS)) for name in ("S", "Nl", "Nr", "M")}
    made["Wpos"][:, BLANK] = -40
    made["Wpos"][:, EOT] += ending
    return made


def toy(x: numpy.ndarray, t: dict[str, numpy.ndarray]) -> numpy.ndarray:
    logits = t["Wpos"] + t["S"][x] + t["M"][x].mean(1, keepdims=True)
    logits[:, 1:] += t["Nl"][x[:, :-1]]
    logits[:, :-1] += t["Nr"][x[:, 1:]]
    return logits


def written_out(
    canvas: numpy.ndarray, prompt: int, t: dict[str, numpy.ndarray], noise: numpy.ndarray, width: int, calls: int, heat: float, guidance: float
) -> dict[str, Any]:
    """Block by block, call by call, row by row."""
    x, free = canvas.copy(), canvas == BLANK
    free[:, :prompt] = False
    blocks = (canvas.shape[1] - prompt) // width
    filled, made, each = numpy.full(canvas.shape, -1), 0, calls // blocks
    for block in range(blocks):
        stretch = slice(prompt + block * width, prompt + (block + 1) * width)
        total = ((x == BLANK) & free)[:, stretch].sum(1)
        if not total.any():
            continue
        for i in range(each):
            todo = (x == BLANK) & free
            if not todo.any():
                break
            logits = toy(x, t)
            if guidance > 0:
                other = toy(numpy.where(free, x, BLANK), t)
                logits = other + (guidance + 1) * (logits - other)
            guess = (logits - heat * numpy.log(-numpy.log(noise[made])) if heat else logits).argmax(-1)
            p = numpy.exp(logits - logits.max(-1, keepdims=True))
            sure = numpy.take_along_axis(p / p.sum(-1, keepdims=True), guess[..., None], -1)[..., 0]
            todo[:, stretch.stop :] = False
            for row in range(len(x)):
                quota = total[row] // each + (i < total[row] % each)
                best = numpy.argsort(-numpy.where(todo[row], sure[row], -1), kind="stable")[:quota]
                x[row, best], filled[row, best] = guess[row, best], made
            made += 1
        if (x[:, stretch] == EOT).all():
            x[(x == BLANK) & free] = EOT
            break
    return {"tokens": x, "fixed": ~free, "n_model_calls": made, "filled_at_call": filled}


@st.composite
def samplings(draw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    r = numpy.random.default_rng(draw(seeds))
    width, blocks, rows, prompt = *(draw(st.integers(1, n)) for n in (4, 3, 3)), draw(st.integers(0, 3))
    each = draw(st.integers(1, 5))
    length = width * blocks
    canvas = numpy.concatenate([r.integers(0, 5, (rows, prompt)), numpy.full((rows, length), BLANK)], 1)
    hinted = r.uniform(size=(rows, length)) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    if draw(st.booleans()):
        hinted[:, :width] = draw(st.booleans())
    canvas[:, prompt:][hinted] = r.integers(0, 6, int(hinted.sum()))
    heat = draw(st.sampled_from([0.0, 0.7, 1.2]))
    inputs = tables(r, prompt + length, draw(st.sampled_from([0.0, 4.0, 30.0])))
    inputs |= {"first_input": canvas, "noise": r.uniform(1e-9, 1, size=(each * blocks if heat else 0, rows, prompt + length, WORDS))}
    params = {"gen_length": length, "block_length": width, "steps": each * blocks, "temperature": heat, "mask_id": BLANK, "eot_id": EOT}
    return params | {"prompt_len": prompt, "cfg_scale": draw(st.sampled_from([0.0, 0.0, 1.5])), "remasking": "low_confidence"}, inputs


@BOTH
@some
@given(samplings())
def test_the_sampler_is_the_procedure_written_out(backend: str, case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    params, inputs = case
    ours = found("sampler", inputs, backend, **params)
    canvas, prompt = inputs["first_input"], params["prompt_len"]
    t = {name: inputs[name] for name in ("Wpos", "S", "Nl", "Nr", "M")}
    theirs = written_out(canvas, prompt, t, inputs["noise"], params["block_length"], params["steps"], params["temperature"], params["cfg_scale"])
    for name, value in theirs.items():
        numpy.testing.assert_array_equal(ours[name], value, err_msg=name)
    fixed = (canvas != BLANK) | (numpy.arange(canvas.shape[1]) < prompt)
    numpy.testing.assert_array_equal(ours["tokens"][fixed], canvas[fixed], err_msg="hints never change")
    assert (ours["tokens"] != BLANK).all(), "every blank is filled"
    assert (ours["n_model_calls"] == 0) == (not (canvas == BLANK).any())


@BOTH
def test_all_answers_that_have_ended_end_the_sampling(backend: str) -> None:
    r = numpy.random.default_rng(0)
    inputs = tables(r, 13, ending=60.0) | {"first_input": numpy.full((2, 13), BLANK), "noise": numpy.zeros((0, 2, 13, WORDS))}
    inputs["first_input"][:, 0] = 1
    how = {"gen_length": 12, "block_length": 4, "mask_id": BLANK, "eot_id": EOT, "prompt_len": 1}
    ours = found("sampler", inputs, backend, steps=6, **how)
    assert int(ours["n_model_calls"]) == 2 and (ours["tokens"][:, 1:] == EOT).all()
    assert (ours["filled_at_call"][:, 5:] == -1).all() and (ours["filled_at_call"][:, 1:5] >= 0).all()


@BOTH
@some
@given(seeds, st.integers(1, 9), st.integers(1, 5))
def test_a_schedule_gives_out_all_evenly_and_more_first(backend: str, seed: int, steps: int, rows: int) -> None:
    mask = numpy.random.default_rng(seed).uniform(size=(rows, 11)) < 0.6
    n = found("transfer_schedule", {"mask": mask}, backend, steps=steps)["num_transfer"]
    numpy.testing.assert_array_equal(n.sum(1), mask.sum(1))
    assert (numpy.diff(n, axis=1) <= 0).all() and (n.max(1) - n.min(1) <= 1).all()


# ---- hints


def planned(
    question: Any, answer: Any, draws: Any, masked: Any, length: int, low: int, gap: int, last: bool, tail: int, widest: float, ratio: float
) -> Any:
    area = max(0, length - tail)
    room = numpy.full(length, BLANK)
    used = min(len(answer), area)
    chunks, i = [], 0
    for size in draws:
        size = min(int(size), used - i)
        if i >= used or size < low:
            break
        chunks.append((i, i + size))
        i += size
    shown = [c for k, c in enumerate(chunks) if ratio < 1 and (ratio == 0 or k not in masked or (last and k == len(chunks) - 1))]
    stretch = max(1.0, min(widest, area / max(len(answer), 1)))
    end = before = None
    for begin, stop in shown:
        start = int(begin * stretch) if end is None else end + min(int((begin - before) * stretch), gap)
        if start >= area:
            break
        end = min(start + stop - begin, area)
        room[start:end] = answer[begin : begin + end - start]
        before = stop
    return numpy.concatenate([question, room])


@BOTH
@some
@given(seeds, st.integers(1, 4), st.integers(0, 30), st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.booleans(), st.integers(0, 6))
def test_hints_lie_where_the_plan_says(backend: str, seed: int, low: int, steps: int, length: int, ratio: float, last: bool, tail: int) -> None:
    r = numpy.random.default_rng(seed)
    question, answer = r.integers(0, 5, int(r.integers(0, 4))), r.integers(0, 5, steps)
    used = min(steps, max(0, length - tail))
    draws = r.integers(low, low + 5, used // low + 1)
    exist = int((numpy.cumsum(draws) - draws + low <= used).sum())
    masked = r.permutation(exist)[: exist if ratio == 1 else 0 if ratio == 0 else int(ratio * exist)]
    gap, widest = int(r.integers(0, 12)), float(r.uniform(1, 2))
    inputs = {"question": question, "answer": answer, "chunk_size_draws": draws, "masked_chunks": masked}
    options = {"gen_length": length, "mask_ratio": ratio, "min_chunk_size": low, "max_chunk_size": low + 4, "max_spacing": gap}
    options |= {"inpaint_last_chunk_end": last, "mask_id": BLANK, "free_tail": tail, "max_stretch": widest}
    ours = found("hint_plan", inputs, backend, **options)
    theirs = planned(question, answer, draws, set(masked.tolist()), length, low, gap, last, tail, widest, ratio)
    numpy.testing.assert_array_equal(ours["sequence"], theirs)
    numpy.testing.assert_array_equal(ours["generate_mask"], (theirs == BLANK) & (numpy.arange(len(theirs)) >= len(question)))


# ---- replacement


@BOTH
@some
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 5))
def test_replacement_leaves_advantages_that_sum_to_nothing(backend: str, seed: int, groups: int, size: int, most: int) -> None:
    r = numpy.random.default_rng(seed)
    right = r.uniform(size=(groups, size)) < r.uniform()
    perm = numpy.full((groups, size), -1)
    for group, row in enumerate(right):
        if row.sum() > most:
            perm[group, : row.sum()] = r.permutation(row.sum())
    made = found("elastic_replace", {"inpaint_correct": right.reshape(-1), "perm": perm}, backend, group_size=size, max_replacements=most)
    source, advantage = made["source"].reshape(groups, size), made["advantage"].reshape(groups, size)
    for group in range(groups):
        count = min(int(right[group].sum()), most)
        taken = source[group][source[group] >= 0] - group * size
        assert len(taken) == len(set(taken.tolist())) == count and right[group][taken].all()
        assert (source[group, :count] >= 0).all() and (source[group, count:] == -1).all()
        close(advantage[group], numpy.where(numpy.arange(size) < count, 1 - count / size, -count / size))
        close(advantage[group].sum(), 0)
        close((advantage[group] ** 2).mean(), count / size * (1 - count / size))
    assert int(made["n_replaced"]) == int((source >= 0).sum())


# ---- which tokens teach, and how


@BOTH
@some
@given(seeds, st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_of_the_hints_only_the_least_certain_teach(backend: str, seed: int, keep: float) -> None:
    r = numpy.random.default_rng(seed)
    entropy, masked, hint = r.uniform(size=(2, 3, 9)), r.uniform(size=(2, 3, 9)) < 0.7, r.uniform(size=(3, 9)) < r.uniform()
    mask = found("entropy_filter", {"entropy": entropy, "masked": masked, "hint": hint}, backend, keep_ratio=keep)["loss_mask"]
    among = masked & hint
    numpy.testing.assert_array_equal(mask & ~hint, masked & ~hint)
    count = numpy.where(among.any(-1), numpy.maximum(1, numpy.floor(keep * among.sum(-1))), 0)
    numpy.testing.assert_array_equal((mask & hint).sum(-1), count)
    kept, dropped = numpy.where(mask & hint, entropy, numpy.inf).min(-1), numpy.where(among & ~mask, entropy, -numpy.inf).max(-1)
    assert (kept >= dropped).all() and not (mask & ~masked).any()
    if keep == 1:
        numpy.testing.assert_array_equal(mask, masked)
    none = found("entropy_filter", {"entropy": entropy, "masked": masked, "hint": hint & False}, backend, keep_ratio=keep)["loss_mask"]
    numpy.testing.assert_array_equal(none, masked)


def losses(r: numpy.random.Generator, rows: int, places: int) -> dict[str, numpy.ndarray]:
    logp, logp_old, logp_ref = (-r.uniform(0.1, 4, (rows, places)) for _ in range(3))
    mask = r.uniform(size=(rows, places)) < 0.7
    mask[0, 0] = True
    return {"logp": logp, "logp_old": logp_old, "logp_ref": logp_ref, "advantage": r.normal(size=rows), "token_mask": mask}


@BOTH
@some
@given(seeds, st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.04]))
def test_the_loss_is_the_formula(backend: str, seed: int, rows: int, places: int, beta: float) -> None:
    inputs = losses(numpy.random.default_rng(seed), rows, places)
    change, advantage, mask = inputs["logp"] - inputs["logp_old"], inputs["advantage"][:, None], inputs["token_mask"]
    for level in ("token", "sequence"):
        ratio = numpy.exp(change if level == "token" else change.mean(1, keepdims=True) + 0 * change)
        surrogate = -numpy.minimum(ratio * advantage, ratio.clip(0.8, 1.28) * advantage)
        gap = inputs["logp_ref"] - inputs["logp"]
        made = found("loss", inputs, backend, ratio=level, beta=beta, epsilon_low=0.2, epsilon_high=0.28)
        close(made["loss"], (surrogate + beta * (numpy.exp(gap) - gap - 1))[mask].mean(), rtol=1e-8)
        close(made["policy_ratio_mean"], ratio[mask].mean(), rtol=1e-8)


@some
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_limits_of_the_loss(seed: int, rows: int, places: int) -> None:
    r = numpy.random.default_rng(seed)
    inputs = losses(r, rows, 1)
    token, sequence = (found("loss", inputs, ratio=level, beta=0.01) for level in ("token", "sequence"))
    for name, value in token.items():
        close(sequence[name], value, rtol=1e-9)
    inputs = losses(r, rows, places)
    mask = inputs["token_mask"]
    for level in ("token", "sequence"):
        made = found("loss", inputs | {"logp_old": inputs["logp"]}, ratio=level, beta=0.0)
        close(made["loss"], -numpy.broadcast_to(inputs["advantage"][:, None], mask.shape)[mask].mean())
        close(made["policy_ratio_mean"], 1)
        nothing = found("loss", inputs | {"token_mask": mask & False}, ratio=level, beta=0.04)
        assert float(nothing["loss"]) == 0 and not nothing["grad_logp"].any()
        flat = found("loss", inputs | {"advantage": 0 * inputs["advantage"]}, ratio=level, beta=0.0)
        assert not flat["grad_logp"].any(), "a group of equal rewards teaches nothing"


@BOTH
@some
@given(seeds, st.integers(0, 3))
def test_with_everything_hidden_the_estimate_needs_no_draw(backend: str, seed: int, prompt: int) -> None:
    r = numpy.random.default_rng(seed)
    ids = r.integers(0, 5, (2, prompt + 4))
    inputs = tables(r, prompt + 4) | {"ids": ids, "d_logp": r.normal(size=(2, 4))}
    one, other = (
        found("logp_estimate", inputs | {"uniform": r.uniform(size=ids.shape)}, backend, mask_id=BLANK, prompt_len=prompt) for _ in range(2)
    )
    for name, value in one.items():
        numpy.testing.assert_array_equal(value, other[name])
    seen = numpy.where(numpy.arange(prompt + 4) < prompt, ids, BLANK)
    logits = toy(seen, inputs)
    level = logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))
    close(one["logp"], numpy.take_along_axis(level, ids[..., None], -1)[:, prompt:, 0], rtol=1e-9)


@BOTH
@some
@given(seeds)
def test_the_bound_weighs_hidden_words_by_the_level(backend: str, seed: int) -> None:
    r = numpy.random.default_rng(seed)
    rows, places = int(r.integers(1, 4)), int(r.integers(1, 7))
    ids, prompt = r.integers(0, 5, (rows, places)), r.integers(0, places + 1, rows)
    level, u = r.uniform(size=rows), r.uniform(size=(rows, places))
    inputs = tables(r, places) | {"ids": ids, "prompt_len": prompt, "u_t": level, "u_mask": u}
    made = found("sft_nelbo", inputs, backend, mask_id=BLANK, eps=1e-3)
    rate, answer = (1 - 1e-3) * level + 1e-3, numpy.arange(places) >= prompt[:, None]
    hidden = (u < rate[:, None]) & answer
    logits = toy(numpy.where(hidden, BLANK, ids), inputs)
    loss = numpy.log(numpy.exp(logits).sum(-1)) - numpy.take_along_axis(logits, ids[..., None], -1)[..., 0]
    close(made["loss"], (loss * hidden / rate[:, None]).sum() / max(answer.sum(), 1), rtol=1e-9)
    numpy.testing.assert_array_equal(made["target_mask"], hidden)
    assert all(numpy.isfinite(value).all() for value in made.values())


# ---- rollouts

ROLLOUT = """
function rolled(extra: hinted | plain | none = hinted, group: int >= 2 = 4, most: int >= 1 = 2) {
  input asked : int[prompt, ask]
  input trace : int[prompt, step]
  input steps : int[prompt]
  input final : int[prompt, digit]
  input Wpos  : [place, word]
  input S     : [seen, word]
  made = answered(
    asked, trace, steps, final, extra: extra, group: group, most: most, blank: 6, length: 8, solved: solved(equals: 4, eot: 5),
    sampler: denoise(net: x => Wpos + S[seen: x], blank: 6, eot: 5, length: 8, width: 4, calls: 4),
    hints: hinted(length: 8, blank: 6, tail: 0, low: 2)
  )
  return (tokens: arrange(made.tokens, [sample, place]), hint: arrange(made.hint, [sample, place]), reward: made.reward, advantage: made.advantage,
          lost: made.lost, left: made.left)
}
"""


@BOTH
def test_only_groups_that_are_all_wrong_are_answered_again(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, clocks = drivers.lowered, {("clock", "seed"): 1, ("clock", "tick"): 0}
    monkeypatch.setattr(drivers, "lowered", lambda region, which: lambda given: lowered(region, which)(given | clocks))
    r = numpy.random.default_rng(5)
    trace = numpy.array([[0, 1, 4, 2, 5, 5], [1, 1, 4, 3, 5, 5], [2, 0, 4, 1, 5, 5]])
    inputs = {"asked": trace[:, :2], "trace": trace, "steps": numpy.array([4, 4, 4]), "final": trace[:, 3:4]}
    inputs |= {"Wpos": r.normal(size=(10, WORDS)), "S": 0.1 * r.normal(size=(WORDS, WORDS))}
    inputs["Wpos"][:, BLANK] = -40
    inputs["Wpos"][2:, :4] += numpy.array([0.5, 0.5, 1.5, -2.0])
    inputs["Wpos"][[4, 5, 6, 7, 8, 9], [4, 2, 5, 5, 5, 5]] += 8
    home = Module.of(Source("rollout.gflow", ROLLOUT))
    runs = {extra: drivers.drive(home, "rolled", {"extra": extra, "group": 8}, inputs, backend) for extra in ("none", "hinted", "plain")}
    before = runs["none"]["reward"].reshape(3, 8)
    lost = before.sum(1) == 0
    assert 0 < lost.sum() < 3, "some groups are all wrong, and some are not"
    for extra in ("hinted", "plain"):
        made = runs[extra]
        same = numpy.repeat(~lost, 8)
        for name in ("tokens", "reward", "advantage", "hint"):
            numpy.testing.assert_array_equal(made[name][same], runs["none"][name][same], err_msg=name)
        after = made["reward"].reshape(3, 8)
        close(made["advantage"].reshape(3, 8), after - after.mean(1, keepdims=True))
        assert (after[lost].sum(1) <= 2).all() and float(made["lost"]) == pytest.approx(lost.mean())
        assert float(made["left"]) == pytest.approx((after.sum(1) == 0).mean())
        swapped = made["reward"] > runs["none"]["reward"]
        assert not made["hint"][~swapped].any() and not made["hint"][:, :2].any()
    assert not runs["plain"]["hint"].any() and not runs["none"]["hint"].any()


# ---- the whole method


def trained(**options: Any) -> tuple[dict[str, list[float]], dict[str, numpy.ndarray]]:
    program = gradflow.compile("09_igpo", terms=2, warm=20, rollouts=1, prompts=4, group=4, heat=1.2, share=0.7, lr=1e-2)
    running = program.run(seed=4, **options)
    for _ in running:
        pass
    reports = {name: [float(value) for _, value in series] for name, series in running.reports.items()}
    return reports, {leaf: value.detach().double().numpy().copy() for leaf, value in running.parameters("policy").items()}


def test_the_method_is_the_same_on_the_reference_and_on_torch() -> None:
    reports, parameters = trained(backend="reference")
    assert reports["before"][0] > 0 and reports["all_wrong"][0] < reports["before"][0], "hints made some answers right"
    others, moved = trained(backend="torch", precision="float64")
    for name, series in reports.items():
        close(others[name], series)
    for leaf, value in parameters.items():
        close(moved[leaf], value, rtol=1e-7, atol=1e-9)
