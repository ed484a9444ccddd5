"""The settings of labelling, training and tables, and the one error that a user can cause. No torch here.

Each setting is one dataclass field: its default, its help text, its allowed values and the methods that use it. The command line
builds its options from these fields.
"""

from __future__ import annotations

from .labelling import (
    NAMED_SETS,
    VIEW_SETS,
    EncodingConfig,
    InputError,
    OptionError,
    PseudolabelConfig,
    ReportConfig,
    TableOptions,
    TeacherConfig,
    config_of,
    used_settings,
)
from .training import ARCHS, CLIP_ARCH, CLIP_HEAD, LARGEST_SEED, LARGEST_SIZE, TrainConfig, train_config

LABELS_FILE = "labels.pt"  # default output of `mlclip pseudolabel`, default input of `mlclip train` and `mlclip report`
MODEL_FILE = "model.pt"  # default output of `mlclip train`, default input of `predict`, `calibrate` and `export`
