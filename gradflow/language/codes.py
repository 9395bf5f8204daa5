"""The page behind every diagnostic's code: what `gradflow explain E0102` prints.

One dictionary a family; `PAGES` is all of them. `wrong` is a short text that gives the diagnostic, `right` the same text mended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    title: str
    text: str
    wrong: str
    right: str


SYNTAX: dict[str, Page] = {
    "E0101": Page(
        "text that does not fit",
        "What was read so far is complete, or needs something else than what follows. The message names the construct that was being read "
        "and what can follow there. Two values beside each other need an operator or a comma between them; two statements a new line or `;`.",
        "function f(x: real) = x 2\n",
        "function f(x: real) = x * 2\n",
    ),
    "E0102": Page(
        "a bracket that is not closed",
        "Every `(`, `[` and `{` needs its partner before the block, the definition or the file ends. The second mark shows where the bracket "
        "was opened; among blocks it is the one whose `}` stands further left than the line that opened it. Only an interval in a type, as in "
        "`real in [0, 1)`, may close with another bracket than it opened with.",
        "function f(x: real) {\n  y = max(x, min(x, 1)\n  return y\n}\n",
        "function f(x: real) {\n  y = max(x, min(x, 1))\n  return y\n}\n",
    ),
    "E0103": Page(
        "a text without closing quote",
        "Texts begin and end with a double quote on one line, and there are no escapes: a text cannot hold a double quote. "
        "A long description is several `doc` lines; they are joined.",
        'update f() {\n  doc "Adam with a friction term.\n  param <- param - grad\n}\n',
        'update f() {\n  doc "Adam with a friction term."\n  param <- param - grad\n}\n',
    ),
    "E0104": Page(
        "a keyword used as a name",
        "The words that begin a statement (`state`, `input`, `report`, ...) cannot begin a statement as names. As a parameter, a field or inside "
        "an expression they may be names, but a name that can be bound is clearer.",
        "function f(x: real) {\n  input = 2 * x\n  return input\n}\n",
        "function f(x: real) {\n  doubled = 2 * x\n  return doubled\n}\n",
    ),
    "E0105": Page(
        "an unknown word where a keyword stands",
        "A definition begins with its kind (`function`, `objective`, `estimator`, `projection`, `update`, `exchange`, `topology`, `format`, "
        "`schedule`, `pipeline`, `claim`), a statement with its keyword or with the name that it binds. Spelling is American.",
        "objective f {\n  input x : [sample]\n  minimise mean(x)\n}\n",
        "objective f {\n  input x : [sample]\n  minimize mean(x)\n}\n",
    ),
    "E0106": Page(
        "a character or sign that does not belong",
        "Outside of texts and comments only ASCII is read, so that every keyboard can type a spec. Powers are `^`, logic is `and`, `or`, `not`, "
        "comments begin with `#`, equality is `==`, and `=`, `~` and `<-` bind.",
        "function f(x: real) = x ** 2\n",
        "function f(x: real) = x ^ 2\n",
    ),
    "E0107": Page(
        "a closing bracket without its opener",
        "Every bracket before this one is closed already.",
        "function f(x: real) = (x + 1))\n",
        "function f(x: real) = (x + 1)\n",
    ),
    "E0108": Page(
        "`every` without a unit",
        "What happens every so often is counted in steps, epochs, rounds, rollouts, tasks, events or time.",
        "pipeline p {\n  every 2 * n { checkpoint }\n}\n",
        "pipeline p {\n  every 2 * n steps { checkpoint }\n}\n",
    ),
    "E0109": Page(
        "something else than names before `=>`",
        "A function value has names on its left: `x => e`, or `(x, y) => e` for several.",
        "function f(x: real) {\n  g = 2 * x => x\n  return g(x)\n}\n",
        "function f(x: real) {\n  g = x => 2 * x\n  return g(x)\n}\n",
    ),
    "E0110": Page(
        "a sign or a word left out",
        "`input`, `vary` and parameters say what a name is with `:`; `=`, `~` and `<-` say what its value is; named arguments take `:`. "
        "Some statements have a word in the middle: `subject to`, `cut token by 128`, `link i <-> j`.",
        "function f {\n  input x [sample]\n  return mean(x)\n}\n",
        "function f {\n  input x : [sample]\n  return mean(x)\n}\n",
    ),
    "E0111": Page(
        "a number that cannot be read",
        "Numbers are decimal: `3`, `0.5`, `1e-3`, `1_000`; a share is `10%`, a size `4GB` (kB, MB, GB, TB: powers of 1000). The unit stands "
        "directly behind the number, and a product is written out.",
        "function f(x: real) = 2x + .5\n",
        "function f(x: real) = 2 * x + 0.5\n",
    ),
    "E0112": Page(
        "Python, or another language",
        "Definitions begin with their kind and hold their body in braces; the one loop is `repeat`; state changes under `when`; a choice "
        "between values is `where` or `case`; a change of state is written in full with `<-`; a function value is `x => e`.",
        "update f() {\n  state m = 0\n  m += grad\n  param <- param - m\n}\n",
        "update f() {\n  state m = 0\n  m <- m + grad\n  param <- param - m\n}\n",
    ),
    "E0113": Page(
        "something is missing at the end",
        "The end of a line ends a statement, except inside ( ) and [ ] and where the next line begins with an operator, `->` or `|`. "
        "A body opens on the line of its head.",
        "function f(x: real) {\n  y =\n    x + 1\n  return y\n}\n",
        "function f(x: real) {\n  y = x\n    + 1\n  return y\n}\n",
    ),
    "E0114": Page(
        "a statement outside of any definition",
        "A file holds `import` lines and definitions, nothing else.",
        "lr = 1e-3\n",
        "function lr = 1e-3\n",
    ),
    "E0115": Page(
        "a definition inside another, or behind it on one line",
        "Definitions stand at the top of a file, each on lines of its own, so that each can be used and explained alone. "
        "A short helper inside a body is a function value.",
        "update f() {\n  function half(x: real) = x / 2\n  param <- param - half(grad)\n}\n",
        "update f() {\n  half = x => x / 2\n  param <- param - half(grad)\n}\n",
    ),
    "E0116": Page(
        "a comma left out",
        "Arguments, parameters, axes and the entries of a list are separated by commas.",
        "function f(x: [sample, token]) = mean(x over: token)\n",
        "function f(x: [sample, token]) = mean(x, over: token)\n",
    ),
    "E0117": Page(
        "a statement that does nothing",
        "A name or a call alone has no effect: a statement binds a name, changes a state, or says something about its definition.",
        "function f(x: real) {\n  max(x, 1)\n  return x\n}\n",
        "function f(x: real) {\n  y = max(x, 1)\n  return y\n}\n",
    ),
    "E0118": Page(
        "text nested too deeply",
        "Later stages walk the tree recursively, so its depth is limited to what no spec comes near. Give inner parts names of their own.",
        f"function f(x: real) = {'(' * 60}x{')' * 60}\n",
        "function f(x: real) = x\n",
    ),
}
NAMES: dict[str, Page] = {}
TYPES: dict[str, Page] = {}
STAGES: dict[str, Page] = {}
DATA: dict[str, Page] = {}
WARNINGS: dict[str, Page] = {}

PAGES: dict[str, Page] = {**SYNTAX, **NAMES, **TYPES, **STAGES, **DATA, **WARNINGS}
