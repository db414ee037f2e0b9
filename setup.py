"""pip's half of the packaging: what follows from the folder layout. colcon ignores this file.

``msg``, ``config``, ``launch`` and ``weights`` lie at the root because colcon wants them there. In
a wheel they travel as data of ``clkd_core`` (``clkd_core/share/...``), where
clkd_core.data.bags.ros_types and clkd_core.files.shared_folder look when no source checkout
surrounds the package.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHARED = ("msg", "config", "launch", "weights")


class BuildWithShared(build_py):
    """Copies the shared folders into the built package."""

    def run(self) -> None:
        """Build, then copy; an editable install leaves them at the root."""
        super().run()
        if self.editable_mode:
            return
        for name in SHARED:
            for source in sorted((ROOT / name).rglob("*")):
                if source.is_file() and "__pycache__" not in source.parts:
                    target = Path(self.build_lib, "clkd_core", "share", source.relative_to(ROOT))
                    self.mkpath(str(target.parent))
                    self.copy_file(str(source), str(target))


setup(
    packages=find_packages(include=["clkd_core", "clkd_core.*", "clkd_ros", "clkd_ros.*"]),
    package_data={"clkd_core.data": ["lexicon.txt"]},
    cmdclass={"build_py": BuildWithShared},
)
