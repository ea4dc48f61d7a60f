"""Whether a study can be measured here, before anything is made for it."""

from typing import Any

from llmbench import engines
from llmbench.errors import BadParams, Missing
from llmbench.hardware import machine
from llmbench.params import Study, validated
from llmbench.strict_yaml import Located


def check_options(study: Study) -> None:
    """Raises: BadParams when an engine does not know an option, or cannot do what is asked."""
    for name, options in study.engine_options.items():
        _check_engine_options(name, options)
    for name, options, _ in study.contenders:
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


def _check_engine_options(name: str, options: dict[str, Any]) -> None:
    validated(engines.create(name).Options, Located(values=options), f"engine_options.{name}")
