"""PixArt-alpha's diffusion transformer (arXiv 2310.00426, section 2.3), one class for every stage and variant.

Letters: N batch, C latent channels, H W latent size, P patch side, h w tokens per column and row, T = h * w,
L caption tokens, D width. Parameter names are those of the released weights.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from pixart.batch import Conditioning
from pixart.models.attention import Text, choose
from pixart.models.blocks import FinalLayer, PixArtBlock, own_modulation
from pixart.models.captions import check_told, counted, located
from pixart.models.embeddings import ConditionEmbedder, NumberEmbedder, Positions
from pixart.models.initialise import initialise
from pixart.models.numbers import check_buildable, check_config
from pixart.models.precision import as_given
from pixart.models.recompute import Checkpointing
from pixart.models.told import Prepared, Told, at_each
from pixart.models.weights import NULL_CAPTION, check_tensors, read_file, read_model_config


class PixArt(nn.Module):
    """A denoiser ``model(x_t, t, cond)`` of latents.

    Args:
        input_size: latent cells per side of the square that positions are made for; other sizes are accepted.
        patch_size: P, latent cells per side of a token.
        in_channels: C of ``x_t``.
        out_channels: channels of the output, 2C with a learned variance.
        dim: D; divisible by 4 and by ``num_heads``.
        depth: number of blocks.
        num_heads: heads of every attention.
        mlp_ratio: hidden width of the blocks' MLPs over D.
        text_dim: width of the caption's tokens; None builds no cross-attention.
        num_classes: number of classes beside the null label; None builds no label table.
        size_conditioning: whether to tell the model ``cond.size`` and ``cond.aspect_ratio``.
        adaln: "single" shares one modulation among the blocks, "per_block" gives each its own as DiT does.
        interpolation_scale: by how much positions are squeezed (2 at 1024 px, else 1).
        attention: "sdpa" or "xformers".
        fp32_attention: compute self-attention in float32 also under autocast.
        checkpointing: in training, which activations of a block are computed again in the backward pass: "none", all
            of them ("blocks"), or those that are cheap ("selective").

    The weights are drawn from torch's seed (``torch.manual_seed``), the same for every model of that seed; a model
    made on the meta device has none.
    """

    def __init__(
        self,
        *,
        input_size: int,
        patch_size: int,
        in_channels: int,
        out_channels: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        text_dim: int | None,
        num_classes: int | None,
        size_conditioning: bool,
        adaln: Literal["single", "per_block"],
        interpolation_scale: float,
        attention: str,
        fp32_attention: bool,
        checkpointing: Checkpointing,
    ) -> None:
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        check_buildable(config)
        self.config: dict[str, Any] = config
        self.patch_size, self.out_channels = patch_size, out_channels
        self.attention = attention
        shared = adaln == "single"
        device = torch.get_default_device()
        with torch.device("meta"):  # no memory and no random numbers until the one initialisation below
            self.x_embedder = PatchEmbed(None, patch_size, in_channels, dim)
            self.positions = Positions(
                dim=dim, base_size=input_size // patch_size, interpolation_scale=interpolation_scale
            )
            self.t_embedder = NumberEmbedder(dim)
            self.csize_embedder = NumberEmbedder(dim // 3) if size_conditioning else None
            self.ar_embedder = NumberEmbedder(dim - 2 * (dim // 3)) if size_conditioning else None
            self.t_block = own_modulation(dim, 6) if shared else None
            self.y_embedder = ConditionEmbedder(dim=dim, text_dim=text_dim, num_classes=num_classes)
            self.blocks = nn.ModuleList(
                PixArtBlock(
                    dim,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    text=text_dim is not None,
                    shared_modulation=shared,
                    attention=attention,
                    fp32_attention=fp32_attention,
                    checkpointing=checkpointing,
                )
                for _ in range(depth)
            )
            self.final_layer = FinalLayer(dim, patch_size**2 * out_channels, shared_modulation=shared)
        self.to_empty(device=device)
        initialise(self, torch.initial_seed())

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning | Told) -> Tensor:
        """``x_t`` (N, C, H, W), ``t`` (N,) integer or fractional -> (N, out_channels, H, W) float32.

        Raises ``ValueError`` where H or W is no multiple of P, or ``cond`` lacks what the model needs.
        """
        h, w = self.grid(x_t.shape[2], x_t.shape[3])
        dtype = self.x_embedder.proj.weight.dtype  # the residual stream has the weights' precision, autocast or not
        with as_given(x_t.device):  # autocast reaches the caption and the blocks' insides, see docs/precision.md
            x = self.x_embedder(x_t.to(dtype)) + self.positions(h, w, x_t.device).to(dtype)  # (N, T, D)
            x = x.contiguous()  # as it leaves a block: compiled, the first is not to be a graph of its own
        told = self.tell(t, cond, h * w) if isinstance(cond, Conditioning) else cond
        for block, modulation, text in zip(self.blocks, told.modulations, told.texts, strict=True):
            x = block(x, modulation, text)  # (N, T, D)
        with as_given(x.device):
            x = self.final_layer(x, told.vector)  # (N, T, P * P * out)
        return self.unpatchify(x, h, w).float()  # (N, out, H, W)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens per column and row of latents of H x W; ``ValueError`` where these do not divide."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"latents of {height} x {width} do not divide into patches of {self.patch_size}")
        return height // self.patch_size, width // self.patch_size

    def tell(self, t: Tensor, cond: Conditioning, queries: int) -> Told:
        """Timesteps (N,) and what is said about N images of T = ``queries`` tokens, as the blocks take it."""
        with as_given(t.device):
            vector = self.embed_time(t, cond)  # (N, D)
            modulation = self.shared_modulation(vector)  # (N, 6, D) or (N, D)
        count = len(self.blocks)
        return Told(vector, (modulation,) * count, (self.embed_text(cond, queries),) * count)

    def prepare(self, cond: Conditioning, times: Tensor, size: tuple[int, int]) -> Prepared:
        """What is the same at every step of drawing N latents of ``size`` H x W, for ``times`` (K,) of a schedule.

        ``forward`` takes ``prepared.at(step)`` in place of ``cond``. A prompt of L tokens holds 2 * L * D numbers a
        block: 31 MB of float32 for 120 tokens and XL/2, half under autocast, and so does the null beside it. A block
        that has a modulation of its own holds 6 * D numbers for each time and row.
        """
        rows, every = at_each(cond, len(times))
        t = times.to(self.x_embedder.proj.weight.device).repeat_interleave(rows)  # (K * N,)
        h, w = self.grid(*size)
        with as_given(t.device):
            vectors = self.embed_time(t, every)  # (K * N, D)
            shared = None if self.t_block is None else self.shared_modulation(vectors)
        text, blocks = self.embed_text(cond, h * w), cast(Iterable[PixArtBlock], self.blocks)
        modulations = (block.own_rows(vectors) if shared is None else shared for block in blocks)
        texts = tuple(block.keys_values(text) for block in blocks)
        return Prepared(
            vectors.unflatten(0, (-1, rows)), tuple(each.unflatten(0, (-1, rows)) for each in modulations), texts
        )

    def embed_time(self, t: Tensor, cond: Conditioning) -> Tensor:
        """Timesteps (N,), and with them the label and the size of the image, as one vector (N, D)."""
        vector = self.t_embedder(t)
        if self.y_embedder.embedding_table is not None and cond.label is not None:
            vector = vector + self.y_embedder.embedding_table(cond.label)
        if self.csize_embedder is not None and self.ar_embedder is not None:
            if cond.size is None or cond.aspect_ratio is None:
                raise ValueError(
                    "this model is conditioned on size: give cond.size (N, 2) and cond.aspect_ratio (N, 1)"
                )
            size = [self.csize_embedder(cond.size), self.ar_embedder(cond.aspect_ratio)]
            vector = vector + torch.cat(size, dim=1)
        return vector

    def embed_text(self, cond: Conditioning, queries: int) -> Text | None:
        """Captions as every block takes them, T being ``queries``.

        Nothing is computed of padding on the CPU, and elsewhere where ``cond.places`` tells it: a look would wait.
        """
        y_proj = self.y_embedder.y_proj
        check_told(cond, text=y_proj is not None)
        if y_proj is None or cond.tokens is None:
            return None
        dtype = self.x_embedder.proj.weight.dtype
        if cond.mask is None:
            return Text(y_proj(cond.tokens.to(dtype)), None)  # (N, L, D)
        tokens, mask, places = located(cond.tokens, cond.mask, cond.places)
        padding = choose(self.attention, tokens.device).prepare(mask, queries, places)
        return Text(y_proj(counted(tokens, mask, padding.places).to(dtype)), padding)  # (S, D)

    def shared_modulation(self, t: Tensor) -> Tensor:
        """The time vector (N, D) as the blocks take it: adaLN-single's one modulation (N, 6, D), or unchanged."""
        if self.t_block is None:
            return t
        return self.t_block(t).unflatten(1, (6, -1))

    def unpatchify(self, x: Tensor, h: int, w: int) -> Tensor:
        """Tokens (N, h * w, P * P * out), a token being (row, column, channel) -> (N, out, h * P, w * P)."""
        x = x.reshape(-1, h, w, self.patch_size, self.patch_size, self.out_channels)
        x = x.permute(0, 5, 1, 3, 2, 4)  # (N, out, h, P, w, P)
        return x.reshape(-1, self.out_channels, h * self.patch_size, w * self.patch_size)

    @staticmethod
    def from_pretrained(path: str | Path) -> "PixArt":
        """The model of a snapshot file, on the CPU, in evaluation mode.

        Raises ``ValueError`` where the file is missing, damaged, not a snapshot, or holds other tensors than its model.
        """
        tensors, metadata = read_file(path)
        tensors.pop(NULL_CAPTION, None)
        with torch.device("meta"):
            model = from_config(path, read_model_config(path, metadata))
        check_tensors(path, tensors, model)
        model.load_state_dict(tensors, assign=True)
        return model.eval()


def from_config(path: str | Path, config: dict[str, Any]) -> PixArt:
    """The model that ``config``, as stored at ``path``, describes; ``ValueError`` if it describes none."""
    check_config(path, config, known=inspect.signature(PixArt).parameters)
    try:
        return PixArt(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the model it describes cannot be built ({error})") from error
