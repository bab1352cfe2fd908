"""The embedded data set: pure rows, honest splits, stated words."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import product

import numpy as np
import pytest

from pixart.data.embedded.captions import SENTENCES, WORDS, noun, sparse_caption, target_of
from pixart.data.embedded.combinations import AXES, BACKGROUNDS, COUNTS, PLACES, held_out
from pixart.data.embedded.combinations import seen as seen_combinations
from pixart.data.embedded.render import render
from pixart.data.embedded.scenes import Lots, contained, draw_scene
from pixart.data.embedded.shapes import COLOURS, SHAPES, TASKS, Shapes, captions, label_target, prompts, seen_prompts

SIZES = ((48, 48), (40, 56), (56, 40))


def source(view="captioned", split="train", **changed):
    values = {"num_samples": 3000, "resolution": 32, "sizes": None, "density": "dense", "seed": 0}
    return Shapes(view, split, **(values | changed))


VIEWS = {"labelled": source("labelled"), "captioned": source(), "aesthetic": source("aesthetic", sizes=SIZES)}


def digest(view):
    rows = [VIEWS[view].read(row) for row in (0, 7, 8)]
    return hashlib.sha256(b"".join(repr(sample[2:]).encode() + sample.image.tobytes() for sample in rows)).hexdigest()


def test_a_row_has_the_same_bytes_in_a_fresh_process():
    code = (
        "import hashlib; from pixart.data.embedded.shapes import Shapes\n"
        "s = Shapes('aesthetic', 'train', num_samples=3000, resolution=32, sizes=((48, 48), (40, 56), (56, 40)),"
        " density='dense', seed=0)\n"
        "b = b''.join(repr(x[2:]).encode() + x.image.tobytes() for x in map(s.read, (0, 7, 8)))\n"
        "print(hashlib.sha256(b).hexdigest(), s.fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [digest("aesthetic"), VIEWS["aesthetic"].fingerprint]


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_does_not_depend_on_how_many_rows_there_are_or_what_was_read_before(view):
    few, many = source(view, num_samples=10), source(view, num_samples=3000)
    many.read(2999)
    first, second = few.read(9), many.read(9)
    assert first.key == second.key
    assert np.array_equal(first.image, second.image)
    assert first[2:] == second[2:]


@pytest.mark.parametrize("view", VIEWS)
def test_an_image_has_the_size_that_the_source_announces_for_its_row(view):
    for row in range(6):
        image = VIEWS[view].read(row).image
        assert image.dtype == np.uint8
        assert image.shape == (VIEWS[view].heights[row], VIEWS[view].widths[row], 3)


def test_aspect_ratios_take_turns_so_that_each_has_a_third_of_the_rows():
    both = zip(VIEWS["aesthetic"].heights.tolist(), VIEWS["aesthetic"].widths.tolist(), strict=True)
    assert Counter(both) == dict.fromkeys(SIZES, 1000)


def test_seed_split_and_view_change_the_pixels_and_the_fingerprint():
    different = [source(), source(seed=1), source(split="validation"), source("aesthetic")]
    assert len({one.read(0).image.tobytes() for one in different}) == 4
    assert len({one.fingerprint for one in different}) == 4
    assert source().fingerprint == source().fingerprint


def test_keys_of_3000_rows_are_distinct():
    assert len({VIEWS["captioned"].key(row) for row in range(3000)}) == 3000


@pytest.mark.parametrize("row", [-1, 3000])
def test_a_row_outside_the_source_is_an_index_error(row):
    with pytest.raises(IndexError, match=f"row {row} of 3000"):
        VIEWS["captioned"].read(row)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"seed": -1}])
def test_an_impossible_source_is_refused_in_one_sentence(wrong):
    with pytest.raises(ValueError, match=r"num_samples=.* seed="):
        source(**wrong)


def test_labels_are_the_40_seen_pairs_of_colour_and_shape_in_equal_numbers():
    labelled = VIEWS["labelled"]
    assert labelled.num_classes == 40
    assert Counter(labelled.labels.tolist()) == dict.fromkeys(range(40), 75)
    for row in range(40):
        sample, (thing,) = labelled.read(row), labelled.scene(row).objects
        (wanted,) = label_target(sample.label).objects
        assert (thing.colour, thing.shape) == (wanted.colour, wanted.shape)
        assert sample.captions == ()


def test_density_decides_whether_the_dense_caption_comes_before_the_sparse_one():
    dense, sparse = source().read(5), source(density="sparse").read(5)
    assert len(dense.captions) == 2
    assert sparse.captions == dense.captions[1:]
    assert np.array_equal(dense.image, sparse.image)


def test_dense_captions_name_the_background_and_sparse_ones_are_less_than_half_as_long():
    pairs = [VIEWS["captioned"].read(row).captions for row in range(300)]
    assert all("background" in dense and "background" not in sparse for dense, sparse in pairs)
    assert sum(len(sparse) for _, sparse in pairs) < 0.5 * sum(len(dense) for dense, _ in pairs)


def test_every_word_of_captions_and_prompts_is_stated_and_every_stated_word_is_used():
    texts = list(captions(4000, 0))
    assert {word for text in texts for word in text.split()} == WORDS
    asked = [p.text for task in TASKS for ask in (prompts, seen_prompts) for p in ask(task, 64, 0)]
    assert {word for text in asked for word in text.split()} <= WORDS


@pytest.mark.parametrize("split", ["train", "validation"])
def test_600_dense_captions_read_word_by_word_are_true_of_their_scenes(split):
    rows = source(split=split, num_samples=600)
    for row in range(600):
        text, scene = rows.read(row).captions[0], rows.scene(row)
        assert re.search(r"(\w+) background", text)[1] == scene.background
        link = re.search(r" to the left of | to the right of | above | below ", text)
        if link is None:
            assert sorted(named(text)) == sorted(named(text, scene.objects))
            continue
        said = named(text[: link.start()]) + named(text[link.end() :])
        first, second = scene.objects if link[0].strip() in ("to the left of", "above") else scene.objects[::-1]
        assert said == named(text[: link.start()], [first]) + named(text[link.end() :], [second])
        gap = second.x - first.x if "of" in link[0] else second.y - first.y
        assert gap > 0.4 if link[0].strip() in ("to the left of", "above") else gap < -0.4


def named(text, objects=None):
    """(colour or None, shape) of each object that a text names; or the objects in as much detail as the text gives."""
    many = {"two": 2, "three": 3, "four": 4}
    words = re.findall(rf"(?:({'|'.join(many)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})(?:e?s)?\b", text)
    if objects is None:
        return [(colour, shape) for number, colour, shape in words for _ in range(many.get(number, 1))]
    coloured = any(colour for _, colour, _ in words)
    return [(o.colour if coloured else "", o.shape) for o in objects]


def test_nouns_take_their_article_and_plural():
    assert [noun("orange", "ring"), noun(None, "ring"), noun("red", "cross", 3), noun("blue", "square", None)] == [
        "an orange ring",
        "a ring",
        "three red crosses",
        "blue squares",
    ]


def test_captions_to_learn_from_are_repeatable_differ_by_seed_and_use_all_three_sentences():
    texts = list(captions(200, 0))
    assert texts == list(captions(200, 0))
    assert texts != list(captions(200, 1))
    for start in (form.split("{")[0] for form in SENTENCES if not form.startswith("{")):
        assert sum(text.startswith(start) for text in texts) > 20


def parsed(scene):
    """What a scene contains, told anew from its geometry alone."""
    things = sorted(scene.objects, key=lambda o: (o.x, o.y))
    found = {("colours", (o.colour, o.shape)) for o in things}
    if len(things) == 1:
        place = min(PLACES, key=lambda p: abs(PLACES[p][0] - things[0].x) + abs(PLACES[p][1] - things[0].y))
        return found | {("single", (things[0].shape, place, scene.background))}
    if len(found) == 1:
        return found | {("counting", (len(things), things[0].colour, things[0].shape))}
    a, b = things
    axis = "left" if abs(b.x - a.x) > abs(b.y - a.y) else "above"
    first, second = (a, b) if axis == "left" or a.y < b.y else (b, a)
    low, high = sorted(things, key=lambda o: SHAPES.index(o.shape))
    return found | {
        ("two", (low.shape, high.shape)),
        ("position", (first.shape, axis, second.shape)),
        ("binding", ((low.colour, low.shape), (high.colour, high.shape))),
    }


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("view", VIEWS)
def test_no_scene_of_3000_contains_a_held_out_combination_of_any_task(view, split):
    hidden = {(task, combination) for task in TASKS for combination in held_out(task)}
    rows = source(view, split)
    for row in range(len(rows)):
        scene = rows.scene(row)
        assert parsed(scene) == contained(scene)
        assert not parsed(scene) & hidden


def test_captions_for_the_text_encoder_come_from_scenes_without_held_out_combinations():
    named = set(captions(3000, 0))
    for task in TASKS:
        assert not named & {prompt.text for prompt in prompts(task, 64, 0)}


@pytest.mark.parametrize("task", TASKS)
def test_seen_and_held_out_combinations_are_disjoint_and_both_there(task):
    assert not set(held_out(task)) & set(seen_combinations(task))
    assert len(held_out(task)) < len(seen_combinations(task))
    assert len(held_out(task)) >= 4


def test_every_word_is_seen_in_every_role():
    colours, single, position = (set(seen_combinations(task)) for task in ("colours", "single", "position"))
    assert all(sum(c == colour for c, _ in colours) == 5 for colour in COLOURS)
    assert all(sum(s == shape for _, s in colours) >= 5 for shape in SHAPES)
    assert {(s, p) for s, p, _ in single} == set(product(SHAPES, PLACES))
    assert {(p, b) for _, p, b in single} == set(product(PLACES, BACKGROUNDS))
    assert {(s, a) for s, a, _ in position} == {(s, a) for _, a, s in position} == set(product(SHAPES, AXES))
    assert {(n, s) for n, _, s in seen_combinations("counting")} == set(product(COUNTS, SHAPES))
    assert {(n, c) for n, c, _ in seen_combinations("counting")} == set(product(COUNTS, COLOURS))
    assert {pair for both in seen_combinations("binding") for pair in both} == colours


def test_training_reaches_nine_tenths_of_all_seen_combinations_in_3000_rows_and_all_tasks_evenly():
    scenes = [VIEWS["captioned"].scene(row) for row in range(3000)]
    found = set().union(*map(contained, scenes))
    every = {(task, combination) for task in TASKS for combination in seen_combinations(task)}
    assert found <= every
    assert len(found) > 0.9 * len(every)
    assert all(400 < number < 600 for number in Counter(scene.task for scene in scenes).values())


@pytest.mark.parametrize("task", TASKS)
def test_64_held_out_prompts_are_distinct_fixed_and_name_only_held_out_combinations(task):
    asked = prompts(task, 64, 0)
    assert len({prompt.text for prompt in asked}) == 64
    assert asked == prompts(task, 64, 0)
    assert asked != prompts(task, 64, 1)
    named = {combination_of(prompt.target) for prompt in asked}
    assert named <= set(held_out(task))
    assert len(named) == min(64, len(held_out(task)))
    assert {combination_of(prompt.target) for prompt in seen_prompts(task, 64, 0)} <= set(seen_combinations(task))


def combination_of(target):
    shapes = [wanted.shape for wanted in target.objects]
    return {
        "single": lambda: (shapes[0], target.place, target.background),
        "two": lambda: tuple(shapes),
        "counting": lambda: tuple(target.objects[0]),
        "colours": lambda: (target.objects[0].colour, shapes[0]),
        "position": lambda: (shapes[0], target.axis, shapes[1]),
        "binding": lambda: tuple((wanted.colour, wanted.shape) for wanted in target.objects),
    }[target.task]()


def test_more_prompts_than_there_are_is_one_sentence():
    with pytest.raises(ValueError, match="'two' were asked for and there are 72"):
        prompts("two", 73, 0)


def test_a_held_out_colour_is_held_out_in_all_tasks_of_two_objects_too():
    hidden = set(held_out("colours"))
    assert not hidden & {pair for both in (*seen_combinations("binding"), *held_out("binding")) for pair in both}
    assert not hidden & {(c, s) for _, c, s in (*seen_combinations("counting"), *held_out("counting"))}


def test_a_full_target_names_at_least_what_the_task_target_names():
    for row in range(200):
        scene = VIEWS["captioned"].scene(row)
        task, full = target_of(scene, full=False), target_of(scene, full=True)
        assert task.background == full.background == scene.background
        assert all(a is None or a == b for a, b in zip(task[2:], full[2:], strict=True))
        for a, b in zip(task.objects, full.objects, strict=True):
            assert a in (b, b._replace(colour=None))


def test_lots_of_another_stream_or_index_share_no_number():
    drawn = [Lots(0, 5, stream=0), Lots(0, 5, stream=1), Lots(0, 6, stream=0), Lots(1, 5, stream=0)]
    numbers = [lots.between(0, 1) for lots in drawn for _ in range(8)]
    assert len(set(numbers)) == 32


@pytest.mark.parametrize("shaded", [False, True])
@pytest.mark.parametrize("size", [(32, 32), *SIZES])
def test_objects_neither_overlap_nor_leave_the_picture(size, shaded):
    height, width = size
    for index in range(150):
        lots = Lots(3, index, stream=0)
        scene = draw_scene(lots)
        sparse_caption(scene, lots)  # a scene and its captions spend no more lots than there are
        spans = [(o.x * width, o.y * height, 1.1 * o.radius * min(size)) for o in scene.objects]
        for i, (x, y, reach) in enumerate(spans):
            assert reach <= min(x, y, width - x, height - y) + 0.1
            for u, v, other in spans[:i]:
                assert max(abs(x - u), abs(y - v)) > reach + other or abs(x - u) + abs(y - v) > 1.3 * (reach + other)
    assert render(scene, height, width, shaded=shaded).shape == (height, width, 3)
