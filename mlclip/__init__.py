"""mlclip: a folder of photos and a list of class names in, a small multi-label classifier out.

    import mlclip

    labels = mlclip.pseudolabel("photos/", ["cat", "dog", "car"])
    model = mlclip.train(labels, "model.pt")
    print(mlclip.predict("new.jpg", model).above_threshold())

The public names are looked up on first use, so that `import mlclip` stays free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

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
    from .labels.table import Labels as Labels
    from .labels.table import read_labels as read_labels
    from .labels.table import read_truth as read_truth
    from .labels.table import write_labels as write_labels
    from .machine import keep_freed_memory as keep_freed_memory
    from .progress import SILENT as SILENT
    from .progress import Progress as Progress
    from .report.build import render_report as render_report
    from .student.checkpoint import Checkpoint as Checkpoint
    from .student.model import Classifier as Classifier
    from .student.predict import load_model as load_model
    from .student.predict import predict as predict
    from .teacher.pseudolabel import pseudolabel as pseudolabel
    from .training.train import train as train

_MODULE_OF = {
    "Evaluation": "labels.metrics",
    "evaluate": "labels.metrics",
    "load_model": "student.predict",
    "predict": "student.predict",
    "pseudolabel": "teacher.pseudolabel",
    "train": "training.train",
    "available_models": "clip",
    "load_clip": "clip",
    "InputError": "config",
    "PseudolabelConfig": "config",
    "TableOptions": "config",
    "TrainConfig": "config",
    "find_images": "images",
    "read_truth": "labels.table",
    "average_precision": "labels.metrics",
    "mean_average_precision": "labels.metrics",
    "Labels": "labels.table",
    "read_labels": "labels.table",
    "write_labels": "labels.table",
    "keep_freed_memory": "machine",
    "SILENT": "progress",
    "Progress": "progress",
    "render_report": "report.build",
    "Checkpoint": "student.checkpoint",
    "Classifier": "student.model",
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
