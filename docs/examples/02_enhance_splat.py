"""Render any splat through the fixer: python docs/examples/02_enhance_splat.py [SCENE SPLAT.ply]"""

import subprocess
import sys
from pathlib import Path

import torch
from nerfstudio.utils.eval_utils import eval_setup

from difix3d_ns import open_splat, write_picture

if sys.argv[1:]:
    scene, splat = Path(sys.argv[1]), Path(sys.argv[2])
else:  # make both: see 05_train.py
    subprocess.run([sys.executable, Path(__file__).with_name("05_train.py")], check=True)
    scene, splat = Path("demo-scene"), Path("splat.ply")

# A .ply says nothing of its coordinates; they are found by what it shows at three of the photos.
config = open_splat(splat, data=scene)
_, pipeline, _, _ = eval_setup(config, test_mode="test")

for number, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
    with torch.no_grad():
        outputs = pipeline.model.get_outputs_for_camera(camera)
    photo = pipeline.model.get_gt_img(batch["image"])
    shown = [outputs["rgb"], outputs["enhanced"], photo]
    write_picture(f"enhanced/{number:02d}.png", torch.cat([picture.cpu() for picture in shown], dim=1))
print("enhanced/ shows the splat, the splat through the fixer, and the photo")
