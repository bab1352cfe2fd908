"""Images to latents and back: a frozen ``AutoencoderKL``, or plain pixels behind the same interface.

Moments are the posterior's mean and standard deviation, one after the other on the channel axis, unscaled: what is
stored of an image. Latents are a draw from them, shifted and scaled to about unit variance: what is diffused.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pixart.encoders.source import find_folder, fingerprint, readable, refuse_missing, require

KEY = "autoencoder.source"
FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
MINIATURES = {"shapes-kl": Path(__file__).parent / "shapes_kl"}  # packaged, nothing to download


class LatentSpace(Protocol):
    """What the rest of the house knows of an autoencoder."""

    channels: int  # C of the latents
    stride: int  # pixels per latent cell and side
    stochastic: bool  # whether a draw wants posterior noise

    @property
    def fingerprint(self) -> str:
        """Short hex: who made these latents."""

    def moments(self, images: Tensor) -> Tensor:
        """``images`` (N, 3, h, w) in [-1, 1] -> (N, 2C, H, W) float32 mean and standard deviation, unscaled."""

    def draw(self, moments: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``moments`` (N, 2C, H, W) and noise (N, C, H, W), or None for the mean -> latents (N, C, H, W), scaled."""

    def encode(self, images: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``images`` (N, 3, h, w) in [-1, 1] -> latents (N, C, H, W), scaled."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled ``latents`` (N, C, H, W) -> images (N, 3, h, w) float32, clamped to [-1, 1]."""

    def to(self, device: torch.device | str) -> "LatentSpace":
        """Moves the weights; returns itself."""

    def use_tiling(self, on: bool) -> None:
        """Trades speed for memory where there is something to trade."""


def _drawn(moments: Tensor, posterior_noise: Tensor | None) -> Tensor:
    mean, std = moments.float().chunk(2, dim=1)  # (N, C, H, W) each
    return mean if posterior_noise is None else mean + std * posterior_noise.to(mean)


class Autoencoder:
    """A frozen ``AutoencoderKL``; its scale and shift come from its own config."""

    stochastic = True

    def __init__(self, model: nn.Module, *, files: Sequence[Path], dtype: torch.dtype):
        self.model: Any = model.eval().requires_grad_(False)
        self.files = tuple(files)
        self.dtype = dtype
        config: Any = model.config
        self.channels = int(config.latent_channels)
        self.stride = 2 ** (len(config.block_out_channels) - 1)  # every block but the last halves the image
        self.scale = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with config (scale and shift are in it), weights or dtype, with nothing else."""
        return fingerprint(self.files, dtype=str(self.dtype))

    def to(self, device: torch.device | str) -> "Autoencoder":
        """Moves the weights; returns itself."""
        self.model.to(device)
        return self

    def use_tiling(self, on: bool) -> None:
        """Trades speed for memory: one image at a time, in overlapping tiles (which changes the results a little)."""
        (self.model.enable_slicing if on else self.model.disable_slicing)()
        (self.model.enable_tiling if on else self.model.disable_tiling)()

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """``images`` (N, 3, h, w) in [-1, 1] -> (N, 2C, H, W) float32; h and w must be multiples of the stride."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"images of {height} x {width} pixels: both sides must be multiples of {self.stride}")
        with torch.autocast(self.device.type, enabled=False):
            posterior = self.model.encode(images.to(self.device, self.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1).float()  # (N, 2C, H, W)

    def draw(self, moments: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``moments`` (N, 2C, H, W) and noise (N, C, H, W), or None for the mean -> scaled latents (N, C, H, W)."""
        return (_drawn(moments, posterior_noise) - self.shift) * self.scale

    def encode(self, images: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``images`` (N, 3, h, w) in [-1, 1] -> scaled latents (N, C, H, W) float32."""
        return self.draw(self.moments(images), posterior_noise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled ``latents`` (N, C, H, W) -> images (N, 3, h, w) float32, clamped to [-1, 1]."""
        unscaled = latents.to(self.device).float() / self.scale + self.shift
        with torch.autocast(self.device.type, enabled=False):
            images = self.model.decode(unscaled.to(self.dtype)).sample  # (N, 3, h, w)
        return images.float().clamp(-1, 1)


class Pixels:
    """No autoencoder: latents are the image times ``scale``, which brings them to about unit variance."""

    channels, stride, stochastic = 3, 1, False

    def __init__(self, *, scale: float):
        if not scale > 0:
            raise ValueError(f"autoencoder.scale: {scale} is not above 0; 1 leaves the pixels as they are")
        self.scale = scale

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the scale alone."""
        return fingerprint((), kind="pixels", scale=self.scale)

    def to(self, device: torch.device | str) -> "Pixels":  # noqa: ARG002  there is nothing to move
        """Returns itself."""
        return self

    def use_tiling(self, on: bool) -> None:
        """Changes nothing: there is nothing to compute."""

    def moments(self, images: Tensor) -> Tensor:
        """``images`` (N, 3, h, w) -> (N, 6, h, w) float32: the image, and a standard deviation of zero."""
        return torch.cat([images, torch.zeros_like(images)], dim=1).float()

    def draw(self, moments: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``moments`` (N, 6, h, w) -> latents (N, 3, h, w); noise times a deviation of zero changes nothing."""
        return _drawn(moments, posterior_noise) * self.scale

    def encode(self, images: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """``images`` (N, 3, h, w) in [-1, 1] -> latents (N, 3, h, w) float32."""
        return self.draw(self.moments(images), posterior_noise)

    def decode(self, latents: Tensor) -> Tensor:
        """``latents`` (N, 3, h, w) -> images (N, 3, h, w) float32, clamped to [-1, 1]."""
        return (latents.float() / self.scale).clamp(-1, 1)


def _autoencoder_kl() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL


def _read(folder: Path, dtype: torch.dtype) -> nn.Module:
    # diffusers imports xformers, which warns where it has no kernels, and keeps the exception that told it so: with it
    # the variables of all who wait for the import, and weights among them. In a thread of its own nobody does.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    with ThreadPoolExecutor(1) as apart:
        kind = apart.submit(_autoencoder_kl).result()
    with readable(folder, key=KEY, kind="AutoencoderKL"):
        model, report = kind.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    refuse_missing(report["missing_keys"], folder, key=KEY)
    return model


def load_autoencoder(source: str, *, dtype: torch.dtype, tiling: bool = False, scale: float = 1.0) -> LatentSpace:
    """The frozen autoencoder of ``source``: "pixels", "shapes-kl" (packaged miniature), a local folder, or a hub name.

    ``vae/`` inside a folder is found. ``scale`` is for pixels only: an ``AutoencoderKL`` brings its own. Raises
    ``ValueError`` naming ``autoencoder.source`` where something is missing or unreadable.
    """
    if source == "pixels":
        return Pixels(scale=scale)
    patterns = [f"{prefix}{name}" for prefix in ("", "vae/") for name in FILES]
    folder = MINIATURES.get(source) or find_folder(source, key=KEY, files=patterns)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    mend = "AutoencoderKL.from_pretrained(...).save_pretrained(folder) writes one (pickled files are never read)"
    files = require(folder, FILES, key=KEY, mend=mend)
    autoencoder = Autoencoder(_read(folder, dtype), files=files, dtype=dtype)
    autoencoder.use_tiling(tiling)
    return autoencoder
