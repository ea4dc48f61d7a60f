"""The studies: what each may be asked, and what cannot be asked together."""

import itertools
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator, model_validator

from llmbench.bars import Bar
from llmbench.params.words import (
    ATTENTION_IMPLS,
    DECODED,
    FILES,
    ONCE,
    QUANTIZATIONS,
    AttentionImpl,
    BatchSize,
    Compared,
    Device,
    EngineName,
    ModelName,
    Prompt,
    Quantization,
    RunId,
    Tokens,
    Weights,
    one_of,
    tier_models,
)
from llmbench.record import Noun
from llmbench.workload import NONCE_TOKENS, PROMPTS, TASKS

MAX_REPEATS = 1_000_000


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
    probed: ClassVar[bool] = False  # memory is read before each turn on a CPU, to tell how fast
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
    probed = True
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
