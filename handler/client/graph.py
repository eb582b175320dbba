"""Opens an exported graph as a model, without PyTorch."""

from pathlib import Path

from handler.client.model import Model
from handler.explanation.methods import METHODS
from handler.graphs.description import KIND_ATTENTION, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from handler.protocol.model_card import ModelCard
from handler.protocol.options import MAPS
from handler.serving.explainer import Explainer


class GraphModel(Model):
    """The model of one graph, whose metadata give preprocessing and labels."""

    def __init__(self, path: Path | str) -> None:
        """Opens the graph; raises ModelError if the file does not exist, or is no ONNX graph of this project."""
        path = Path(path)
        graph = GraphSession.open(path)
        self.description = known = graph.description
        held = KINDS[known.kind].maps
        shapes = {output.name: tuple(output.shape[1:]) for output in graph.session.get_outputs()}
        layers = {path: shapes.get(f"activations{ending}") for path, ending in known.layers.items()}
        card = ModelCard(
            name=path.name.partition(".")[0],
            version=known.weights_sha256[:12],
            architecture=known.architecture,
            labels=known.labels,
            preprocessing=known.preprocessing,
            head=known.head,
            default_layer=known.layer,
            default_method=known.method if known.method in METHODS else "gradcam",
            layers={path: shape for path, shape in layers.items() if shape},
            guided_coverage=known.coverage or None,
            weights_sha256=known.weights_sha256,
            graphs={known.kind: graph.sha256},
            refusals={name: f"this graph holds {', '.join(held) or 'no maps'}" for name in MAPS if name not in held},
            refused_attention="" if known.kind == KIND_ATTENTION else "this graph holds no maps of attention",
        )
        super().__init__(Explainer(OnnxEngine({known.kind: graph}), card))
