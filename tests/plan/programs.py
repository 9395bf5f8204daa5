"""Programs to write, read and draw: every pipeline of the shipped specs that elaborates, and small ones with a loop and with everything."""

from __future__ import annotations

from functools import cache

from gradflow.compiler import build, pipelines_of
from gradflow.language.source import Source
from gradflow.passes.scope import Module, module, standard_files
from gradflow.plan.program import Program

LOOP = """function walk(decay: real = 0.5) {
  input x : [token]
  repeat token with total = 0.0 { total <- decay * total + x; seen = total }
  return mean(seen^2)
}
pipeline looped(rate: real > 0 = 0.1, rule: update = sgd(lr: rate), none_here: real | none = none) {
  doc "A loop, a free tensor, two phases."
  model w = free([token: 5])
  model slow = copy(w)
  loss = walk(w - 1)
  flow w: loss -> backprop -> clip_norm(1.0) -> rule
  slow <- 0.9 * slow + 0.1 * w
  train 3 steps (seed: 1) { every step { report loss = loss } }
  train 2 steps (precision: float64)
}
"""


@cache
def shipped() -> dict[str, Program]:
    found = {}
    for path in standard_files():
        home = module(path)
        for name in pipelines_of(home):
            program, _ = build(home, name)
            if program is not None:
                found[f"{path.stem}:{name}"] = program
    return found


def of(text: str) -> Program:
    program, diagnostics = build(Module.of(Source("<test>", text)))
    assert program is not None, diagnostics
    return program


@cache
def looped() -> Program:
    return of(LOOP)
