"""An orbit of one photo: python docs/examples/make_orbit.py PHOTO FOLDER WEIGHTS ELEVATION FRAMES [DEVICE]

PHOTO is square, with alpha; the object is in its middle and takes three quarters of it.
"""

import sys
from pathlib import Path

import torch

from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.priors.registry import load_orbit_generator

photo, folder, weights, elevation, frames, *device = sys.argv[1:]

generator = load_orbit_generator("orbit-video", weights, *device)
given = read_picture(photo)
assert given.alpha is not None, "cut the object out first"
state = generator.start(torch.cat([given.image, given.alpha], -1), float(elevation), int(frames))
while left := generator.steps_left(state):
    print(f"{left} steps left", end="\r", flush=True)
    state = generator.step(state)  # may be saved here, and go on later
Path(folder).mkdir(parents=True, exist_ok=True)
for number, frame in enumerate(generator.result(state)):
    write_picture(Path(folder) / f"{number:03d}.png", Picture(frame.image, frame.alpha))
