"""Artifacts: what is written is read back equal and runs the same; what is damaged is refused with a sentence, and nothing else happens."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gradflow.graph.graph import Region
from gradflow.graph.spec import verify
from gradflow.library import catalogue
from gradflow.plan import artifact, program, schema
from gradflow.plan.artifact import ArtifactError, decode, encode, load, save
from gradflow.plan.header import FORMAT, HEADER, MAGIC
from gradflow.plan.writing import document
from gradflow.procedures import acts
from tests.plan.programs import LOOP, looped, of, shipped

START = len(MAGIC) + HEADER.size


def framed(payload: bytes, version: int = FORMAT) -> bytes:
    """A payload under a header that fits it."""
    return MAGIC + HEADER.pack(version, len(payload), hashlib.sha256(payload).digest()) + payload


def packed(content: Any) -> bytes:
    return framed(msgpack.packb(content))


def content() -> dict[str, Any]:
    """The document of the small program, ready to be spoiled."""
    return msgpack.unpackb(encode(looped())[START:], strict_map_key=False)


# ---- there and back


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_pipelines_survive(name: str) -> None:
    data = encode(shipped()[name])
    again = decode(data)
    assert encode(again) == data
    assert again.models.keys() == shipped()[name].models.keys() and again.text == shipped()[name].text


def test_a_loop_survives() -> None:
    assert encode(decode(encode(looped()))) == encode(looped())


def test_the_same_program_gives_the_same_bytes_in_another_process() -> None:
    code = "\n".join([
        "import hashlib", "from tests.plan.programs import looped", "from gradflow.plan.artifact import encode",
        "print(hashlib.sha256(encode(looped())).hexdigest())",
    ])  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == hashlib.sha256(encode(looped())).hexdigest(), done.stderr


@pytest.mark.parametrize("name", ["looped", "17_diffgrad:valley", "17_diffgrad:digits", "14_econtrol:compressed_digits", "11_dct_lowrank:digits"])
def test_what_was_read_back_gives_the_same_numbers(name: str) -> None:
    from gradflow.runtime.events import Report, UnitDone
    from gradflow.runtime.executor import Options, execute

    original = looped() if name == "looped" else shipped()[name]

    def numbers(one: Any) -> list[Any]:
        events = list(execute(one, Options(steps=2)))
        return [e.values for e in events if isinstance(e, Report)] + [e.loss for e in events if isinstance(e, UnitDone)]

    found = numbers(decode(encode(original)))
    assert found == numbers(original)
    assert len({str(value) for value in found}) > 1  # something moved


def test_every_field_of_a_program_is_written() -> None:
    """A new field of the program's dataclasses has to be given a place here, or it is lost."""
    pairs = {
        program.ModelPlan: (schema.ModelDoc, {"name", "spec"}), program.DataPlan: (schema.DataDoc, {"name", "spec"}),
        program.StatePlan: (schema.StateDoc, set()), acts.WorldCall: (schema.CallDoc, set()), acts.Draw: (schema.DrawDoc, set()),
        acts.Hold: (schema.HoldDoc, set()),
        acts.Loop: (schema.LoopDoc, set()), program.Assign: (schema.AssignDoc, set()), program.Update: (schema.UpdateDoc, set()),
        program.Periodic: (schema.PeriodicDoc, set()), program.Phase: (schema.PhaseDoc, set()), program.Program: (schema.ProgramDoc, set()),
        catalogue.FieldSpec: (schema.FieldDoc, set()),
    }  # fmt: skip
    for kind, (doc, rebuilt) in pairs.items():
        names = {field.name for field in dataclasses.fields(kind)}
        assert names - rebuilt <= set(doc.model_fields), kind


def test_parameters_come_back_as_values_or_as_texts() -> None:
    again = decode(encode(looped())).parameters
    assert again["rate"] == 0.1 and str(again["none_here"]) == "none" and "sgd" in again["rule"]


def test_a_model_from_python_cannot_be_written() -> None:
    plan = shipped()["17_diffgrad:digits"]
    models = {name: dataclasses.replace(model, declaration=None) for name, model in plan.models.items()}
    with pytest.raises(ArtifactError, match="bound from Python"):
        encode(dataclasses.replace(plan, models=models))


# ---- files


