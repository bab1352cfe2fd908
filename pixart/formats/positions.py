"""Stored positions: a tensor that nobody needs, but that tells for which square a model was made."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pixart.formats import released
from pixart.formats.table import Row
from pixart.models.embeddings import Positions

POS_EMBED = "pos_embed"


class Square(NamedTuple):
    """For which square of latent cells positions are made."""

    input_size: int
    interpolation_scale: float


class Told(NamedTuple):
    """What a caller says of a model; None for what the weights must tell."""

    num_heads: int | None = None
    input_size: int | None = None
    interpolation_scale: float | None = None


NOTHING = Told()


class Untold(ValueError):
    """A number that no file of this kind tells must be given."""


def table(dim: int, patch_size: int, square: Square) -> Tensor:
    """Positions as official files store them: (1, T, D) float32."""
    side = square.input_size // patch_size
    made = Positions(dim=dim, base_size=side, interpolation_scale=square.interpolation_scale)
    return made(side, side, torch.device("cpu"))[None]


def read_square(pos_embed: Tensor, patch_size: int) -> Square | None:
    """The square whose positions ``pos_embed`` (1, T, D) holds to rounding; None if it holds nobody's."""
    if pos_embed.ndim != 3 or len(pos_embed) != 1 or pos_embed.is_meta or pos_embed.shape[2] % 4:
        return None
    side, dim = math.isqrt(pos_embed.shape[1]), pos_embed.shape[2]
    if side**2 != pos_embed.shape[1] or side < 2:
        return None
    found = pos_embed.float()
    angle = math.atan2(found[0, 1, 0], found[0, 1, dim // 4])  # of the second column, at frequency 1
    if not 0 < angle < math.pi:
        return None
    tolerance = 1e-4 if pos_embed.dtype == torch.float32 else 2e-2
    for scale in (round(2 / angle) / 2, round(1 / angle, 5)):
        square = Square(side * patch_size, scale)
        if scale > 0 and (table(dim, patch_size, square) - found).abs().max() <= tolerance:
            return square
    return None


def find_square(path: Path, pos_embed: Tensor | None, patch_size: int, given: Told, otherwise: Told) -> Square:
    """The square of a model in a file without a configuration.

    What is ``given`` must agree with what ``pos_embed`` shows, and decides where that and a released name disagree;
    where there are no positions it counts first, then the names and values of the released models, then ``otherwise``.
    Raises ``ValueError`` where the given and the shown contradict each other, or nothing tells.
    """
    told = None if pos_embed is None else read_square(pos_embed, patch_size)
    if pos_embed is not None and told is None and None in (given.input_size, given.interpolation_scale):
        raise Untold(
            f"{path}: tensor '{POS_EMBED}' holds no positions of a square; "
            "give input_size= and interpolation_scale= to leave it behind"
        )
    pixels = released.pixels_in_name(path)
    named = None if pixels is None else pixels // released.STRIDE
    if told is not None:
        _refuse_contradiction(path, told, given, None if pixels is None else pixels // released.STRIDE)
    input_size = given.input_size or (told.input_size if told else named) or otherwise.input_size
    if input_size is None:
        raise Untold(f"{path}: without tensor '{POS_EMBED}' nothing tells for which size it was made; give input_size=")
    known = released.INTERPOLATION.get(input_size)
    scale = given.interpolation_scale or (told.interpolation_scale if told else known) or otherwise.interpolation_scale
    if scale is None:
        raise Untold(f"{path}: nothing in the file tells its interpolation_scale; give it (1 up to 512 px, 2 at 1024)")
    if pixels and path.name.startswith("PixArt") and scale != known and given.interpolation_scale is None:
        raise Untold(
            f"{path}: '{POS_EMBED}' was made with interpolation {scale:g} and the released model of that name uses "
            f"{known:g}; give interpolation_scale="
        )
    return Square(input_size, scale)


def _refuse_contradiction(path: Path, told: Square, given: Told, named: int | None) -> None:
    known = None if named is None else released.INTERPOLATION[named]
    for key, shown, asked, decided in (
        ("input_size", told.input_size, given.input_size, None),
        ("interpolation_scale", told.interpolation_scale, given.interpolation_scale, known),
    ):
        if asked is not None and asked != decided and not math.isclose(asked, shown, rel_tol=1e-2):
            raise ValueError(
                f"{path}: tensor '{POS_EMBED}' shows {key} {shown:g}, and {key}={asked:g} was given: leave it out"
            )


def left_behind(square: Square, patch_size: int) -> Row:
    """The row of a stored table of positions."""
    side = square.input_size // patch_size
    detail = f"made when needed: {side} x {side} tokens, interpolation {square.interpolation_scale:g}"
    return Row(POS_EMBED, "left behind", detail)
