"""Networks, and what is known of them. torchvision is imported here, without torch's compiler.

torchvision imports the compiler for its detectors (pytorch/vision#8436), which takes a second and 150 MB; here they
find it when they run.
"""

import sys
from importlib import import_module
from types import SimpleNamespace

_COMPILER = "torch._dynamo.utils"
if _COMPILER not in sys.modules:
    later = SimpleNamespace(is_compile_supported=lambda device: import_module(_COMPILER).is_compile_supported(device))
    sys.modules[_COMPILER] = later  # type: ignore[assignment]
    try:
        import_module("torchvision")
    finally:
        del sys.modules[_COMPILER]