def test_saving_is_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gfp"
    save(looped(), path)
    assert encode(load(path)) == path.read_bytes() and [p.name for p in tmp_path.iterdir()] == ["a.gfp"]

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            with pytest.raises(ArtifactError, match="No space left"):
                save(shipped()["17_diffgrad:valley"], path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.gfp"]


def test_loading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.gfp: cannot be read: No such file"):
        load(tmp_path / "none.gfp")
    path = tmp_path / "long.gfp"
    with path.open("wb") as file:
        file.truncate(artifact.LARGEST + 1000)
    with pytest.raises(ArtifactError, match="larger than 16 MiB"):
        load(path)


# ---- refusals


def spoil(change: Any) -> bytes:
    found = content()
    change(found)
    return packed(found)


def first_of(found: dict[str, Any], op: str) -> dict[str, Any]:
    return next(node for node in found["nodes"] if node["op"] == op)


REFUSED = {
    "no compiled artifact": lambda: b"PK\x03\x04" + encode(looped()),
    "ends inside its header": lambda: encode(looped())[:20],
    "cut off": lambda: encode(looped())[:-1],
    "follows its end": lambda: encode(looped()) + b"\0",
    "does not match its hash": lambda: encode(looped())[:-1] + b"\xc1",
    "by a newer gradflow": lambda: framed(encode(looped())[START:], FORMAT + 1),
    "by an older gradflow": lambda: framed(encode(looped())[START:], FORMAT - 1),
    "follows the end of its content": lambda: framed(encode(looped())[START:] + b"\xc0"),
    "a key twice": lambda: framed(b"\x82\xa1a\x01\xa1a\x02"),
    "cannot be read": lambda: framed(b"\x81\xa1a\xc7\x01\x05x"),
    "is not as it should be": lambda: packed([1, 2]),
    "`nodes` is not": lambda: spoil(lambda d: d.pop("nodes")),
    "Extra inputs": lambda: spoil(lambda d: d.update(more=1)),
    "unknown operation `exec`": lambda: spoil(lambda d: first_of(d, "pack").update(op="exec")),
    "unknown operation `hole`": lambda: spoil(lambda d: first_of(d, "source").update(op="hole")),
    "does not stand before it": lambda: spoil(lambda d: first_of(d, "mul").update(inputs=[len(d["nodes"]) - 1, 0])),
    "NaN": lambda: spoil(lambda d: first_of(d, "item")["attrs"].update(more=float("nan"))),
    "NaN is allowed": lambda: spoil(lambda d: d["phases"][0]["settings"].update(seed=float("nan"))),
    "lacks the attribute `index`": lambda: spoil(lambda d: first_of(d, "item").update(attrs={})),
    "is not legal": lambda: spoil(lambda d: first_of(d, "mul").update(inputs=[0])),
    "lacks the body": lambda: spoil(lambda d: first_of(d, "scan").update(body=None)),
    "refers to type": lambda: spoil(lambda d: d["nodes"][0].update(type=9999)),
    "lacks the result `param/w`": lambda: spoil(lambda d: d["phases"][0]["actions"][0]["region"].update(results=[])),
    "parameters of `w`": lambda: spoil(lambda d: d["models"].pop("w") and d["models"].pop("slow")),
    "has 6 parameters here": lambda: spoil(lambda d: d["models"]["w"].update(shape=[6])),
    "Input should be a valid integer": lambda: spoil(lambda d: d["phases"][0].update(count="3")),
    "nested too deeply": lambda: spoil(lambda d: d["phases"][0]["settings"].update(seed=[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]])),
}


