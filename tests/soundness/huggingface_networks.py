"""Image classifiers of Hugging Face's transformers, built from small configurations; nothing is downloaded.

Each name is a factory: ``tests.soundness.huggingface_networks:vit``. The network's ``logits`` are the scores.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers
from torch import Tensor, nn

PREPROCESSING = {"resize_size": 64, "crop_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
SIDE = 64
LARGER = 128  # where 64 pixels would leave two by two cells, each of which sees the whole picture
_LARGER = (
    *("segformer", "pvt_v2", "cvt", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "efficientnet"),
    *("swiftformer", "resnet", "bit", "regnet"),
)
CLASSES = 10
_TOKENS = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
_VIT = _TOKENS | {"image_size": 64, "patch_size": 8}
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
_PVT = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64], "num_attention_heads": [1, 2, 5, 8]}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
# class name without "ForImageClassification", configuration
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", _VIT),
    "deit": ("DeiT", _VIT),
    "deit_with_teacher": ("DeiTForImageClassificationWithTeacher", _VIT),
    "beit": ("Beit", _VIT),
    "data2vec_vision": ("Data2VecVision", _VIT),
    "dinov2": ("Dinov2", _VIT),
    "dinov2_with_registers": ("Dinov2WithRegisters", _VIT),
    "ijepa": ("IJepa", _VIT),
    "vit_msn": ("ViTMSN", _VIT),
    "siglip": ("Siglip", {"vision_config": _VIT}),
    "clip": ("CLIP", {"vision_config": _VIT, "text_config": _TOKENS}),
    "swin": ("Swin", _SWIN),
    "swinv2": ("Swinv2", _SWIN),
    "donut_swin": ("DonutSwin", _SWIN),
    "hiera": ("Hiera", {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 2, 1], "mlp_ratio": 2.0}),
    "convnext": ("ConvNext", _STAGES),
    "convnextv2": ("ConvNextV2", _STAGES | {"image_size": 64}),
    "resnet": ("ResNet", _STAGES | {"embedding_size": 16, "layer_type": "basic"}),
    "bit": ("Bit", _STAGES | {"embedding_size": 16, "num_groups": 4}),
    "regnet": ("RegNet", _STAGES | {"embedding_size": 16, "groups_width": 8}),
    "poolformer": ("PoolFormer", _STAGES),
    "focalnet": ("FocalNet", {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 2, 1]}),
    "segformer": ("Segformer", _PVT | {"decoder_hidden_size": 32}),
    "pvt": ("Pvt", _PVT | {"image_size": 64}),
    "pvt_v2": ("PvtV2", _PVT | {"image_size": 128}),
    "cvt": ("Cvt", {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}),
    "levit": ("Levit", {"image_size": 64, "hidden_sizes": [32, 48, 64], "key_dim": [8, 8, 8], "depths": [1, 1, 1]}),
    "mobilenet_v1": ("MobileNetV1", {"image_size": 64, "depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2", {"image_size": 64, "depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViT",
        {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 80]},
    ),
    "mobilevitv2": ("MobileViTV2", {"image_size": 64, "width_multiplier": 0.5}),
    "efficientnet": (
        "EfficientNet",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    "swiftformer": ("SwiftFormer", {"image_size": 64, "depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 48]}),
    "perceiver": (
        "PerceiverForImageClassificationLearned",
        {"num_latents": 16, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 2}
        | {"num_self_attention_heads": 2, "num_cross_attention_heads": 1, "image_size": 64},
    ),
}


def side(name: str) -> int:
    """Of the network's pictures, in pixels."""
    return LARGER if name in _LARGER else SIDE


def builder(name: str) -> Any:
    """The class of a network."""
    kind = NETWORKS[name][0]
    return getattr(transformers, kind if "ForImage" in kind else f"{kind}ForImageClassification")


class Scores(nn.Module):
    """A network whose answer holds more than the scores."""

    def __init__(self, network: nn.Module, argument: str) -> None:
        super().__init__()
        self.network, self.argument = network, argument

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, K)."""
        logits: Tensor = self.network(**{self.argument: pictures}).logits
        return logits


def network(name: str) -> nn.Module:
    """In eval mode, with weights that nobody should look at."""
    made = builder(name)
    module = made(made.config_class(num_labels=CLASSES, **NETWORKS[name][1])).eval()
    return Scores(module, "inputs" if name == "perceiver" else "pixel_values")


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if name in NETWORKS:
        return partial(network, name)
    raise AttributeError(name)
