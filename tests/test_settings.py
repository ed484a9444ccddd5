"""Settings of labelling and training: what they become, and what is refused with the name of the setting."""

from __future__ import annotations

import math

import pytest

from mlclip.config import OptionError, PseudolabelConfig, TrainConfig

WRONG = [
    *(("centred", {"grids": grids}) for grids in ((), (0,), (2, 2))),
    *(("centred", {name: value}) for name in ("rank_scale", "prior_photos") for value in (0.0, math.inf)),
    ("ccd", {"max_entropy": math.inf}),
    *(("dense", {"views": views}) for views in ((), ("2", "2.0"), ("cell",), ("0.2",), ("nan",), ("99",))),
]
WRONG_IN_TRAINING = [
    ("fixed", {"average": -0.1}),
    ("fixed", {"average": 1.5}),
    *(
        ("cdul", {name: value})
        for name, value in (("sigma", 0.0), ("label_every", 0), ("warmup", -1), ("label_rate", -0.1))
    ),
    *(
        ("ccd", {name: value})
        for name, value in (("cam_boost", 0.5), ("local_views", "everywhere"), ("update_keep", 2.0), ("warmup", 0))
    ),
]
UNUSED = [
    (PseudolabelConfig, "centred", {"floor": 0.1}, "ccd"),
    (PseudolabelConfig, "ccd", {"zeta": 0.1}, "cdul"),
    (PseudolabelConfig, "cdul", {"grids": (1, 2)}, "centred"),
    (PseudolabelConfig, "centred", {"views": ("views",)}, "dense"),
    (TrainConfig, "fixed", {"sigma": 0.5}, "cdul"),
    *((TrainConfig, "probe", {name: value}, "fixed") for name, value in (
        ("epochs", 3), ("lr", 1e-3), ("batch_size", 8), ("average", 0.1), ("head_lr_factor", 2.0), ("augment", "crop"),
        ("head_init", "probe"), ("cache", False))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "method", "wrong"),
    [*((PseudolabelConfig, *case) for case in WRONG), *((TrainConfig, *case) for case in WRONG_IN_TRAINING)],
)
def test_values_that_cannot_work_are_refused_with_the_name_of_the_setting(config, method, wrong):
    with pytest.raises(OptionError, match=f"`{next(iter(wrong))}`"):
        config(method, **wrong)


@pytest.mark.parametrize(("config", "method", "setting", "other"), UNUSED)
def test_a_setting_that_the_method_does_not_use_is_refused_and_another_method_named(config, method, setting, other):
    line = rf'`{next(iter(setting))}` has no effect with `method="{method}"`.*`method="{other}"`'
    with pytest.raises(OptionError, match=line):
        config(method, **setting)


def test_what_is_not_given_follows_from_the_method_and_the_preset():
    assert PseudolabelConfig(grids=(3, 1)).grids == (1, 3)
    assert PseudolabelConfig("dense", views=("views", 1.5)).views == ("views", "1.5")
    assert (
        PseudolabelConfig(views="fast").views == ("1.5", "2")
        and PseudolabelConfig(views=["default"]).method == "centred"
    )
    assert PseudolabelConfig(views=("views",)).method == "dense" and PseudolabelConfig().method == "centred"
    assert [TrainConfig(method=method).average for method in TrainConfig.METHODS] == [0.1, None, 0.1, 0, 0]
    assert TrainConfig(method="cdul", average=0.5).average == 0.5
    probe = TrainConfig(method="probe", preset="laptop")
    assert (probe.arch, probe.size, probe.epochs, probe.lr) == ("mobilenet_v2", 224, None, None)
