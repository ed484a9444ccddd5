"""mlclip: a folder of photos and a list of class names in, a small multi-label classifier out.

The names below are the library's public face. They are looked up on first use, so that
`import mlclip` (and with it `mlclip --help`) stays free of torch. The three steps bear their modules' names and are
imported from there: `from mlclip.pseudolabel import pseudolabel`, `from mlclip.train import train`,
`from mlclip.predict import predict`.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME_OF = {
    "InputError": "config",
    "PseudolabelConfig": "config",
    "TrainConfig": "config",
    "Labels": "labels.table",
    "read_labels": "labels.table",
    "write_labels": "labels.table",
    "average_precision": "labels.metrics",
    "mean_average_precision": "labels.metrics",
    "load_clip": "clip",
    "tokenize": "clip",
    "available_models": "clip",
    "Teacher": "teacher.scoring",
    "class_embeddings": "teacher.scoring",
    "Classifier": "student.model",
    "embed_images": "teacher.embed",
    "load_checkpoint": "student.checkpoint",
    "save_checkpoint": "student.checkpoint",
    "render_report": "report.build",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mlclip' has no attribute {name!r}")
    return getattr(import_module(f"mlclip.{_HOME_OF[name]}"), name)
