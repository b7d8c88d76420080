#!/bin/bash
# One call on a CUDA machine, from the root of a checkout, 9 minutes at most.
# WHEELS holds the wheels of wheels.txt, results go to OUT.
set -u
OUT=${OUT:?give a folder for the results}
WHEELS=${WHEELS:-.whl}
T=$(mktemp -d)
mkdir -p "$OUT"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$T/site" "$WHEELS"/*.whl || exit
export PYTHONPATH=$T/site:$PWD PATH=$T/site/bin:$PATH PYTHONUNBUFFERED=1
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} MAX_JOBS=${MAX_JOBS:-16}
unset CUDA_VISIBLE_DEVICES

ns() { # SECONDS COMMAND MODULE FLAGS...
  timeout "$1" python3 -c "import sys; sys.argv[0] = '$2'; from nerfstudio.scripts.$3 import entrypoint; entrypoint()" "${@:4}"
}

# 1: kernels; includes the compilation
(time timeout 240 python3 tests/gpu/run/gpu_smoke.py "$OUT" backend rasterizers_agree median_depth) 2>&1 | tee "$OUT/1.log"
# 2: fixer, memory, pool
(time timeout 120 python3 tests/gpu/run/gpu_smoke.py "$OUT/b" embedded_fixer pool_step stereo) 2>&1 | tee "$OUT/2.log"

# 3: plain against difix3d: seconds in the log's last lines; rounds, pool, densification, checkpoints for real
python3 - "$T/scene" <<P
import sys
from pathlib import Path
from difix3d_ns.data.procedural import demo_scene
demo_scene(Path(sys.argv[1]), seed=3, width=480, height=320, train_views=8, test_views=4)
P
F="difix3d-splatfacto --data $T/scene --output-dir $T/out --vis tensorboard --max-num-iterations 1500 --steps-per-save 500 --timestamp run"
PLAIN="--pipeline.guidance.rounds 0 --pipeline.sparse-helps False --experiment-name plain"
FIXED="--pipeline.guidance.rounds 4 --experiment-name fixed"
(time ns 90 ns-train train $F $PLAIN) >"$OUT/3a.log" 2>&1
tail -4 "$OUT/3a.log"
(time ns 150 ns-train train $F $FIXED) >"$OUT/3b.log" 2>&1
grep -E "Round|stereo|Error|error" "$OUT/3b.log" | tail -20
tail -4 "$OUT/3b.log"

# 4: resume, evaluate
runs=$T/out/fixed/difix3d-splatfacto/run
rm -f "$runs/nerfstudio_models/step-000001499.ckpt"
ns 90 ns-train train $F $FIXED --load-dir "$runs/nerfstudio_models" >"$OUT/4.log" 2>&1
grep -E "going on|Error" "$OUT/4.log"
for e in plain fixed; do
  ns 40 ns-eval eval --load-config "$T/out/$e/difix3d-splatfacto/run/config.yml" --output-path "$OUT/$e.json" >/dev/null 2>&1
  cat "$OUT/$e.json"
done
