"""Protocols of priors, with their requests and results: one for each capability, and none for all of them.

``Fixer`` repairs a picture in one call. ``Upscaler``, ``ViewGenerator``, ``OrbitGenerator``, ``OrbitRefiner`` and
``Depth`` take longer than a second, so they work in steps over a state of tensors (``Stepwise``), which can be shown,
counted and saved in between.

What a protocol marks as abstract a prior has to have; the rest has a default. Priors of this package inherit their
protocol. Those of other packages need not: ``registry.load_prior`` fills in what they leave out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.io.transfers import moved

State = Mapping[str, Tensor]
"""all that a stepwise prior knows of one piece of work, its seed and inputs included; may be written to a file"""
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class FixRequest:
    """A rendered picture to repair, what the splat knows about it, and the photographs it may copy from."""

    image: Tensor  # [H, W, 3] in [0, 1]
    references: Sequence[PosedImage] = ()
    camera: Pinhole | None = None
    depth: Tensor | None = None  # [H, W, 1] median depth of the splat along z, 0 where there is nothing
    alpha: Tensor | None = None  # [H, W, 1] accumulated opacity in [0, 1]
    seed: int = 0

    def to(self, device: torch.device | str) -> FixRequest:
        """Return the same request with its maps and its references' on ``device``; cameras stay where they are."""
        return moved(self, device, references=[reference.to(device) for reference in self.references])


@dataclass(frozen=True)
class FixResult:
    """A repaired picture and its confidence."""

    image: Tensor  # [H, W, 3] in [0, 1]
    confidence: Tensor  # [H, W, 1] in [0, 1]; 0 where no reference shows the pixel
    depth: Tensor | None = None  # [H, W, 1] corrected depth along z, 0 where unknown, if the fixer has one
    depth_confidence: Tensor | None = None  # [H, W, 1] confidence of the corrected depth; None: as of the picture

    def to(self, device: torch.device | str) -> FixResult:
        """Return the same result with its maps on ``device``."""
        return moved(self, device)


class Fixer(Protocol):
    """Repairs pictures. Any size, any number of references, deterministic under the request's seed."""

    @property
    def trained_references(self) -> int | None:
        """Maximum number of references it was shown in training; None: it was not trained, or nobody knows."""
        return None

    @property
    def default_references(self) -> int:
        """Number of references it is shown where nobody says how many: as in its training, if that is known."""
        return DEFAULT_REFERENCES if self.trained_references is None else self.trained_references

    @property
    def generative(self) -> bool:
        """True if it may teach what no photograph shows; else it only carries over what some photograph does."""
        return False

    @property
    def aligns(self) -> bool:
        """True if it brings references into the view by cameras and depth, and can do nothing without."""
        return False

    def describe(self, references: int) -> str:
        """Sentence for users on what it does with so many references; empty: nothing worth saying."""
        return ""

    @abstractmethod
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch; results come in the order of the requests, on the requests' device, as float32."""


DEFAULT_REFERENCES = 3
"""of a fixer that does not know better: the gain of a fourth was within noise, of the third it was not"""


class Stepwise(Protocol[Result]):
    """Work in pieces: ``start -> step* -> result``, where ``start`` is the subclass's own.

    The prior remembers nothing between calls. A state that was saved and loaded goes on to the same bits on the same
    device, whatever else was made in between; no call changes the state it is given, or torch's global generators.
    """

    @abstractmethod
    def steps_left(self, state: State) -> int:
        """Number of steps until there is a result."""

    @abstractmethod
    def step(self, state: State) -> State:
        """Do one bounded piece of the work: one pass of a network through one view, say."""

    @abstractmethod
    def result(self, state: State) -> Result:
        """Return the result; ``steps_left`` is 0."""


