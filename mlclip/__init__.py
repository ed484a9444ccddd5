"""mlclip: a folder of photos and a list of class names in, a small multi-label classifier out.

    import mlclip

    labels = mlclip.pseudolabel("photos/", ["cat", "dog", "car"])
    model = mlclip.train(labels, "model.pt")
    print(mlclip.predict("new.jpg", model).above_threshold())

The public names are looked up on first use, so that `import mlclip` stays free of torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .clip import available_models as available_models
    from .clip import load_clip as load_clip
    from .config import InputError as InputError
    from .config import PseudolabelConfig as PseudolabelConfig
    from .config import TableOptions as TableOptions
    from .config import TrainConfig as TrainConfig
    from .images import find_images as find_images
    from .labels.metrics import Evaluation as Evaluation
    from .labels.metrics import average_precision as average_precision
    from .labels.metrics import evaluate as evaluate
    from .labels.metrics import mean_average_precision as mean_average_precision
    from .labels.review import diagnose as diagnose
    from .labels.review import questions as questions
    from .labels.table import Labels as Labels
    from .labels.table import export_labels as export_labels
    from .labels.table import read_labels as read_labels
    from .labels.table import read_truth as read_truth
    from .labels.table import write_labels as write_labels
    from .machine import keep_freed_memory as keep_freed_memory
    from .progress import SILENT as SILENT
    from .progress import Progress as Progress
    from .report.work_page import write_page as write_page
    from .student.calibrate import calibrate as calibrate
    from .student.checkpoint import Checkpoint as Checkpoint
    from .student.export import export_onnx as export_onnx
    from .student.model import Classifier as Classifier
    from .student.predict import load_model as load_model
    from .student.predict import predict as predict
    from .teacher.pseudolabel import pseudolabel as pseudolabel
    from .training.train import train as train


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package whose names are imported on first use, so that importing it costs nothing.

    `names`: a module in the package -> its public names, with spaces between them.
    """
    module_of = {name: module for module, all_of_it in names.items() for name in all_of_it.split()}

    def look_up(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        vars(sys.modules[package])[name] = value  # the next use does not come here
        return value

    return sorted(module_of), look_up, lambda: sorted({*vars(sys.modules[package]), *module_of})


_NAMES = {
    "student.predict": "load_model predict",
    "student.calibrate": "calibrate",
    "student.export": "export_onnx",
    "report.work_page": "write_page",
    "labels.review": "diagnose questions",
    "teacher.pseudolabel": "pseudolabel",
    "training.train": "train",
    "clip": "available_models load_clip",
    "config": "InputError PseudolabelConfig TableOptions TrainConfig",
    "images": "find_images",
    "labels.table": "read_truth Labels read_labels write_labels export_labels",
    "labels.metrics": "Evaluation evaluate average_precision mean_average_precision",
    "machine": "keep_freed_memory",
    "progress": "SILENT Progress",
    "student.checkpoint": "Checkpoint",
    "student.model": "Classifier",
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
