"""The methods that make a map of a layer's evidence, by the name that requests use."""

from collections.abc import Callable
from typing import Any, NamedTuple

from handler.explanation import activation_cams, attention_maps, gradient_cams, input_gradients, masking_cams
from handler.explanation.class_weights import SIMILAR

# the scores whose gradients at a transformer's attention a formula takes
ATTENTION_ALONE, OF_SCORES, OF_BLOCKS = "none", "the network's", "of each block's mean token"


class Method(NamedTuple):
    """A formula and its properties."""

    title: str  # on a sheet
    formula: Callable[..., Any]  # activation and gradient (N, C, h, w) to unscaled maps (N, h, w); or of ``attention``
    weighted: bool = True  # weights channels, whose combination can be chosen: the formula takes ``combine``
    of_class: bool = True  # depends on the class
    similar: int = 0  # number of similar classes that the gradient holds the class against, see ``class_weights``
    random: bool = False  # the formula takes ``seed``
    at_layer: bool = True  # a map of a layer's cells
    passes: int = 0  # default number of changed pictures, for formulas that take a ``probe``
    attention: str = ""  # for formulas over attention (see ``attention_maps``): the scores whose gradients are taken

    @property
    def summary(self) -> str:
        """The first line of the formula's docstring."""
        return (self.formula.__doc__ or "").partition("\n")[0]


METHODS = {
    "gradcam": Method("Grad-CAM", gradient_cams.gradcam),
    "gradcam++": Method("Grad-CAM++", gradient_cams.gradcam_plus_plus),
    "xgradcam": Method("XGrad-CAM", gradient_cams.xgradcam),
    "layercam": Method("LayerCAM", gradient_cams.layercam),
    "hirescam": Method("HiResCAM", gradient_cams.hirescam),
    "gradcam_elementwise": Method("element-wise Grad-CAM", gradient_cams.gradcam_elementwise),
    "finercam": Method("FinerCAM", gradient_cams.finercam, similar=SIMILAR),
    "cam": Method("CAM", gradient_cams.cam),
    "eigencam": Method("Eigen-CAM", activation_cams.eigencam, weighted=False, of_class=False),
    "eigengradcam": Method("Eigen-Grad-CAM", activation_cams.eigengradcam, weighted=False),
    "kpcacam": Method("KPCA-CAM", activation_cams.kpca_cam, weighted=False, of_class=False),
    "fem": Method("FEM", activation_cams.fem, of_class=False),
    "randomcam": Method("RandomCAM", activation_cams.random_cam, of_class=False, random=True),
    "scorecam": Method("Score-CAM", masking_cams.scorecam, weighted=False, passes=256),
    "occlusion": Method("occlusion", masking_cams.occlusion, weighted=False, at_layer=False, passes=197),
    "rise": Method("RISE", masking_cams.rise, weighted=False, random=True, at_layer=False, passes=256),
    "integrated_gradients": Method(
        "Integrated Gradients", input_gradients.integrated_gradients, weighted=False, at_layer=False, passes=32
    ),
    "expected_gradients": Method(
        "Expected Gradients",
        input_gradients.expected_gradients,
        weighted=False,
        random=True,
        at_layer=False,
        passes=64,
    ),
    "smoothgrad": Method(
        "SmoothGrad", input_gradients.smoothgrad, weighted=False, random=True, at_layer=False, passes=32
    ),
    "gradient_attention": Method(
        "gradient-weighted attention",
        attention_maps.gradient_attention,
        weighted=False,
        at_layer=False,
        attention=OF_SCORES,
    ),
    "legrad": Method("LeGrad", attention_maps.legrad, weighted=False, at_layer=False, attention=OF_BLOCKS),
    "rollout": Method(
        "attention rollout",
        attention_maps.rollout,
        weighted=False,
        of_class=False,
        at_layer=False,
        attention=ATTENTION_ALONE,
    ),
}
ATTENTION_METHODS = tuple(name for name, method in METHODS.items() if method.attention)
