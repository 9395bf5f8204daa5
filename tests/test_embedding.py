"""Definitions alone in someone else's loop: optimizers beside torch's own, objectives under autograd, torch.compile and data parallel."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradflow


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)) for _ in range(count)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None, steps: int = 6) -> None:
    for x, y in batches(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def same(a: nn.Module, b: nn.Module, tolerance: float = 1e-6) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name,theirs,options,own",
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {"lr": 0.01}, {"lr": 0.01}),
        ("adamw", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.01, "decay": 0.1}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}, {"lr": 0.01, "momentum": 0.5}),
    ],
)
def test_equals_torch(name: str, theirs: Any, options: dict[str, Any], own: dict[str, Any]) -> None:
    ours_model, their_model = network(), network()
    start = copy.deepcopy(ours_model)
    train(ours_model, gradflow.optimizer(name, ours_model.parameters(), **own))
    train(their_model, theirs(their_model.parameters(), **options))
    same(ours_model, their_model)
    assert any(not torch.equal(p, q) for p, q in zip(start.parameters(), ours_model.parameters(), strict=True))


def test_learning_rate_schedules_and_groups() -> None:
    ours_model, their_model = network(), network()

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        first, last = model[0], model[2]  # type: ignore[index]
        return [{"params": list(first.parameters()), "lr": 0.02}, {"params": list(last.parameters())}]

    ours, theirs = gradflow.optimizer("adam", groups(ours_model), lr=0.01), torch.optim.Adam(groups(their_model), lr=0.01)
    train(ours_model, ours, torch.optim.lr_scheduler.CosineAnnealingLR(ours, 5))
    train(their_model, theirs, torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 5))
    same(ours_model, their_model)


@pytest.mark.parametrize("name", ["diffgrad", "adamw", "dct_adamw"])
def test_state_comes_back(name: str, tmp_path: Path) -> None:
    """Stopped after three steps, saved, loaded into a new optimizer: the same as never stopped."""
    straight, resumed = network(), network()
    whole = gradflow.optimizer(name, straight.parameters(), lr=0.01)
    first = gradflow.optimizer(name, resumed.parameters(), lr=0.01)
    data = batches(6)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, part: list[Any]) -> None:
        for x, y in part:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    steps(straight, whole, data)
    steps(resumed, first, data[:3])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = gradflow.optimizer(name, resumed.parameters(), lr=0.01)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    steps(resumed, second, data[3:])
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_without_a_gradient_stay(tmp_path: Path) -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = gradflow.optimizer("adamw", [used, unused], lr=0.1)
    (used**2).sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2)) and not torch.equal(used, torch.ones(3))
    assert unused not in optimizer.state


def test_a_stage_over_everything_sees_the_whole_group(tmp_path: Path) -> None:
    spec = tmp_path / "own.gflow"
    spec.write_text("update clipped(lr: real >= 0 = 0.1) = clip_norm(0.5) -> sgd(lr)\n")
    ours_model, their_model = network(), network()
    ours, theirs = gradflow.optimizer(f"{spec}:clipped", ours_model.parameters(), lr=0.1), torch.optim.SGD(their_model.parameters(), lr=0.1)
    for x, y in batches(3):
        for model, optimizer in ((ours_model, ours), (their_model, theirs)):
            optimizer.zero_grad()
            (20 * nn.functional.cross_entropy(model(x), y)).backward()
            if optimizer is theirs:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    same(ours_model, their_model)


def test_unknown_names_are_sentences() -> None:
    with pytest.raises(gradflow.GradflowError, match="did you mean `diffgrad`"):
        gradflow.optimizer("difgrad", network().parameters())
    with pytest.raises(gradflow.GradflowError, match="has no parameter `learning_rate`"):
        gradflow.optimizer("diffgrad", network().parameters(), learning_rate=0.1)
    with pytest.raises(gradflow.GradflowError, match="`lr` cannot be -1"):
        gradflow.optimizer("diffgrad", network().parameters(), lr=-1.0)


# ---- objectives


def samples(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logp_old = -torch.rand(4, 5, generator=generator, dtype=torch.float64)
    return {
        "logp": (logp_old + 0.3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)).requires_grad_(),
        "logp_old": logp_old,
        "mask": torch.arange(5)[None] < torch.tensor([5, 3, 4, 2])[:, None],
        "advantage": torch.randn(4, generator=generator, dtype=torch.float64),
    }


def by_hand(logp: torch.Tensor, logp_old: torch.Tensor, mask: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    ratio = (logp - logp_old).exp()
    tau = torch.where(advantage > 0, 1.0, 1.05)[:, None]
    term = -4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage[:, None]
    return ((term * mask).sum(1) / mask.sum(1)).mean()


def test_an_objective_and_its_gradient() -> None:
    ours, theirs = samples(), samples()
    loss = gradflow.objective("sapo")(**ours)
    expected = by_hand(**theirs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours["logp"].grad, theirs["logp"].grad)
    assert ours["logp"].grad.abs().sum() > 0


def test_other_shapes_and_groups() -> None:
    objective = gradflow.objective("grpo")
    for rows, tokens in ((2, 3), (6, 1), (1, 4)):
        logp = (-torch.rand(rows, tokens)).requires_grad_()
        reward = torch.arange(rows, dtype=torch.float32)
        loss = objective(
            logp=logp, logp_old=logp.detach(), mask=torch.ones(rows, tokens, dtype=torch.bool), reward=reward, group=torch.full((rows,), 7)
        )
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logp.grad).all()


def test_reports_are_kept() -> None:
    objective = gradflow.objective("sapo")
    objective(**samples())
    assert objective.reports["ratio_mean"].item() > 0


def test_under_torch_compile() -> None:
    objective = gradflow.objective("sapo")
    compiled = torch.compile(
        lambda logp, logp_old, mask, advantage: objective(logp=logp * 1.0, logp_old=logp_old, mask=mask, advantage=advantage) * 2.0
    )
    ours, theirs = samples(), samples()
    compiled(**ours).backward()
    (2 * by_hand(**theirs)).backward()
    torch.testing.assert_close(ours["logp"].grad, theirs["logp"].grad)


def _rank(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    model = nn.parallel.DistributedDataParallel(nn.Linear(5, 5, dtype=torch.float64))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64))
    optimizer = gradflow.optimizer("diffgrad", model.parameters(), lr=0.1)
    objective = gradflow.objective("sapo")
    given = samples(rank)
    for _ in range(2):
        optimizer.zero_grad()
        objective(**{**given, "logp": model(given["logp"].detach())}).backward()
        optimizer.step()
    if rank == 0:
        torch.save([p.detach() for p in model.parameters()], f"{folder}/result.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_under_data_parallel(tmp_path: Path) -> None:
    """Two processes with half of the data each: the mean of their gradients, as in one process with both losses."""
    torch.multiprocessing.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    model = nn.Linear(5, 5, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64))
    optimizer = gradflow.optimizer("diffgrad", model.parameters(), lr=0.1)
    objective = gradflow.objective("sapo")
    halves = [samples(0), samples(1)]
    for _ in range(2):
        optimizer.zero_grad()
        total = sum(objective(**{**given, "logp": model(given["logp"].detach())}) for given in halves)
        (total / 2).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), torch.load(tmp_path / "result.pt"), strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-10)


def tensors_of_a_group() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(4, 3, generator=generator)
    logp = (old + 0.4 * torch.randn(4, 3, generator=generator)).requires_grad_()
    mask = torch.arange(3)[None] < torch.tensor([3, 1, 2, 3])[:, None]
    return {"logp": logp, "logp_old": old, "mask": mask, "reward": torch.tensor([1.0, 0, 0, 1]), "group": torch.tensor([0, 0, 1, 1])}


def test_parts_of_an_objective_are_chosen_in_the_language() -> None:
    given = tensors_of_a_group()
    objective = gradflow.objective("grpo", surrogate="clipped(high: 0.28)", aggregate="token_mean()", credit="group_norm(scale: none)")
    ratio, advantage, mask = (given["logp"] - given["logp_old"]).exp(), (given["reward"] - 0.5)[:, None], given["mask"]
    tokens = torch.maximum(-ratio * advantage, -ratio.clamp(0.8, 1.28) * advantage)
    torch.testing.assert_close(objective(**given), (tokens * mask).sum() / mask.sum())
    held = ((ratio > 1.28) & (advantage > 0) & mask).sum() / mask.sum()
    assert held > 0
    torch.testing.assert_close(objective.reports["clip_high"], held)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"logp_old": torch.zeros(2, 3)}, "axis `sample` has 4 entries in `logp` and 2 in `logp_old`"),
        ({"reward": torch.zeros(4, 3)}, "`reward` has 2 axes"),
        ({"rewards": torch.zeros(4)}, "did you mean `reward`?"),
        ({"reward": [1.0, 0, 0, 1]}, "`reward` is a tensor, this is a list"),
    ],
)
def test_inputs_that_do_not_fit_are_told_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(gradflow.GradflowError, match=words.replace("?", "[?]")):
        gradflow.objective("grpo")(**tensors_of_a_group() | change)


@pytest.mark.parametrize("options,words", [({"beta": 0.1}, "TRL's `beta` is written"), ({"surrogate": "clipped(high: -1)"}, "`high` cannot be -1")])
def test_options_that_do_not_fit_are_told_as_in_a_spec(options: dict[str, Any], words: str) -> None:
    with pytest.raises(gradflow.GradflowError, match=words):
        gradflow.objective("grpo", **options)
