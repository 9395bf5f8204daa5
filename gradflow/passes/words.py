"""The words by which statements are called in messages."""

from __future__ import annotations

from gradflow.language import syntax as s

WORDS: dict[type, str] = {
    s.Doc: "doc", s.Input: "input", s.Vary: "vary", s.State: "state", s.Minimize: "minimize", s.SubjectTo: "subject to", s.ReportAs: "report",
    s.Return: "return", s.Gives: "gives", s.When: "when", s.Repeat: "repeat", s.On: "on", s.Backward: "backward", s.Every: "every", s.Flow: "flow",
    s.Train: "train", s.ScheduleIs: "schedule", s.Cut: "cut", s.Recompute: "recompute", s.Carry: "carry", s.Link: "link",
}  # fmt: skip


def statement_word(statement: s.Statement) -> str:
    if isinstance(statement, s.Require):
        return statement.kind
    if isinstance(statement, s.Declare):
        return statement.kind
    if isinstance(statement, s.Bare):
        return statement.word
    if isinstance(statement, s.Bind):
        return statement.op
    return WORDS[type(statement)]


def expression_text(node: s.Node) -> str:
    """An expression, type or pattern on one line, as the formatter writes it."""
    from gradflow.language.format_expressions import Comments, Expressions

    return Expressions(Comments(())).inline(node)
