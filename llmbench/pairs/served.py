"""How each side served: weights, threads, device, lengths, window, and the build of native code."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pandas as pd

from llmbench.pairs.sides import Check, Sides, by_pair

DEQUANTISED = ("float32", "bfloat16", "float16")  # of a file of another type, when it is loaded
NATIVE = ("llamacpp", "ollama")  # engines of native code, which must tell what they are built for
# /proc/cpuinfo's name → ggml's. Not AMX: the official Ollama is built without it
FEATURES = {"avx2": "AVX2", "avx_vnni": "AVX_VNNI", "avx512f": "AVX512",
            "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16",
            "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE"}  # fmt: skip
COVERED = {"avx_vnni": "avx512_vnni"}  # the same instruction, narrower: not asked beside the other
START = ": let llmbench start the server (unset OLLAMA_HOST), so that its log can be read"
BUILT_WITH = re.compile(r"(\w+)\s*=\s*([01])")  # as ggml lists its features
OURS = re.compile(r"isa (\w+)")  # as edge says which of its units serves
VNNI = {"AVX2", "AVX512", "AVX512_VNNI"}
WIDE = VNNI | {"AVX512_BF16"}
UNITS = {"scalar": set(), "avx2": {"AVX2"}, "avx512_vnni": VNNI, "avx512": WIDE,
         "amx": WIDE}  # fmt: skip  # what each computes with


def same(sides: Sides, column: str, name: str) -> Check:
    """Whether both sides tell one and the same value of `column`."""
    if not sides.known(column):
        return Check(name, None, "not recorded")
    mine, theirs = sides.values(column)
    alike = mine == theirs and len(mine) <= 1
    return Check(name, alike, ", ".join(mine) if alike else f"{', '.join(mine)} against "
                 f"{', '.join(theirs)}")  # fmt: skip


def weights(sides: Sides) -> Check:
    """Whether both sides were given the same weights, and in which way they are the same."""
    found = same(sides, "model_sha256", "same weights")
    if found.passed is None:
        return found
    if not found.passed:
        return found._replace(detail="other files")
    if len(set().union(*_files(sides))) > 1 and _one_type(sides):
        names = " against ".join(", ".join(sha[:12] for sha in side) for side in _files(sides))
        return Check(found.name, False, f"of one type, but of other files: {names}")
    detail = f"sha256 {found.detail[:12]}"
    if sides.known("weight_format"):
        mine, theirs = (", ".join(values) for values in sides.values("weight_format"))
        detail += f", held as {mine if mine == theirs else f'{mine} against {theirs}'}"
        detail += f": {kind}" if (kind := kinship(sides)) else ""
    return found._replace(detail=detail)


def kinship(sides: Sides) -> str:
    """In which way weights of two formats are the same; '' for one format, or none told."""
    if not sides.known("weight_format"):
        return ""
    mine, theirs = sides.values("weight_format")
    if mine == theirs:
        return ""
    loose = [name for name in (*mine, *theirs) if name in DEQUANTISED]
    files = _files(sides)
    if all(files) and len(set().union(*files)) == 1 and loose:
        return f"the same file, dequantised to {loose[0]}"
    return "made of the same weights, in another format"


def _files(sides: Sides) -> list[list[str]]:
    """The sha256 of the files that were loaded, of each side; empty where it does not tell."""
    told = (sides.target, sides.baseline)
    return [sorted(side["file_sha256"].dropna().unique()) if "file_sha256" in side else []
            for side in told]  # fmt: skip


def _one_type(sides: Sides) -> bool:
    """Whether both sides tell their file, and say that it is of one type: no choice parts them.

    A GGUF file that was asked for by name is never another; an export is of the type in `weights`.
    """
    if not all(_files(sides)):
        return any(len(files) > 1 for files in _files(sides))
    formats = sides.values("weight_format") if sides.known("weight_format") else [[], []]
    asked = [_asked_type(side) for side in (sides.target, sides.baseline)]
    given = sides.values("model_sha256")[0]
    named = any(given == files for files in _files(sides))
    return formats[0] == formats[1] or named or (asked[0] == asked[1] != set())


def _asked_type(side: pd.DataFrame) -> set[str]:
    """The types that were asked for: of all engines, or in the option `weights`."""
    options = side["options"].dropna().unique() if "options" in side else ()
    found = [orjson.loads(text).get("weights") for text in options if str(text).startswith("{")]
    found += list(side["weights"].dropna().unique()) if "weights" in side else []
    return {str(kind) for kind in found if kind}


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


def builds(sides: Sides) -> Check:
    """Whether one build of one version served all rows of a side: a rebuilt engine is another."""
    name, told, several = "same build in all its rows", False, []
    for side in (sides.target, sides.baseline):
        for column in ("versions", "build"):
            found = sorted(map(str, side[column].dropna().unique())) if column in side else []
            told = told or bool(found)
            if len(found) > 1:
                several.append(f"{_who(side, side.index[0])}: {' against '.join(found)}")
    if several or not told:
        return Check(name, False if several else None, "; ".join(several) or "not recorded")
    return Check(name, True, "one on each side")


def health(sides: Sides) -> Iterator[Check]:
    """Whether native engines were built for this processor, by their own words.

    Nothing where no side is such an engine and none tells a build; not recorded where one is and
    its build, or the processor's features, are not known.
    """
    name, both = "built for this machine", (sides.target, sides.baseline)
    said = [_build(side) for side in both]
    if not any(said):
        return
    mute = [_who(side, side.index[0]) for side, words in zip(both, said, strict=True)
            if words == "unknown"]  # fmt: skip
    if mute:
        told = f"what {' and '.join(mute)} was built for is not known"
        yield Check(name, None, f"{told}{START if 'ollama' in mute else ''}")
        return
    lacking = [words for words in said if "without" in words]
    yield Check(name, not lacking, "; ".join(lacking) or "with all that its processor offers")


def _build(side: pd.DataFrame) -> str:
    """'' for an engine that need not tell; unknown; built for it; or what it lacks, in words."""
    native = "engine" in side and side["engine"].isin(NATIVE).any()
    told = side["build"].notna() if "build" in side else pd.Series(False, side.index)
    if not native and not (told.any() and "isa" in side):
        return ""
    if (native and not told.all()) or "isa" not in side or not side.loc[told, "isa"].map(len).all():
        return "unknown"
    lacking = sorted({word for build, isa in zip(side.loc[told, "build"], side.loc[told, "isa"],
                      strict=True) for word in _lacking(build, isa)})  # fmt: skip
    who = _who(side, side.index[0])
    return f"{who} without {', '.join(lacking)}, which this machine has" if lacking else "built"


def _lacking(build: str, isa: tuple[str, ...]) -> set[str]:
    """What of the processor's features the build does not have, by ggml's names."""
    have = {word for word, on in BUILT_WITH.findall(build) if on == "1"}
    if ours := OURS.match(build):
        have = UNITS.get(ours[1], set())
    asked = {name for name in FEATURES if name in isa and COVERED.get(name) not in isa}
    return {FEATURES[name] for name in asked} - have


def _who(side: pd.DataFrame, place: Any) -> str:
    return str(side.at[place, "engine"]) if "engine" in side else "one side"
