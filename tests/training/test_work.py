"""The share of the device that a run uses counts each operation of its batches once, and real tokens alone."""

import json
from pathlib import Path

import pytest
import torch
from miniature import Silent, small

from pixart.batch import Batch
from pixart.build.training import run_training
from pixart.models.flops import training_flops
from pixart.training import log
from pixart.training.work import peak_of, used, work

CONFIG = {
    **{"dim": 48, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0, "patch_size": 2, "in_channels": 4, "out_channels": 8},
    **{"text_dim": 20, "num_classes": None, "size_conditioning": False, "adaln": "single"},
}


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("Tesla V100-SXM2-32GB", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_the_peak_of_a_device_is_found_by_its_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_a_batch_of_two_with_3_of_8_tokens_counts_3() -> None:
    mask = torch.arange(4) < torch.tensor([[2], [1]])
    batch = Batch(noise=torch.zeros(2, 4, 8, 12), u=torch.zeros(2), keys=("a", "b"), mask=mask)
    model = torch.nn.Module()
    model.config = CONFIG
    assert work(model, batch) == training_flops(CONFIG, images=2, image_tokens=24, text_tokens=3)


def test_half_of_989_tflops_for_2_seconds_is_an_mfu_of_0_5() -> None:
    assert used(989 * 10**12, 2.0, 989.0) == {"tflops": 494.5, "mfu": 0.5}
    assert used(989 * 10**12, 2.0, None) == {"tflops": 494.5}


def test_the_log_says_mfu_where_the_peak_is_known_and_every_line_counts_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "peak_tflops", lambda _: 0.5)
    run_training(small(1, tmp_path, "steps=4", "log_every=2", "sample_every=0", "validate_every=0"), lambda _: Silent())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "tflops" in line]
    assert [line["mfu"] for line in lines] == pytest.approx([line["tflops"] / 0.5 for line in lines])
    # All lines ask for the same operations an image, so the ratio to images a second is one.
    each = [line["tflops"] / line["images_per_second"] for line in lines]
    assert len(each) == 2
    assert each[0] == pytest.approx(each[1])