class Upscaler(Stepwise[list[Tensor]], Protocol):
    """Enlarges photographs in rounds; after each, a splat may be trained on the results of all photographs.

    The caller keeps the states. Results are [H, W, 3] in [0, 1], float32, of the requested sizes, in the order of the
    photographs, and reduced to a photograph's size (``geometry.resampling.resample``) they differ from it by at most
    1/255 rms, unless the prior was told to leave that out.
    """

    @property
    @abstractmethod
    def joint(self) -> bool:
        """True if one state is of all photographs, in the order of the path they were taken on; else of one."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Results that a photograph has: ``start`` and ``rounds - 1`` times ``advance``."""

    @property
    def rounds_alone(self) -> int:
        """Number of rounds that serve a photograph whose splat nobody trains."""
        return self.rounds

    @abstractmethod
    def level(self, round: int) -> str:
        """Name of a round from 0 for people, such as its timestep; empty if there is nothing to say."""

    @abstractmethod
    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        """Create the first round's state.

        Args:
            lows: photographs [h, w, 3] in [0, 1] of any size; one, unless ``joint``.
            sizes: height and width of each result: the photograph's times one factor, from above 1 to 4.
            seeds: of all random draws, for each photograph.
            renders: [H, W, 3] in [0, 1] of these sizes, to start from instead of noise, in the round
                ``picture_round(rounds)``: those before are left out, since their noise would hide the renders.
        """

    @abstractmethod
    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        """Create the next round's state from this round's finished one and what a splat trained on the results shows.

        Args:
            state: with no step left.
            renders: [H, W, 3] in [0, 1], each of a photograph's camera at the size of its result.
        """


def picture_round(rounds: int) -> int:
    """Return the round, from 0, that an upscaler with so many begins with if it is given pictures instead of noise."""
    return rounds // 2


@dataclass(frozen=True)
class GeneratedView:
    """A picture at a camera that nobody photographed, and its confidence."""

    image: Tensor  # [H, W, 3] in [0, 1], float32
    confidence: Tensor  # [H, W, 1] in [0, 1]
    visible: Tensor | None = None  # [H, W, 1] in [0, 1]: that some photograph shows the surface; None: it does not say
    depth: Tensor | None = None  # [H, W, 1] along z, 0 where unknown
    weight: float = 1.0  # of the picture as a whole in a loss; less where a draw made up little of it


class ViewGenerator(Stepwise[list[GeneratedView]], Protocol):
    """Makes pictures at several cameras jointly from posed photographs; results in the order of the cameras."""

    @property
    def generative(self) -> bool:
        """True if it makes up what no photograph shows."""
        return False

    @abstractmethod
    def start(
        self,
        photographs: Sequence[PosedImage],
        cameras: Sequence[Pinhole],
        renders: Sequence[Tensor] | None = None,
        noise: float = 1.0,
        seed: int = 0,
    ) -> State:
        """Create the state of a joint generation.

        Args:
            photographs: at least one, with cameras in the scene's own unit; pictures of any sizes; depth they may
                have is a hint.
            cameras: of the requested pictures, of any sizes.
            renders: [H, W, 3] in [0, 1] for each camera, to start from; None: from noise alone.
            noise: share of the way from a clean render (0) to noise alone (1) where it starts.
            seed: of all random draws.
        """

    @abstractmethod
    def again(self, state: State, renders: Sequence[Tensor] | None = None, noise: float = 1.0, seed: int = 0) -> State:
        """Create the state of generating the same pictures from other renders or noise.

        What depends on photographs and cameras alone is not made again. Arguments as of ``start``; ``state`` has no
        step left.
        """


@dataclass(frozen=True)
class ObjectFrame:
    """A picture of an object from a camera of an orbit, cut out; S is the generator's own, of all frames the same."""

    image: Tensor  # [S, S, 3] in [0, 1], float32; outside of the silhouette colours mean nothing
    alpha: Tensor  # [S, S, 1] silhouette in [0, 1]; 1 everywhere where it is not known: such a frame is left out
    depth: Tensor | None = None  # [S, S, 1] along z, 0 where the object is not; None: it does not say


