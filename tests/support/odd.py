"""Networks that do in their forward, or keep beside their weights, what tracers and exporters stumble over."""

import threading

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DeformConv2d

LABELS = ["cat", "dog", "bird"]
PREPROCESSING = {"resize_size": 20, "crop_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
LAYER = "second"


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 1, 1)
        self.head = nn.Linear(8, 3)

    def between(self, x):
        return x

    def features(self, x):
        return F.relu(self.second(self.between(F.relu(self.first(x)))))

    def score(self, x):
        return self.head(x.mean((2, 3)))

    def forward(self, x):
        return self.score(self.features(x))


class KeepsFeatures(Plain):
    def features(self, x):
        self.last = super().features(x)
        return self.last


class KeepsALock(Plain):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return super().forward(x)


class KeepsAScriptFunction(Plain):
    def __init__(self):
        super().__init__()
        self.act = torch.jit.script(_half)

    def between(self, x):
        return self.act(x)


def _half(x: torch.Tensor):
    return torch.relu(x) * 0.5


class SaysFloat(Plain):
    def between(self, x):
        return x.float()


class InDouble(Plain):
    def between(self, x):
        return (x.double() * 1.5).float()


class MakesFloat32(Plain):
    def between(self, x):
        return x @ torch.eye(x.shape[3], dtype=torch.float32)


class StepBeyondKernel(Plain):
    def between(self, x):
        return F.avg_pool2d(F.max_pool2d(x, 2, 3, ceil_mode=True), 1, 2, ceil_mode=True)


class OddPooling(Plain):
    def between(self, x):
        return F.adaptive_max_pool2d(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), 5)


class KeepsUntilAMode(Plain):
    """Keeps a value computed from its weights, and forgets the value in ``train`` and ``eval``, as timm's LeViT."""

    def train(self, mode=True):
        self.kept = None
        return super().train(mode)

    def between(self, x):
        if getattr(self, "kept", None) is None:
            self.kept = self.second.weight.mean()
        return x + self.kept


class WindowBeyondTheCells(Plain):
    """Averages all cells by a window that is larger, as the EfficientNet of transformers does."""

    def score(self, x):
        return self.head(F.avg_pool2d(x, 100, ceil_mode=True)[:, :, 0, 0])


class OddPoolingOfVolumes(Plain):
    def between(self, x):
        x = F.avg_pool3d(x[:, None], (2, 3, 2), (1, 2, 3), (1, 0, 0), ceil_mode=True)
        return F.avg_pool3d(x, 2, 1, divisor_override=5)[:, 0]


class SpatialTransformer(Plain):
    """Looks at a place of the picture that it finds itself, as PyTorch's tutorial does."""

    def __init__(self):
        super().__init__()
        self.find = nn.Linear(3, 6)

    def forward(self, x):
        theta = self.find(x.mean((2, 3))).reshape(-1, 2, 3) * 0.1 + torch.eye(2, 3)
        return super().forward(F.grid_sample(x, F.affine_grid(theta, x.shape)))

    def between(self, x):
        theta = self.find(x[:, :3].mean((2, 3))).reshape(-1, 2, 3) + torch.eye(2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape)))


class ManyOperators(Plain):
    """Operators that ONNX or torch's exporter lacks or has otherwise, and a weight that is computed."""

    def __init__(self):
        super().__init__()
        self.prelu, self.norm = nn.PReLU(6), nn.LocalResponseNorm(2)
        self.valid = parametrizations.weight_norm(nn.Conv2d(6, 6, 2, padding="valid"))

    def between(self, x):
        x = F.glu(torch.cat([self.prelu(x - 0.2), x], 1), 1)
        x = F.interpolate(F.pad(x, (1, 2, 2, 1), mode="replicate"), size=(17, 13), mode="bilinear", antialias=True)
        x = F.avg_pool2d(x, 3, 2, divisor_override=4).unfold(2, 4, 2).unfold(3, 3, 1).mean((4, 5))
        x = F.adaptive_max_pool2d(F.relu(self.valid(self.norm(x))), (2, 3))
        return F.max_pool3d(F.relu(x - 0.01)[:, None], (2, 1, 1), (1, 1, 1), (1, 0, 0))[:, 0, :6]


class SumsAtIndices(Plain):
    """Adds terms up at equal indices, forward and backward."""

    def between(self, x):
        x = F.interpolate(x, scale_factor=1.5, mode="bilinear")[:, :, torch.arange(24) % 11, 1:]
        return torch.zeros_like(x).index_add(1, torch.tensor([0, 0, 1, 2, 2, 5]), x)


class ChangesABuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += x.shape[0]
        return super().forward(x)


class BeginsInPlace(Plain):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context, gradient):
        return gradient * (context.saved_tensors[0] > 0)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        gate = x.sigmoid()
        return gradient * gate * (1 + x * (1 - gate))


class OwnFunction(Plain):
    def between(self, x):
        return Swish.apply(x)


class SpectralNorm(Plain):
    def __init__(self):
        super().__init__()
        parametrizations.spectral_norm(self.first)


class WeightNorm(Plain):
    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self.first)


class Normed(Plain):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.GroupNorm(2, 6), nn.ConvTranspose2d(6, 6, 2, 2)

    def between(self, x):
        return self.up(F.mish(self.norm(F.pad(F.softplus(x), (1, 1, 1, 1), mode="reflect"))))


class Checkpointed(Plain):
    def features(self, x):
        return F.relu(self.second(checkpoint(lambda one: F.relu(self.first(one)), x, use_reentrant=False)))


class Autocast(Plain):
    def features(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().features(x).float()


class Deformable(Plain):
    def __init__(self):
        super().__init__()
        self.offset, self.deformed = nn.Conv2d(6, 18, 3, 1, 1), DeformConv2d(6, 6, 3, padding=1)

    def between(self, x):
        return self.deformed(x, self.offset(x))


class LoopsOverTheBatch(Plain):
    def forward(self, x):
        return torch.cat([super(LoopsOverTheBatch, self).forward(x[i : i + 1]) for i in range(x.shape[0])])


class WithoutGradient(Plain):
    def features(self, x):
        with torch.no_grad():
            return super().features(x)


class FirstWithoutGradient(Plain):
    def between(self, x):
        return x.detach()
