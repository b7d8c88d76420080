"""Default precision of networks on a device."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def fast_dtype(device_type: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA from Ampere on, processors with AVX512-BF16), else float32."""
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    cpuinfo = Path("/proc/cpuinfo")
    has_it = device_type == "cpu" and cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text()
    return torch.bfloat16 if has_it else torch.float32
