"""Train from Python and read what came out: python docs/examples/05_train.py [SCENE STEPS]"""

import copy
import sys
from pathlib import Path

from difix3d_ns import demo_scene
from difix3d_ns.cli import export, report
from difix3d_ns.methods.difix3d import difix3d_splatfacto

scene = Path(sys.argv[1]) if sys.argv[1:] else demo_scene(Path("demo-scene"))
steps = int(sys.argv[2]) if sys.argv[2:] else 500

# All flags of ns-train are fields of the config: --pipeline.guidance.rounds is config.pipeline.guidance.rounds.
config = copy.deepcopy(difix3d_splatfacto.config)
config.data, config.max_num_iterations, config.vis = scene, steps, "tensorboard"
config.experiment_name = scene.name
config.pipeline.guidance.rounds = 1
config.set_timestamp()
config.save_config()

trainer = config.setup()
trainer.setup()
trainer.train()

pipeline = trainer.pipeline
pipeline.eval()
metrics = pipeline.get_average_eval_image_metrics(step=steps)
print(f"{pipeline.model.num_points} Gaussians; held-out photos: {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f}")

folder = Path(config.get_base_dir())  # outputs/SCENE/difix3d-splatfacto/TIME
report(folder, Path("report.html"))  # every command of difix3d is a function of difix3d_ns.cli
export(folder / "config.yml", Path("splat.ply"), force=True)
