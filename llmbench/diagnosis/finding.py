"""One thing that was looked at."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and the command or act that mends it when needed."""

    subject: str
    state: Literal["ok", "missing", "warning"]
    detail: str
    remedy: str = ""
