"""torchvision without torch's compiler."""

import subprocess
import sys

from tests.support.serving import ROOT

_SCRIPT = """
import sys
import handler.loading
assert "torch._dynamo" not in sys.modules
import torch, torchvision
boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
print(tuple(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape), end=" ")
print(torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu") in (True, False), end=" ")
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""


def test_it_is_loaded_when_it_is_first_used():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(1, 1, 2, 2) True 2.0\n", done.stderr