class OrbitGenerator(Stepwise[list[ObjectFrame]], Protocol):
    """Makes pictures of an object all around it from one photograph.

    Cameras are those of ``geometry.object_frame`` and the photograph is at the first one, which shows it as it is, at
    the size of the frames: the photograph's own, or one that the generator was trained with.
    """

    @property
    def generative(self) -> bool:
        """True if another seed makes another object."""
        return False

    @property
    def about(self) -> str:
        """Sentence for users on what it does where the photograph shows nothing; empty: it does not say."""
        return ""

    @abstractmethod
    def start(self, photo: Tensor, elevation: float, count: int, seed: int = 0) -> State:
        """Create the state of the work.

        Args:
            photo: [P, P, 4] in [0, 1], the object cut out and centred.
            elevation: of the camera, degrees above the object's middle.
            count: of the pictures, the photograph's among them.
            seed: of all random draws.
        """


@dataclass(frozen=True)
class OrbitFrame:
    """A frame of an orbit around something, to be refined with the others."""

    image: Tensor  # [h, w, 3] in [0, 1]
    camera: Pinhole  # of the image, in the unit of the other cameras
    depth: Tensor | None = None  # [H, W, 1] along z over the same field of view, of any size, 0 where nothing is
    photo: Tensor | None = None  # [H, W, 3] in [0, 1], of any size: a photograph taken at the very pose


class OrbitRefiner(Stepwise[list[Tensor]], Protocol):
    """Repairs and enlarges the frames of an orbit jointly.

    Results are [factor h, factor w, 3] in [0, 1], float32, in the order of the frames; a frame with a photograph shows
    that.
    """

    @property
    @abstractmethod
    def factor(self) -> int:
        """Sides of results over those of frames."""

    @abstractmethod
    def start(self, frames: Sequence[OrbitFrame], seed: int = 0) -> State:
        """Create the state of the work.

        Args:
            frames: in the order of the orbit, all of one size; depth of all of them, or of none.
            seed: of all random draws.
        """


@dataclass(frozen=True)
class DepthMap:
    """Depth of a photograph in the unit of the cameras."""

    depth: Tensor  # [H, W, 1] along z, 0 where unknown, float32
    uncertainty: Tensor  # [H, W, 1] standard deviation of log depth; infinite where the depth is unknown

    def chance(self, within: float) -> Tensor:
        """Return the probability [H, W, 1] that the depth is within a share of the truth, by Laplace's distribution."""
        return 1 - (-within * 2**0.5 / self.uncertainty).exp()


class Depth(Stepwise[list[DepthMap]], Protocol):
    """Estimates the depth of posed photographs; results in their order and sizes."""

    @property
    def wants_matched_depth(self) -> bool:
        """True if its hints should hold depth matched among the photographs besides the scene's points."""
        return False

    @abstractmethod
    def start(self, photographs: Sequence[PosedImage], seed: int = 0) -> State:
        """Create the state of the work on photographs with cameras, of any sizes; depth they may have is a hint."""


def finite(request: FixRequest) -> FixRequest:
    """Replace NaN and infinity in a request by black; nothing is seen there, and references are masked there.

    What is masked in a reference becomes the mean of the rest, so that no network sees it.
    """
    gaps = ~request.image.isfinite().all(-1, keepdim=True)  # [H, W, 1]
    if bool(gaps.any()):
        alpha = None if request.alpha is None else request.alpha.masked_fill(gaps.to(request.alpha.device), 0)
        request = replace(request, image=request.image.masked_fill(gaps, 0), alpha=alpha)
    references = [without_masked(reference) for reference in request.references]
    same = all(one is other for one, other in zip(references, request.references, strict=True))
    return request if same else replace(request, references=references)


def without_masked(reference: PosedImage) -> PosedImage:
    """Replace what is masked or not finite in a reference by the mean of the rest, and mask all of it.

    Returns:
        ``reference`` itself where there is nothing to replace.
    """
    if reference.mask is None and bool(reference.image.isfinite().all()):
        return reference
    gaps = ~reference.image.isfinite().all(-1, keepdim=True)
    mask = torch.ones_like(reference.image[..., :1]) if reference.mask is None else reference.mask
    mask = mask.masked_fill(gaps, 0)
    image = reference.image.masked_fill(gaps, 0)
    hidden = mask <= 0
    if bool(hidden.any()):
        shown = (~hidden).to(image)
        image = torch.where(hidden, (image * shown).sum((0, 1)) / shown.sum().clamp_min(1), image)
    return replace(reference, image=image, mask=mask)
