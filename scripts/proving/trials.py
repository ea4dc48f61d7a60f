"""What is planted, what the workbench says of it, and how often that is right.

A trial is one seeded session: the whole pipeline on virtual time, then the statistics that a reader
of a real run would see. Nothing is shared between trials but the code.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats as scipy_stats

from llmbench import metrics, planted, stats
from llmbench.pairs import Comparison, compare, power
from llmbench.params import Study, make_study
from llmbench.points import plan

TARGET, BASELINE = "edge", "transformers"  # names only: fake engines answer under both
RUN_NOISE, NOISE = power.RUN_SD, power.REPEAT_SD  # of logs: 1 % in the mean of 5 blocks
LAW = {"floor_s": 1e-3, "unit_s": 1e-5, "decode_s": 0.02}  # s, of the baseline
PROMPT_TOKENS, OUTPUT_TOKENS = 16, 4
BLOCKS_A_RUN = 5
BATCH = 25  # sessions in one frame: it costs as much to make for one as for many
TAIL_RUNS, TAILS = 60, (0.90, 0.95, 0.99)  # process runs of one repeat each; a p99 needs 299
DRAWS = 200_000  # of normal numbers, for what theory expects


@dataclass(frozen=True)
class Scenario:
    """One design and one truth, tried with many seeds."""

    name: str
    difference: float = 0.0  # how much faster the target is: 0.03 is 3 %
    process_runs: int = 6
    machine_drift: float = 0.0
    interleaved: bool = True


AA, AB = Scenario("A/A"), Scenario("A/B", 0.03)
BLOCKS = Scenario("drift, blocks", machine_drift=0.08)
A_THEN_B = Scenario("drift, A then B", machine_drift=0.08, interleaved=False)
BY_DIFFERENCE = tuple(Scenario("by difference", d / 100) for d in (1, 2, 4, 5))
BY_RUNS = tuple(Scenario("by process runs", 0.03, runs) for runs in (3, 4, 5, 8, 10))
ASKED = (AA, AB, BLOCKS, A_THEN_B)
SCENARIOS = (*ASKED, *BY_DIFFERENCE, *BY_RUNS)


# -- planted sessions ------------------------------------------------------------------------------


def sessions(scenario: Scenario, seeds: Sequence[int]) -> Iterator[pd.DataFrame]:
    """The frame of each seed's session."""
    slow = LAW | {"run_noise": RUN_NOISE, "noise": NOISE}
    fast = slow | {name: value / (1 + scenario.difference) for name, value in LAW.items()}
    order = tuple if scenario.interleaved else planted.one_after_the_other(TARGET)
    studies = [comparison(scenario.process_runs, seed) for seed in seeds]
    return _frames("ollama_comparison", studies, {TARGET: fast, BASELINE: slow},
                   machine_drift=scenario.machine_drift, order=order)  # fmt: skip


def comparison(process_runs: int, seed: int) -> Study:
    """The study of two engines, its baseline's twin, one prompt and few tokens."""
    asked = {"prompts": [], "context_lens": [PROMPT_TOKENS], "output_tokens": OUTPUT_TOKENS,
             "process_runs": process_runs, "blocks": BLOCKS_A_RUN, "warmups": 1, "seed": seed,
             "threads": 1}  # fmt: skip
    return make_study("ollama_comparison", asked)


def tail_sessions(seeds: Sequence[int]) -> Iterator[pd.DataFrame]:
    """The frame of each seed's session of one engine with many process runs of one repeat."""
    studies = [make_study("scaling", {
        "engines": ["fake"], "batch_sizes": [1], "context_lens": [PROMPT_TOKENS],
        "output_tokens": OUTPUT_TOKENS, "process_runs": TAIL_RUNS, "blocks": 1, "seed": seed,
        "threads": 1}) for seed in seeds]  # fmt: skip
    noisy = LAW | {"run_noise": RUN_NOISE, "noise": NOISE}
    return _frames("scaling", studies, {"fake": noisy})


