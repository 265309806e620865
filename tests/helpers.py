"""What several test modules share."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def run_python(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; what it prints is text."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, **options
    )
