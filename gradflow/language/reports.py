"""Diagnostics for programs: one JSON document, SARIF 2.1.0, and the annotations that a forge's continuous integration reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from gradflow.language.diagnostics import Diagnostic, Edit
from gradflow.language.source import Source, Span

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def _end(span: Span, sources: Mapping[str, Source]) -> tuple[int, int]:
    """Line and column just behind a span."""
    source = sources.get(span.file)
    if source is None:
        return span.line, span.column + span.length
    after = source.span(span.end, span.end)
    return after.line, after.column


def _place(span: Span, sources: Mapping[str, Source]) -> dict[str, Any]:
    end_line, end_column = _end(span, sources)
    return {"file": span.file, "line": span.line, "column": span.column, "end_line": end_line, "end_column": end_column}


def as_json(diagnostics: Sequence[Diagnostic], sources: Mapping[str, Source]) -> str:
    """One list of objects; lines and columns count from 1, offsets from 0, ends are just behind the last character."""
    return json.dumps([_json_object(d, sources) for d in diagnostics], indent=2, ensure_ascii=False)


def _json_object(d: Diagnostic, sources: Mapping[str, Source]) -> dict[str, Any]:
    return {
        "code": d.code,
        "severity": d.severity,
        "message": d.message,
        **_place(d.span, sources),
        "label": d.label,
        "secondary": [{**_place(label.span, sources), "text": label.text} for label in d.secondary],
        "why": d.why,
        "fix": d.fix,
        "edits": [{**_place(e.span, sources), "offset": e.span.offset, "length": e.span.length, "text": e.text} for e in d.edits],
    }


# ---- SARIF


def as_sarif(diagnostics: Sequence[Diagnostic], sources: Mapping[str, Source]) -> str:
    from gradflow.language.codes import PAGES

    codes = sorted({d.code for d in diagnostics})
    rules = [{"id": code, "shortDescription": {"text": PAGES[code].title if code in PAGES else code}} for code in codes]
    results = [_sarif_result(d, codes.index(d.code), sources) for d in diagnostics]
    run = {"tool": {"driver": {"name": "gradflow", "rules": rules}}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _sarif_result(d: Diagnostic, rule: int, sources: Mapping[str, Source]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": d.code,
        "ruleIndex": rule,
        "level": d.severity,
        "message": {"text": ". ".join(part for part in (d.message, d.label, d.why) if part)},
        "locations": [{"physicalLocation": _sarif_place(d.span, sources)}],
    }
    if d.secondary:
        result["relatedLocations"] = [
            {"id": number, "message": {"text": label.text}, "physicalLocation": _sarif_place(label.span, sources)}
            for number, label in enumerate(d.secondary)
        ]
    if d.edits:
        result["fixes"] = [_sarif_fix(d.fix or d.message, d.edits, sources)]
    return result


def _sarif_fix(text: str, edits: Sequence[Edit], sources: Mapping[str, Source]) -> dict[str, Any]:
    changes = [
        {
            "artifactLocation": {"uri": quote(file)},
            "replacements": [{"deletedRegion": _region(e.span, sources), "insertedContent": {"text": e.text}} for e in edits if e.span.file == file],
        }
        for file in dict.fromkeys(e.span.file for e in edits)
    ]
    return {"description": {"text": text}, "artifactChanges": changes}


def _sarif_place(span: Span, sources: Mapping[str, Source]) -> dict[str, Any]:
    return {"artifactLocation": {"uri": quote(span.file)}, "region": _region(span, sources)}


def _region(span: Span, sources: Mapping[str, Source]) -> dict[str, int]:
    end_line, end_column = _end(span, sources)
    return {"startLine": span.line, "startColumn": span.column, "endLine": end_line, "endColumn": end_column}


# ---- annotations


def as_github(diagnostics: Sequence[Diagnostic], sources: Mapping[str, Source]) -> str:
    return "\n".join(_annotation(d, sources) for d in diagnostics)


def _annotation(d: Diagnostic, sources: Mapping[str, Source]) -> str:
    end_line, end_column = _end(d.span, sources)
    places = {"file": d.span.file, "line": d.span.line, "endLine": end_line, "col": d.span.column, "endColumn": end_column, "title": d.code}
    head = ",".join(f"{key}={_escaped(str(value), property=True)}" for key, value in places.items())
    body = "\n".join(part for part in (d.message, d.why and f"why: {d.why}", d.fix and f"fix: {d.fix}") if part)
    return f"::{d.severity} {head}::{_escaped(body)}"


def _escaped(text: str, property: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
