# docker build -t difix3d -f environments/cpu.Dockerfile .      (in the root of the repository)
# docker run -it -p 7007:7007 -v "$PWD":/workspace difix3d ns-train difix3d-splatfacto --data scene/
FROM debian:bookworm-slim

# g++ and python3-dev: one package that viser needs, pyliblzfse, comes as sources. The rest: videos, open3d.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates ffmpeg g++ libgl1 libgomp1 libusb-1.0-0 \
        python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# torch without CUDA: 200 MB in place of 4 GB
ENV PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /opt/difix3d_ns
COPY . .
RUN python -m pip install --constraint constraints.txt . \
    && difix3d doctor

WORKDIR /workspace
CMD ["difix3d", "doctor"]
