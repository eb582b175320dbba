"""Lists what is assumed about a classifier and who said so: a wrong assumption makes wrong maps that look right."""

from handler.model.checkpoint import Checkpoint
from handler.model.classifier import Classifier


def assumptions(checkpoint: Checkpoint, classifier: Classifier) -> list[str]:
    """Preprocessing, input transform, probabilities, labels and the automatic layer, in lines for people.

    Args:
        checkpoint: complete, see ``find_checkpoint``.
        classifier: built from the checkpoint.
    """
    origins = checkpoint.origins
    lines = [f"preprocessing: {classifier.preprocessing.describe()}; {_said(origins, 'preprocessing')}"]
    if "transform_input" in origins:
        applied = "normalised once more" if checkpoint.options.get("transform_input") else "none"
        lines.append(f"input transform: {applied}; {_said(origins, 'transform_input')}")
    channels, height, width = classifier.layers[classifier.default_layer]
    alone = [f"pictures are run one by one, without graphs: {classifier.alone}"] if classifier.alone else []
    return [
        *lines,
        "probabilities: the softmax of the scores",
        f"labels: {len(classifier.labels)}; {_said(origins, 'labels')}",
        f"layer: {classifier.default_layer}, {channels} channels of {height}x{width} cells; {classifier.layer_rule}",
        *alone,
    ]


def _said(origins: dict[str, str], part: str) -> str:
    return origins.get(part, "as the checkpoint says")
