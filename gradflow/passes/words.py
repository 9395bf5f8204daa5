"""The words by which statements are called in messages, and the message about one that stands where it means nothing."""

from __future__ import annotations

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes.suggestions import head

WORDS: dict[type, str] = {
    s.Doc: "doc", s.Input: "input", s.Vary: "vary", s.State: "state", s.Minimize: "minimize", s.SubjectTo: "subject to", s.ReportAs: "report",
    s.Return: "return", s.Gives: "gives", s.When: "when", s.Repeat: "repeat", s.On: "on", s.Backward: "backward", s.Every: "every", s.Flow: "flow",
    s.Train: "train", s.ScheduleIs: "schedule", s.Cut: "cut", s.Recompute: "recompute", s.Carry: "carry", s.Link: "link",
}  # fmt: skip


def statement_word(statement: s.Statement) -> str:
    if isinstance(statement, s.Require | s.Declare):
        return statement.kind
    if isinstance(statement, s.Bare):
        return statement.word
    if isinstance(statement, s.Bind):
        return statement.op
    return WORDS[type(statement)]


def misplaced(statement: s.Statement, place: str, why: str, fix: str) -> Mistake:
    word = statement_word(statement)
    return mistake("E0501", head(statement.span, word), f"`{word}` has no place {place}", why=why, fix=fix)


def expression_text(node: s.Node) -> str:
    """An expression, type or pattern on one line, as the formatter writes it."""
    from gradflow.language.format_expressions import Comments, Expressions

    return Expressions(Comments(())).inline(node)
