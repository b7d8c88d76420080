"""The CPU rasterizer against the oracle, finite differences and gsplat's own expectations."""

import math
import subprocess
import sys

import numba
import pytest
import torch
from torch import Tensor

from difix3d_ns.rasterization import jit, rasterization
from difix3d_ns.rasterization.projection import project_reference, sh_colors_reference
from tests.unit import compositing_oracle as oracle

WIDTH, HEIGHT = 61, 43  # no multiple of a tile


def camera(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A slightly turned and moved world-to-camera matrix [4, 4] and intrinsics [3, 3], float64."""
    g = torch.Generator().manual_seed(seed)
    view = torch.eye(4, dtype=torch.float64)
    turned = torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, generator=g, dtype=torch.float64)
    rotation = torch.linalg.qr(turned)[0]
    view[:3, :3] = rotation * torch.sign(torch.diagonal(rotation))  # columns: stay close to the identity
    view[:3, 3] = 0.1 * torch.randn(3, generator=g, dtype=torch.float64)
    K = torch.tensor([[50.0, 0.0, 0.48 * width], [0.0, 52.0, 0.53 * height], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return view, K


def scene(n: int = 300, seed: int = 1, log_scale: float = -2.2) -> dict[str, Tensor]:
    """Random Gaussians filling the view, float64: means, quats, scales, opacities, colors [N, 16, 3]."""
    g = torch.Generator().manual_seed(seed)
    z = 2 + 4 * torch.rand(n, generator=g, dtype=torch.float64)
    x, y = (torch.rand(n, generator=g, dtype=torch.float64) * 1.4 - 0.7 for _ in range(2))
    return {
        "means": torch.stack([x * z, 0.7 * y * z, z], -1),
        "quats": torch.randn(n, 4, generator=g, dtype=torch.float64),
        "scales": torch.exp(0.5 * torch.randn(n, 3, generator=g, dtype=torch.float64) + log_scale),
        "opacities": 0.05 + 0.9 * torch.rand(n, generator=g, dtype=torch.float64),
        "colors": 0.3 * torch.randn(n, 16, 3, generator=g, dtype=torch.float64),
    }


def as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float().detach().requires_grad_() for k, v in tensors.items()}


def oracle_render(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree=None, mode="RGB", antialiased=False
):
    """`rasterization` of one camera in float64 autograd: gsplat's torch projection and SH, the oracle's compositing."""
    radii, means2d, depths, conics, factors = project_reference(
        means, quats, scales, None, viewmats[0], Ks[0], width, height
    )
    values = colors
    if sh_degree is not None:
        values = sh_colors_reference(sh_degree, means, colors, torch.inverse(viewmats[0])[:3, 3], radii)
    if antialiased:
        opacities = opacities * factors
    values = {"RGB": values, "D": depths[:, None], "ED": depths[:, None]}.get(
        mode, torch.cat([values, depths[:, None]], -1)
    )
    image, alpha = oracle.composite(means2d, conics, values, opacities, depths, radii, width, height)
    if mode.endswith("ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], -1)
    return image, alpha


def assert_images_agree(found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    """1e-4 everywhere, but 4e-3 at up to 0.1 % of the pixels: those where a Gaussian sits on the 1/255 cut."""
    difference = (found.double() - expected).abs().amax(-1) / scale
    assert difference.max() < 4e-3
    assert (difference > 1e-4).double().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "antialiased", "sh_degree"),
    [(m, a, d) for m in ("RGB", "D", "ED", "RGB+D", "RGB+ED") for a in (False, True) for d in (None, 3)]
    + [("RGB", False, degree) for degree in (0, 1, 2)],
)
def test_forward_agrees_with_oracle(mode, antialiased, sh_degree):
    tensors = scene()
    if sh_degree is None:
        tensors["colors"] = tensors["colors"][:, 0].abs()
    view, K = (x[None] for x in camera())
    mine = {k: v.float() for k, v in tensors.items()}
    image, alpha, _ = rasterization(
        **mine,
        viewmats=view.float(),
        Ks=K.float(),
        width=WIDTH,
        height=HEIGHT,
        sh_degree=sh_degree,
        render_mode=mode,
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    wanted, wanted_alpha = oracle_render(
        **tensors,
        viewmats=view,
        Ks=K,
        width=WIDTH,
        height=HEIGHT,
        sh_degree=sh_degree,
        mode=mode,
        antialiased=antialiased,
    )
    assert wanted_alpha.mean() > 0.5  # the picture is not empty
    assert_images_agree(image[0], wanted, scale=1.0 if mode == "RGB" else 6.0)
    assert_images_agree(alpha[0], wanted_alpha)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 5, 40])
def test_any_number_of_channels_and_backgrounds(channels):
    tensors = scene()
    g = torch.Generator().manual_seed(3)
    tensors["colors"] = torch.rand(300, channels, generator=g, dtype=torch.float64)
    background = torch.rand(1, channels, generator=g, dtype=torch.float64)
    view, K = (x[None] for x in camera())
    mine = {k: v.float() for k, v in tensors.items()}
    image, _, _ = rasterization(
        **mine, viewmats=view.float(), Ks=K.float(), width=WIDTH, height=HEIGHT, backgrounds=background.float()
    )
    wanted, alpha = oracle_render(**tensors, viewmats=view, Ks=K, width=WIDTH, height=HEIGHT)
    assert_images_agree(image[0], wanted + (1 - alpha) * background)


def gradients(render, tensors: dict[str, Tensor], mode: str) -> dict[str, Tensor]:
    """Gradients of a fixed random functional of image and alpha."""
    image, alpha, *_ = render(**tensors)
    g = torch.Generator().manual_seed(7)
    weights = torch.randn(HEIGHT, WIDTH, 3 + mode.endswith("D") + 1, generator=g, dtype=torch.float64).to(image.dtype)
    stacked = torch.cat([image, alpha], -1).reshape(HEIGHT, WIDTH, -1)
    (stacked * weights).sum().backward()
    return {k: v.grad for k, v in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "RGB+ED", "RGB+D"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_every_gradient_agrees_with_the_oracles_autograd(mode, antialiased):
    view, K = camera()
    tensors = scene() | {"viewmats": view[None]}
    exact = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    fixed = {"width": WIDTH, "height": HEIGHT, "sh_degree": 3}
    wanted = gradients(
        lambda **x: oracle_render(**x, **fixed, Ks=K[None], mode=mode, antialiased=antialiased), exact, mode
    )
    found = gradients(
        lambda **x: rasterization(
            **x,
            **fixed,
            Ks=K[None].float(),
            render_mode=mode,
            packed=False,
            rasterize_mode="antialiased" if antialiased else "classic",
        ),
        as_float32(tensors),
        mode,
    )
    for name in wanted:
        error = (found[name].double() - wanted[name])[..., :3, :] if name == "viewmats" else found[name] - wanted[name]
        assert wanted[name].norm() > 0
        assert error.norm() < 2e-3 * wanted[name].norm(), name


def test_gradients_agree_with_finite_differences():
    """Central differences of our own float32 forward.

    Compositing has kinks: alpha jumps at 1/255, saturates at 0.999, the order changes where depths cross, a Gaussian
    ends at its radius. So three wide Gaussians whose visible ellipses contain the whole small image, of medium
    opacity and well separated depths: none of these happens anywhere near.
    """
    tensors = {
        "means": torch.tensor([[0.0, 0.1, 2.0], [0.2, -0.1, 3.0], [-0.2, 0.0, 4.0]]),
        "quats": torch.tensor([[1.0, 0.1, 0.2, 0.3], [0.8, -0.2, 0.1, 0.4], [0.9, 0.3, -0.1, 0.1]]),
        "scales": torch.tensor([[1.0, 1.2, 0.9], [1.5, 1.8, 1.6], [2.1, 2.4, 2.2]]),
        "opacities": torch.tensor([0.4, 0.5, 0.6]),
        "colors": torch.tensor([[0.2, 0.5, 0.9], [0.7, 0.1, 0.3], [0.4, 0.8, 0.6]]),
    }
    K = torch.tensor([[[8.0, 0.0, 4.5], [0.0, 8.0, 3.5], [0.0, 0.0, 1.0]]])
    view = torch.eye(4)[None]
    weights = torch.randn(7, 9, 4, generator=torch.Generator().manual_seed(2))

    def value(**x) -> Tensor:
        image, alpha, _ = rasterization(**x, viewmats=view, Ks=K, width=9, height=7, packed=False)
        return (torch.cat([image, alpha], -1)[0].double() * weights).sum()

    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    value(**leaves).backward()
    step = 1e-2
    for name, tensor in tensors.items():
        numeric = torch.zeros_like(tensor)
        for index in range(tensor.numel()):
            shifted = [tensor.clone(), tensor.clone()]
            shifted[0].view(-1)[index] += step
            shifted[1].view(-1)[index] -= step
            plus, minus = (value(**(tensors | {name: x})) for x in shifted)
            numeric.view(-1)[index] = (plus - minus) / (2 * step)
        assert (leaves[name].grad - numeric).abs().max() < 5e-3 * numeric.abs().max() + 1e-4, name


def test_absgrad_is_the_sum_of_absolute_pixel_gradients():
    """By the oracle: one pixel at a time, absolute gradient of means2d, summed."""
    tensors = scene(12, log_scale=-1.5)
    tensors["colors"] = tensors["colors"][:, 0].abs()
    view, K = camera(9, 7)
    image, alpha, info = rasterization(
        **as_float32(tensors),
        viewmats=view[None].float(),
        Ks=K[None].float(),
        width=9,
        height=7,
        packed=False,
        absgrad=True,
    )
    info["means2d"].retain_grad()
    weights = torch.randn(7, 9, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (torch.cat([image, alpha], -1)[0] * weights).sum().backward()
    radii, means2d, depths, conics, _ = project_reference(
        tensors["means"], tensors["quats"], tensors["scales"], None, view, K, 9, 7
    )
    means2d = means2d.detach().requires_grad_()
    rendered = oracle.composite(means2d, conics, tensors["colors"], tensors["opacities"], depths, radii, 9, 7)
    pixels = (torch.cat(rendered, -1) * weights).sum(-1).flatten()
    per_pixel = torch.stack([torch.autograd.grad(p, means2d, retain_graph=True)[0] for p in pixels])
    assert info["means2d"].absgrad.shape == (1, 12, 2)
    assert per_pixel.sum(0).abs().sum() < 0.9 * per_pixel.abs().sum()  # the two differ
    torch.testing.assert_close(info["means2d"].grad[0].double(), per_pixel.sum(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(info["means2d"].absgrad[0].double(), per_pixel.abs().sum(0), rtol=1e-3, atol=1e-4)


def test_several_cameras_equal_one_at_a_time_packed_or_not():
    tensors = {k: v.float() for k, v in scene().items()}
    views, Ks = (torch.stack(x).float() for x in zip(*(camera(seed=s) for s in range(3)), strict=True))
    options = {"width": WIDTH, "height": HEIGHT, "sh_degree": 3, "render_mode": "RGB+ED"}
    results = {}
    for packed in (False, True):
        leaves = as_float32(tensors)
        image, alpha, info = rasterization(**leaves, viewmats=views, Ks=Ks, packed=packed, absgrad=True, **options)
        (image.square().sum() + alpha.sum()).backward()
        results[packed] = (image, alpha, info, leaves)
    image, alpha, info, leaves = results[False]
    for c in range(3):
        single = rasterization(**tensors, viewmats=views[c, None], Ks=Ks[c, None], **options)
        torch.testing.assert_close(image[c], single[0][0], rtol=0, atol=0)
    torch.testing.assert_close(image, results[True][0], rtol=0, atol=0)
    for name in tensors:
        torch.testing.assert_close(leaves[name].grad, results[True][3][name].grad, rtol=1e-4, atol=1e-4)
    packed = results[True][2]
    at = packed["camera_ids"], packed["gaussian_ids"]
    assert (packed["radii"] > 0).all()
    assert len(packed["radii"]) == (info["radii"] > 0).sum()
    for key in ("means2d", "radii", "depths", "conics", "opacities"):
        torch.testing.assert_close(info[key][at], packed[key], rtol=0, atol=0)
    torch.testing.assert_close(info["means2d"].absgrad[at], packed["means2d"].absgrad, rtol=1e-4, atol=1e-4)


def test_per_camera_colors():
    tensors = {k: v.float() for k, v in scene().items()}
    view, K = (x[None].float().expand(2, -1, -1) for x in camera())
    per_camera = torch.stack([tensors["colors"], tensors["colors"].flip(0)])
    tensors.pop("colors")
    options = {"width": WIDTH, "height": HEIGHT, "viewmats": view, "Ks": K}
    both, _, _ = rasterization(**tensors, colors=per_camera, sh_degree=2, **options)
    one, _, _ = rasterization(**tensors, colors=per_camera[1], sh_degree=2, **options)
    torch.testing.assert_close(both[1], one[1])
    plain, _, _ = rasterization(**tensors, colors=per_camera[:, :, 0], **options)
    one, _, _ = rasterization(**tensors, colors=per_camera[1, :, 0], **options)
    torch.testing.assert_close(plain[1], one[1])


def test_near_far_and_radius_clip_hide_gaussians():
    tensors = {k: v.float() for k, v in scene().items()}
    view, K = (x[None].float() for x in camera())
    options = {"viewmats": view, "Ks": K, "width": WIDTH, "height": HEIGHT, "sh_degree": 0, "packed": False}
    _, _, everything = rasterization(**tensors, **options)
    _, _, some = rasterization(**tensors, **options, near_plane=3.0, far_plane=4.0, radius_clip=5.0)
    radii, depths = everything["radii"], everything["depths"]
    expected = (radii > 5) & (depths > 3.0) & (depths < 4.0)
    assert 0 < expected.sum() < (radii > 0).sum()
    assert torch.equal(some["radii"] > 0, expected)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gaussian_that_is_not_finite_vanishes(name, bad):
    clean = {k: v.float() for k, v in scene().items()}
    view, K = (x[None].float() for x in camera())
    options = {"viewmats": view, "Ks": K, "width": WIDTH, "height": HEIGHT, "sh_degree": 3, "render_mode": "RGB+ED"}
    others = {k: v[1:].clone().requires_grad_() for k, v in clean.items()}
    expected, _, _ = rasterization(**others, **options, packed=False)
    expected.sum().backward()
    broken = {k: v.clone() for k, v in clean.items()}
    broken["means"][0] = torch.tensor([0.0, 0.0, 2.0])
    broken[name][0].fill_(bad)
    broken = {k: v.requires_grad_() for k, v in broken.items()}
    image, _, _ = rasterization(**broken, **options, packed=False)
    image.sum().backward()
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    for key, tensor in broken.items():
        assert tensor.grad.isfinite().all(), key
        assert (tensor.grad[0] == 0).all(), key
        torch.testing.assert_close(tensor.grad[1:], others[key].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["none", "behind", "transparent"])
def test_nothing_to_see(case):
    tensors = {k: v.float() for k, v in scene(0 if case == "none" else 20).items()}
    if case == "behind":
        tensors["means"][:, 2] *= -1
    if case == "transparent":
        tensors["opacities"][:] = 0
    tensors = {k: v.requires_grad_() for k, v in tensors.items()}
    view, K = torch.eye(4)[None], camera()[1][None].float()
    for packed in (False, True):
        image, alpha, _ = rasterization(
            **tensors,
            viewmats=view,
            Ks=K,
            width=WIDTH,
            height=HEIGHT,
            sh_degree=3,
            render_mode="RGB+ED",
            packed=packed,
            absgrad=True,
        )
        (image.sum() + alpha.sum()).backward()
        assert image.shape == (1, HEIGHT, WIDTH, 4)
        assert (image == 0).all()
        assert (alpha == 0).all()
        assert all((t.grad == 0).all() for t in tensors.values())


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_zero_scales_are_points_with_finite_gradients(mode):
    tensors = scene(40)
    tensors["scales"][:] = 0
    view, K = (x[None] for x in camera())
    tensors["colors"] = tensors["colors"][:, 0].abs()
    mine = as_float32(tensors)
    image, alpha, _ = rasterization(
        **mine, viewmats=view.float(), Ks=K.float(), width=WIDTH, height=HEIGHT, rasterize_mode=mode
    )
    (image.sum() + alpha.sum()).backward()
    wanted, _ = oracle_render(
        **tensors, viewmats=view, Ks=K, width=WIDTH, height=HEIGHT, antialiased=mode == "antialiased"
    )
    assert_images_agree(image[0], wanted)
    assert (image.sum() > 0) == (mode == "classic")  # antialiasing makes a point fainter and fainter, down to nothing
    assert all(t.grad.isfinite().all() for t in mine.values())


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (8, 8), (9, 17), (130, 1)])
def test_any_image_size(size):
    width, height = size
    tensors = scene()
    tensors["colors"] = tensors["colors"][:, 0].abs()
    view, K = (x[None] for x in camera(width, height))
    mine = {k: v.float() for k, v in tensors.items()}
    image, alpha, _ = rasterization(**mine, viewmats=view.float(), Ks=K.float(), width=width, height=height)
    wanted, wanted_alpha = oracle_render(**tensors, viewmats=view, Ks=K, width=width, height=height)
    assert image.shape == (1, height, width, 3)
    assert (image[0] - wanted).abs().max() < 4e-3
    assert (alpha[0] - wanted_alpha).abs().max() < 4e-3


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_one_and_two_threads_agree():
    tensors = scene(6000, log_scale=-3.2)
    view, K = (x[None].float() for x in camera())
    results = []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            leaves = as_float32(tensors)
            image, alpha, info = rasterization(
                **leaves, viewmats=view, Ks=K, width=WIDTH, height=HEIGHT, sh_degree=3, packed=False, absgrad=True
            )
            (image.square().mean() + alpha.mean()).backward()
            results.append([image, alpha, info["means2d"].absgrad, *(t.grad for t in leaves.values())])
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert (one - two).abs().max() <= 1e-5 * max(1.0, one.abs().max().item())


def test_bad_arguments_are_named():
    tensors = {k: v.float() for k, v in scene(5).items()}
    view, K = (x[None].float() for x in camera())
    options = {"viewmats": view, "Ks": K, "width": WIDTH, "height": HEIGHT}
    with pytest.raises(ValueError, match="render_mode"):
        rasterization(**tensors, **options, sh_degree=3, render_mode="DEPTH")
    with pytest.raises(ValueError, match="sh_degree 4"):
        rasterization(**tensors, **options, sh_degree=4)
    with pytest.raises(ValueError, match="scales"):
        rasterization(**(tensors | {"scales": tensors["scales"][:3]}), **options, sh_degree=3)
    with pytest.raises(NotImplementedError, match="sparse_grad"):
        rasterization(**tensors, **options, sh_degree=3, sparse_grad=True)


def test_kernels_compile_where_no_cache_folder_is_writable(monkeypatch):
    real = numba.njit

    def no_cache(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(jit.nb, "njit", no_cache)
    assert jit.jit()(lambda x: x + 1)(2) == 3


TRAINING = """
import sys
import torch
from gsplat.strategy import DefaultStrategy
from difix3d_ns.rasterization import median_depth, rasterization

torch.manual_seed(0)
n, absgrad = 500, {absgrad}
params = torch.nn.ParameterDict({{
    "means": torch.rand(n, 3) - 0.5 + torch.tensor([0.0, 0.0, 2.0]), "scales": torch.full((n, 3), -2.5),
    "quats": torch.randn(n, 4), "opacities": torch.zeros(n), "features_dc": torch.randn(n, 3) * 0.1,
    "features_rest": torch.zeros(n, 15, 3)}})
optimizers = {{k: torch.optim.Adam([p], 1e-2) for k, p in params.items()}}
strategy = DefaultStrategy(refine_start_iter=2, refine_every=4, reset_every=12, absgrad=absgrad, verbose=False,
    grow_grad2d=1e-7, key_for_gradient="means2d")
strategy.check_sanity(params, optimizers)
state = strategy.initialize_state(scene_scale=1.0)
K = torch.tensor([[[40.0, 0.0, 20.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]]])
target = torch.rand(32, 40, 3)
losses = []
for step in range(16):
    colors = torch.cat([params["features_dc"][:, None], params["features_rest"]], 1)
    image, alpha, info = rasterization(means=params["means"], quats=params["quats"], scales=params["scales"].exp(),
        opacities=params["opacities"].sigmoid(), colors=colors, viewmats=torch.eye(4)[None], Ks=K, width=40, height=32,
        packed=False, near_plane=0.01, far_plane=1e10, render_mode="RGB+ED", sh_degree=3, sparse_grad=False,
        absgrad=absgrad, rasterize_mode="classic")
    strategy.step_pre_backward(params, optimizers, state, step, info)
    loss = (image[0, ..., :3] - target).abs().mean()
    loss.backward()
    losses.append(loss.item())
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    strategy.step_post_backward(params, optimizers, state, step, info, packed=False)
median_depth(params["means"].data, params["quats"].data, params["scales"].data.exp(),
    params["opacities"].data.sigmoid(), torch.eye(4)[None], K, 40, 32)
assert losses[11] < losses[1], losses  # the strategy resets opacities at step 0
assert len(params["means"]) > n, "the strategy never densified"
assert "gsplat.cuda._backend" not in sys.modules
print("trained", len(params["means"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("absgrad", [False, True])
def test_training_with_gsplats_strategy_never_imports_its_cuda_backend(absgrad):
    """In a process of its own: sixteen steps as splatfacto takes them, densification and opacity reset included."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(absgrad=absgrad)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained")
