"""What a program will do and need, for people (`render`) and as data (`summary`): `gradflow plan` before anything runs.

`summary` reads the program into plain dictionaries; `render` lays these out for a width: a flow's chain on one line where it fits, else one
stage a line, with the type of what flows on every arrow and what is known of it. Sizes are of the values themselves, in the precision of the
phase. What it costs (`cost/`) is shown where it was worked out: a program that is only read has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradflow.analyses.arrows import arrow_properties
from gradflow.cost.devices import devices_of
from gradflow.events.traffic import clock_facts, told
from gradflow.graph.types import Axis, Type
from gradflow.plan.program import Assign, DataPlan, ModelPlan, Periodic, Phase, Program, Update, asked_for
from gradflow.privacy.plan import rows as privacy_rows
from gradflow.privacy.plan import summary as privacy
from gradflow.procedures.acts import Hold, WorldCall
from gradflow.procedures.shown import draws_of, keeping_of
from gradflow.schedules.gain import rows_for_people
from gradflow.schedules.gain import summary as scheduled
from gradflow.views.normalizers import terms_of
from gradflow.views.plan_cost import against_rows, fusion_rows, memory_rows, network_time_rows, time_row, work_rows
from gradflow.views.plan_export import export, mermaid
from gradflow.views.topology import drawing, facts_line, is_drawn

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2}
VERSION = 1
SHOWN = (  # of a topology's facts
    "links", "connected", "components", "diameter", "central", "doubly_stochastic", "slem", "chi_1", "chi_2", "weights", "rounds",
    "hub", "factors", "edges",
)  # fmt: skip


# ---- as data


def summary(program: Program, cost: Mapping[str, Any] | None = None, against: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The program as dictionaries, lists, numbers and texts; `version` counts the changes of this form.

    `cost`: the record of `cost/figures.py`; `against`: predicted and measured figures of a run, each {what, unit, predicted, measured}.
    """
    precision = str(program.phases[0].settings.get("precision", "float32")) if program.phases else "float32"
    return {
        "version": VERSION, "name": program.name, "doc": program.doc, "source": program.source,
        "parameters": {name: _parameter(value) for name, value in program.parameters.items()},
        "models": [_model(plan, precision) for plan in program.models.values()],
        "data": [_data(plan) for plan in program.data.values()],
        "inputs": {name: str(type_) for name, type_ in program.inputs.items()},
        "phases": [_phase(phase, program) for phase in program.phases],
        **({"schedule": how} if (how := scheduled(program, (cost or {}).get("scheduled"))) is not None else {}),
        **({"privacy": private} if (private := privacy(program)) is not None else {}),
        **({"cost": dict(cost)} if cost is not None else {}), **({"against": list(against)} if against else {}),
    }  # fmt: skip


def _parameter(value: Any) -> Any:
    from gradflow.passes.values import NONE, kind_name

    if isinstance(value, bool | int | float):
        return value
    return "none" if value is NONE else (value if isinstance(value, str) else kind_name(value)).replace("`", "")


def _entries(axes: tuple[Axis, ...]) -> int | None:
    """How many entries axes have; None where a size is not known."""
    sizes = [axis.size for axis in axes]
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def bytes_of(type_: Type, precision: str) -> int | None:
    entries = _entries(type_.axes)
    return None if entries is None else entries * {"bool": 1, "int": 8}.get(type_.base, WIDTHS[precision])


def _model(plan: ModelPlan, precision: str) -> dict[str, Any]:
    copies = _entries(plan.lifted)
    size = plan.spec.size
    return {
        "name": plan.name, "kind": f"copy of {plan.copy_of}" if plan.copy_of is not None else "free tensor" if plan.free else plan.spec.name,
        "parameters": size, "leaves": len(plan.spec.leaves), "copies": copies, "axes": [str(axis) for axis in plan.lifted],
        "bytes": size * copies * WIDTHS[precision] if copies is not None else None,
    }  # fmt: skip


def _data(plan: DataPlan) -> dict[str, Any]:
    spec = plan.spec
    rows = {split: next((size for field in fields.values() for _, size in field.axes[:1]), None) for split, fields in spec.fields.items()}
    return {"name": plan.name, "kind": spec.name, "batch": spec.batch, "rows": rows, "nodes": plan.nodes}


