# docker build -t difix3d-cuda -f environments/cuda.Dockerfile .      (in the root of the repository)
# docker run -it --gpus all -p 7007:7007 -v "$PWD":/workspace difix3d-cuda ns-train difix3d-splatfacto --data scene/
#
# CUDA 13, as the torch that constraints.txt pins: gsplat compiles its kernels with nvcc of torch's major version.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates ffmpeg g++ libgl1 libgomp1 libusb-1.0-0 \
        python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

ENV PIP_NO_CACHE_DIR=1

WORKDIR /opt/difix3d_ns
COPY . .
RUN python -m pip install --constraint constraints.txt .

# The kernels are compiled at the first training, once: the build has no GPU that says for which one.
# To keep them, mount a volume here.
ENV TORCH_EXTENSIONS_DIR=/var/cache/torch_extensions
VOLUME /var/cache/torch_extensions

WORKDIR /workspace
CMD ["difix3d", "doctor"]
