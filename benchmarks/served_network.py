"""The model file that TorchServe's stock handlers want: one class that builds shufflenet_v2_x2_0 without arguments."""

from torchvision.models.shufflenetv2 import ShuffleNetV2


class ShuffleNetV2X2(ShuffleNetV2):  # type: ignore[misc] # which has no types
    """torchvision's shufflenet_v2_x2_0."""

    def __init__(self) -> None:
        super().__init__([4, 8, 4], [24, 244, 488, 976, 2048])
