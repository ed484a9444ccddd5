"""The demo scenes of `mlclip demo`: kinds of things, images of single things, scenes, and a folder of scenes with true labels.

The package stores no images: everything is drawn from random numbers. The tiny CLIP (`clip="tiny"`) was trained on these
things only.
"""

from .folder import write_scenes
from .scenes import SCENE_FREQUENCY, SINGLE_FREQUENCY, draw_scene, draw_single
from .things import KINDS, draw_thing
