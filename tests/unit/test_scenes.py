"""Laws of the procedural world: what is written is true, what is changed is one thing, what is held out stays
so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clearsight.data import scenes as s
from clearsight.data import scenes_read as r
from clearsight.data import scenes_text as t
from clearsight.data import scenes_words as w
from clearsight.errors import DataError, UsageError


def some(count: int, seed: int = 0, split: s.Split | None = None) -> list[s.Scene]:
    rng = np.random.default_rng(seed)
    return [s.random_scene(rng, split) for _ in range(count)]


def only(thing: s.Thing, tint: str = "white", texture: str = "plain") -> s.Scene:
    return s.Scene((thing,), tint, texture)


CIRCLE = s.Thing(0, "circle", "red", "large")


# ----------------------------------------------------------------------------------------------------- scenes
def test_same_seed_same_scenes() -> None:
    assert some(20) == some(20)
    assert some(20) != some(20, seed=1)


def test_scene_holds_its_own_rules() -> None:
    for scene in some(300):
        places = [thing.place for thing in scene.things]
        assert 1 <= len(places) <= s.MAX_THINGS
        assert places == sorted(set(places))


def test_held_out_share_and_splits() -> None:
    splits = [scene.split for scene in some(4000)]
    assert 0.08 < np.mean([split != "train" for split in splits]) < 0.12
    assert 0.03 < np.mean([split == "spare" for split in splits]) < 0.07
    for split in ("train", "test", "spare"):
        assert {scene.split for scene in some(30, split=split)} == {split}


@pytest.mark.parametrize(
    ("code", "split"),
    [
        ("0081-7330-8241-24", "train"),
        ("0400-4441-5550-6100-31", "train"),
        ("2160-43", "test"),
        ("1351-5290-33", "test"),
        ("1751-33", "spare"),
        ("2690-3701-6610-8601-32", "spare"),
    ],
)
def test_the_split_of_a_scene_is_fixed_for_ever(code: str, split: str) -> None:
    assert s.Scene.from_code(code).split == split


def test_code_names_a_scene() -> None:
    for scene in some(200):
        assert s.Scene.from_code(scene.code) == scene
    with pytest.raises(DataError):
        s.Scene.from_code("9999-77")


# ---------------------------------------------------------------------------------------------------- drawing
def test_drawing_is_pure_and_framed() -> None:
    scene = some(1)[0]
    image = s.draw(scene)
    assert image.size == (s.SIDE, s.SIDE)
    assert image.mode == "RGB"
    assert image.tobytes() == s.draw(scene).tobytes()
    assert image.getpixel((5, 0)) != image.getpixel((5, s.SIDE - 1))


def test_every_attribute_shows() -> None:
    base = only(CIRCLE)
    others = [only(replace(CIRCLE, shape=shape)) for shape in s.SHAPES[1:]]
    others += [only(replace(CIRCLE, color=color)) for color in s.COLORS if color != "red"]
    others += [only(replace(CIRCLE, size="small")), *(only(replace(CIRCLE, place=p)) for p in range(1, 9))]
    others += [only(CIRCLE, tint=tint) for tint in s.TINTS if tint != "white"]
    others += [only(CIRCLE, texture=texture) for texture in s.TEXTURES[1:]]
    pictures = [np.asarray(s.draw(scene), dtype=int) for scene in (base, *others)]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            # The nearest two differ in more than a few stray pixels.
            assert (np.abs(one - other).max(-1) > 20).sum() >= 20


def test_jitter_moves_an_object_by_a_pixel_at_most() -> None:
    rng = np.random.default_rng(0)
    still = np.asarray(s.draw(only(CIRCLE)), dtype=int)
    for _ in range(9):
        moved = np.asarray(s.draw(only(CIRCLE), rng), dtype=int)
        assert (np.abs(moved - still)[24:, 24:] == 0).all()


# --------------------------------------------------------------------------------------------------- captions
@pytest.mark.parametrize("style", t.STYLES)
def test_captions_are_true(style: str) -> None:
    rng = np.random.default_rng(1)
    for scene in some(400):
        text = t.caption(scene, rng, style)
        assert r.complete(text, scene), text


def test_captions_have_about_22_words_and_details_say_all() -> None:
    rng = np.random.default_rng(1)
    shown = some(400)
    assert 19 < np.mean([len(t.caption(scene, rng).split()) for scene in shown]) < 27
    for scene in shown:
        reading = r.read(t.caption(scene, rng, "detailed"))
        assert reading.counts == (len(scene.things),)
        assert (reading.tints, reading.textures) == ((scene.tint,), (scene.texture,))
        assert all(stated.size and stated.place is not None for stated in reading.things)


def test_unknown_style_or_kind() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError):
        t.caption(some(1)[0], rng, "long")
    with pytest.raises(UsageError):
        t.question(some(1)[0], rng, "why")


@pytest.mark.parametrize(
    "text",
    [
        "A small red circle in the top left.",
        "A large red circle at the top.",
        "A red disc in the center.",
        "A blue circle.",
        "A red square.",
        "A red circle on a dotted background.",
        "A red circle on a mint background.",
        "There are two objects. A red circle.",
        "A red circle and a red circle.",
        "The red circle is above the red disc.",
        "A red circle and nothing else.",
        "",
        "on a background",
    ],
)
def test_parser_refuses(text: str) -> None:
    assert not r.consistent(text, only(CIRCLE))


@pytest.mark.parametrize(
    "text",
    [
        "A red circle.",
        "a BIG scarlet disc at the top left",
        "Top left: a red circle.",
        "On a plain white backdrop.",
        "There is one object.",
        "A smooth snowy background with a red circle in the upper left corner.",
    ],
)
def test_parser_accepts(text: str) -> None:
    assert r.consistent(text, only(CIRCLE))


def test_two_named_objects_must_be_two_things() -> None:
    scene = s.Scene((CIRCLE, s.Thing(8, "circle", "red", "small")), "white", "plain")
    assert r.consistent("A red circle and a small red circle.", scene)
    assert not r.consistent("A small red circle and a small red circle.", scene)
    assert r.consistent("The red circle is above the red circle.", scene)


def test_contradictions_are_one_edit_away_and_false() -> None:
    rng = np.random.default_rng(2)
    for scene in some(200):
        text, changed = t.contradiction(scene, rng)
        assert r.consistent(text, changed)
        assert not r.consistent(text, scene)
        assert sum(a != b for a, b in zip(scene.key.split("|"), changed.key.split("|"), strict=True)) == 1


def test_ambiguous_share_equals_checking_everything() -> None:
    rng = np.random.default_rng(3)
    shown = [
        only(s.Thing(i % 3, "star", "red", "small"), texture=s.TEXTURES[i % 2]) for i in range(6)
    ] + some(60)
    texts = [t.caption(scene, rng) for scene in shown]
    distinct = {scene.key: scene for scene in shown}.values()
    naive = np.mean([sum(r.complete(text, scene) for scene in distinct) > 1 for text in texts])
    assert r.ambiguous_share(texts, shown) == pytest.approx(naive)
    assert naive > 0


# ------------------------------------------------------------------------------------------------------ edits
def changed_attributes(before: s.Scene, after: s.Scene) -> int:
    """Attributes that differ: objects in common are matched by what they share."""
    ground = (before.tint != after.tint) + (before.texture != after.texture)
    gone, come = set(before.things) - set(after.things), set(after.things) - set(before.things)
    if len(gone) == len(come) == 1:
        old, new = gone.pop(), come.pop()
        return ground + sum(getattr(old, k) != getattr(new, k) for k in ("place", "shape", "color", "size"))
    return ground + len(gone) + len(come)


@pytest.mark.parametrize("kind", s.EDIT_KINDS)
def test_an_edit_changes_one_thing(kind: str) -> None:
    rng = np.random.default_rng(4)
    for scene in some(60):
        if (kind, len(scene.things)) in (("remove", 1), ("add", s.MAX_THINGS)):
            with pytest.raises(UsageError):
                s.random_edit(rng, scene, (kind,))
            continue
        edit = s.random_edit(rng, scene, (kind,))
        assert changed_attributes(scene, edit.scene) == 1
        assert t.edit_text(scene, edit, rng).startswith(("The same", "Same"))


def test_references_single_out_the_thing() -> None:
    rng = np.random.default_rng(5)
    for scene in some(200):
        for thing in scene.things:
            # Rewritten as a caption of nothing but this thing, the description fits exactly one thing.
            stated = r.read("a " + t.refer(scene, thing, rng).removeprefix("the ")).things
            if stated:
                assert [other for other in scene.things if stated[0].fits(other)] == [thing]


# -------------------------------------------------------------------------------------------------- questions
def test_answers_follow_from_the_scene() -> None:
    rng = np.random.default_rng(6)
    seen = set()
    for scene in some(400):
        for kind in t.QUESTION_KINDS:
            asked = t.question(scene, rng, kind)
            seen.add(asked.kind)
            assert asked.answer == oracle(asked, scene), asked
    assert seen == set(t.QUESTION_KINDS)


def oracle(asked: t.Question, scene: s.Scene) -> str:
    """The answer worked out from the words of the question by the parser."""
    text = asked.text.lower().rstrip("?")
    things = scene.things
    words = text.split()
    color = [name for name, options in w.COLOR_WORDS.items() if set(options) & set(words)]
    shape = [name for name, options in w.SHAPE_WORDS.items() if set(options) & set(words)]
    meant = [x for x in things if (not color or x.color in color) and (not shape or x.shape in shape)]
    if asked.kind == "count":
        return w.NUMBERS[len(things) - 1]
    if asked.kind in ("tint", "texture"):
        return str(getattr(scene, asked.kind))
    if asked.kind == "exists":
        return "yes" if r.consistent(text.removeprefix("is there "), scene) else "no"
    if asked.kind == "relation":
        name = next(n for n, options in w.RELATIONS.items() if any(f" {o} the " in text for o in options))
        first, second = text.removeprefix("is ").split(
            next(
                f" {o} the " for o in sorted(w.RELATIONS[name], key=len, reverse=True) if f" {o} the " in text
            )
        )
        statement = f"{first} is {w.RELATIONS[name][0]} the {second}"
        return "yes" if r.consistent(statement, scene) else "no"
    if asked.kind == "at":
        place = next(p for p, options in enumerate(w.PLACE_WORDS) if text.removeprefix("what is ") in options)
        return next(f"{x.color} {x.shape}" for x in things if x.place == place)
    assert len(meant) == 1
    return {
        "color": meant[0].color,
        "shape": meant[0].shape,
        "size": meant[0].size,
        "place": w.PLACE_NAMES[meant[0].place],
    }[asked.kind]


def test_yes_and_no_are_balanced() -> None:
    rng = np.random.default_rng(7)
    answers = [t.question(scene, rng, "exists").answer for scene in some(600)]
    assert 0.42 < np.mean([answer == "yes" for answer in answers]) < 0.58


def test_one_words_are_true() -> None:
    words = t.one_words(s.Scene((CIRCLE,), "mint", "dotted"))
    assert sorted(words) == sorted(["one", "mint", "dotted", "circle", "red", "northwest", "large"])
