"""Decoding and fitting."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pixart.data.buckets import Bucket
from pixart.data.transforms import decode, fit, measure, normalised, normalised_batch, rgb


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_a_png_is_decoded_to_the_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), format="PNG"), "a"), pixels)


def test_transparent_pixels_are_laid_on_white_and_grey_becomes_rgb():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    assert decode(encoded(clear, format="PNG"), "a").tolist() == [[[255, 255, 255], [255, 0, 0]]]
    assert decode(encoded(Image.new("L", (1, 1), 7), format="PNG"), "a").tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_so_that_65535_becomes_255_and_nothing_is_cut_off(kind: str):
    values = np.array([[0, 128, 129, 257, 32768, 51400, 65406, 65407, 65535]], dtype=np.uint16)
    found = decode(encoded(Image.fromarray(values), format=kind), "a")
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 200, 254, 255, 255]
    assert found.shape == (1, 9, 3)


def test_32_bit_values_are_refused_since_nothing_tells_which_is_white():
    for values in (np.ones((2, 2), dtype=np.float32), np.ones((2, 2), dtype=np.int32)):
        with pytest.raises(ValueError, match=r"^a: .*none is known to be white"):
            decode(encoded(Image.fromarray(values), format="TIFF"), "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_measure_tells_the_size_that_decode_gives_for_all_eight_orientations(orientation: int, kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (9, 5)), format=kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert measure(image) == decode(data, "a").shape[:2] == ((9, 5) if orientation > 4 else (5, 9))


def test_the_reason_is_the_same_2_times_for_it_names_no_address():
    reasons = set()
    for kept in (b"no image", bytearray(b"no image")):
        with pytest.raises(
            ValueError, match=r"^cat: the image cannot be decoded \(cannot identify image file\)$"
        ) as bad:
            decode(bytes(kept), "cat")
        reasons.add(str(bad.value))
    assert len(reasons) == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_bytes_that_are_not_a_whole_image_are_named(share: float):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), format="JPEG")
    with pytest.raises(ValueError, match=r"^cat: the image cannot be decoded"):
        decode(data[: int(share * len(data))], "cat")


def test_an_image_of_the_buckets_size_passes_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert torch.equal(fit(pixels, Bucket(6, 4)), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7), (33, 47), (16, 24), (17, 24), (2000, 3)])
def test_any_image_is_brought_to_the_bucket(size: tuple[int, int]):
    assert fit(np.full((*size, 3), 9, dtype=np.uint8), Bucket(16, 24)).unique().tolist() == [9]


def test_fitting_keeps_the_aspect_ratio_and_crops_the_centre():
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[None, :, None] * 2, (40, 120, 3))
    fitted = fit(ramp, Bucket(20, 20)).float()[0]  # half the size, then the middle 20 of 60 columns
    torch.testing.assert_close(fitted[10], torch.arange(20.0, 40.0) * 4 + 1, atol=1.5, rtol=0)


def test_shrinking_is_antialiased_so_a_checkerboard_becomes_grey():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    fitted = fit(board, Bucket(16, 16)).float()
    assert abs(fitted - 127.5).max() < 8


def test_normalised_pixels_span_minus_one_to_one():
    assert normalised(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_no_pixel_is_copied_where_nothing_is_to_be_done_and_no_warning_is_given(recwarn: pytest.WarningsRecorder):
    image = Image.new("RGB", (6, 4))
    assert rgb(image) is image
    pixels = decode(encoded(image, format="PNG"), "a")
    assert np.shares_memory(fit(pixels, Bucket(4, 6)).numpy(), pixels)
    assert not recwarn.list


def test_a_batch_of_3_images_is_the_three_normalised_to_the_bit_and_more_or_fewer_are_refused():
    pixels = torch.randint(0, 256, (3, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = normalised_batch(iter(pixels), 3, Bucket(4, 6))
    assert torch.equal(batch, torch.stack([normalised(image) for image in pixels]))
    with pytest.raises(ValueError, match="zip"):
        normalised_batch(pixels[:2], 3, Bucket(4, 6))
