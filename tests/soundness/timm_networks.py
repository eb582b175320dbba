"""One network of each of timm's model modules, the smallest or one made smaller, and some of the awkward kinds.

Each name is a factory: ``tests.soundness.timm_networks:xcit_nano_12_p8_224``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from torch import nn

PREPROCESSING = {"resize_size": 224, "crop_size": 224, "mean": [0.5] * 3, "std": [0.25] * 3}
CLASSES = 10
_SHALLOW = {"depth": 3, "embed_dim": 192, "num_heads": 3}
# side in pixels, and what makes large ones small
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (224, _SHALLOW),
    "lambda_resnet26t": (128, {}),
    "test_byobnet": (96, {}),
    "cait_xxs24_224": (224, {"depth": 4}),
    "coat_tiny": (224, {}),
    "convit_tiny": (224, {"depth": 4}),
    "convmixer_768_32": (64, {}),
    "test_convnext": (96, {}),
    "cpubone_nano": (128, {}),
    "crossvit_tiny_240": (240, {}),
    "csatv2": (512, {}),
    "cs3darknet_focus_s": (96, {}),
    "cspnext_tiny": (96, {}),
    "davit_tiny": (128, {"depths": (1, 1, 2, 1)}),
    "deepseek_vit_412m": (224, _SHALLOW),
    "deit_tiny_patch16_224": (224, {"depth": 4}),
    "deit_tiny_distilled_patch16_224": (224, {"depth": 4}),
    "densenet121": (64, {}),
    "dla46x_c": (64, {}),
    "dpn48b": (64, {}),
    "edgenext_xx_small": (128, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (224, {}),
    "test_efficientnet": (96, {}),
    "efficientvim_m1": (224, {}),
    "efficientvit_b0": (128, {}),
    "efficientvit_m0": (224, {}),
    "vit_tiny_patch16_dinov3_qkvb": (128, {"depth": 4}),
    "fasternet_t0": (96, {}),
    "fastvit_t8": (128, {}),
    "focalnet_tiny_srf": (128, {}),
    "gcvit_xxtiny": (224, {}),
    "gemma4_vit_570m": (192, _SHALLOW),
    "ghostnet_050": (96, {}),
    "hardcorenas_b": (128, {}),
    "hgnetv2_b0": (96, {}),
    "hiera_tiny_224": (224, {"stages": (1, 1, 2, 1)}),
    "sam2_hiera_tiny": (128, {"stages": (1, 1, 2, 1)}),
    "hrnet_w18_small": (96, {}),
    "iformer_t": (128, {}),
    "inception_next_atto": (128, {}),
    "inception_resnet_v2": (160, {}),
    "inception_v3": (160, {}),
    "inception_v4": (160, {}),
    "lcnetv2_small": (96, {}),
    "levit_128s": (224, {}),
    "lowformer_b0": (128, {}),
    "test_mambaout": (96, {}),
    "test_coatnet": (160, {}),
    "maxvit_rmlp_pico_rw_256": (256, {}),
    "poolformerv2_s12": (96, {}),
    "gmlp_ti16_224": (224, {}),
    "mixer_s32_224": (224, {}),
    "mobilenetv3_small_050": (96, {}),
    "mobilenetv5_base": (128, {}),
    "mobilevit_xxs": (128, {}),
    "mvitv2_tiny": (224, {}),
    "naflexvit_base_patch16_parfac_gap": (128, _SHALLOW),
    "nasnetalarge": (128, {}),
    "nest_tiny": (224, {}),
    "nextvit_small": (96, {}),
    "test_nfnet": (96, {}),
    "pit_ti_224": (224, {}),
    "pnasnet5large": (96, {}),
    "pvt_v2_b0": (96, {}),
    "qwen3_vit_88m": (224, _SHALLOW),
    "rdnet_tiny": (96, {}),
    "regnetx_002": (64, {}),
    "repghostnet_050": (96, {}),
    "repvit_m1": (96, {}),
    "res2next50": (64, {}),
    "resnest14d": (64, {}),
    "test_resnet": (96, {}),
    "resnetv2_18": (64, {}),
    "rexnet_100": (96, {}),
    "selecsls42": (96, {}),
    "legacy_seresnet18": (64, {}),
    "sequencer2d_s": (224, {"layers": (1, 1, 2, 1)}),
    "shvit_s1": (128, {}),
    "skresnet18": (128, {}),
    "starnet_s050": (96, {}),
    "swiftformer_xs": (224, {}),
    "swin_tiny_patch4_window7_224": (224, {"depths": (1, 1, 2, 2)}),
    "swinv2_tiny_window8_256": (256, {"depths": (1, 1, 2, 2)}),
    "swinv2_cr_tiny_224": (224, {"depths": (1, 1, 2, 2)}),
    "tiny_vit_5m_224": (224, {}),
    "tnt_s_legacy_patch16_224": (224, {"depth": 3}),
    "tresnet_m": (96, {}),
    "twins_svt_small": (224, {"depths": (1, 1, 2, 1)}),
    "vgg11": (64, {}),
    "visformer_tiny": (224, {}),
    "test_vit": (160, {}),
    "vit_wee_patch16_reg1_gap_256": (128, {"depth": 3}),
    "vit_tiny_r_s16_p8_224": (224, {"depth": 3}),
    "test_vit_relpos": (160, {}),
    "samvit_base_patch16_224": (224, _SHALLOW | {"global_attn_indexes": (2,)}),
    "vitamin_small_224": (224, {}),
    "volo_d1_224": (224, {}),
    "ese_vovnet19b_slim_dw": (96, {}),
    "legacy_xception": (96, {}),
    "xception41p": (192, {}),
    "xcit_nano_12_p8_224": (224, {"depth": 4}),
}
SIZED = ("vit_tiny_patch16_dinov3_qkvb", "vit_wee_patch16_reg1_gap_256")  # built for their side


def network(name: str) -> nn.Module:
    """In eval mode, with weights that nobody should look at."""
    side, options = NETWORKS[name]
    sized = {"img_size": side} if name in SIZED else {}
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **sized, **options).eval()
    return module


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if name in NETWORKS:
        return partial(network, name)
    raise AttributeError(name)
