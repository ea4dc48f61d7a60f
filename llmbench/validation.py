"""`validate`: measure whether models load as asked, judge it, and write it down."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmbench import catalog, metrics, store
from llmbench.errors import LlmbenchError, Missing
from llmbench.findings.validation import validation_rows, validation_sentences, validation_table
from llmbench.hardware import machine
from llmbench.models.predict import predict
from llmbench.params import QUANTIZATIONS
from llmbench.sweep import measure
from llmbench.tables import markdown
from llmbench.units import nbytes

CONTEXT = 2048  # tokens for which memory is predicted


@dataclass(frozen=True)
class Validation:
    """What was found, and the two files that say so."""

    folder: Path  # of the run
    rows: list[dict[str, Any]]
    files: tuple[Path, Path]
    left: int  # repeats without a settled record: deferred for lack of time, or lost

    @property
    def passed(self) -> bool:
        """Whether every model passed in every form, and nothing is left to be measured."""
        return bool(self.rows) and not self.left and all(row["passed"] for row in self.rows)


def validate(
    models: list[str] | None = None, quantization: str | None = None,
    output_dir: Path | None = None, outputs: Path | None = None, **fields: Any,
) -> Validation:  # fmt: skip
    """Load each of `models` as asked in fresh processes, judge it, and write it down.

    Without `quantization` every form is tried. `fields` are others of the study `model_validation`.
    Raises: BadParams, and Missing without `models`: those that are to be validated are not here.
    """
    if not models:
        raise _not_here()
    asked = {"process_runs": 1, "blocks": 1} | fields
    forms = [quantization] if quantization else [q for q in QUANTIZATIONS if q != "float16"]
    run = measure("model_validation", models=models, quantizations=forms, outputs=outputs, **asked)
    frame = metrics.read(run.folder)
    rows = validation_rows(frame).to_dict("records")
    place = Path(output_dir or run.folder)
    place.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    left = run.planned - run.settled
    rest = f"{left} of {run.planned} repeats are left: the same command goes on."
    told = validation_sentences(frame) + [rest] * bool(left)
    files = place / f"model_validation_{stamp}.json", place / "MODEL_VALIDATION_SUMMARY.md"
    plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    store.snapshot_json(files[0], {"run": run.run_id, "measured": stamp, "left": left,
                                   "models": plain})  # fmt: skip
    text = "\n".join(["# Do the models load as asked?", "", markdown(validation_table(frame)),
                      *(f"* {sentence}" for sentence in told), ""])  # fmt: skip
    store.snapshot(files[1], text.encode())
    return Validation(run.folder, rows, files, left)


def _not_here() -> Missing:
    """What the models of the validation set need, and how to get them."""
    here = machine()
    limit = here.cgroup_memory_bytes or here.memory_bytes
    lines = []
    for entry in (m for m in catalog.models().values() if "S3" in m.systems):
        form = entry.quantization or "bfloat16"
        try:
            needs = predict(entry.name, context_len=CONTEXT, dtype=form, device_bytes=limit)
            told = f"{nbytes(needs.peak_bytes)} in {form}, " + (
                "fits" if needs.fits else f"does not fit the {nbytes(limit)} here")  # fmt: skip
        except LlmbenchError as error:
            told = f"memory not predicted: {error.what}"
        gate = f"gated ({entry.licence})" if entry.gated else f"not gated ({entry.licence})"
        lines.append(f"  {entry.hf_id}: {told}; {gate}")
    return Missing(
        "the models of the validation set are not on this disk", why="\n" + "\n".join(lines),
        how="download one (`hf download ID --local-dir FOLDER`, after accepting its licence), then "
        "`llmbench validate FOLDER`; or try `llmbench validate builtin:tiny`",
    )  # fmt: skip
