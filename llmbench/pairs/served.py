"""How each side served: weights, threads, device, lengths, window, and the build of native code."""

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from llmbench.pairs.sides import Check, Sides, by_pair

FEATURES = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI"}  # /proc, ggml
BUILT_WITH = re.compile(r"(\w+)\s*=\s*([01])")  # as ggml lists its features


def same(sides: Sides, column: str, name: str) -> Check:
    """Whether both sides tell one and the same value of `column`."""
    if not sides.known(column):
        return Check(name, None, "not recorded")
    mine, theirs = sides.values(column)
    alike = mine == theirs and len(mine) <= 1
    return Check(name, alike, ", ".join(mine) if alike else f"{', '.join(mine)} against "
                 f"{', '.join(theirs)}")  # fmt: skip


def weights(sides: Sides) -> Check:
    """Whether both sides were given the same bytes, and in which formats they hold them."""
    found = same(sides, "model_sha256", "same weights")
    if not sides.known("weight_format") or found.passed is None:
        return found
    mine, theirs = sides.values("weight_format")
    how = ", ".join(mine) if mine == theirs else f"{', '.join(mine)} against {', '.join(theirs)}"
    detail = f"sha256 {found.detail[:12]}, held as {how}" if found.passed else "other files"
    return found._replace(detail=detail)


def lengths(sides: Sides) -> Check:
    """Whether both sides of each pair gave as many tokens, by what was received."""
    name = "same output length"
    if not sides.known("received_tokens"):
        return Check(name, None, "the tokens received were not recorded")
    both = by_pair(sides, "received_tokens")
    alike = sum(mine == theirs for mine, theirs in zip(both["mine"], both["theirs"], strict=True))
    mine, theirs = (" and ".join(values) for values in sides.values("received_tokens"))
    told = f"{mine} tokens" if mine == theirs else f"{mine} tokens against {theirs}"
    return Check(name, alike == len(both), f"{told}; as many in {alike} of {len(both)} pairs")


def windows(sides: Sides) -> Check:
    """Whether both windows that served hold prompt and answer; another size is told."""
    name, both = "same context window", (sides.target, sides.baseline)
    if any("served_window" not in side or _untold(side).any() for side in both):
        return Check(name, None, "the windows that served were not recorded")
    mine, theirs = map(_window, both)
    detail = mine if mine == theirs else f"{mine} against {theirs}"
    small = [_who(side, side.index[0]) for side in both if _small(side).any()]
    short = f": too small for prompt and answer in {' and '.join(small)}" if small else ""
    return Check(name, not small, detail + short)


def _untold(side: pd.DataFrame) -> pd.Series:
    """Rows of a server that always has a window of its own and did not tell it."""
    owns = side["engine"] == "ollama" if "engine" in side else pd.Series(False, side.index)
    return owns & side["served_window"].isna()


def _small(side: pd.DataFrame) -> pd.Series:
    """Rows whose window is smaller than prompt and answer; none is where nothing was set aside."""
    known = [side[name] for name in ("prompt_tokens", "output_tokens") if name in side]
    return side["served_window"] < sum(known, start=pd.Series(0, side.index))


def _window(side: pd.DataFrame) -> str:
    told = side["served_window"].drop_duplicates()
    sizes = [f"{size:,.0f}" for size in sorted(told.dropna())]
    return ", ".join(sizes + ["as many as needed"] * bool(told.isna().any()))


def health(sides: Sides) -> Iterator[Check]:
    """Whether native engines were built for this processor; nothing where no engine tells."""
    name, lacking, told = "built for this machine", {}, False
    for side in (sides.target, sides.baseline):
        builds = side["build"].dropna() if "build" in side and "isa" in side else ()
        for place, build in builds.items() if len(builds) else ():
            told = True
            have = {word for word, on in BUILT_WITH.findall(build) if on == "1"}
            asked = {FEATURES[feature] for feature in side.at[place, "isa"] if feature in FEATURES}
            if asked - have:
                lacking[_who(side, place)] = ", ".join(sorted(asked - have))
    if told:
        detail = "; ".join(f"{who} without {what}, which this machine has"
                           for who, what in lacking.items())  # fmt: skip
        yield Check(name, not lacking, detail or "with all that its processor offers")


def _who(side: pd.DataFrame, place: Any) -> str:
    return str(side.at[place, "engine"]) if "engine" in side else "one side"
