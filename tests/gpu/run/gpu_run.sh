#!/bin/bash
# First call on a CUDA machine, from the root of a checkout, 9 minutes at most: OUT=results bash tests/gpu/run/gpu_run.sh
set -u
. "$(dirname "$0")/environment.sh"
STEPS=${STEPS:-1500}
smoke=(python3 -m tests.gpu.run.gpu_smoke)

# 1: kernels; includes the compilation
(time timeout 240 "${smoke[@]}" "$OUT/kernels" backend rasterizers_agree median_depth) 2>&1 | tee "$OUT/1.log"
# 2: each part against itself on the CPU; then fixer, memory, pool
(time timeout 60 python3 -m pytest -q -p no:cacheprovider tests/unit/test_device_purity.py) >"$OUT/purity.log" 2>&1
tail -12 "$OUT/purity.log"
(time timeout 90 "${smoke[@]}" "$OUT/priors" embedded_fixer pool_step stereo) 2>&1 | tee "$OUT/2.log"

# 3: plain against difix3d: seconds in the log's last lines; rounds, pool, densification, checkpoints for real
[ -d "$WORK/scene" ] || python3 - "$WORK/scene" <<P
import sys
from pathlib import Path
from difix3d_ns.data.procedural import demo_scene
demo_scene(Path(sys.argv[1]), seed=3, width=480, height=320, train_views=8, test_views=4)
P
flags=(difix3d-splatfacto --data "$WORK/scene" --output-dir "$RUNS" --vis tensorboard --machine.device-type "$DEVICE"
  --max-num-iterations "$STEPS" --steps-per-save $((STEPS / 3)) --timestamp run)
plain=(--pipeline.guidance.rounds 0 --pipeline.sparse-helps False --experiment-name plain)
fixed=(--pipeline.guidance.rounds 4 --experiment-name fixed)
(time timeout 90 python3 -m nerfstudio.scripts.train "${flags[@]}" "${plain[@]}") >"$OUT/3a.log" 2>&1
tail -4 "$OUT/3a.log"
(time timeout 150 python3 -m nerfstudio.scripts.train "${flags[@]}" "${fixed[@]}") >"$OUT/3b.log" 2>&1
grep -E "Round|stereo|Error|error" "$OUT/3b.log" | tail -20
tail -4 "$OUT/3b.log"

# 4: resume, evaluate
rm -f "$FIXED/nerfstudio_models/step-$(printf %09d $((STEPS - 1))).ckpt"
timeout 60 python3 -m nerfstudio.scripts.train "${flags[@]}" "${fixed[@]}" --load-dir "$FIXED/nerfstudio_models" >"$OUT/4.log" 2>&1
grep -E "going on|Error" "$OUT/4.log"
for run in plain fixed; do
  timeout 40 python3 -m nerfstudio.scripts.eval --load-config "$RUNS/$run/difix3d-splatfacto/run/config.yml" \
    --output-path "$OUT/$run.json" >"$OUT/eval_$run.log" 2>&1
  cat "$OUT/$run.json"
done
