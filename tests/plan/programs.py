"""Programs to write, read and draw: every pipeline of the shipped specs that elaborates, and small ones with a loop and with everything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from gradflow.compiler import build
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


class Shipped(Mapping[str, Program]):
    """FILE:pipeline -> its program, elaborated when it is first asked for; the names cost no parsing."""

    def __init__(self) -> None:
        self.homes = {path.stem: module(path) for path in standard_files()}
        pipelines = re.compile(r"^pipeline (\w+)", re.MULTILINE)
        self.names = [f"{stem}:{name}" for stem, home in self.homes.items() for name in pipelines.findall(home.source.text)]
        self.built: dict[str, Program] = {}

    def __getitem__(self, name: str) -> Program:
        if name not in self.built:
            stem, _, pipeline = name.partition(":")
            program, diagnostics = build(self.homes[stem], pipeline)
            assert program is not None, diagnostics
            self.built[name] = program
        return self.built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@cache
def shipped() -> Shipped:
    return Shipped()


def of(text: str) -> Program:
    program, diagnostics = build(Module.of(Source("<test>", text)))
    assert program is not None, diagnostics
    return program


@cache
def looped() -> Program:
    return of(LOOP)