def _frames(
    name: str, studies: Sequence[Study], truth: Mapping[str, Mapping], **circumstances: Any
) -> Iterator[pd.DataFrame]:  # fmt: skip
    for start in range(0, len(studies), BATCH):
        some = studies[start : start + BATCH]
        rows = [row for s in some for row in planted.play(name, s, truth, **circumstances)]
        frame = metrics.frame_of(rows, planted.ENVIRONMENTS, "planted")
        by_seed = dict(iter(frame.groupby("seed", sort=False)))
        yield from (by_seed[study.seed].reset_index(drop=True) for study in some)


# -- what is said of them --------------------------------------------------------------------------


def tried(scenario: Scenario, seeds: Sequence[int]) -> dict[str, int]:
    """Of the trials of a scenario, how many came out so: name of an outcome → count."""
    outcomes = [outcome(scenario, frame) for frame in sessions(scenario, seeds)]
    return {name: sum(each[name] for each in outcomes) for name in outcomes[0]}


def outcome(scenario: Scenario, frame: pd.DataFrame) -> dict[str, bool]:
    """What one trial's comparison and median say, held against what was planted."""
    found = compare(frame, TARGET, BASELINE)
    refused = bool(refusal_of(found))
    if not scenario.interleaved:
        found = compare(in_planned_order(scenario, frame), TARGET, BASELINE)
    target = stats.summarise(frame[frame["engine"] == TARGET], "tpot_s", ["engine"]).iloc[0]
    truth = LAW["decode_s"] / (1 + scenario.difference)
    apart = not found.low <= 1 <= found.high
    return {
        "ratio covered": found.low <= 1 + scenario.difference <= found.high,
        "median covered": bool(target["low"] <= truth <= target["high"]),
        "interval excludes 1": apart,
        "and beyond the noise floor": apart and abs(found.ratio - 1) > found.noise_floor,
        "verdict yes": found.verdict == "yes",
        "verdict no": found.verdict == "no",
        "refused: not interleaved": refused,
    }


def refusal_of(found: Comparison) -> str:
    """Why the comparison cannot be made when turns were not interleaved; empty when they were."""
    order = {check.name: check for check in found.checks}["turns interleaved"]
    return order.detail if order.passed is False and found.verdict is None else ""


def in_planned_order(scenario: Scenario, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of a bad design as if it had followed the plan, so that no check refuses it."""
    if scenario.interleaved:
        return frame
    study = comparison(scenario.process_runs, int(frame["seed"].iloc[0]))
    turns = [r.key for group in plan("ollama_comparison", study) for r in group.repeats]
    places = {key: place for place, key in enumerate(turns)}
    return frame.assign(sequence=frame["key"].map(places)).sort_values(
        "sequence", ignore_index=True
    )


def tails_tried(seeds: Sequence[int]) -> dict[str, int]:
    """Of the trials with many process runs, how many percentiles were covered, or refused."""
    nominal_s = (
        LAW["floor_s"] + PROMPT_TOKENS * LAW["unit_s"] + (OUTPUT_TOKENS - 1) * LAW["decode_s"]
    )
    spread = math.hypot(RUN_NOISE, NOISE)
    counts: dict[str, int] = {}
    for frame in tail_sessions(seeds):
        for q in TAILS:
            found = stats.quantile_interval(stats.claimable(frame)["e2e_s"], q)
            truth = nominal_s * math.exp(scipy_stats.norm.ppf(q) * spread)
            name = f"p{100 * q:.0f} " + ("covered" if found.estimable else "refused")
            hit = found.low <= truth <= found.high or not found.estimable
            counts[name] = counts.get(name, 0) + int(hit)
    return counts


# -- what theory expects ---------------------------------------------------------------------------


def theory(scenario: Scenario) -> dict[str, float]:
    """What is expected of the outcomes of a scenario on a machine that does not drift."""
    if scenario.machine_drift or scenario.process_runs == TAIL_RUNS:
        return {}
    apart, beyond = expected(scenario.difference, scenario.process_runs)
    return {"interval excludes 1": apart, "and beyond the noise floor": beyond}


def expected(difference: float, process_runs: int) -> tuple[float, float]:
    """Shares of intervals that exclude 1, and of those also beyond the noise floor."""
    return power.simulated(difference, process_runs, power.side_sd(BLOCKS_A_RUN), draws=DRAWS)