def _phase(phase: Phase, program: Program) -> dict[str, Any]:
    precision = str(phase.settings.get("precision", "float32"))
    actions = phase.actions
    return {
        "count": phase.count, "unit": phase.unit, "settings": dict(phase.settings),
        "draws": [_call(call, name, times) for name, call, times in draws_of(actions)],
        "kept": keeping_of(actions, lambda type_: bytes_of(type_, precision)),
        "held": [n.split("/")[1] for one in actions if isinstance(one, Hold) for n, _ in one.region.results if n.startswith("held/")],
        "flows": [_flow(action, program, precision) for action in actions if isinstance(action, Update)],
        "assigns": [action.model for action in actions if isinstance(action, Assign)],
        "reports": [_periodic(one) for one in phase.periodic],
        "final": _periodic(phase.final) if phase.final is not None else None,
    }  # fmt: skip


def _call(call: WorldCall, name: str, times: int = 1) -> dict[str, Any]:
    types = {key: Type(f.base, tuple(Axis(*a) for a in f.axes), Axis(*f.target) if f.target is not None else None) for key, f in call.fields.items()}
    options = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in call.options.items()}
    computed = dict.fromkeys(key.partition("/")[0] for key, _ in (call.inputs.results if call.inputs is not None else ()))
    options |= {key: "computed" for key in computed if key not in call.data}
    data = [f"{one}.{split}" for one, split in call.data.values()]
    fields = {key: str(type_) for key, type_ in types.items()}
    return {"name": name, "call": call.primitive, "models": dict(call.models), "data": data, "options": options, "fields": fields, "times": times}


def _flow(action: Update, program: Program, precision: str) -> dict[str, Any]:
    results = dict(action.region.results)
    notes = action.facts.get("stages") or tuple((stage, "", "", "") for stage in action.stages)
    known_of = arrow_properties(action, program, notes)
    stages = [{"stage": s, "kind": kind, "arrives": at, "gives": gives, "leaves": known_of[i]} for i, (s, kind, at, gives) in enumerate(notes)]
    states = [{"name": state.key, "type": str(state.type), "bytes": bytes_of(state.type, precision)} for state in action.states]
    known = [state["bytes"] for state in states if state["bytes"] is not None]
    loss = results.get("loss")
    return {
        "flow": action.flow, "trains": list(action.models), "parameters": sum(program.models[name].spec.size for name in action.models),
        "stages": stages, "loss": terms_of(loss) if loss is not None else [], "states": states, "state_bytes": sum(known),
        "stated": list(action.facts.get("stated", ())),
        "clocks": clock_facts(action.events, WIDTHS[precision]) if action.events is not None else [],
        "topology": _topology(action), "rollout": [name for name, _ in action.rollout.results] if action.rollout is not None else [],
        "operations": len(action.region.nodes()), "reports": [name.removeprefix("report/") for name in results if name.startswith("report/")],
        **({"devices": devices_of(action, program, WIDTHS[precision])} if action.spread else {}),
    }  # fmt: skip


def _topology(action: Update) -> dict[str, Any] | None:
    if action.topology is None:
        return None
    facts = asked_for(action.facts.get("topology"))
    found = {"name": action.topology.name, "nodes": action.topology.nodes, "directed": action.topology.directed}
    if facts is None:
        return {**found, "changes": True}
    properties = {name: getattr(facts, name) for name in SHOWN}
    return {**found, "changes": False, **properties, "degree": (facts.degree_least, facts.degree_most), "spectral_gap": facts.gap}


def _periodic(one: Periodic) -> dict[str, Any]:
    names = [name for name, _ in one.region.results]
    return {"count": one.count, "unit": one.unit, "values": names, "calls": [call.primitive for call in one.calls], "checkpoint": one.checkpoint}


# ---- for people


