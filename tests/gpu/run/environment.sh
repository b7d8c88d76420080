# Sourced by the scripts of this folder, from the root of a checkout, after OUT is set.
: "${OUT:?give a folder for the results}"
WHEELS=${WHEELS:-.whl}                       # of wheels.txt; without any, what is installed is used
WORK=${WORK:-${TMPDIR:-/tmp}/difix3d_gpu_run} # scene, trainings, packages: kept from one script to the next
DEVICE=${DEVICE:-cuda}                       # cpu rehearses the commands
mkdir -p "$OUT" "$WORK"
if [ ! -d "$WORK/site" ] && compgen -G "$WHEELS/*.whl" >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" "$WHEELS"/*.whl || exit
fi
export PYTHONPATH=$WORK/site:$PWD PATH=$WORK/site/bin:$PATH PYTHONUNBUFFERED=1
# it is not installed
export NERFSTUDIO_METHOD_CONFIGS=difix3d-splatfacto=difix3d_ns.methods.difix3d:difix3d_splatfacto,3dsr-splatfacto=difix3d_ns.methods.threedsr:threedsr_splatfacto
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} MAX_JOBS=${MAX_JOBS:-16}
[ "$DEVICE" = cuda ] && unset CUDA_VISIBLE_DEVICES
RUNS=$WORK/out
FIXED=$RUNS/fixed/difix3d-splatfacto/run