@pytest.mark.parametrize("sentence", sorted(REFUSED))
def test_refused_with_a_sentence(sentence: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        decode(REFUSED[sentence](), "x.gfp")
    assert sentence in str(caught.value) and str(caught.value).startswith("x.gfp: ") and "\n" not in str(caught.value)


def declared(change: Any) -> bytes:
    found = msgpack.unpackb(encode(shipped()["17_diffgrad:digits"])[START:], strict_map_key=False)
    change(found)
    return packed(found)


@pytest.mark.parametrize(
    ("sentence", "change"),
    [
        ("declared by no model", lambda d: d["models"]["net"]["declaration"].update(primitive="os.system")),
        ("declared by no model", lambda d: d["models"]["net"]["declaration"].update(primitive="digits")),
        ("declared by no data", lambda d: d["data"]["train"]["declaration"].update(primitive="mlp")),
        ("has no parameter `shell`", lambda d: d["models"]["net"]["declaration"]["options"].update(shell="yes")),
        ("cannot be", lambda d: d["models"]["net"]["declaration"].update(places=[64, -1, 10])),
        ("parameters here, the plan was made for", lambda d: d["models"]["net"]["declaration"].update(places=[64, 32, 10])),
        ("which no data set has", lambda d: d["data"].pop("train")),
    ],
)
def test_declarations_are_checked_like_specs(sentence: str, change: Any) -> None:
    with pytest.raises(ArtifactError, match=sentence):
        decode(declared(change))


def test_bombs_are_refused_before_they_cost_much() -> None:
    """16 MiB of the dearest containers: refused within a bounded memory."""
    code = """
import resource, sys
from tests.plan.test_artifact import framed
from gradflow.plan.artifact import ArtifactError, decode
size = 15 * 2**20
half, whole = (b"\\xdd" + count.to_bytes(4, "big") for count in (size // 2, size))
bombs = [half + b"\\x91\\xc0" * (size // 2), whole + b"\\x80" * size, b"\\x91" * size]
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode(framed(bomb))
        sys.exit("taken")
    except ArtifactError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MiB")
sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 400 * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stdout + done.stderr


# ---- fuzz


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Bits flipped, stretches cut out, doubled, or replaced."""
    spoiled = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        place, length = dice.randrange(len(spoiled)), dice.randrange(1, 40)
        kind = dice.randrange(5)
        if kind == 0:
            spoiled[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del spoiled[place : place + length]
        elif kind == 2:
            spoiled[place:place] = spoiled[place : place + length]
        elif kind == 3:
            spoiled[place : place + length] = dice.randbytes(length)
        else:
            del spoiled[place:]
        if not spoiled:
            break
    return bytes(spoiled)


def test_500_damaged_artifacts_are_refused() -> None:
    dice, data, tried = random.Random(1), encode(looped()), 0
    while tried < 500:
        spoiled = mutated(data, dice)
        if spoiled == data:
            continue
        tried += 1
        with pytest.raises(ArtifactError):
            decode(spoiled)


def accepted(data: bytes) -> bool:
    """Whether an artifact is taken; one that is must hold a legal program. Anything but ArtifactError goes through."""
    try:
        found = decode(data)
    except ArtifactError:
        return False
    for phase in found.phases:
        for action in phase.actions:
            if isinstance(getattr(action, "region", None), Region):
                verify(action.region, "loading")
    encode(found)
    return True


def test_500_forged_payloads_never_raise_anything_else() -> None:
    dice, payload = random.Random(2), encode(looped())[START:]
    taken = sum(accepted(framed(mutated(payload, dice))) for _ in range(500))
    assert taken < 250


NUMBERS = (-1, 0, 1, 3, 2**31, 2**63, 0.5, float("inf"), float("nan"))
JUNK: tuple[Any, ...] = (None, True, *NUMBERS, "", "x", "node", [], [[]], [0], [-1, 2], {}, {"a": 1})


def forged(value: Any, dice: random.Random) -> Any:
    """A document with one value somewhere inside replaced, dropped, doubled or taken from elsewhere in it."""
    if isinstance(value, dict) and value and dice.random() < 0.97:
        key = dice.choice(list(value))
        kind = dice.random()
        if kind < 0.02:
            return {k: x for k, x in value.items() if k != key}
        return {**value, (key if kind < 0.98 else f"{key}!"): forged(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.97:
        place = dice.randrange(len(value))
        kind = dice.random()
        if kind < 0.03:
            return value[:place] + value[place + 1 :]
        if kind < 0.06:
            return value[: place + 1] + value[place:]
        return [*value[:place], forged(value[place], dice), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and dice.random() < 0.5:
        return value + dice.choice((-1, 1, 2, 10))
    return dice.choice(JUNK)


@pytest.mark.parametrize("text", [LOOP, ""])
def test_500_forged_documents_never_raise_anything_else(text: str) -> None:
    plan = of(text) if text else shipped()["14_econtrol:compressed_digits"]
    clean = msgpack.unpackb(encode(plan)[START:], strict_map_key=False)
    dice = random.Random(3)
    taken = 0
    for _ in range(500):
        spoiled = forged(clean, dice)
        try:
            data = packed(spoiled)
        except (OverflowError, ValueError):
            continue
        taken += accepted(data)
    assert 0 < taken < 400


def test_document_is_plain() -> None:
    def check(value: Any) -> None:
        assert value is None or isinstance(value, bool | int | float | str | dict | tuple)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
            check(inner)

    check(document(looped()))
