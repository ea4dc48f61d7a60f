"""What operations there are, in which implementations, and which of them serves by default."""

from dataclasses import dataclass

from llmbench.engines.edge import impl_of
from llmbench.kernels.cpu import isas
from llmbench.kernels.made_up import kinds
from llmbench.kernels.recipe import UNIT_FLAGS, recipe


@dataclass(frozen=True)
class Operation:
    """One operation; implementations are instruction sets, best first, and other impls of edge."""

    operation: str
    weights: str | None  # the storage type, where it has one
    implementations: tuple[str, ...]  # of this build
    runnable: tuple[str, ...]  # those that this CPU can run
    default: str


def operations() -> tuple[Operation, ...]:
    """Every operation of the library as it is built here. Raises: Missing when it cannot be."""
    here = isas()
    wide = [unit.removesuffix(".cpp") for unit in UNIT_FLAGS if unit in recipe().units]
    built = (*reversed(wide), "scalar")
    rows = [Operation("product", kind, built, here, here[0]) for kind in kinds()]
    impl = impl_of({})
    served = f"impl {impl}, isa {here[0]}" if impl == "cpu" else f"impl {impl}"
    rows.append(Operation("decode step", None, (*built, "reference"), (*here, "reference"), served))
    return tuple(rows)
