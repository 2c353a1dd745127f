"""Removes what says where and when a model was made, so that equal weights give equal bytes.

Exporters leave stack traces with local paths, module names, versions and notes in the model, its
graph, nodes and tensors. None of it changes what the network computes.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeres.errors import ModelError

PRODUCER = "edgeres"
GRAPH_NAME = "main"
IR_VERSION = 10  # the oldest that holds opset 21; every engine of this project reads it


class StripProvenance(ir.passes.InPlacePass):
    """Clears metadata, doc strings and producer; nothing else changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clears them everywhere; what the graph computes stays."""
        graph = model.graph
        model.producer_name, model.producer_version = PRODUCER, ""
        model.domain, model.model_version, model.doc_string = "", 0, ""
        model.ir_version = max(IR_VERSION, _oldest_ir_version(model.opset_imports[""]))
        model.metadata_props.clear()
        graph.name, graph.doc_string = GRAPH_NAME, ""
        graph.metadata_props.clear()
        for domain in [d for d in model.opset_imports if d not in ("", "ai.onnx")]:
            del model.opset_imports[domain]
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = ""
        for value in _values(graph):
            value.metadata_props.clear()
            value.doc_string = ""
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """No metadata is left in the model, the graph, a node or a tensor."""
        things = [model, model.graph, *model.graph, *_values(model.graph)]
        if any(thing.metadata_props for thing in things):
            raise ModelError("The model still carries metadata.")


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]


def _oldest_ir_version(opset: int) -> int:
    from onnx import helper

    return int(
        helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)
    )
