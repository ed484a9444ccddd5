"""Export of the student to ONNX. The result is compared with the PyTorch model. Needs `mlclip[onnx]`.

Letters: N photos, C classes, H W pixels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import InputError
from ..files import atomic
from .checkpoint import Checkpoint

TOLERANCE = 1e-3  # largest accepted difference of a score between the two runtimes


class _Scores(nn.Module):
    """uint8 pixels (N, 3, H, W) -> scores (N, C). Normalisation and sigmoid are part of the exported graph."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).sigmoid()


def export_onnx(checkpoint: Checkpoint, path: str | Path) -> float:
    """Write the student to `path`. Returns the largest difference of its scores from PyTorch's, on a random image.

    Input "pixels": uint8 RGB (N, 3, size, size), any N. Output "scores": float32 (N, C) in [0, 1]. The metadata of the file
    has "classes", "thresholds" and "size" as JSON. Raises InputError if the extra is not installed, or if the scores differ.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter imports it
    except ImportError as error:
        raise InputError(f'{error.name} is not installed. The export needs it: pip install "mlclip[onnx]"') from error
    model = checkpoint.model.cpu().eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, model.size, model.size), generator=generator, dtype=torch.uint8)
    with atomic(path) as temporary:
        batch = torch.export.Dim("N", min=1)
        program = torch.onnx.export(_Scores(model).eval(), (pixels,), input_names=["pixels"], output_names=["scores"],
                                    dynamic_shapes=({0: batch},), dynamo=True, verbose=False)  # fmt: skip
        proto = program.model_proto
        values = {"classes": model.classes, "thresholds": checkpoint.thresholds.tolist(), "size": model.size}
        for name, value in values.items():
            proto.metadata_props.add(key=name, value=json.dumps(value))
        onnx.save(proto, os.fspath(temporary))
        session = onnxruntime.InferenceSession(os.fspath(temporary), providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"pixels": pixels[:1].numpy()})
        with torch.inference_mode():
            expected = model(pixels[:1]).sigmoid()
        difference = float((torch.from_numpy(scores) - expected).abs().max())
        if not difference <= TOLERANCE:
            raise InputError(f"the exported scores differ from PyTorch's by {difference:.1e}. {path} was not written.")
    return difference
