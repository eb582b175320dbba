"""Programs that tests run: those of the environment's packages, then the machine's."""

import os
import shutil
import sys
from pathlib import Path


def tool(name: str) -> str | None:
    """Where a program is, None if it is nowhere."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
