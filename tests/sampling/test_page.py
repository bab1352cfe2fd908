import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixart.sampling.gallery import write_gallery
from pixart.sampling.page import Result, write_page, write_results

HOSTILE = '<script>alert("1")</script> & "quoted" \' <img src=x onerror=alert(1)>'


def result(prompt: str, number: int = 0, side: int = 16) -> Result:
    return Result(
        file=f"{number:05d}.png",
        prompt=prompt,
        seed=7 + number,
        height=side,
        width=side,
        guidance_scale=4.5,
        steps=20,
        scheduler="dpm_solver",
        weights="outputs/run",
        options={"guidance_every": 2},
    )


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(tmp_path: Path, images: list[np.ndarray], results: list[Result], title: str = "Run 1") -> Reader:
    write_page(tmp_path / "index.html", images, results, title=title)
    return Reader((tmp_path / "index.html").read_text(encoding="utf-8"))


def test_a_hostile_prompt_and_title_add_0_tags_and_read_as_they_were_written(tmp_path: Path) -> None:
    tame = page(tmp_path, [picture(0)], [result("tame")])
    wild = page(tmp_path, [picture(0)], [result(HOSTILE)], title=HOSTILE)
    assert [tag for tag, _ in wild.tags] == [tag for tag, _ in tame.tags]
    assert wild.all("img")[0]["alt"] == HOSTILE
    assert wild.text.count(HOSTILE) == 3  # title, heading, caption


def test_the_page_needs_0_other_files_and_holds_every_pixel_of_2_small_pictures(tmp_path: Path) -> None:
    images = [picture(0), picture(1)]
    reader = page(tmp_path, images, [result("a", 0), result("b", 1)])
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<link|<script[^>]+src", html)
    for tag, image in zip(reader.all("img"), images, strict=True):
        kind, data = str(tag["src"]).split(",", 1)
        assert kind == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)


def test_a_picture_of_300_pixels_is_shown_as_jpeg_and_linked_as_png(tmp_path: Path) -> None:
    reader = page(tmp_path, [picture(0, 300)], [result("a", 3, 300)])
    assert str(reader.all("img")[0]["src"]).startswith("data:image/jpeg;base64,")
    assert reader.all("a")[0]["href"] == "00003.png"


def test_every_picture_shows_its_6_settings_and_there_is_1_filter_box(tmp_path: Path) -> None:
    reader = page(tmp_path, [picture(0)], [result("a red circle")])
    assert len(reader.all("dt")) == 6
    for value in ("a red circle", "7", "16 x 16", "4.5", "dpm_solver, 20 steps", "outputs/run", "guidance_every"):
        assert value in reader.text
    assert [tag["type"] for tag in reader.all("input")] == ["search"]
    assert "prefers-color-scheme: dark" in reader.text


def test_results_are_1_json_object_a_line_with_10_fields(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", [result("ein roter Kreis,\n größer"), result("b", 1)])
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["ein roter Kreis,\n größer", "b"]
    fields = ["file", "prompt", "seed", "height", "width", "guidance_scale", "steps", "scheduler", "weights"]
    assert list(json.loads(lines[0])) == [*fields, "options"]


def test_a_gallery_of_3_is_3_pngs_a_grid_a_page_and_3_results(tmp_path: Path) -> None:
    images, results = [picture(i) for i in range(3)], [result(f"p{i}", i) for i in range(3)]
    write_gallery(tmp_path / "new" / "folder", images, results, columns=2, title="Three")
    folder = tmp_path / "new" / "folder"
    names = ["00000.png", "00001.png", "00002.png", "grid.png", "index.html", "results.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert np.array_equal(np.asarray(Image.open(folder / "00002.png")), images[2])


def test_1_result_for_2_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one result per image: 1 results, 2 images"):
        page(tmp_path, [picture(0)] * 2, [result("a")])
