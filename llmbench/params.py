"""One YAML file → Params: what to run. Strict; every fault is listed at once, with its line."""

import itertools
import re
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from llmbench import catalog
from llmbench.bars import Bar
from llmbench.errors import BadParams, LlmbenchError
from llmbench.models.source import locate
from llmbench.record import Noun
from llmbench.strict_yaml import Located, dotted, parse_value, read_yaml
from llmbench.workload import NONCE_TOKENS, PROMPTS, TASKS, TEXTS

ENGINES = {  # adding an engine: its file, and one line here
    "edge": "llmbench.engines.edge:EdgeEngine",
    "fake": "llmbench.engines.fake:FakeEngine",
    "llamacpp": "llmbench.engines.llamacpp:LlamaCppEngine",
    "ollama": "llmbench.engines.ollama:OllamaEngine",
    "transformers": "llmbench.engines.transformers:TransformersEngine",
}
MAX_REPEATS = 1_000_000
FEW = 10  # settings that an error lists though one of them is near
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


def _one_line(text: str) -> str:
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


ModelName = Annotated[str, Field(max_length=500), AfterValidator(_one_line),
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


class Contender(NamedTuple):
    """Who takes turns in a study: an engine with its options, or the twin of one."""

    engine: str
    options: dict[str, Any]
    twin: bool = False


class Study(Noun):
    """The fields that every study has. Names are those of its notebook's parameters."""

    question: ClassVar[str]
    side_by_side: ClassVar[bool] = True  # contenders are loaded together and take turns
    cells_apart: ClassVar[bool] = False  # each size has processes of its own
    releases: ClassVar[bool] = (
        False  # a process ends by releasing its model, and tells what is left
    )
    probed: ClassVar[str] = ""  # the engine before whose turns memory is read, to tell how fast
    run_id: RunId = ""
    seed: int = Field(17, ge=0, lt=2**32)
    budget_minutes: float = Field(0.0, ge=0)  # 0: no limit; the rest is deferred and listed
    models: list[ModelName] = Field(["builtin:tiny"], min_length=1)
    engine_options: dict[EngineName, dict[str, Any]] = {}
    device: Device = "cpu"
    threads: int = Field(0, ge=0, le=1024)  # 0: min(8, physical cores)
    process_runs: int = Field(6, ge=1, le=1000)  # fresh processes: the unit of statistics
    blocks: int = Field(2, ge=1, le=1000)  # turns of every engine in one process run
    warmups: int = Field(1, ge=0, le=1000)  # per process run, dealt to its shapes
    timeout_s: float = Field(300.0, gt=0)  # deadline of loading and of one turn
    memory_limit_gib: float = Field(0.0, ge=0)  # a child's own allocations; 0: what is free

    @property
    def contenders(self) -> list[Contender]:
        """Every contender, the reference of the others last but for its twin."""
        raise NotImplementedError

    @property
    def claims(self) -> int:
        """How many claims the study puts to the test, which are corrected together."""
        return 0

    def options_of(self, engine: str) -> dict[str, Any]:
        """The options asked of `engine`."""
        return self.engine_options.get(engine, {})

    @field_validator("models", mode="after")
    @classmethod
    def _each_of_a_tier(cls, names: list[str]) -> list[str]:
        """Every model by its own name: `shape:tier1` stands for those of that tier."""
        return [model for name in names for model in tier_models(name)]

    @model_validator(mode="after")
    def _no_doubles(self) -> "Study":
        for name, values in self:
            if isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice")
        return self


class Lengths(Study):
    """A study of engines over sizes."""

    engines: list[EngineName] = Field(["transformers"], min_length=1)

    @property
    def contenders(self) -> list[Contender]:
        """The engines, each with its options."""
        return [Contender(engine, self.options_of(engine)) for engine in self.engines]


class ModelValidation(Study):
    """Whether models load as asked: each quantization alone in a fresh process."""

    question = "Does each model load as asked, in which time and memory, and does it generate?"
    side_by_side = False
    quantizations: list[Quantization] = Field(["none", "bfloat16", "int8", "nf4"], min_length=1)
    output_tokens: Tokens = 32

    @property
    def contenders(self) -> list[Contender]:
        """transformers, once for each quantization."""
        asked = self.options_of("transformers")
        return [Contender("transformers", asked | QUANTIZATIONS[q]) for q in self.quantizations]


class Scaling(Lengths):
    """How prefill and decode grow with prompt length and batch."""

    question = "How do prefill and decode grow with prompt length and batch?"
    batch_sizes: list[BatchSize] = Field([1, 4], min_length=1)
    context_lens: list[Tokens] = Field([64, 128, 256, 512], min_length=1)
    output_tokens: Tokens = 16

    @model_validator(mode="after")
    def _bounded(self) -> "Scaling":
        cells = len(self.batch_sizes) * len(self.context_lens) * len(self.models)
        total = cells * len(self.engines) * self.process_runs * self.blocks
        if total > MAX_REPEATS:
            raise ValueError(f"a sweep of {total:,} repeats; at most {MAX_REPEATS:,}")
        return self


class OllamaComparison(Study):
    """Whether the target is faster than each baseline on the same weights, and by how much."""

    question = "Is the target faster than each baseline on the same weights, and by how much?"
    target: EngineName = "edge"
    baselines: list[EngineName] = Field(["transformers"], min_length=1)
    metrics: list[Compared] = Field(["decode_tok_per_s", "ttft_s"], min_length=1, max_length=10)
    at_least: float = Field(1.0, gt=0, le=1000)  # the ratio that counts as success
    prompts: list[Prompt] = list(PROMPTS)
    context_lens: list[Tokens] = []  # prompts of exact length, besides
    output_tokens: Tokens = 128
    weights: list[Weights] = []  # formats, one comparison each; none: as `engine_options` say
    bars: list[Bar] = Field([], max_length=1000)  # other ratios for the claims that they name
    blocks: int = Field(5, ge=1, le=1000)
    warmups: int = Field(4, ge=0, le=1000)

    @property
    def contenders(self) -> list[Contender]:
        """The target, the baselines, and the first baseline a second time."""
        engines = [self.target, *self.baselines]
        asked = [Contender(engine, self.options_of(engine)) for engine in engines]
        return [*asked, asked[1]._replace(twin=True)]

    @property
    def claims(self) -> int:
        """Each baseline in each metric, on each model in each format, for each kind of prompt."""
        asked = bool(self.prompts) + len(self.context_lens)
        files = len(self.models) * max(1, len(self.weights))
        told = sum(1 if name in ONCE else asked for name in self.metrics)
        return told * files * len(self.baselines)

    @property
    def probed(self) -> str:
        """The target: what it reads is told beside what memory gives."""
        return self.target

    @model_validator(mode="after")
    def _two_sides(self) -> "OllamaComparison":
        if self.target in self.baselines:
            raise ValueError(f"target {self.target} is a baseline too; its twin is made anyway")
        if not (self.prompts or self.context_lens):
            raise ValueError("no prompts and no context_lens: nothing to ask")
        return self

    @model_validator(mode="after")
    def _one_word_on_weights(self) -> "OllamaComparison":
        if not self.weights:
            return self
        twice = [name for name, options in self.engine_options.items() if "weights" in options]
        if twice:
            raise ValueError(
                f"weights are asked of all engines, and once more in engine_options of "
                f"{' and '.join(twice)}; say it in one of the two"
            )
        if whole := [name for name in self.models if name.startswith(FILES)]:
            raise ValueError(
                f"weights cannot be chosen for {', '.join(whole)}: a file is in a type of its own"
            )
        return self

    @model_validator(mode="after")
    def _bars_that_can_be_told_apart(self) -> "OllamaComparison":
        known = {"model": self.models, "weights": self.weights, "metric": self.metrics,
                 "baseline": self.baselines}  # fmt: skip
        for bar in self.bars:
            if not bar.named:
                raise ValueError("bars has one that names nothing; that is `at_least` itself")
            for field, name in bar.named.items():
                try:
                    one_of(f"{field} of this study that", tuple(known[field]), name)
                except ValueError as error:
                    raise ValueError(f"bars: {name!r} {error}") from None
        for first, second in itertools.combinations(self.bars, 2):
            if first.meets(second):
                raise ValueError(f"bars: {first.named} and {second.named} name the same claims, "
                                 "and neither more closely")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _measurable(self) -> "OllamaComparison":
        undefined = [name for name in self.metrics if name in DECODED]
        if undefined and self.output_tokens < 2:
            raise ValueError(
                f"metrics names {' and '.join(undefined)}, which output_tokens: 1 leaves "
                "undefined, since nothing is decoded after the first token; ask for "
                "output_tokens: 2 or more, or for metrics: [ttft_s]"
            )
        return self


class Attention(Study):
    """What the attention implementation changes in a whole model, and attention's share of it."""

    question = "What does the attention implementation change, and how much of the whole is it?"
    engine: EngineName = "edge"
    attention_impls: list[AttentionImpl] = Field(list(ATTENTION_IMPLS), min_length=1)
    batch_sizes: list[BatchSize] = Field([1], min_length=1)
    context_lens: list[Tokens] = Field([128, 256, 512, 1024], min_length=1)
    output_tokens: Tokens = 8

    @property
    def contenders(self) -> list[Contender]:
        """The implementations, the first a second time, and the model with attention skipped."""
        asked = self.options_of(self.engine)
        made = [Contender(self.engine, asked | {"attention_impl": impl})
                for impl in [*self.attention_impls, "skipped"]]  # fmt: skip
        return [*made, made[0]._replace(twin=True)]

    @property
    def claims(self) -> int:
        """Each further implementation in prefill time, at each size."""
        sizes = len(self.models) * len(self.batch_sizes) * len(self.context_lens)
        return (len(self.attention_impls) - 1) * sizes


class ContextWindows(Lengths):
    """What a model is, loads, answers and frees, and what a context window costs when filled."""

    question = "What does a context window cost in time and memory when it is really filled?"
    cells_apart = True  # memory that a larger window left behind would count as a smaller one's
    releases = True
    batch_sizes: list[BatchSize] = Field([1], min_length=1)
    context_lens: list[Tokens] = Field([512, 1024, 2048, 4096], min_length=1)  # whole windows
    output_tokens: Tokens = 32
    prompts: list[Prompt] = list(TASKS)
    answer_tokens: Tokens = 128  # of each prompt's answer
    beyond_trained: bool = False  # windows the model was not trained for, too: they tell costs only

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> "ContextWindows":
        if min(self.context_lens) <= self.output_tokens + NONCE_TOKENS:
            raise ValueError(
                f"a window of {min(self.context_lens)} has no room for a prompt of "
                f"more than {NONCE_TOKENS} and {self.output_tokens} output tokens"
            )
        return self


class Studies(Noun):
    """The studies of a file; each is one notebook, and they run in this order."""

    model_validation: ModelValidation | None = None
    scaling: Scaling | None = None
    ollama_comparison: OllamaComparison | None = None
    attention: Attention | None = None
    context_windows: ContextWindows | None = None


class Params(Noun):
    """One params file: one run."""

    title: Annotated[str, AfterValidator(_one_line)] = Field(
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


def validated(kind: type[Noun], located: Located, source: str) -> Any:
    """`located` as a `kind`. Raises: BadParams listing every fault with its line."""
    faults = [f"{source}:{fault}" for fault in located.faults]
    if not isinstance(located.values, dict):
        raise BadParams(f"{source}: is no mapping of names to values, but {located.values!r}")
    try:
        made = kind.model_validate(located.values)
    except ValidationError as error:
        faults += [_fault(kind, e, located, source) for e in error.errors()]
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        faults.sort(key=lambda fault: int((re.search(r":(\d+): ", fault) or [0, 0])[1]))
        raise BadParams("\n".join([f"{count} in {source}; nothing was started", *faults]))
    return made


def _fault(kind: type[Noun], error: Any, located: Located, source: str) -> str:
    """One line: where, the value as parsed, what it must be, and the nearest right name."""
    path = tuple(p for p in error["loc"] if p != "[key]")
    line = next((located.lines[path[:n]] for n in range(len(path), 0, -1)
                 if path[:n] in located.lines), None)  # fmt: skip
    where = f"{source}:{line}" if line else source
    if error["type"] == "extra_forbidden":
        known = _fields_at(kind, path[:-1])
        near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.4)
        hints = [f"did you mean {near[0]!r}?"] if near else []
        hints += [f"known: {', '.join(known)}"] if not near or len(known) <= FEW else []
        return f"{where}: {dotted(path)} is no setting; {' '.join(hints)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("greater than or equal to", "≥").replace("less than or equal to", "≤")
    if error["type"] == "missing":
        return f"{where}: {dotted(path)} is missing"
    if isinstance(error["input"], dict | list | Noun):
        return f"{where}: {dotted(path) or 'the file'}: {message}"
    return f"{where}: {dotted(path)} is {error['input']!r}; {message}"


def _fields_at(kind: Any, path: tuple) -> list[str]:
    """Names of the settings in the group at `path`."""
    for part in path:
        if isinstance(part, int):
            continue  # of a list, whose items `kind` is by now
        if not (isinstance(kind, type) and issubclass(kind, Noun)):
            return []
        kind = kind.model_fields[part].annotation
        kind = next((a for a in typing.get_args(kind) if a is not type(None)), kind)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Noun) else []
