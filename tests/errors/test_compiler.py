"""Mistakes that no text alone can make: on a command line, in the installation, or in a file that another one imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradflow.compiler import build, check_source, find_file, load
from gradflow.language.diagnostics import Diagnostic, GradflowError
from gradflow.language.printer import render
from gradflow.language.source import Source
from gradflow.library import catalogue
from gradflow.passes.scope import Module

TEXT = """pipeline p(lr: real > 0 = 0.1) {
  model x = free(1.0)
  flow x: x^2 -> backprop -> sgd(lr)
  train 10 steps
}
"""


def only(found: list[Diagnostic] | tuple[Diagnostic, ...]) -> Diagnostic:
    assert len(found) == 1
    assert found[0].why and found[0].fix
    return found[0]


def refused(call: Any, *arguments: Any) -> Diagnostic:
    with pytest.raises(GradflowError) as error:
        call(*arguments)
    return only(error.value.diagnostics)


def test_no_such_file() -> None:
    diagnostic = refused(find_file, "saop")
    assert (diagnostic.code, diagnostic.fix) == ("E0212", "did you mean `sapo`?")


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "latin.gflow"
    path.write_bytes("# größer\n".encode("latin-1"))
    assert refused(load, str(path)).code == "E0213"


def test_no_such_pipeline() -> None:
    module = Module.of(Source("a.gflow", TEXT))
    diagnostic = only(build(module, "q")[1])
    assert diagnostic.code == "E0214" and "`p`" in diagnostic.why
    assert only(build(Module.of(Source("a.gflow", "function f(x: real) = x\n")))[1]).code == "E0214"


@pytest.mark.parametrize(("text", "code"), [("lr", "E0215"), ("=3", "E0215"), ("rl=3", "E0404"), ("lr=0", "E0402"), ("lr=x", "E0201")])
def test_overrides(text: str, code: str) -> None:
    program, found = build(Module.of(Source("a.gflow", TEXT)), None, [text])
    assert program is None
    diagnostic = only(found)
    assert diagnostic.code == code
    assert diagnostic.span.file == "<command line>" and diagnostic.span.end <= len(text)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*widths: int, **options: Any) -> None:
        raise catalogue.MissingExtra("mlp", "llm", "transformers")

    primitive = catalogue.catalogue()["mlp"]
    monkeypatch.setitem(catalogue.catalogue(), "mlp", catalogue.Primitive("mlp", "model", missing, primitive.domains))
    text = "pipeline p {\n  model net = mlp(4, 2)\n  flow net: norm(net([1, 2, 3, 4])) -> backprop -> sgd(lr: 0.1)\n  train 10 steps\n}\n"
    diagnostic = only(check_source(Source("a.gflow", text)))
    assert diagnostic.code == "E0209" and diagnostic.fix.startswith("pip install")


def test_unknown_component_and_backend() -> None:
    from gradflow.graph.graph import Region
    from gradflow.verify.drivers import lowered
    from gradflow.verify.vectors import find_component

    with pytest.raises(GradflowError) as error:
        find_component("17-diffgard.diffgrad")
    assert error.value.diagnostics[0].code == "E0216"
    with pytest.raises(GradflowError) as error:
        lowered(Region(()), "jax")
    assert error.value.diagnostics[0].code == "E0217"


HELPERS = """function spread {
  input x : [row]
  return sqrt(mean((x - center(x))^2))
}
function center {
  input x : [row]
  return mean(x, over: col)
}
"""
CALLER = """import "helpers.gflow" as helpers

objective o {
  input x : [row]
  minimize 2 * helpers.spread(x)
}
"""
SHOWN = """error[E0303]: there is no axis `col` to reduce here
 --> caller.gflow:5:16
   |
 5 |   minimize 2 * helpers.spread(x)
   |                ^^^^^^^^^^^^^^^^^ in this call
 ::: helpers.gflow:7:24
   |
 7 |   return mean(x, over: col)
   |                        --- here
   |
   = why: the axes are `row`
   = fix: did you mean `row`?

1 error
"""


def test_mistake_in_an_imported_file(tmp_path: Path) -> None:
    """The call in the file that is checked comes first, the place in the other file second; nothing is mended there."""
    helpers = tmp_path / "helpers.gflow"
    helpers.write_text(HELPERS.replace("over: col", "over: rwo"))
    caller = Source(str(tmp_path / "caller.gflow"), CALLER)
    diagnostic = only(check_source(caller))
    assert diagnostic.span.file == caller.name and caller.text[diagnostic.span.offset : diagnostic.span.end] == "helpers.spread(x)"
    assert [label.span.file for label in diagnostic.secondary] == [str(helpers)]
    assert not diagnostic.edits
    shown = render([diagnostic], {caller.name: caller, str(helpers): Source.read(helpers)})
    lines = [line.strip() for line in shown.replace(f"{tmp_path}/", "").splitlines()]
    expected = SHOWN.replace("col", "rwo").splitlines()
    assert lines == [line.strip() for line in expected]
