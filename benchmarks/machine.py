"""What the figures were measured on. No host name."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    *("torch", "torchvision", "onnxruntime", "onnx", "onnxscript", "numpy", "opencv-python-headless"),
    *("grad-cam", "captum", "torchcam", "openvino", "torchserve"),
)


def describe_machine() -> dict[str, Any]:
    """CPU, memory, system, packages, date."""
    versions = {one.name: one.version for one in distributions()}
    # the kernel's name of the processor lacks family and model on many virtual machines
    fields = dict(re.findall(r"^(.*?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE))
    name, family, model = (fields.get(key, "?") for key in ("model name", "cpu family", "model"))
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return {
        "cpu": f"{name} (family {family}, model {model})",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{system}, {platform.machine()}",
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
    found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace"))
    if not found:  # its parent has not asked yet
        raise ProcessLookupError(f"process {pid} holds no memory any more")
    return int(found[1]) * 1024
