"""The C++ sources of kernels/cpu go into wheel and sdist as data; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDER = Path("kernels", "cpu")
SOURCES = [
    str(path) for ending in ("cpp", "h", "inl") for path in sorted(FOLDER.glob(f"*.{ending}"))
]


class WithSources(build_py):
    """An editable install needs no copy: the checkout has the sources."""

    def run(self) -> None:
        super().run()
        goal = Path(self.build_lib, "llmbench", "_kernels", "cpu")
        if not self.editable_mode:
            shutil.rmtree(goal, ignore_errors=True)  # an older build's may be there
            self.mkpath(str(goal))
            for source in SOURCES:
                self.copy_file(source, str(goal))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *SOURCES]


setup(cmdclass={"build_py": WithSources})
