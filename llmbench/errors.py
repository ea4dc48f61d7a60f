"""The few errors a caller can act on. Each says what, why, what is kept, and how to go on."""


class LlmbenchError(Exception):
    """An error written for a person; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", kept: str = "", how: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.kept, self.how = what, why, kept, how

    def __str__(self) -> str:
        parts = [("", self.what), ("why: ", self.why), ("kept: ", self.kept), ("go on: ", self.how)]
        return "\n".join(label + text for label, text in parts if text)


class ServesSlowly(UserWarning):
    """An engine serves what was asked, but slower than it could; said once, then it goes on."""


class StudyFailed(LlmbenchError):
    """A study, a notebook or a check ended with faults; what it measured is kept."""


class BadParams(LlmbenchError):
    """Parameters or usage are wrong; nothing was started."""

    exit_code = 2


class Missing(LlmbenchError):
    """This machine lacks something (engine, GPU, licence, model) and nothing else could be done."""

    exit_code = 3


class CannotSay(LlmbenchError):
    """The data cannot answer: not comparable, or inconclusive."""

    exit_code = 4


class StoreFailed(LlmbenchError):
    """The store cannot be written; every row acknowledged before is intact."""

    exit_code = 74


class Held(LlmbenchError):
    """Another run holds the folder, or a host's limit ended this one: try again later."""

    exit_code = 75


class OutOfMemory(LlmbenchError):
    """An engine could not get the memory that a point needs; recorded as status `oom`."""


class EngineLost(LlmbenchError):
    """A server went away or fell silent amid an answer; recorded as status `engine_lost`."""


class Unsupported(LlmbenchError):
    """An engine cannot do what a point asks; recorded as status `unsupported`."""

    exit_code = 3


class Refused(LlmbenchError):
    """The request is not sensible for this model (too long, unknown id); recorded as `refused`."""

    exit_code = 2
