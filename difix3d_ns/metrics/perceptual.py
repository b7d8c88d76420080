"""LPIPS and FID: distances between pictures as pretrained networks see them.

The networks' weights are not part of the packages that define them. They are read from torch's hub folder or from
files that are named, and fetched only where a caller asks for it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from difix3d_ns.errors import UserError

Net = Literal["alex", "vgg"]
NETS: tuple[Net, ...] = ("alex", "vgg")

_URLS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "inception": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
}
_MIN_SIDES = {"alex": 35, "vgg": 16}  # pixels, below which the deepest features vanish


def column(net: Net, unscaled: bool = False) -> str:
    """Return the name of the LPIPS column of a network: ``lpips_alex``, ``lpips_vgg``, ``lpips_vgg_unscaled``."""
    return f"lpips_{net}" + ("_unscaled" if unscaled else "")


class MissingWeights(UserError):
    """Weights of a network that are not on this machine; the message names file and address."""


def check_files(files: Sequence[Path], flag: str) -> None:
    """Raise a UserError that names the flag of weight files that are not there or have another name than in the hub."""
    names = {url.rpartition("/")[2] for url in _URLS.values()}
    for file in files:
        if file.name not in names:
            raise UserError(f"{flag} {file}: weights of LPIPS and FID are called {', '.join(sorted(names))}; rename it")
        if not file.is_file():
            raise UserError(f"{flag} {file}: there is no such file")


@dataclass(frozen=True)
class PerceptualWeights:
    """Files with the weights of the networks behind LPIPS and FID.

    Args:
        files: files to use instead of those in torch's hub folder, with the names they have there.
        fetch: download what is missing into the hub folder.
    """

    files: Sequence[Path] = ()
    fetch: bool = False

    def find(self, network: str) -> Path:
        """Return the file with the weights of ``alex``, ``vgg`` or ``inception``, fetched first if that is allowed.

        Raises:
            MissingWeights: it is not there, or cannot be fetched.
        """
        url = _URLS[network]
        name = url.rpartition("/")[2]
        named = [file for file in self.files if file.name == name]
        file = named[0] if named else Path(torch.hub.get_dir()) / "checkpoints" / name
        if file.is_file():
            return file
        if named:
            raise MissingWeights(f"{file}: there is no such file; get it from {url}")
        if self.fetch:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
            except (OSError, RuntimeError) as error:
                raise MissingWeights(f"{url} could not be fetched ({error}); put it at {file}") from error
            return file
        raise MissingWeights(f"the weights {file} are missing; put {url} there")

    def load(self, network: str) -> dict[str, Tensor]:
        """Read the weights of a network.

        Raises:
            MissingWeights: see :meth:`find`.
            UserError: the file is damaged.
        """
        file = self.find(network)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
            raise UserError(f"{file} is damaged ({error}); fetch {_URLS[network]} again") from error


class LPIPS(nn.Module):
    """LPIPS of the package ``lpips`` (Zhang et al. 2018), frozen.

    Args:
        net: the network whose features are compared.
        weights: where its weights are.

    Raises:
        MissingWeights: its weights are not there.
        UserError: they are damaged or of another network.
    """

    def __init__(self, net: Net = "alex", weights: PerceptualWeights | None = None):
        import lpips

        super().__init__()
        weights = weights or PerceptualWeights()
        state = weights.load(net)
        # the random values it is made with must not count as draws, and it names torchvision's arguments as of old
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        try:
            for part in self._metric.net.children():  # numbers its layers as torchvision does
                part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{weights.find(net)} is damaged ({error}); fetch {_URLS[net]} again") from error
        self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor, mask: Tensor | None = None, unscaled: bool = False) -> Tensor:
        """Distances [B] between pictures [B, 3, H, W] in [0, 1]; lower is better.

        Args:
            first: pictures.
            second: others.
            mask: [B, 1, H, W], 1 where the distances of single pixels are averaged; None: distances of whole pictures.
            unscaled: give the network these values, instead of -1 to 1, which it was trained with.
        """
        self._metric.spatial = mask is not None
        found: Tensor = self._metric(first, second, normalize=not unscaled)
        if mask is None:
            return found.flatten()
        return (found * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))

    def features(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Activations [B, C, h, w] of five layers, shallow to deep, for pictures [B, 3, H, W] in [0, 1]."""
        return tuple(self._metric.net(self._metric.scaling_layer(pictures * 2 - 1)))


