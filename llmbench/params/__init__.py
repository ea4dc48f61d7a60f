"""One YAML file → Params: what to run. Strict; every fault is listed at once, with its line."""

import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from llmbench.errors import BadParams
from llmbench.params.strict import validated
from llmbench.params.studies import (
    Attention,
    Contender,
    ContextWindows,
    ModelValidation,
    OllamaComparison,
    Scaling,
    Studies,
    Study,
)
from llmbench.params.words import (
    COMPARED,
    DEVICES,
    ENGINES,
    LAYERS,
    ONCE,
    QUANTIZATIONS,
    WEIGHTS,
    one_line,
    one_of,
    tier_models,
)
from llmbench.record import Noun
from llmbench.strict_yaml import Located, parse_value, read_yaml

__all__ = ["COMPARED", "DEVICES", "ENGINES", "LAYERS", "ONCE", "QUANTIZATIONS", "WEIGHTS",
           "Attention", "Contender", "ContextWindows", "ModelValidation", "OllamaComparison",
           "Params", "Scaling", "Studies", "Study", "fields_from", "load_params", "make_study",
           "one_of", "override", "study_kind", "tier_models", "validated"]  # fmt: skip


class Params(Noun):
    """One params file: one run."""

    title: Annotated[str, AfterValidator(one_line)] = Field(
        "What can this machine do?", max_length=200
    )
    seed: int = Field(17, ge=0, lt=2**32)
    budget_minutes: float = Field(0.0, ge=0)
    price_per_hour: float = Field(0.0, ge=0)  # 0: no price is shown
    studies: Studies

    @property
    def chosen(self) -> dict[str, Study]:
        """The studies to run, in their notebooks' order, with the file's seed and budget share."""
        named = {name: study for name, study in self.studies if study is not None}
        share = self.budget_minutes / max(1, len(named))
        return {name: self._inherit(study, share) for name, study in named.items()}

    def _inherit(self, study: Study, share: float) -> Study:
        given = {"seed": self.seed, "budget_minutes": share}
        missing = {k: v for k, v in given.items() if k not in study.model_fields_set}
        return study.model_copy(update=missing)


def load_params(path: str | Path, overrides: Iterable[str] = ()) -> Params:
    """Params of a YAML file, with `--set dotted.name=value` overrides. Raises: BadParams."""
    located = read_yaml(Path(path))
    for text in overrides:
        override(located, text)
    return validated(Params, located, str(path))


def make_study(name: str, fields: Mapping[str, Any]) -> Study:
    """The study called `name` with `fields`. Raises: BadParams listing every fault."""
    kind = study_kind(name)
    return validated(kind, Located(values=dict(fields)), name)


def fields_from(name: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the study `name` out of a notebook's `globals()`."""
    return {field: namespace[field] for field in study_kind(name).model_fields}


def study_kind(name: str) -> type[Study]:
    """The class of the study called `name`. Raises: BadParams with the nearest name."""
    try:
        one_of("study", tuple(Studies.model_fields), name)
    except ValueError as error:
        raise BadParams(f"{name!r} {error}") from None
    return typing.get_args(Studies.model_fields[name].annotation)[0]


def override(located: Located, text: str) -> None:
    """Apply one `dotted.name=value`; a study's name may stand without `studies.`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadParams(f"--set {text!r}: expected NAME=VALUE", how="--set scaling.blocks=3")
    path = tuple(name.strip().split("."))
    if path[0] in Studies.model_fields:
        path = ("studies", *path)
    target = located.values
    for part in path[:-1]:
        if not isinstance(target, dict):
            raise BadParams(f"--set {name}: {part!r} is inside a value, not a group of settings")
        target = target.setdefault(part, {})
    if not isinstance(target, dict):
        raise BadParams(f"--set {name}: its group is not a group of settings")
    target[path[-1]] = parse_value(value, f"--set {name}")
    located.lines = {p: line for p, line in located.lines.items() if p[: len(path)] != path}
