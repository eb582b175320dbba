"""A function for each kind of graph that is exported."""

from functools import partial

from export.graphs.exporters import export_graph
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KINDS

EXPORTERS = {kind: partial(export_graph, kind=kind) for kind in KINDS}
export_prediction, export_gradcam, export_explanation = (
    EXPORTERS[kind] for kind in (KIND_PREDICTION, KIND_GRADCAM, KIND_EXPLANATION)
)
