"""How far engines are apart on the same file: the evidence behind `pairs.agreement`.

    python scripts/tolerances.py [FILE]

Every engine is held against edge in float32 on the same weights: the largest difference of a
log-probability among the twenty likeliest tokens, after prefixes of up to each of `LENGTHS` tokens:
what drifts with the length must not widen the bound of short prompts. Each has a process of its
own. Needs `make llamacpp` and `make ollama`. Without FILE the package's own is written.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from llmbench import engines
from llmbench.hardware import machine
from llmbench.models.requantize import export_any
from llmbench.models.source import find_model
from llmbench.pairs.agreement import MEASURED, distance
from llmbench.workload import audit_prefixes

MODELS = ("builtin:tiny", "shape:smollm-135m")
KINDS = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")
LENGTHS = (32, 512, 1800)  # tokens of the longest prefix
SIDES = (
    ("edge", {"dtype": "bfloat16"}),
    ("edge", {"dtype": "float16"}),
    ("edge", {"impl": "cpu"}),
    ("llamacpp", {"kv_type": "f32", "flash_attn": "off"}),
    ("llamacpp", {}),
    ("ollama", {}),
)


def told(engine: str, model: str, options: dict, prefixes: Sequence[list[int]]) -> dict:
    """What one engine says after each prefix, as an audit keeps it, and what served."""
    made = engines.create(engine)
    served = made.load(find_model(model), {"threads": 2} | options)
    try:
        likeliest = [made.next_logprobs(prefix, 20) for prefix in prefixes]
    finally:
        made.close()
    return {"prefixes": list(map(len, prefixes)), "next_ids": [list(one) for one in likeliest],
            "next_logprobs": [list(one.values()) for one in likeliest],
            "weights": served.weight_format, "cache": served.kv_format}  # fmt: skip


def alone(*asked) -> dict:
    """`told` in a fresh process: libraries that set up the same tiles do not meet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(told, *asked).result()


def up_to(tokens: int, told: dict) -> dict:
    """What was said after the prefixes of at most so many tokens."""
    return told | {"prefixes": [n for n in told["prefixes"] if n <= tokens]}


def rows_of(model: str, kind: str, folder: Path) -> list[dict]:
    """A row a side: how far it is from edge in float32 on the file of `model` in `kind`."""
    written = folder / f"{model.partition(':')[2]}-{kind}.gguf"
    file = f"gguf:{export_any(model, written, kind)}"
    text = audit_prefixes(find_model(model).tokenizer)
    long = text[-1] * (max(LENGTHS) // len(text[-1]) + 1)
    prefixes = [*text, *(long[:n] for n in LENGTHS if n > len(text[-1]))]
    reference = alone("edge", file, {"impl": "reference"}, prefixes)
    made = []
    for engine, options in SIDES:
        other = alone(engine, file, options, prefixes)
        served = {name: other[name] for name in ("weights", "cache")}
        apart = {str(n): round(distance(up_to(n, reference), other), 6) for n in LENGTHS}
        made.append({"model": model, "file": kind, "engine": engine, "options": options} | served
                    | {"apart": apart})  # fmt: skip
        print(*made[-1].values(), flush=True)
    return made


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else str(MEASURED))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for model in MODELS for kind in KINDS
                for row in rows_of(model, kind, Path(folder))]  # fmt: skip
    about = {"measured": datetime.now(UTC).date().isoformat(), "cpu": machine().cpu_model}
    target.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
