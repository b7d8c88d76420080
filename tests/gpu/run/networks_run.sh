#!/bin/bash
# Second call on a CUDA machine, 4 minutes at most: OUT=results bash tests/gpu/run/networks_run.sh
# Networks alone; and the viewer of the training that gpu_run.sh left, if it did.
set -u
. "$(dirname "$0")/environment.sh"
(time timeout 80 python3 -m tests.gpu.run.networks "$OUT/fixer" fixer) 2>&1 | tee "$OUT/5.log"
(time timeout 100 python3 -m tests.gpu.run.networks "$OUT/fine_tuning" fine_tuning) 2>&1 | tee "$OUT/6.log"
if [ -f "$FIXED/config.yml" ]; then
  (time timeout 60 python3 benchmarks/viewer.py --config "$FIXED/config.yml" --turns 1 --rests 3) 2>&1 | tee "$OUT/7.log"
else
  echo "no viewer: run gpu_run.sh first" | tee "$OUT/7.log"
fi
