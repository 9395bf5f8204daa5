"""Programs for the tests of the runtime: shipped pipelines by name, and pipelines written in the tests."""

from functools import cache
from pathlib import Path

from gradflow import compiler
from gradflow.language.source import Source
from gradflow.passes.scope import Module, module
from gradflow.runtime.executor import Options, Run

PIPELINES = Path(compiler.__file__).parents[1] / "pipelines"

LOCK = """
pipeline lock {
  data  tasks  = combination_lock(prompts: 8, length: 2, vocabulary: 4)
  model policy = table_policy(prompts: 8, length: 2, vocabulary: 4)
  samples ~ sample(policy, tasks, group: 8)
  flow policy: grpo(score(policy, samples)) -> backprop -> sgd(lr: 4)
  train 12 rollouts (seed: 0, epochs: 2, minibatches: 3) {
    every 6 rollouts { report accuracy = pass_at_1(policy, tasks.test); report reward = mean(samples.reward, over: sample) }
  }
}
"""


@cache
def shipped(name, pipeline):
    return built(module(PIPELINES / f"{name}.gflow"), pipeline)


@cache
def written(text, pipeline=None):
    return built(Module.of(Source("inline.gflow", text)), pipeline)


def built(home, pipeline):
    program, diagnostics = compiler.build(home, pipeline)
    assert program is not None, "\n".join(f"{d.span} {d.code} {d.message}" for d in diagnostics)
    return program


def ran(program, inputs=None, folder=None, **options):
    """(the run when it is over, its events)."""
    run = Run(program, Options(**options), inputs, folder)
    return run, list(run.events())


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def series(events, name):
    from gradflow.runtime.events import Report

    return [event.values[name] for event in of_kind(events, Report) if name in event.values]
