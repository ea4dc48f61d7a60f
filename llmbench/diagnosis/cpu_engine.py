"""Whether the C++ engine, `impl: cpu`, can be built here. Builds nothing."""

from llmbench.diagnosis.finding import Finding
from llmbench.errors import Missing
from llmbench.kernels import recipe
from llmbench.kernels.build import kept

SUBJECT = "edge, impl cpu"


def cpu_engine_finding() -> Finding:
    """The compiler, what it would build for this CPU, and whether that is built already."""
    try:
        wanted = recipe.recipe()
    except Missing as error:
        return Finding(SUBJECT, "missing", ": ".join(filter(None, (error.what, error.why))),
                       error.how)  # fmt: skip
    found = kept(wanted)
    built = f"built in {found.seconds:.0f} s and kept" if found else "built when first used"
    sets = ", ".join(recipe.instruction_sets())
    return Finding(SUBJECT, "ok", f"{wanted.compiler.version}; impl cpu for {sets}, {built}")
