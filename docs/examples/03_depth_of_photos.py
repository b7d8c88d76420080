"""Estimate the depth of posed photos: python docs/examples/03_depth_of_photos.py [SCENE]"""

import sys
from pathlib import Path

import torch
from nerfstudio.utils.colormaps import apply_depth_colormap

from difix3d_ns import PosedImage, demo_scene, load_depth, read_dataset, write_picture

scene = Path(sys.argv[1]) if sys.argv[1:] else demo_scene(Path("demo-scene"))
capture = read_dataset(scene, "scene", long_side=480)
photos = [PosedImage(capture.images[index], capture.cameras[index]) for index in capture.train]

prior = load_depth("multiview")  # on a GPU: load_depth("multiview", device="cuda")
state = prior.start(photos)
while left := prior.steps_left(state):
    print(f"{left} steps left", end="\r", flush=True)
    state = prior.step(state)

for number, (photo, found) in enumerate(zip(photos, prior.result(state), strict=True)):
    chance = found.chance(within=0.02)  # [H, W, 1]: probability that the depth is within 2 % of the truth
    print(f"photo {number}: median depth {found.depth.median():.3f}, {chance.mean():.0%} of it within 2 %")
    coloured = apply_depth_colormap(found.depth)
    write_picture(f"depth/{number:02d}.png", torch.cat([photo.image, coloured, chance.expand_as(coloured)], dim=1))
print("depth/ shows each photo, its depth, and the chance that it is right")
