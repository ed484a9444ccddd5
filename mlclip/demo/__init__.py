"""The drawn world that `mlclip demo` runs on: kinds of things, single pictures, scenes, and a folder of scenes with truth.

No picture is stored anywhere: everything is drawn from random numbers. The tiny CLIP (`--clip tiny`) knows this world
and nothing else.
"""

from .folder import write_scenes
from .scenes import SCENE_FREQUENCY, SINGLE_FREQUENCY, draw_scene, draw_single
from .things import KINDS, draw_thing

__all__ = [
    "KINDS",
    "SCENE_FREQUENCY",
    "SINGLE_FREQUENCY",
    "draw_scene",
    "draw_single",
    "draw_thing",
    "write_scenes",
]
