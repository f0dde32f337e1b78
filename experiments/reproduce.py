"""Run the commands on the experiments' pages.

    python -m experiments.reproduce [NAME …]

from the root of a checkout. An experiment's folder `outputs/NAME` is removed first, so that
everything is computed again. The models in `outputs/models` stay. Without names: every experiment
of conf/experiment. `git diff experiments` then shows what changed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def names() -> list[str]:
    """Every experiment that has a configuration."""
    return sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def reproduce(name: str) -> None:
    """Run one page.

    Raises:
        CalledProcessError: a command failed.
    """
    shutil.rmtree(ROOT / "outputs" / name, ignore_errors=True)
    page = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    # `python` is this one, whether its environment is active or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands in _COMMANDS.findall(page):
        print(f"\n{commands}", flush=True)
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            check=True,
        )


if __name__ == "__main__":
    for experiment in sys.argv[1:] or names():
        reproduce(experiment)
