"""The drawn world."""

from .scenes import SCENE_FREQUENCY, SINGLE_FREQUENCY, draw_scene, draw_single
from .things import KINDS, draw_thing

__all__ = ["KINDS", "SCENE_FREQUENCY", "SINGLE_FREQUENCY", "draw_scene", "draw_single", "draw_thing"]
