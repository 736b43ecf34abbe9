"""Files are damaged in ways that follow from a number, and tried one after the other."""

import copy
import faulthandler
import io
import json
import random
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from mobilenet_cli.pipeline.errors import MobilenetError

HANG_SECONDS, PEAK_MB = 60, 1500
NUMBERS = (0, 1, -1, 2, 7, 16, 99, 255, 2**16, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REALS = (0.0, -1.0, 1e-300, 1e38, 1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "\0", "a\0b", "\x1b[31mx", "\xb2", "9" * 5000, "../../x", "/etc/passwd", "x" * 70000)
OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))
Random = random.Random


def damaged_bytes(draw: Random, content: bytes) -> bytes:
    """Overwrite some bytes, or cut, double or drop a part."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(min(len(made), draw.choice((64, 2048, 1 << 30))))
        length = draw.choice((1, 1, 2, 4, 8, 300))
        match draw.randrange(5):
            case 0:
                made[at : at + length] = draw.randbytes(length)
            case 1:
                made[at : at + 1] = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF))])
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case _:
                del made[at + 1 + draw.randrange(len(made)) :]
        if not made:
            return b""
    return bytes(made)


def messages(message: Message) -> Iterator[Message]:
    """Yield a message and all in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inside in value if field.is_repeated else [value]:
                yield from messages(inside)


def alter(draw: Random, message: Message) -> None:
    """Change one field somewhere in a message: in a graph a name, a size, an operator, a node."""
    inside = list(messages(message))
    target = draw.choice(inside)
    fields = [field for field, _ in target.ListFields()]
    field = draw.choice(fields if fields and draw.random() < 0.7 else target.DESCRIPTOR.fields)
    held = getattr(target, field.name)
    if draw.random() < 0.1:
        target.ClearField(field.name)
    elif field.message_type:
        same = [m for m in inside if m.DESCRIPTOR is field.message_type]
        new = copy.deepcopy(draw.choice(same)) if same else None
        if not field.is_repeated:
            if new is not None:
                held.CopyFrom(new)
        elif held and draw.random() < 0.5:
            del held[draw.randrange(len(held))]
        elif new is not None:
            held.extend([new] * draw.choice((1, 1, 2, 50)))
    else:
        value = new_value(draw, field, inside)
        try:
            if not field.is_repeated:
                setattr(target, field.name, value)
            elif held and draw.random() < 0.7:
                held[draw.randrange(len(held))] = value
            else:
                held.extend([value] * draw.choice((1, 1, 3)))
        except (ValueError, TypeError):  # out of the field's range
            target.ClearField(field.name)


def new_value(draw: Random, field: Any, inside: list[Message]) -> object:
    """Return a value of a field's type: an extreme one, or one that is somewhere else."""
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return draw.randbytes(draw.choice((0, 1, 4, 7, 32, 4096)))
        if field.name == "op_type":
            return draw.choice(OPERATORS)
        names = [n for m in inside for n in (*getattr(m, "input", ()), *getattr(m, "output", ()))]
        return draw.choice([*(n for n in names if isinstance(n, str)), *TEXTS])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice(REALS)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return draw.random() < 0.5
    return draw.choice(NUMBERS + tuple(range(24)))


def damaged_message(draw: Random, message: Message) -> bytes:
    """Return a message with a few fields changed, as bytes."""
    made = copy.deepcopy(message)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        alter(draw, made)
    return made.SerializeToString()


def damaged_json(draw: Random, document: Any) -> bytes:
    """Return a JSON document with one value changed or missing, or its text damaged."""
    box: Any = {"document": copy.deepcopy(document)}
    at, key = box, "document"
    while isinstance(at[key], dict | list) and at[key] and draw.random() < 0.9:
        at = at[key]
        key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
    if draw.random() < 0.2:
        del at[key]
    else:
        nested: Any = 0
        for _ in range(300):
            nested = [nested]
        at[key] = draw.choice(
            (None, True, [], {}, nested, document, *NUMBERS, *REALS, *TEXTS, 10**400)
        )
    text = json.dumps(box.get("document", {})).encode()
    return damaged_bytes(draw, text) if draw.random() < 0.2 else text


def damaged_zip(draw: Random, content: bytes) -> bytes:
    """Damage the members of a zip archive, whose checksums stay right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        chosen = draw.choice([names[0], draw.choice(names)])  # the first is the pickle
        for name in names:
            data = old.read(name)
            new.writestr(name, damaged_bytes(draw, data) if name == chosen and data else data)
    return made.getvalue()


def peak_mb() -> float:
    """Read this process's peak; ``ru_maxrss`` would start from the parent's, which fork copies."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def try_numbers(attempt: Callable[[int], None], folder: Path, first: int, last: int) -> None:
    """Try the numbers from ``first`` to before ``last``.

    What is no sentence of ours is printed as a line of JSON; a crash or a hang ends the process,
    and FOLDER/at tells where.
    """
    sentences = 0
    with (folder / "at").open("w") as at:
        for number in range(first, last):
            at.seek(0)
            at.write(f"{number:12}")
            at.flush()
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                attempt(number)
            except (MobilenetError, OSError):
                sentences += 1
            except Exception:
                print(json.dumps({"number": number, "traceback": traceback.format_exc()}))
            faulthandler.cancel_dump_traceback_later()
            peak = peak_mb()
            if peak > PEAK_MB:
                print(json.dumps({"number": number, "traceback": f"peak of {peak:.0f} MB"}))
                break
    print(json.dumps({"done": number + 1, "sentences": sentences, "peak_mb": round(peak)}))
