"""A study's fields as options of `measure`: read from the words of a command, told by `--help`."""

from typing import Any

from llmbench.errors import BadParams
from llmbench.params import Studies, load_params, make_study, study_kind
from llmbench.strict_yaml import parse_value


def one_study(text: str, only: str | None, words: list[str]) -> tuple[str, Any]:
    """The study that `measure` was asked for, from a params file or from its options."""
    if not text.endswith((".yaml", ".yml")):
        return text, make_study(text, _fields(study_kind(text), words))
    if words:
        raise BadParams(f"{words[0]}: fields stand in {text}", how="change them there")
    studies = load_params(text).chosen
    name = only or (next(iter(studies)) if len(studies) == 1 else "")
    if name not in studies:
        raise BadParams(f"--only {only}: {text} has {', '.join(studies)}", how="choose one of them")
    return name, studies[name]


def _fields(kind: Any, words: list[str]) -> dict[str, Any]:
    """['--batch-sizes', '1', '4'] → {'batch_sizes': [1, 4]}; values are read as YAML."""
    fields: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            fields[name] = [value] if equals else []
        elif name:
            fields[name].append(word)
        else:
            raise BadParams(f"{word!r}: expected --FIELD VALUE", how="llmbench measure --help")
    known = kind.model_fields
    lists = {n for n in fields if n in known and "list" in str(known[n].annotation)}
    values = {n: [parse_value(v, _option(n)) for v in given] for n, given in fields.items()}
    for name, given in values.items():
        if name not in lists and len(given) != 1:
            raise BadParams(f"{_option(name)} takes one value, got {len(given)}")
    return {n: given if n in lists and not _one_list(given) else given[0]
            for n, given in values.items()}  # fmt: skip


def _one_list(given: list[Any]) -> bool:
    return len(given) == 1 and isinstance(given[0], list)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def described(words: list[str]) -> list[tuple[str, str]]:
    """Each field of the study named in `words` with its default; without one, the studies."""
    named = next((word for word in words if word in Studies.model_fields), None)
    if named is None:
        return [(f"measure {study} --help", str(study_kind(study).question))
                for study in Studies.model_fields]  # fmt: skip
    return [(_option(name), _default(field.default))
            for name, field in study_kind(named).model_fields.items()]  # fmt: skip


def _default(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return f"default {' '.join(map(str, values)) or 'none'}"
