"""What ours is compared with: the three pictures of pytorch-grad-cam's own demo script in a plain TorchServe handler.

Written as one would write it from the library's tutorial and TorchServe's examples; what can be built once is built
once. It stands alone at the root of its archive and uses nothing of this project.
"""

import base64
import io
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.image import deprocess_image, show_cam_on_image
from torchvision import transforms
from ts.torch_handler.base_handler import BaseHandler

_CROP = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
_NORMALIZE = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
)


class NaiveHandler(BaseHandler):  # type: ignore[misc] # which has no types
    """Predictions with the overlay, guided backprop and guided Grad-CAM, each a PNG in base64."""

    def initialize(self, context: Any) -> None:
        """Loads the model, then builds what the library lets one build once."""
        super().initialize(context)
        self.cam = GradCAM(model=self.model, target_layers=[self.model.conv5])
        self.guided_model = GuidedBackpropReLUModel(model=self.model, device=self.device)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answers each row."""
        return [self.explain_picture(row.get("data") or row["body"]) for row in data]

    def explain_picture(self, body: bytes) -> dict[str, Any]:
        """From the bytes of one picture to the answer's content."""
        crop = _CROP(Image.open(io.BytesIO(body)).convert("RGB"))
        rgb = np.float32(crop) / 255
        tensor = _NORMALIZE(crop).unsqueeze(0).to(self.device)
        grayscale_cam = self.cam(input_tensor=tensor, targets=None)[0]
        probabilities = torch.softmax(self.cam.outputs, dim=1)[0]
        cam_image = show_cam_on_image(rgb, grayscale_cam, use_rgb=True)
        guided = self.guided_model(tensor, target_category=None)
        cam_mask = cv2.merge([grayscale_cam, grayscale_cam, grayscale_cam])
        top, classes = probabilities.topk(5)
        return {
            "predictions": [
                {"index": index, "probability": value}
                for index, value in zip(classes.tolist(), top.tolist(), strict=True)
            ],
            "gradcam": self.encode(cam_image),
            "guided_backprop": self.encode(deprocess_image(guided)),
            "guided_gradcam": self.encode(deprocess_image(cam_mask * guided)),
        }

    def encode(self, picture: Any) -> str:
        """A PNG in base64."""
        _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return base64.b64encode(data.tobytes()).decode()
