"""A device's time by kind of kernel or operator."""

from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from pixart.benchmark.kernels import OTHERS, by_kind, profiled


def event(name: str, microseconds: float, *, gpu: bool = True, annotation: bool = False) -> SimpleNamespace:
    device_type = DeviceType.CUDA if gpu else DeviceType.CPU
    return SimpleNamespace(
        name=name,
        device_type=device_type,
        is_user_annotation=annotation,
        self_cpu_time_total=0 if gpu else microseconds,
        self_device_time_total=microseconds if gpu else 0,
    )


def test_each_kernel_counts_once_with_its_kind_and_neither_host_nor_annotations_do():
    found = by_kind(
        [
            event("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", 3e6),
            event("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>", 1e6),
            event("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", 2e6),
            event("void cudnn::fusion::compute_dot_do_o<true>(void const*)", 5e5),
            event("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", 5e5),
            event("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedOptimizer>", 1e6),
            event("triton_red_fused__to_copy_add_mul_native_layer_norm_split_0", 3e5),
            event("triton_poi_fused__scaled_dot_product_cudnn_attention_backward_stack_transpose_14", 2e5),
            event("triton_tem_fused_flex_attention_0", 1e5),
            event("Memset (Device)", 1e5),
            event("void at::native::vectorized_elementwise_kernel<4>", 2e5),
            event("Optimizer.step#AdamW.step", 9e6, annotation=True),
            event("aten::mm", 9e6, gpu=False),
        ],
        torch.device("cuda"),
    )
    assert found == pytest.approx(
        {
            "matrix products": 4.0,
            "attention": 3.1,
            "optimizer": 1.0,
            "generated kernels": 0.5,
            OTHERS: 0.2,
            "copies and fills": 0.1,
        }
    )
    assert list(found) == sorted(found, key=lambda kind: -found[kind])


def test_of_the_cpu_each_of_12_operators_counts_with_its_kind():
    names = {
        "matrix products": ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise", "aten::convolution_backward"),
        "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu_backward",),
        "generated kernels": ("## Call CompiledFxGraph fcf3gmp ##",),
        "copies and fills": ("aten::copy_", "aten::fill_", "aten::cat"),
        "optimizer": ("aten::_fused_adamw_",),
        OTHERS: ("aten::gelu_backward", "aten::add_"),
    }
    events = [event(name, 1e6, gpu=False) for several in names.values() for name in several]
    assert by_kind(events, torch.device("cpu")) == {kind: len(several) for kind, several in names.items()}


def test_a_product_on_the_cpu_is_one():
    x = torch.ones(256, 256)
    assert next(iter(profiled(lambda: x @ x, torch.device("cpu")))) == "matrix products"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_product_on_the_gpu_is_one():
    x = torch.ones(512, 512, device="cuda", dtype=torch.bfloat16)
    assert profiled(lambda: x @ x, torch.device("cuda"))["matrix products"] > 0
