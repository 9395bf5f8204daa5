"""The words in which syntax errors speak: keywords, what other languages call them, what stray characters were meant to be, and how
a set of terminals is said in a sentence. `tests/language/test_parser.py` compares the keywords with the grammar.
"""

from __future__ import annotations

from collections.abc import Collection

KINDS = ("function", "objective", "estimator", "projection", "update", "exchange", "topology", "format", "schedule", "pipeline", "claim")
STATEMENT_WORDS = (
    *("doc", "cite", "input", "vary", "state", "data", "model", "minimize", "subject", "report", "return", "require", "prefer", "expect"),
    *("gives", "when", "repeat", "on", "backward", "every", "flow", "train", "schedule", "cut", "recompute", "carry", "link"),
    *("checkpoint", "reset"),
)
JOINING_WORDS = ("as", "over", "where", "in", "to", "with", "until", "per", "by", "if", "or", "and", "not", "each", "import")
RESERVED = frozenset(STATEMENT_WORDS) | frozenset(JOINING_WORDS)
KEYWORDS = RESERVED | frozenset(KINDS)

KIND_SYNONYMS = {
    **dict.fromkeys(("fn", "func", "fun", "def", "proc", "sub", "method", "class"), "function"),
    **dict.fromkeys(("loss", "criterion", "cost", "problem"), "objective"),
    **dict.fromkeys(("optimizer", "optimiser", "step", "rule"), "update"),
    **dict.fromkeys(("compressor", "transform", "preconditioner"), "projection"),
    **dict.fromkeys(("communication", "aggregator", "aggregation", "protocol"), "exchange"),
    **dict.fromkeys(("graph", "network"), "topology"),
    **dict.fromkeys(("experiment", "run", "job", "config"), "pipeline"),
    **dict.fromkeys(("theorem", "assertion", "benchmark"), "claim"),
    **dict.fromkeys(("dtype", "quantization", "storage"), "format"),
    **dict.fromkeys(("include", "use", "using", "from", "require"), "import"),
}
STATEMENT_SYNONYMS = {
    **dict.fromkeys(("minimise", "min", "optimize", "optimise"), "minimize"),
    **dict.fromkeys(("log", "print", "metric"), "report"),
    **dict.fromkeys(("assert", "needs", "ensure"), "require"),
    **dict.fromkeys(("inputs", "arg", "args"), "input"),
    **dict.fromkeys(("states", "buffer"), "state"),
    **dict.fromkeys(("loop", "for", "while"), "repeat"),
    **dict.fromkeys(("if", "unless"), "when"),
    **dict.fromkeys(("save",), "checkpoint"),
}
DROPPED_WORDS = ("let", "var", "const", "val", "set", "auto")

# What was written -> what to write. The first that fits the text wins.
OPERATORS = {
    "===": "==",
    "!==": "!=",
    "**": "^",
    "&&": "and",
    "||": "or",
    "<>": "!=",
    "//": "#",
    "/*": "#",
    "&": "and",
    "!": "not",
    "\u2212": "-",
    "\u2013": "-",
    "\u2014": "-",
    "\u00d7": "*",
    "\u00b7": "*",
    "\u22c5": "*",
    "\u2217": "*",
    "\u00f7": "/",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2260": "!=",
    "\u2192": "->",
    "\u21a6": "=>",
    "\u21d2": "=>",
    "\u2190": "<-",
    "\u2194": "<->",
    "\u223c": "~",
    "\u2208": "in",
    "\u221e": "inf",
    "\u2026": "..",
    "\u00b2": "^2",
    "\u00b3": "^3",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u00ab": '"',
    "\u00bb": '"',
    "\u2018": '"',
    "\u2019": '"',
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u3000": " ",
    "\u200b": "",
    "\ufeff": "",
    "\\": "",
}
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "ο": "omicron", "π": "pi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
ADVICE = {
    "@": ("`@` is not an operator here", "say which axis is summed: `dot(a, b, over: axis)`"),
    "$": ("`$` has no meaning in a spec", "write names as they are, without a sign before them"),
    "%": ("`%` only follows a number, as in `10%`", "the remainder of a division is `mod(a, b)`"),
    "?": ("there is no `? :`", "choose by value with `where(condition, a, b)`, by option with `case(option, a: .., b: ..)`"),
    "'": ("text stands in double quotes", 'write "..."'),
    "`": ("text stands in double quotes", 'write "..."'),
}

# ---- terminals in a sentence

EXPRESSION = frozenset({"NAME", "NUMBER", "PERCENT", "SIZE", "STRING", "LPAR", "LSQB", "MINUS", "NOT"})
OPERATION = frozenset({"ADD", "MUL", "CIRCUMFLEX", "COMPARE", "AND", "OR"})
AFTER_VALUE = frozenset({"DOT", "LPAR", "LSQB", "VBAR", "ON", "->", "=>", "..", "AS"})
STATEMENT = frozenset({"RETURN", "MINIMIZE", "STATE", "INPUT"})
TYPE = frozenset({"NAME", "KIND", "LSQB"})
SAID = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": 'a text in double quotes, `".."`',
    "KIND": "a definition (`function`, `objective`, `update`, `pipeline`, ...)",
    "_NL": "a new line",
    "$END": "the end of the file",
    "COMPARE": "a comparison",
    "ADD": "`+` or `-`",
    "MUL": "`*` or `/`",
    "CIRCUMFLEX": "`^`",
    "DECLARE": "`data` or `model`",
    "BARE": "`checkpoint` or `reset`",
    "MINUS": "`-`",
    "PERCENT": "a share such as `10%`",
    "SIZE": "a size such as `4GB`",
    "BACKWARD": "`backward`",
    "EACH": "`each`",
}


def said(accepted: Collection[str], literals: dict[str, str]) -> list[str]:
    """What fits, in words, the most telling first. `literals` gives the text of terminals that are one fixed text."""
    rest = set(accepted)
    parts: list[str] = []
    if rest >= STATEMENT:
        ends = [name for name in ("RBRACE",) if name in rest]
        return ["a statement", *(f"`{literals[name]}`" for name in ends)]
    if rest >= EXPRESSION - {"NOT"}:
        parts.append("an expression")
        rest -= EXPRESSION
    elif rest >= {"NAME", "STRING", "LSQB"}:
        parts.append('a pattern such as `[row, col]`, `linear(..)` or `"*.bias"`')
        rest -= {"NAME", "STRING", "LSQB", "EACH"}
    elif rest >= TYPE and "COMPARE" not in rest:
        parts.append("a type such as `[sample]` or `real > 0`")
        rest -= TYPE | {"EACH"}
    if rest >= OPERATION:
        parts.append("an operator")
        rest -= OPERATION | {name for name in rest if name in AFTER_VALUE or literals.get(name) in AFTER_VALUE}
    order = [*SAID, *sorted(rest)]
    for name in sorted(rest, key=lambda n: (n in ("_NL", "$END", "RBRACE"), order.index(n))):
        parts.append(SAID.get(name) or f"`{literals.get(name, name.lower())}`")
    return list(dict.fromkeys(parts))


def listed(parts: list[str], last: str = "or") -> str:
    """`a, b or c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""
