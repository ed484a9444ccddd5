"""The Python front door: what the commands do, as functions with the same defaults.

    import mlclip

    labels = mlclip.pseudolabel("photos/", ["cat", "dog", "car"], output="labels.pt")
    model = mlclip.train(labels, "model.pt")
    print(mlclip.predict("new/", model).above_threshold())

Every function takes paths where it takes objects, uses the GPU where there is one, and reports its progress on stderr
(`progress=mlclip.SILENT` turns that off). A wrong input raises InputError: one line that says what to do.
"""

from __future__ import annotations

from .evaluation import Evaluation, evaluate, read_known
from .inputs import Images
from .labelling import check_clip, pseudolabel
from .prediction import load_model, predict
from .training import train, train_config

__all__ = [
    "Evaluation",
    "Images",
    "check_clip",
    "evaluate",
    "load_model",
    "predict",
    "pseudolabel",
    "read_known",
    "train",
    "train_config",
]
