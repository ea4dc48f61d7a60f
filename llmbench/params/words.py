"""The words that parameters are made of: what each may be, and the nearest right one."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator, Field

from llmbench import catalog
from llmbench.errors import LlmbenchError
from llmbench.models.source import locate
from llmbench.workload import TEXTS

ENGINES = {  # adding an engine: its file, and one line here
    "edge": "llmbench.engines.edge:EdgeEngine",
    "fake": "llmbench.engines.fake:FakeEngine",
    "llamacpp": "llmbench.engines.llamacpp:LlamaCppEngine",
    "ollama": "llmbench.engines.ollama:OllamaEngine",
    "transformers": "llmbench.engines.transformers:TransformersEngine",
}
DEVICES = ("cpu", "cuda")
QUANTIZATIONS = {  # how `model_validation` asks transformers for it
    "none": {}, "bfloat16": {"dtype": "bfloat16"}, "float16": {"dtype": "float16"},
    "int8": {"quantization": "int8", "dtype": "bfloat16"},
    "nf4": {"quantization": "nf4", "dtype": "bfloat16"},
}  # fmt: skip
LAYERS = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}  # the classes that prove a quantization
ATTENTION_IMPLS = ("reference", "sdpa-math", "sdpa-flash")
ONCE = ("load_s", "held_bytes")  # metrics that a process tells once: of the model being loaded
COMPARED = ("decode_tok_per_s", "prefill_tok_per_s", "ttft_s", "tpot_s", "prefill_s", "e2e_s",
            *ONCE)  # fmt: skip
DECODED = {"decode_tok_per_s", "tpot_s"}  # of the tokens after the first
WEIGHTS = ("F32", "F16", "BF16", "Q8_0", "Q4_0",  # types that llmbench writes itself,
           "Q4_K_M", "Q5_K_M", "Q6_K")  # and those that llama.cpp makes  # fmt: skip
FILES = ("gguf:", "ollama:")  # models that are a file already, in a type of its own


def one_of(kind: str, known: Iterable[str], name: str) -> str:
    """`name` when it is known. Raises: ValueError with the nearest known name."""
    if name in known:
        return name
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"is no {kind} llmbench has; {hint}")


def one_line(text: str) -> str:
    """`text` when it is one printable line. Raises: ValueError."""
    if not text.isprintable():
        raise ValueError("must be one printable line")
    return text


FORMS = {"shape": "name", "ollama": "ollama_tag", "hf": "hf_id"}  # of the models of a tier


def tier_models(name: str) -> list[str]:
    """The models behind `shape:tier1`, `ollama:all` …, in that form; a model's name is itself."""
    form, _, tier = name.partition(":")
    if form not in FORMS or tier not in catalog.TIERS:
        return [name]
    return [f"{form}:{getattr(model, FORMS[form])}" for model in catalog.tier(tier)]


def _model_name(name: str) -> str:
    """`name` when it, or every model of the tier it names, is one. Raises: ValueError."""
    lost = {}
    for model in tier_models(name):
        try:
            locate(model)
        except LlmbenchError as error:
            lost[model] = error
    if name in lost:
        bare = name in catalog.TIERS
        how = f"a tier has a form: {', '.join(f'{form}:{name}' for form in FORMS)}" if bare else (
            lost[name].how)  # fmt: skip
        raise ValueError(f"is no model that can be used here; {how}")
    if lost:
        told = "; ".join(error.what.removeprefix("models: ") for error in lost.values())
        raise ValueError(f"names models that cannot be used here: {told}")
    return name


ModelName = Annotated[str, Field(max_length=500), AfterValidator(one_line),
                      AfterValidator(_model_name)]  # fmt: skip
EngineName = Annotated[str, AfterValidator(lambda v: one_of("engine", tuple(ENGINES), v))]
Device = Annotated[str, AfterValidator(lambda v: one_of("device", DEVICES, v))]
Quantization = Annotated[
    str, AfterValidator(lambda v: one_of("quantization", tuple(QUANTIZATIONS), v))
]
AttentionImpl = Annotated[str, AfterValidator(lambda v: one_of("attention", ATTENTION_IMPLS, v))]
Prompt = Annotated[str, AfterValidator(lambda v: one_of("prompt", tuple(TEXTS), v))]
Weights = Annotated[str, AfterValidator(lambda v: one_of("format of weights", WEIGHTS, v))]
Compared = Annotated[str, AfterValidator(lambda v: one_of("metric to compare", COMPARED, v))]
RunId = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,95})?$")]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Tokens = Annotated[int, Field(ge=1, le=16_777_216)]