def render(
    program: Program, width: int = 100, color: bool = False, cost: Mapping[str, Any] | None = None, against: Sequence[Mapping[str, Any]] = (),
    form: str = "text",
) -> str:  # fmt: skip
    """The plan as text (or `html`, `svg`, `mermaid`), at most `width` columns wide; `cost` and `against` as for `summary`."""
    plan = summary(program, cost, against)
    if form != "text":
        return mermaid(plan) if form == "mermaid" else export(_parts(plan, width, pictures=False), program.name, width, form, topologies_of(plan))
    from io import StringIO

    from rich.console import Console

    system: Any = "standard" if color else None
    console = Console(file=StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False, color_system=system)
    for part in _parts(plan, width):
        console.print(part, soft_wrap=False)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def topologies_of(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The topologies that can be drawn, each once."""
    found = [flow["topology"] for phase in plan["phases"] for flow in phase["flows"] if is_drawn(flow["topology"])]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _parts(plan: Mapping[str, Any], width: int, pictures: bool = True) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [Text.assemble((plan["name"], "bold"), f"  {plan['doc']}" if plan["doc"] else "")]
    if plan["parameters"]:
        parts.append(Padding(Text("with " + ", ".join(f"{k} = {_value(x)}" for k, x in plan["parameters"].items())), (0, 0, 0, 2)))
    parts += [Text(), _declared(plan)]
    for number, phase in enumerate(plan["phases"], 1):
        parts += [Text(), Text(_train_line(phase, number if len(plan["phases"]) > 1 else 0), style="bold")]
        for draw in phase["draws"]:
            parts.append(Padding(Text(_draw_line(draw)), (0, 0, 0, 2)))
        if phase["kept"]:
            parts.append(Padding(_states(phase["kept"]), (0, 0, 0, 2)))
        for flow in phase["flows"]:
            parts += [Text(), *(Padding(part, (0, 0, 0, 2)) for part in _flow_parts(flow, width - 2, pictures))]
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in _end_lines(phase)]
    if "schedule" in plan:
        parts += [Text(), _table(list(rows_for_people(plan["schedule"])))]
    if "privacy" in plan:
        parts += [Text(), Text("privacy", style="bold"), Padding(_table(privacy_rows(plan["privacy"])), (0, 0, 0, 2))]
    return [*parts, *_cost_parts(plan)]


def _cost_parts(plan: Mapping[str, Any]) -> list[RenderableType]:
    """What it costs: one table, a phase's work under its own head where there are several."""
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    if "cost" in plan:
        cost = plan["cost"]
        rows = list(memory_rows(cost))
        times = cost["time"]["phases"] if "time" in cost else [None] * len(cost["phases"])
        for number, (phase, time) in enumerate(zip(cost["phases"], times, strict=True), 1):
            rows += [("", f"phase {number}")] if len(cost["phases"]) > 1 else []
            rows += work_rows(phase, time, cost["time"]["machine"] if "time" in cost else "")
        rows += [*time_row(cost), *network_time_rows(cost), *fusion_rows(cost, False), *(("note", note) for note in cost["notes"])]
        parts += [Text(), Text("cost", style="bold"), Padding(_table(rows), (0, 0, 0, 2))]
    if plan.get("against"):
        head = ("", "predicted", "measured", "")
        parts += [Text(), Text("predicted and measured", style="bold"), Padding(_table([head, *against_rows(plan["against"])]), (0, 0, 0, 2))]
    return parts


def _declared(plan: Mapping[str, Any]) -> RenderableType:
    rows: list[tuple[str, ...]] = []
    for model in plan["models"]:
        copies = f", a copy for each of [{', '.join(model['axes'])}]" if model["axes"] else ""
        size = f"{_count(model['parameters'], 'parameter')} in {_count(model['leaves'], 'leaf', 'leaves')}{copies}"
        rows.append(("model", model["name"], model["kind"], size, _bytes(model["bytes"])))
    for data in plan["data"]:
        sizes = ", ".join(f"{split} {size if size is not None else '?'}" for split, size in data["rows"].items())
        batch = f"batches of {data['batch']}" if data["batch"] is not None else "all rows at once"
        nodes = f"; divided among {data['nodes']} nodes" if data["nodes"] else ""
        rows.append(("data", data["name"], data["kind"], f"rows: {sizes}; {batch}{nodes}", ""))
    for name, text in plan["inputs"].items():
        rows.append(("input", name, text, "given by the caller", ""))
    return _table(rows)


def _train_line(phase: Mapping[str, Any], number: int) -> str:
    settings = ", ".join(f"{key}: {_value(value)}" for key, value in phase["settings"].items())
    head = f"phase {number}: " if number else ""
    unit = phase["unit"].removesuffix("s") if phase["count"] == 1 else phase["unit"]
    return f"{head}train {phase['count']:,} {unit}{f' ({settings})' if settings else ''}"


def _draw_line(draw: Mapping[str, Any]) -> str:
    options = ", ".join([*draw["models"].values(), *draw["data"], *(f"{key}: {_value(value)}" for key, value in draw["options"].items())])
    return f"draw {draw['name']} ~ {draw['call']}({options})" + (f", at most {draw['times']} times" if draw["times"] > 1 else "")


def _flow_parts(flow: Mapping[str, Any], width: int, pictures: bool) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    topology = flow["topology"]
    devices = flow.get("devices")
    over = f" over {topology['name']}" if topology is not None else f" over devices(shard: {devices['shard']})" if devices else ""
    work = f"{_count(flow['parameters'], 'parameter')}, {_count(flow['operations'], 'operation')} a step"
    head = Text.assemble((f"flow {', '.join(flow['trains'])}{over}", "bold"), f"  {work}")
    parts: list[RenderableType] = [head, *_chain(flow, width)]
    facts = [("loss" if number == 0 else "", ("" if number == 0 else "+ ") + term) for number, term in enumerate(flow["loss"])]
    if topology is not None:
        facts.append(("graph", facts_line(topology)))
    if devices:
        facts.append(("devices", _devices_text(devices)))
    facts += [("objective" if number == 0 else "", line) for number, line in enumerate(flow["stated"])]
    facts += [("clocks" if number == 0 else "", line) for number, line in enumerate(told(flow["clocks"]))]
    picture = [Text(line, style="dim") for line in drawing(topology, width - 4)] if pictures and is_drawn(topology) else []
    if flow["rollout"]:
        facts.append(("once", f"a unit, before mini-batches: {_count(len(flow['rollout']), 'value')}"))
    if flow["reports"]:
        facts.append(("reports", ", ".join(flow["reports"])))
    parts += [Padding(line, (0, 0, 0, 4)) for line in picture]
    return [*parts, *([_table(facts)] if facts else []), *([_states(flow["states"])] if flow["states"] else [])]


def _chain(flow: Mapping[str, Any], width: int) -> list[RenderableType]:
    """`loss --> backprop --[param: 650]--> adam --> net`, on one line or, where that does not fit, one stage a line."""
    from rich.text import Text

    stages = flow["stages"]
    target = ", ".join(flow["trains"])
    arrivals = [stage["arrives"] if place and stages[place - 1]["kind"] != "objective" else "" for place, stage in enumerate(stages)]
    arrows = [f"--{arrives}-->" if arrives else "-->" for arrives in arrivals]
    names = [stage["stage"] for stage in stages]
    flat = " ".join(part for arrow, name in zip(["", *arrows[1:]], names) for part in (arrow, name) if part) + f" --> {target}"
    given = [f"{stage['stage']} gives {stage['gives']}" for stage in stages if stage["gives"]]
    given += [f"{stage['stage']} --> {stage['leaves']}" for stage in stages if stage["leaves"]]
    if len(flat) <= width:
        return [Text(flat, style="cyan"), *(Text(f"  {text}") for text in given)]
    lines: list[RenderableType] = []
    for place, stage in enumerate(stages):
        if place:
            known = f"  {stages[place - 1]['leaves']}" if stages[place - 1]["leaves"] else ""
            lines.append(Text(f"  | {arrivals[place]}{known}".rstrip(), style="dim"))
        lines.append(Text.assemble((stage["stage"], "cyan"), f"  ({stage['kind']})" if stage["kind"] else ""))
        if stage["gives"]:
            lines.append(Text(f"    gives {stage['gives']}"))
    return [*lines, Text("  |", style="dim"), Text(target, style="cyan")]


def _table(rows: Sequence[tuple[str, ...]]) -> RenderableType:
    """Columns without lines; texts as they are, since `[param]` is no markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _states(states: list[Mapping[str, Any]]) -> RenderableType:
    short = [re.sub(r"^[\d.|]+", "", state["name"]) for state in states]
    names = short if len(set(short)) == len(short) else [state["name"] for state in states]
    rows = [("state", name, state["type"], _bytes(state["bytes"])) for name, state in zip(names, states)]
    together = [("", "", "together", _bytes(sum(state["bytes"] or 0 for state in states)))] if len(states) > 1 else []
    return _table([*rows, *together])


def _devices_text(devices: Mapping[str, Any]) -> str:
    what = "rows of the batch" if devices["shard"] == "none" else "rows of the batch, parameters, gradients and states"
    sent, kept = _bytes(devices["sent"]), _bytes(devices["kept"])
    return f"split: {what}; each of {devices['ranks']} processes would keep {kept} of parameters and states, and send {sent} an update"


def _end_lines(phase: Mapping[str, Any]) -> list[str]:
    lines = [f"then {model} <- ..  (assigned every {phase['unit'].removesuffix('s')})" for model in phase["assigns"]]
    for one in [*phase["reports"], *([phase["final"]] if phase["final"] else [])]:
        unit = one["unit"].removesuffix("s") if one["count"] == 1 else f"{one['count']} {one['unit']}"
        when = f"every {unit}" if one["count"] else "at the end"
        what = [*one["values"], *(["a checkpoint"] if one["checkpoint"] else [])]
        calls = f"  (calls {', '.join(one['calls'])})" if one["calls"] else ""
        lines.append(f"{when}: {', '.join(what) or 'nothing'}{calls}")
    return ["", *lines] if lines else []


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _bytes(count: int | None) -> str:
    if count is None:
        return "size not known"
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
