"""Settings that depend on the device and on the length of the training, filled in at set-up.

A value given by the user is never touched: settings that can be derived are None until they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError

if TYPE_CHECKING:
    from difix3d_ns.ns.trainer import GuidedTrainerConfig

CUDA_ITERATIONS = 30_000
MEANS_RATE = 1.6e-4
"""splatfacto's learning rate of the means, for 30,000 steps"""
CPU_ITERATIONS = 2_000
CPU_GAUSSIANS = 40_000
"""Enough for about a dozen photographs of 480 px; twice as many overfit them and cost twice the time."""
CPU_STEREO_POINTS = 12_000
CUDA_STEREO_POINTS = 50_000
"""Not measured; with more Gaussians in all, denser points cost less."""
CUDA_ROUNDS = 8
CPU_ROUNDS = 2  # a third one brought 0.01 to 0.06 dB on three captures, for a fifth of the time


def settle(config: GuidedTrainerConfig, start: int = 0) -> None:
    """Fill in every setting that is still None.

    Args:
        config: changed in place.
        start: the first step: 0, or one more than the step of a foreign checkpoint that is trained on.

    Raises:
        UserError: a setting cannot work on this machine.
    """
    machine = config.machine
    if machine.device_type not in ("cpu", "cuda"):
        raise UserError(f"--machine.device-type {machine.device_type}: Gaussians are rasterized on cpu or cuda only")
    if machine.device_type == "cuda" and not torch.cuda.is_available():
        raise UserError("--machine.device-type cuda: no CUDA device is usable here; leave the flag out to use the CPU")
    on_cpu = machine.device_type == "cpu"
    chosen = _fill(config, max_num_iterations=CPU_ITERATIONS if on_cpu else CUDA_ITERATIONS)
    steps = config.max_num_iterations
    assert steps is not None
    if steps < 1:
        raise UserError(f"--max-num-iterations {steps}: at least 1 is needed")
    _check_given(config)
    model = config.pipeline.model
    chosen |= _fill(model, max_gaussians=CPU_GAUSSIANS if on_cpu else 0)
    chosen |= _fill(config.pipeline, rounds=CPU_ROUNDS if on_cpu else CUDA_ROUNDS)
    stereo_points = CPU_STEREO_POINTS if on_cpu else CUDA_STEREO_POINTS
    _fill(config.pipeline, stereo_points=stereo_points if config.pipeline.rounds else 0)
    _fill(
        config,
        steps_per_save=_at_most(steps / 5, 2000),
        steps_per_eval_image=_at_most(steps / 5, 1000),
        steps_per_eval_all_images=_at_most(steps, 10_000),
    )
    # splatfacto's own numbers for its 30,000 steps, shrunk with the training where it is shorter
    refine_every = _at_most(steps / 40, 100)
    _fill(
        model,
        refine_every=refine_every,
        warmup_length=start + _at_most(steps / 12, 500),
        stop_split_at=start + max(1, steps * 5 // 6 if model.densification == "mcmc" else steps // 2),
        stop_screen_size_at=start + _at_most(steps * 4 / 30, 4000),
        sh_degree_interval=_at_most(steps / 30, 1000),
        resolution_schedule=_at_most(steps / 10, 3000),
    )
    assert model.refine_every is not None
    if start:  # Gaussians trained elsewhere: resets would undo that
        _fill(model, reset_alpha_every=max(1, (start + steps) // model.refine_every + 1))
    # Every reset costs hundreds of steps until opacities are back: a short training has one, 30,000 steps have five.
    _fill(model, reset_alpha_every=max(2, round(_at_most(steps * 0.3, 3000) / model.refine_every)))
    # Adam moves a Gaussian by about the learning rate per step, so with splatfacto's own rate a short training could
    # not move them as far; the square root, since shorter trainings also have less to follow. The decay is gentler,
    # or the geometry would be frozen before the last rounds.
    shorter = max(1.0, CUDA_ITERATIONS / steps)
    means = config.optimizers["means"]
    _fill(means["optimizer"], lr=MEANS_RATE * shorter**0.5)
    _fill(means["scheduler"], lr_final=means["optimizer"].lr / (100 if shorter == 1 else 20))
    for group in config.optimizers.values():
        scheduler = group.get("scheduler")
        if scheduler is not None:
            _fill(scheduler, max_steps=steps, warmup_steps=steps // 30)  # they count from ``start``
    if on_cpu and chosen:
        words = {
            "max_num_iterations": f"{steps} steps (--max-num-iterations)",
            "max_gaussians": f"at most {model.max_gaussians} Gaussians (--pipeline.model.max-gaussians)",
            "rounds": f"{config.pipeline.rounds} rounds (--pipeline.rounds)",
        }
        CONSOLE.print(
            "[bold]No CUDA in use: CPU-sized defaults:[/bold] "
            + ", ".join(words[name] for name in words if name in chosen)
            + ", images of about 480 px (--pipeline.datamanager.camera-res-scale-factor); any flag you give wins."
        )


def _check_given(config: GuidedTrainerConfig) -> None:
    pipeline, model = config.pipeline, config.pipeline.model
    least: dict[str, tuple[float | None, float]] = {
        "--pipeline.rounds": (pipeline.rounds, 0),
        "--pipeline.stereo-points": (pipeline.stereo_points, 0),
        "--pipeline.targets.count": (pipeline.targets.count, 1),
        "--pipeline.targets.beyond": (pipeline.targets.beyond, 0),
        "--pipeline.fixer.references": (pipeline.fixer.references, 0),
        "--pipeline.pseudo-weight": (pipeline.pseudo_weight, 0),
        "--pipeline.depth-weight": (pipeline.depth_weight, 0),
        "--pipeline.pool-capacity": (pipeline.pool_capacity, 1),
        "--pipeline.model.max-gaussians": (model.max_gaussians, 0),
        "--pipeline.model.refine-every": (model.refine_every, 1),
        "--pipeline.model.reset-alpha-every": (model.reset_alpha_every, 1),
        "--pipeline.model.sh-degree-interval": (model.sh_degree_interval, 1),
        "--pipeline.model.resolution-schedule": (model.resolution_schedule, 1),
    }
    for flag, (number, bound) in least.items():
        if number is not None and not bound <= number < math.inf:
            raise UserError(f"{flag} {number}: at least {bound} is needed")
    if not 0 <= model.gaussian_dropout < 1:
        raise UserError(f"--pipeline.model.gaussian-dropout {model.gaussian_dropout}: at least 0 and below 1 is needed")
    if model.exposure and model.use_bilateral_grid:
        raise UserError(
            "--pipeline.model.exposure and --pipeline.model.use-bilateral-grid explain the same: leave one out"
        )
    shares = {
        "--pipeline.pseudo-probability": pipeline.pseudo_probability,
        "--pipeline.fixer.strength": pipeline.fixer.strength,
        "--pipeline.clearance": pipeline.clearance,
    }
    for flag, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{flag} {share}: a number in [0, 1] is needed")
    factor = pipeline.datamanager.camera_res_scale_factor
    if factor is not None and factor <= 0:
        raise UserError(f"--pipeline.datamanager.camera-res-scale-factor {factor}: above 0 is needed")


def _fill(target: Any, **values: Any) -> set[str]:
    """Set those attributes that are None; returns their names."""
    open_names = {name for name in values if getattr(target, name) is None}
    for name in open_names:
        setattr(target, name, values[name])
    return open_names


def _at_most(steps: float, bound: int) -> int:
    return max(1, min(round(steps), bound))
