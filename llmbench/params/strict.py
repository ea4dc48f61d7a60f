"""Plain values → a noun, strictly: every fault at once, each with its line and the right name."""

import re
import typing
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from llmbench.errors import BadParams
from llmbench.record import Noun
from llmbench.strict_yaml import Located, dotted

FEW = 10  # settings that an error lists though one of them is near


def validated(kind: type[Noun], located: Located, source: str) -> Any:
    """`located` as a `kind`. Raises: BadParams listing every fault with its line."""
    faults = [f"{source}:{fault}" for fault in located.faults]
    if not isinstance(located.values, dict):
        raise BadParams(f"{source}: is no mapping of names to values, but {located.values!r}")
    try:
        made = kind.model_validate(located.values)
    except ValidationError as error:
        faults += [_fault(kind, e, located, source) for e in error.errors()]
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        faults.sort(key=lambda fault: int((re.search(r":(\d+): ", fault) or [0, 0])[1]))
        raise BadParams("\n".join([f"{count} in {source}; nothing was started", *faults]))
    return made


def _fault(kind: type[Noun], error: Any, located: Located, source: str) -> str:
    """One line: where, the value as parsed, what it must be, and the nearest right name."""
    path = tuple(p for p in error["loc"] if p != "[key]")
    line = next((located.lines[path[:n]] for n in range(len(path), 0, -1)
                 if path[:n] in located.lines), None)  # fmt: skip
    where = f"{source}:{line}" if line else source
    if error["type"] == "extra_forbidden":
        known = _fields_at(kind, path[:-1])
        near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.4)
        hints = [f"did you mean {near[0]!r}?"] if near else []
        hints += [f"known: {', '.join(known)}"] if not near or len(known) <= FEW else []
        return f"{where}: {dotted(path)} is no setting; {' '.join(hints)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("greater than or equal to", "≥").replace("less than or equal to", "≤")
    if error["type"] == "missing":
        return f"{where}: {dotted(path)} is missing"
    if isinstance(error["input"], dict | list | Noun):
        return f"{where}: {dotted(path) or 'the file'}: {message}"
    return f"{where}: {dotted(path)} is {error['input']!r}; {message}"


def _fields_at(kind: Any, path: tuple) -> list[str]:
    """Names of the settings in the group at `path`."""
    for part in path:
        if isinstance(part, int):
            continue  # of a list, whose items `kind` is by now
        if not (isinstance(kind, type) and issubclass(kind, Noun)):
            return []
        kind = kind.model_fields[part].annotation
        kind = next((a for a in typing.get_args(kind) if a is not type(None)), kind)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Noun) else []
