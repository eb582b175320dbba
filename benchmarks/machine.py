"""What the figures were measured on. No host name."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    *("torch", "torchvision", "onnxruntime", "onnx", "onnxscript", "numpy", "opencv-python-headless"),
    *("grad-cam", "captum", "torchcam", "torchserve"),
)


def describe_machine() -> dict[str, Any]:
    """CPU, memory, system, packages, date."""
    versions = {one.name: one.version for one in distributions()}
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": _system(),
        "python": platform.python_version(),
        "packages": {name: versions[name] for name in _PACKAGES if name in versions},
        "date": datetime.now(UTC).date().isoformat(),
    }


def peak_memory(pid: int | str = "self") -> int:
    """The most bytes that a process ever held.

    Not ``getrusage``'s figure, which starts from what the parent held when it forked.

    Raises:
        OSError: it has ended.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    found = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    if not found:  # its parent has not asked yet
        raise ProcessLookupError(f"process {pid} holds no memory any more")
    return found[0]


def _cpu() -> str:
    """The kernel's name of the processor, with family and model, which virtual machines often leave out of the name."""
    first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = fields.get("model name") or platform.machine()
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"
