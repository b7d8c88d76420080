"""Generated scenes with exactly known truth: for the demo, for training a fixer, for testing geometry."""

from difix3d_ns.data.procedural.dataset import View, photograph_world, write_views
from difix3d_ns.data.procedural.demo_scene import demo_scene, demo_world, photographs
from difix3d_ns.data.procedural.worlds import World, training_world

__all__ = [
    "View",
    "World",
    "demo_scene",
    "demo_world",
    "photograph_world",
    "photographs",
    "training_world",
    "write_views",
]
