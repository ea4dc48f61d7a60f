"""The ratio that counts as success: one for all claims, and others for those that are named."""

from collections.abc import Sequence

from pydantic import Field

from llmbench.record import Noun

ABOUT = ("model", "weights", "metric", "baseline")  # what a bar may name; unnamed: any


class Bar(Noun):
    """What is asked of the claims that it names."""

    model: str | None = None
    weights: str | None = None
    metric: str | None = None
    baseline: str | None = None
    at_least: float = Field(gt=0, le=1000)

    @property
    def named(self) -> dict[str, str]:
        """What it names, by field."""
        return {name: getattr(self, name) for name in ABOUT if getattr(self, name) is not None}

    def meets(self, other: "Bar") -> bool:
        """Whether a claim may be named by both, and by both as closely: then neither wins."""
        both = self.named.keys() & other.named.keys()
        alike = all(self.named[name] == other.named[name] for name in both)
        return alike and len(self.named) == len(other.named)


def bar_of(bars: Sequence[Bar], at_least: float, about: dict[str, str]) -> float:
    """The ratio asked of a claim `about` these: of the bar that names most, else `at_least`."""
    fitting = [bar for bar in bars if bar.named.items() <= about.items()]
    return max(fitting, key=lambda bar: len(bar.named)).at_least if fitting else at_least
