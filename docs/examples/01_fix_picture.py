"""Repair a picture with photos of the same things: python docs/examples/01_fix_picture.py [SCENE]"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d, interpolate

from difix3d_ns import FixRequest, PosedImage, demo_scene, load_depth, load_fixer, read_dataset, write_picture

scene = Path(sys.argv[1]) if sys.argv[1:] else demo_scene(Path("demo-scene"))
capture = read_dataset(scene, "scene", long_side=480)
photos = [PosedImage(capture.images[index], capture.cameras[index]) for index in capture.train]

# A splat knows its depth. Here there is none, so estimate it from the photos.
prior = load_depth()
state = prior.start(photos)
while prior.steps_left(state):
    state = prior.step(state)
depths = [found.depth for found in prior.result(state)]

# Something to repair: the middle photo, blurred as a splat of too few Gaussians is.
middle = len(photos) // 2
truth, camera = photos[middle].image, photos[middle].camera
height, width = truth.shape[:2]
small = avg_pool2d(truth.permute(2, 0, 1)[None], 4)
render = interpolate(small, (height, width), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)

others = [index for index in range(len(photos)) if index != middle]
alphas = [(depth > 0).float() for depth in depths]
references = [PosedImage(photos[i].image, photos[i].camera, depths[i], alphas[i]) for i in others]
request = FixRequest(render, references, camera, depths[middle], alphas[middle])
fixed = load_fixer("embedded").fix([request])[0]  # on a GPU: load_fixer("embedded", device="cuda")

for name, picture in {"before": render, "after": fixed.image}.items():
    print(f"{name}: {-10 * (picture - truth).square().mean().log10():.2f} dB")
write_picture("fixed.png", torch.cat([render, fixed.image, truth], dim=1))
print("fixed.png shows the picture before, after, and the photo it was made of")
