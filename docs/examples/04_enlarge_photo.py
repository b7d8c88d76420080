"""Enlarge a photo four times: python docs/examples/04_enlarge_photo.py [PHOTO]"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d, interpolate

from difix3d_ns import demo_scene, load_upscaler, read_picture, write_picture

if sys.argv[1:]:
    photo = read_picture(sys.argv[1]).image
else:  # a photo of the demo scene at a quarter of its size
    large = read_picture(min((demo_scene(Path("demo-scene")) / "images").iterdir())).image
    photo = avg_pool2d(large.permute(2, 0, 1), 4).permute(1, 2, 0)

height, width = photo.shape[0] * 4, photo.shape[1] * 4
upscaler = load_upscaler("residual")  # a small diffusion model; on a GPU: load_upscaler("residual", device="cuda")
state = upscaler.start([photo], sizes=[(height, width)], seeds=[0])
while left := upscaler.steps_left(state):
    print(f"{left} steps left", end="\r", flush=True)
    state = upscaler.step(state)
(result,) = upscaler.result(state)

smooth = interpolate(photo.permute(2, 0, 1)[None], (height, width), mode="bicubic")[0].permute(1, 2, 0)
back = avg_pool2d(result.permute(2, 0, 1), 4).permute(1, 2, 0)
print(f"reduced again, it differs from the photo by {255 * (back - photo).square().mean().sqrt():.1f} levels of 255")
write_picture("enlarged.png", torch.cat([smooth.clamp(0, 1), result], dim=1))
print("enlarged.png shows bicubic interpolation and the upscaler")
