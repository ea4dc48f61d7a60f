"""What one repeat of a point measured, in which circumstances: one line of a journal.

Raw first: durations are kept as they were read, every summary is recomputed from them.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION = 2  # 1 had no `audit twin window session prompt_sha256`; it is still read
PROTOCOL_VERSION = 1  # what is clocked and how; part of every key, raise it when that changes

Status = Literal[
    "ok", "oom", "timeout", "unsupported", "refused", "engine_lost", "interrupted", "failed"
]
SETTLED = frozenset({"ok", "oom", "unsupported", "refused"})  # stay on resume; others are retried
Flag = Literal[
    "preview",
    "cold",
    "reloaded",
    "short",
    "incorrect",
    "merged",
    "throttled",
    "contaminated",
    "beyond_context",
]
LATER = frozenset({"beyond_trained", "weights"})  # fields of a point that keys lack while unset


class Noun(BaseModel):
    """Strict and frozen: unknown fields, wrong types and NaN are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Point(Noun):
    """One row of the plan: what is asked of one engine, independent of when it is asked."""

    study: str
    model: str
    model_sha256: str
    engine: str
    engine_options: dict[str, Any]
    batch_size: int  # rows decoded together
    prompt: str  # which text the prompt is made of (workload.PROMPTS) or "exact"
    prompt_tokens: int  # per row
    output_tokens: int  # per row
    device: str
    threads: int
    seed: int
    memory_limit_bytes: int  # what the child may allocate beyond its imports; 0: what is free
    window: int = 0  # context window asked for; 0: none is
    beyond_trained: bool = False  # the window may be larger than the model was trained for
    twin: bool = False  # the same engine a second time: with the first it is the A/A pair
    weights: str | None = None  # in which format every contender gets them; null: as each is asked

    @model_serializer(mode="wrap")
    def _without_what_was_not_asked(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an unset field of `LATER`: keys stay those of records made before them."""
        asked = written(self)
        return {name: asked[name] for name in asked if name not in LATER or asked[name]}

    @property
    def context_len(self) -> int:
        """Tokens the KV cache holds when decoding starts."""
        return self.prompt_tokens

    @property
    def cell(self) -> tuple:
        """What engines share when they are compared: everything but the engine itself."""
        return (self.study, self.model, self.batch_size, self.prompt, self.prompt_tokens,
                self.output_tokens, self.device, self.threads, self.seed, self.window,
                self.weights)  # fmt: skip

    @property
    def contender(self) -> str:
        """Who takes the turns: the engine with its options, or its twin. Each has its own child,
        and another one for each format of the weights.
        """
        options = json.dumps(self.engine_options, sort_keys=True, separators=(",", ":"))
        told = f" {self.weights}" if self.weights else ""
        return f"{self.engine} {options}{told}{' twin' * self.twin}"


class Repeat(Noun):
    """One timed generation of a point, still to be made: the unit of the plan and of resume."""

    point: Point
    process_run: int
    block: int
    repeat: int = 0

    @property
    def key(self) -> str:
        """Content hash of all that was asked; equal keys mean the same question."""
        asked = self.model_dump() | {"protocol_version": PROTOCOL_VERSION}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Served(Noun):
    """What really served, as the engine reports it after loading. Never guessed."""

    engine: str
    impl: str
    attention_impl: str | None = None
    weight_format: (
        str  # of the weights in memory: float32, bfloat16, float16, or a quantiser's name
    )
    weight_bytes: int  # as held in memory
    step_weight_bytes: int | None = None  # of these, what a decode step reads; null: all of them
    file_sha256: str | None = None  # of the GGUF file that was loaded, whatever it was made of
    kv_format: str | None = None  # dtype of the keys and values that are kept; null: not told
    kv_bytes_per_token: int | None = None  # per row
    threads: int
    device: str
    load_s: float
    compile_s: float | None = None
    build: str | None = None  # build flags of native code
    layer_classes: dict[str, int] = Field(default_factory=dict)  # linear layers by their class
    window: int | None = None  # tokens allocated for the context; null: as many as are needed
    versions: dict[str, str] = Field(default_factory=dict)
    child: str | None = None  # names the process; a process run that lost one goes on in another


class Raw(Noun):
    """Times in ns on our monotonic clock, relative to `submit`; one entry a step in `step_ns`."""

    submit_ns: int  # the clock's own value, to order repeats of one process
    prefill_ns: int | None = None  # submit → prefill synchronised, where the engine can tell
    step_ns: list[int] = Field(default_factory=list)  # submit → tokens of step i received
    end_ns: int | None = None  # submit → engine synchronised
    warmup_s: list[float] = Field(default_factory=list)  # warm-ups of this shape made just before
    timer_overhead_ns: int | None = None  # two adjacent readings of the clock
    server: dict[str, float] = Field(default_factory=dict)  # an engine's own durations


class Released(Noun):
    """Memory of the processes that held a model once it was released, the page cache apart.

    Null where not readable, with the reason. Source: proc(5), /proc/pid/smaps_rollup; mincore(2).
    """

    rss_bytes: int | None = None
    anonymous_bytes: int | None = None  # what the processes themselves still hold
    file_bytes: int | None = None  # mapped files, libraries among them, by their share
    cached_bytes: int | None = None  # of the model's files, kept by the kernel and owned by nobody
    reason: str | None = None


class Memory(Noun):
    """Views of memory in bytes, each under its own name, never mixed; null where not readable."""

    rss_before_load_bytes: int | None = None
    rss_after_load_bytes: int | None = None  # of its engine's servers too
    rss_peak_bytes: int | None = None  # the kernel's high-water mark, reset before the repeat;
    # null where servers hold the model: it is of one process
    tree_rss_bytes: int | None = None  # after the repeat, of this process and its engine's servers;
    tree_pss_bytes: int | None = None  # pages they share: counted in each, by share, or not at all
    tree_uss_bytes: int | None = None
    tree_peak_bytes: int | None = None  # largest sampled rss of these processes during the turn,
    sampling_period_s: float | None = None  # warm-ups included; mean time between two samples
    tree_pss_peak_bytes: int | None = None  # largest sampled while a child answered once more,
    tree_uss_peak_bytes: int | None = None  # untimed: on the record with its audit
    shares_period_s: float | None = None  # mean time between two of these samples
    bare_bytes: int | None = None  # of this process before it imports an engine; then, the model
    loaded_bytes: int | None = (
        None  # loaded, with its servers: both as if nobody shared their pages
    )
    loaded_pss_bytes: int | None = None  # as the kernel shares them out, with a twin for example
    limit_bytes: int | None = None  # the address-space limit in force
    released: Released | None = None  # on the last record of a child whose model was released


class Energy(Noun):
    """Energy of the repeat; null with the reason where nothing can measure it."""

    value_j: float | None = None
    method: Literal["none", "rapl", "nvml_counter"] = "none"
    window_s: float | None = None
    reason: str | None = "no energy counter is read on this device"


class Witness(Noun):
    """Evidence that the timed path did the work."""

    output_sha256: str
    prompt_sha256: str | None = None  # of the ids that were given; null in version 1
    output_tokens: int  # per row, counted
    end_reason: Literal["length", "eos", "lost"]
    agreement: float | None = None  # largest log-probability difference to the reference


class Audit(Noun):
    """What a fresh child was asked after its first repeat, apart from what is measured.

    The prefixes are the same for every engine, so equal models can be seen to be equal; a prompt
    given twice on purpose shows an engine that answers from a cache.
    """

    prefixes: list[int] = Field(default_factory=list)  # their lengths in tokens
    next_ids: list[list[int]] = Field(default_factory=list)  # the most likely, a list a prefix
    next_logprobs: list[list[float]] = Field(default_factory=list)  # of these ids, natural
    decoded_gap: float | None = None  # most that a decoded token misses the likeliest of a prefill
    prompt_s: float | None = None  # time to first token of a prompt never seen before
    again_s: float | None = None  # of the same prompt given again


class Quiet(Noun):
    """How still the machine was during the turn."""

    idle_wait_s: float = 0.0  # waited for the other engines to be idle before the turn
    others_cpu_s: float = 0.0  # CPU seconds other engines of this comparison used in the turn
    machine_busy_share: float | None = None  # CPU share used by all other processes, 0–1
    load_average: float | None = None
    read_bytes_per_s: float | None = None  # of memory, probed just before over the weights' bytes


class Record(Noun):
    """All that is kept of one repeat. `crc` is added by the store around the line."""

    schema_version: int = SCHEMA_VERSION
    key: str
    point: Point
    process_run: int
    block: int
    repeat: int
    status: Status
    reason: str | None = None
    flags: list[Flag] = Field(default_factory=list)
    measured_at: str  # UTC, a label; durations come from the monotonic clock
    sequence: int  # order within the session that measured it
    session: str = ""  # names the call that measured it; turns of two sessions are never paired
    served: Served | None = None
    raw: Raw | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    witness: Witness | None = None
    quiet: Quiet | None = None
    audit: Audit | None = None  # on the first record of a child
    environment: str  # id into environment.json
