"""Whether a study can be measured here, before anything is made for it."""

from collections.abc import Sequence
from typing import Any

from llmbench import engines
from llmbench.errors import BadParams, Missing
from llmbench.hardware import machine
from llmbench.models.export import KINDS
from llmbench.params import Study, validated
from llmbench.points import Group
from llmbench.strict_yaml import Located
from llmbench.worker import Child, ChildLost

MAKING_S = 3600.0  # deadline of one file


def check_options(study: Study) -> None:
    """Raises: BadParams when an engine does not know an option, or cannot do what is asked."""
    for name, options in study.engine_options.items():
        _check_engine_options(name, options)
    for name, options, _ in study.contenders:
        for weights in getattr(study, "weights", []):
            _check_engine_options(name, options | {"weights": weights})
        _check_engine_options(name, options)
        if (
            max(getattr(study, "batch_sizes", [1])) > 1
            and "batch" not in engines.create(name).capabilities
        ):
            raise BadParams(f"engine {name} decodes one row at a time", how="batch_sizes: [1]")


def check_here(study: Study) -> None:
    """Raises: Missing when a GPU or an engine that is asked for is not here, before anything.

    A planted law says by itself that it has no device.
    """
    real = {contender.engine for contender in study.contenders} - {"fake"}
    here = machine() if study.device == "cuda" and real else None
    if here and not here.gpus:
        raise Missing("device: cuda, and no GPU is found here", why=here.gpu_reason or "",
                      kept="nothing was started",
                      how="run it on its machine, or ask for device: cpu; llmbench doctor tells "
                          "more, llmbench plan works anywhere")  # fmt: skip
    for name, options, _ in study.contenders:
        engines.check_installed(name, options | {"device": study.device})
    if set(getattr(study, "weights", [])) - set(KINDS):
        engines.check_installed("llamacpp", {})  # which makes the files of the other types


def make_files(groups: Sequence[Group]) -> None:
    """Have the files that every contender of `groups` will load made, in processes of their own.

    So no contender's memory or time is that of making them. What fails here is said by each repeat.
    """
    firsts = [group.repeats[0].point for group in groups]
    asked = {(p.model, p.model_sha256, p.weights): p.threads for p in firsts if p.weights}
    for (model, sha256, weights), threads in asked.items():
        child = Child(threads)
        try:
            child.ask(
                {"do": "make", "model": model, "sha256": sha256, "weights": weights}, MAKING_S
            )
        except ChildLost:
            continue  # the contenders try again, within their deadline, and tell why it fails
        finally:
            child.kill()


def _check_engine_options(name: str, options: dict[str, Any]) -> None:
    validated(engines.create(name).Options, Located(values=options), f"engine_options.{name}")
