import logging

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pixart.batch import places_of
from pixart.models import attention
from pixart.models.attention import BACKENDS, Backend, SelfAttention, choose, usable


def heads(n: int, tokens: int) -> Tensor:
    return torch.randn(n, tokens, 2, 8, requires_grad=True)


def attended(backend: Backend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, packed: bool) -> Tensor:
    """Through a backend, which is given only the keys and values that count, or all of them."""
    padding = backend.prepare(mask, q.shape[1], places_of(mask) if packed else None)
    kv = torch.stack([k, v], dim=2).flatten(2)  # (N, L, 2D)
    kv = kv if padding.places is None else kv.flatten(0, 1)[padding.places]
    keys, values = backend.spread(kv, padding).unflatten(-1, (2, *k.shape[2:])).unbind(2)
    return backend.attend(q, keys, values, padding)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention image by image over its real keys alone; zeros where there is none."""
    rows = []
    for i in range(len(q)):
        keys, values = k[i][mask[i]], v[i][mask[i]]
        weights = (torch.einsum("thd,shd->hts", q[i], keys) * q.shape[-1] ** -0.5).softmax(-1)
        rows.append(torch.einsum("hts,shd->thd", weights, values) if len(keys) else torch.zeros_like(q[i]))
    return torch.stack(rows)


MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


@pytest.fixture
def packed_attention_on_cpu(monkeypatch):
    """xformers' function computed by torch with the bias that xformers' own mask class spells out."""
    ops = pytest.importorskip("xformers.ops")

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_bias: object = None) -> Tensor:
        bias = None if attn_bias is None else attn_bias.materialize((1, 2, q.shape[1], k.shape[1]))  # type: ignore[attr-defined]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)

    monkeypatch.setattr(ops, "memory_efficient_attention", attend)


@pytest.mark.usefixtures("packed_attention_on_cpu")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_backend_agrees_with_plain_attention_forward_and_backward(name, packed):
    q, k, v = heads(3, 4), heads(3, 5), heads(3, 5)
    output = attended(BACKENDS[name], q, k, v, MASK, packed=packed)
    expected = plain(q, k, v, MASK)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((output * weights).sum(), (q, k, v))
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weights).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("packed_attention_on_cpu")
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_without_padding_every_key_counts(name):
    q, k, v = heads(2, 4), heads(2, 5), heads(2, 5)
    expected = plain(q, k, v, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(BACKENDS[name].attend(q, k, v, None), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("packed_attention_on_cpu")
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_an_image_without_real_keys_gets_exactly_0(name):
    for packed in (False, True):
        output = attended(BACKENDS[name], heads(3, 4), heads(3, 5), heads(3, 5), MASK, packed=packed)
        assert output[2].abs().max() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_backend_agrees_with_plain_attention_on_cuda_to_2e_2_in_half_precision(name):
    if usable(name, "cuda") != name:
        pytest.skip(f"{name} cannot run here")
    backend, mask = BACKENDS[name], MASK.cuda()
    q, k, v = (torch.randn(3, n, 2, 72, device="cuda", dtype=torch.float16, requires_grad=True) for n in (4, 5, 5))
    output = attended(backend, q, k, v, mask, packed=False)
    expected = plain(q, k, v, mask)
    assert output[2].abs().max() == 0
    torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)
    for ours, theirs in zip(
        torch.autograd.grad(output.float().square().sum(), (q, k, v)),
        torch.autograd.grad(expected.float().square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)


def test_xformers_without_cuda_becomes_sdpa_with_1_log_line(small, randomise, captioned, x_t, t, caplog):
    attention._xformers_runs_on.cache_clear()
    sdpa, xformers = randomise(small()), randomise(small(attention="xformers"))
    with caplog.at_level(logging.WARNING, logger=attention.__name__):
        outputs = [xformers(x_t, t, captioned) for _ in range(2)]
    assert torch.equal(outputs[0], sdpa(x_t, t, captioned))
    assert len(caplog.records) == 1
    assert "using sdpa" in caplog.text
    assert choose("xformers", torch.device("cpu")) is BACKENDS["sdpa"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            NotImplementedError("No operator found for these inputs:\n    query: fp16"),
            "No operator found for these inputs",
        ),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_xformers_that_imports_without_its_kernels_becomes_sdpa_on_a_gpu_too(monkeypatch, caplog, error, told):
    def lacking(_: str) -> None:
        raise error

    monkeypatch.setattr(attention, "_try_xformers", lacking)
    attention._xformers_runs_on.cache_clear()
    with caplog.at_level(logging.WARNING, logger=attention.__name__):
        assert usable("xformers", "cuda") == "sdpa"
    attention._xformers_runs_on.cache_clear()
    assert [record.message for record in caplog.records] == [
        f"attention=xformers cannot run on cuda ({told}): using sdpa"
    ]


def test_fp32_attention_stays_in_float32_under_autocast(monkeypatch):
    seen = []
    torch.manual_seed(0)
    layer = SelfAttention(16, 2, backend="sdpa", fp32=True)
    original = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **kwargs: Tensor | None) -> Tensor:
        output = original(q, k, v, **kwargs)
        seen.append((q.dtype, output.dtype))
        return output

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(1, 4, 16))
        layer.fp32 = False
        layer(torch.randn(1, 4, 16))
    assert seen == [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)]
