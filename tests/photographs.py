"""The photographs that scikit-image and scikit-learn carry, with captions of our own, and a text encoder for them.

What these packages carry besides is drawn or computed (chessboards, a colour wheel, a logo, a phantom, a silhouette),
and the right eye's picture of the motorcycle is the left eye's moved by a few pixels.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

from pixart.encoders.clean import clean

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}

CAPTIONS = {
    "skimage/astronaut.png": "A smiling woman in an orange space suit sits with her white helmet beside her, in front "
    "of a flag and a model of a space shuttle.",
    "skimage/brick.png": "A grey wall of narrow bricks with pale joints, turned on its side.",
    "skimage/camera.png": "A man in a dark coat looks through a camera on a tripod, on a lawn, in black and white.",
    "skimage/cell.png": "A single round cell shines white on a dark grey ground under a microscope.",
    "skimage/chelsea.png": "The face of a ginger tabby cat with green eyes, seen from close by.",
    "skimage/clock_motion.png": "A round clock on a plain grey wall, smeared by motion until it cannot be read.",
    "skimage/coffee.png": "A red cup of coffee on a red saucer with a spoon, on a brown wooden table.",
    "skimage/coins.png": "Four rows of old coins of several sizes on dark cloth.",
    "skimage/grass.png": "Dry blades of grass and small leaves from above, without colour.",
    "skimage/gravel.png": "Countless small sharp stones from above, without colour.",
    "skimage/hubble_deep_field.jpg": "Hundreds of distant galaxies, orange, blue and white, scattered over black sky.",
    "skimage/ihc.png": "Stained tissue through a microscope: brown glands, blue nuclei and white gaps.",
    "skimage/microaneurysms.png": "Thin dark blood vessels cross a grey field with two small dark spots.",
    "skimage/moon.png": "The surface of the moon, a grey plain with one sharp crater and some dark hills.",
    "skimage/motorcycle_left.png": "A red motorcycle stands in a garage in front of shelves full of boxes.",
    "skimage/page.png": "Part of a printed page about segmentation, badly lit, darker at the left.",
    "skimage/retina.jpg": "The back of an eye: an orange disc with branching red vessels on black.",
    "skimage/rocket.jpg": "A white rocket on its launch pad between steel towers and bright lamps, against a dark blue "
    "evening sky.",
    "skimage/text.png": "Handwritten formulas on ruled grey paper, seen at a slant.",
    "sklearn/china.jpg": "A pagoda with three roofs and red columns above green trees, a hazy lake behind it.",
    "sklearn/flower.jpg": "An orange dahlia in full bloom in front of dark green leaves.",
}


def write_photographs(folder: Path) -> dict[str, str]:
    """Copy the files into a new ``folder``, captions beside them; the captions by their keys in the shards."""
    folder.mkdir(parents=True)
    captions = {}
    for path, caption in CAPTIONS.items():
        package, _, name = path.partition("/")
        found = find_spec(package)
        assert found is not None, f"{package} is not installed: tests/requirements.txt"
        assert found.origin is not None
        copyfile(Path(found.origin).parent / FOLDERS[package] / name, folder / name)
        key = Path(name).stem
        (folder / f"{key}.txt").write_text(caption + "\n", encoding="utf-8")
        captions[key] = caption
    return captions


def write_text_encoder(folder: Path, *, dim: int) -> None:
    """A T5 with random weights that knows the words of these captions, one piece each.

    The packaged one knows 53 words about shapes, and to it most of these captions are rows of unknown words. A random
    T5 is close to a bag of words, and no two of the captions have the same words.
    """
    import torch
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = sorted({word for caption in CAPTIONS.values() for word in re.findall(r"[a-z]+", clean(caption, "basic"))})
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*((f"\u2581{word}", -2.0) for word in words), *((mark, -2.0) for mark in ",.:")]
    tokenizer = T5Tokenizer(vocab=[*special, *pieces], extra_ids=0)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=dim, d_kv=16, num_heads=4, d_ff=2 * dim, num_layers=2)
    ).save_pretrained(folder)