class LazyLPIPS(nn.Module):
    """LPIPS that loads its network at the first use and is NaN without it.

    Args:
        net: the network whose features are compared.
        notify: takes the one sentence that says what is missing.
        weights: where its weights are.
        unscaled: see :meth:`LPIPS.forward`.
    """

    def __init__(
        self,
        net: Net,
        notify: Callable[[str], Any],
        weights: PerceptualWeights | None = None,
        unscaled: bool = False,
    ):
        super().__init__()
        self.column, self._unscaled = column(net, unscaled), unscaled
        self._net, self._notify, self._weights = net, notify, weights
        self._loaded: list[LPIPS | None] = []  # a list hides the network from checkpoints

    def load(self) -> LPIPS | None:
        """Return the network, loaded once; None, and one sentence for people, where its weights cannot be had."""
        if not self._loaded:
            try:
                self._loaded.append(LPIPS(self._net, self._weights))
            except UserError as error:
                self._notify(f"{self.column} is left out: {error}")
                self._loaded.append(None)
        return self._loaded[0]

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean distance [] between pictures [B, 3, H, W] in [0, 1]; NaN without weights or for tiny pictures."""
        network = self.load()
        if network is None or min(first.shape[-2:]) < _MIN_SIDES[self._net]:
            return first.new_tensor(float("nan"))
        return network.to(first.device)(first.clamp(0, 1), second.clamp(0, 1), mask, self._unscaled).mean()

    def measure(self, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
        """Distance between two pictures [H, W, 3] in [0, 1], inside a mask [H, W, 1] if one is given.

        NaN where :meth:`forward` gives that.
        """
        pair = (one.permute(2, 0, 1)[None] for one in (prediction, truth))
        return float(self(*pair, None if mask is None else mask.permute(2, 0, 1)[None].to(prediction)))


class FID:
    """Fréchet distance between the Inception features of two sets of pictures (Heusel et al. 2017).

    Args:
        weights: where Inception's weights are, as torch-fidelity converted them from TensorFlow.
        features: a network for pictures [B, 3, H, W] in [0, 1] -> [B, D] instead of Inception.
        device: where features are computed.

    Raises:
        MissingWeights: its weights are not there.
        UserError: they are damaged.
    """

    def __init__(
        self,
        weights: PerceptualWeights | None = None,
        features: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._device = device
        if features is not None:
            self._metric = FrechetInceptionDistance(feature=features, normalize=True).to(device)
            return
        weights = weights or PerceptualWeights()
        weights.load("inception")  # torch-fidelity unpickles without a check
        file = str(weights.find("inception"))
        self._metric = FrechetInceptionDistance(normalize=True, feature_extractor_weights_path=file).to(device)

    @torch.no_grad()
    def __call__(self, predictions: Iterable[Tensor], truths: Iterable[Tensor]) -> float:
        """Distance between two sets of pictures, lower is better; biased upward for few of them.

        Args:
            predictions: [H, W, 3] each, in [0, 1], at least two.
            truths: [H, W, 3] each, in [0, 1], at least two; numbers and sizes may differ.
        """
        self._metric.reset()
        for pictures, real in ((truths, True), (predictions, False)):
            for picture in pictures:
                values = picture.to(self._device, torch.float32).clamp(0, 1)
                self._metric.update(values.permute(2, 0, 1)[None], real=real)
        return float(self._metric.compute())
