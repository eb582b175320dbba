"""The methods that make a map of a layer's evidence, by the name that requests use.

A formula takes activation and gradient (N, C, h, w) and returns unscaled maps (N, h, w). Where it needs no layer, both
are None; over attention it takes other arrays, see ``attention_maps``. Its further parameters say what it takes, too.
"""

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

from handler.explanation import activation_cams, attention_maps, gradient_cams, input_gradients, masking_cams
from handler.explanation.class_weights import SIMILAR
from handler.explanation.evidence import BEHIND, CURVATURE, FULL_GRADIENT

# the scores whose gradients at a transformer's attention a formula takes
ATTENTION_ALONE, OF_SCORES, OF_BLOCKS = "none", "the network's", "of each block's mean token"


_signature = cache(signature)  # which every request asks for, of all methods: it takes longer than JSON


class Method(NamedTuple):
    """A formula and its properties."""

    title: str  # on a sheet
    formula: Callable[..., Any]
    of_class: bool = True  # depends on the class
    similar: int = 0  # number of similar classes that the gradient holds the class against, see ``class_weights``
    passes: int = 0  # default number of changed pictures or activations, for formulas that take a ``probe``
    beside: str = ""  # evidence beside activation and gradient, see ``Needs``
    attention: str = ""  # for formulas over attention (see ``attention_maps``): the scores whose gradients are taken

    @property
    def summary(self) -> str:
        """The first line of the formula's docstring."""
        return (self.formula.__doc__ or "").partition("\n")[0]

    def takes(self, parameter: str) -> bool:
        """Whether the formula takes ``activation``, of a layer, ``seed``, or ``combine``, as sums over channels do."""
        return parameter in _signature(self.formula).parameters


METHODS = {
    "gradcam": Method("Grad-CAM", gradient_cams.gradcam),
    "gradcam++": Method("Grad-CAM++", gradient_cams.gradcam_plus_plus),
    "xgradcam": Method("XGrad-CAM", gradient_cams.xgradcam),
    "layercam": Method("LayerCAM", gradient_cams.layercam),
    "hirescam": Method("HiResCAM", gradient_cams.hirescam),
    "gradcam_elementwise": Method("element-wise Grad-CAM", gradient_cams.gradcam_elementwise),
    "finercam": Method("FinerCAM", gradient_cams.finercam, similar=SIMILAR),
    "shapleycam": Method("ShapleyCAM", gradient_cams.shapleycam, beside=CURVATURE),
    "cam": Method("CAM", gradient_cams.cam),
    "eigencam": Method("Eigen-CAM", activation_cams.eigencam, of_class=False),
    "eigengradcam": Method("Eigen-Grad-CAM", activation_cams.eigengradcam),
    "kpcacam": Method("KPCA-CAM", activation_cams.kpca_cam, of_class=False),
    "fem": Method("FEM", activation_cams.fem, of_class=False),
    "randomcam": Method("RandomCAM", activation_cams.random_cam, of_class=False),
    "scorecam": Method("Score-CAM", masking_cams.scorecam, passes=256),
    "ablationcam": Method("Ablation-CAM", masking_cams.ablationcam, passes=257, beside=BEHIND),
    "reciprocam": Method("Recipro-CAM", masking_cams.reciprocam, passes=197, beside=BEHIND),
    "occlusion": Method("occlusion", masking_cams.occlusion, passes=197),
    "rise": Method("RISE", masking_cams.rise, passes=256),
    "fullgrad": Method("FullGrad", input_gradients.fullgrad, beside=FULL_GRADIENT),
    "integrated_gradients": Method("Integrated Gradients", input_gradients.integrated_gradients, passes=32),
    "expected_gradients": Method("Expected Gradients", input_gradients.expected_gradients, passes=64),
    "smoothgrad": Method("SmoothGrad", input_gradients.smoothgrad, passes=32),
    "gradient_attention": Method("gradient-weighted attention", attention_maps.gradient_attention, attention=OF_SCORES),
    "legrad": Method("LeGrad", attention_maps.legrad, attention=OF_BLOCKS),
    "rollout": Method("attention rollout", attention_maps.rollout, of_class=False, attention=ATTENTION_ALONE),
}
ATTENTION_METHODS = tuple(name for name, method in METHODS.items() if method.attention)
