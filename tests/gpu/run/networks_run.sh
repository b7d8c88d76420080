#!/bin/bash
# Second call on a CUDA machine, 6 minutes at most: OUT=results bash tests/gpu/run/networks_run.sh
# Networks alone; and, if gpu_run.sh left them, upscaled photos of its scene and the viewer of its training.
set -u
. "$(dirname "$0")/environment.sh"
(time timeout 80 python3 -m tests.gpu.run.networks "$OUT/fixer" fixer) 2>&1 | tee "$OUT/5.log"
(time timeout 100 python3 -m tests.gpu.run.networks "$OUT/fine_tuning" fine_tuning) 2>&1 | tee "$OUT/6.log"
# photos of 120 px upscaled to 480: rounds, memory, seconds of a step
if [ -d "$WORK/scene" ]; then
  (time timeout 90 python3 -m nerfstudio.scripts.train 3dsr-splatfacto --data "$WORK/scene" --output-dir "$RUNS" \
    --vis tensorboard --machine.device-type "$DEVICE" --max-num-iterations "${STEPS:-1200}" --timestamp run \
    --experiment-name upscaled --pipeline.datamanager.camera-res-scale-factor 0.25) >"$OUT/8.log" 2>&1
  grep -E "photos of|agreement|Error|error" "$OUT/8.log" | tail -20
fi
if [ -f "$FIXED/config.yml" ]; then
  (time timeout 60 python3 benchmarks/viewer.py --config "$FIXED/config.yml" --turns 1 --rests 3) 2>&1 | tee "$OUT/7.log"
else
  echo "no viewer: run gpu_run.sh first" | tee "$OUT/7.log"
fi
