"""A small ONNX model with the operations and the metadata of a student; it is not trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_small_onnx(path: Path, classes: list[str]) -> None:
    """Three classes, 32 px."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", "w"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, 32, 32])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "student", [pixels], [scores], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entries = {"format": "mlclip.onnx", "version": "1", "classes": json.dumps(classes)}
    for key, value in (entries | {"thresholds": "[0.5, 0.5, 0.5]", "size": "32"}).items():
        model.metadata_props.add(key=key, value=value)
    save(model, str(path))
