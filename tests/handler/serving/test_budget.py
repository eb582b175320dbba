import json

import numpy as np
import pytest

from handler.errors import TooLarge
from handler.picture.preprocess import preprocess
from handler.protocol.options import Options
from handler.rendering.render import Canvas, encode_list, encode_npy
from handler.serving.budget import Budget, check_size
from tests.support.engines import CARD


def canvas(side, **options):
    upload = np.zeros((side, side, 3), np.uint8)
    kept = upload if options.get("size") == "image" else None
    return Canvas(preprocess(upload, CARD.preprocessing), kept, Options(**options))


def test_uploads_are_counted_together():
    budget = Budget(1000, 1000)
    budget.decode(20, 25)
    budget.decode(25, 20)
    with pytest.raises(TooLarge, match="1001 pixels together, valid are at most 1000"):
        budget.decode(1, 1)


def test_drawn_pixels_are_counted_together_and_no_listed_ones():
    budget = Budget(10**9, 10**9)
    large = canvas(2000, size="image")
    for _ in range(4):
        budget.draw(large, ["gradcam"], 1)
    budget.draw(canvas(2000, size="image", encoding="list"), ["gradcam"], 1)
    budget.draw(canvas(2000, size="image"), [], 1)
    with pytest.raises(TooLarge, match="would have 20000000 pixels, valid are at most 16000000"):
        budget.draw(large, ["gradcam"], 1)


@pytest.mark.parametrize(("encoding", "most"), [("jpeg", 65_500), ("webp", 16_383)])
def test_a_side_that_the_encoder_does_not_take_is_refused_before_it_is_drawn(encoding, most):
    def draw(side, encoding, maps=("gradcam",)):
        seen, options = preprocess(np.zeros((8, 8, 3), np.uint8), CARD.preprocessing), Options(encoding=encoding)
        Budget(10**9, 10**9).draw(Canvas(seen, np.zeros((1, side, 3), np.uint8), options), maps, 1)

    draw(most, encoding)
    draw(most + 1, "png")
    draw(most + 1, encoding, [])
    said = f"the {encoding} pictures would have sides of {most + 1} pixels, valid are at most {most}; ask for png"
    with pytest.raises(TooLarge, match=said):
        draw(most + 1, encoding)


def test_listed_bytes_are_counted_together():
    budget = Budget(10**9, 8 * 8 * 8 * 5)
    budget.draw(canvas(8, encoding="list"), ["gradcam"], 2)  # 8 x 8 numbers of 8 bytes, twice
    with pytest.raises(TooLarge, match="would take 3072 bytes, valid are at most"):
        budget.draw(canvas(8, encoding="list"), ["saliency", "gradcam"], 1)


def test_an_answer_of_the_limits_size_is_sent():
    check_size(100, 100)
    with pytest.raises(TooLarge, match="101 bytes, valid are at most 100; ask for fewer targets"):
        check_size(101, 100)


@pytest.mark.parametrize(("encoding", "each"), [("npy", 4 * 4 / 3), ("list", 8)])  # bytes: a float32 in base64, digits
@pytest.mark.parametrize("targets", [1, 3])
def test_numbers_up_to_the_limit_itself_are_listed(encoding, each, targets):
    most = int(targets * 8 * 8 * each)
    Budget(10**9, most).draw(canvas(8, encoding=encoding), ["gradcam"], targets)
    with pytest.raises(TooLarge, match=f"would take {most} bytes, valid are at most {most - 1}"):
        Budget(10**9, most - 1).draw(canvas(8, encoding=encoding), ["gradcam"], targets)


ADVICE = (
    "ask for fewer targets or maps, fewer pictures at once, a smaller size (layer, input) or another encoding (png)"
)


@pytest.mark.parametrize(
    ("spend", "said"),
    [
        (
            lambda budget: budget.decode(11, 10),
            "the request's pictures have 110 pixels together, valid are at most 100; send them in several requests",
        ),
        (
            lambda budget: budget.draw(canvas(8), ["gradcam"], 41),
            "the request asks for 41 explanations or more, valid are at most 40 in all, and smooth=augment makes six "
            "of each; send its pictures in several requests",
        ),
        (
            lambda budget: budget.draw(canvas(8, smooth=("augment",)), ["gradcam"], 7),
            "the request asks for 42 explanations or more, valid are at most 40 in all, and smooth=augment makes six "
            "of each; send its pictures in several requests",
        ),
        (
            lambda budget: budget.draw(canvas(2001, size="image"), ["gradcam", "saliency"], 2),
            f"the pictures would have 16016004 pixels, valid are at most 16000000; {ADVICE}",
        ),
        (
            lambda budget: budget.draw(canvas(8, encoding="list"), ["gradcam"], 1),
            f"the answer would take 512 bytes, valid are at most 511; {ADVICE}",
        ),
    ],
    ids=["decoded", "explained", "augmented", "drawn", "listed"],
)
def test_a_refusal_says_how_to_ask_for_less(spend, said):
    with pytest.raises(TooLarge) as refused:
        spend(Budget(100, 511))
    assert str(refused.value) == said


def test_what_is_as_much_as_is_valid_is_let_pass():
    budget = Budget(100, 511)
    budget.decode(10, 10)
    budget.draw(canvas(2000, size="image"), ["gradcam", "saliency"], 2)
    budget.draw(canvas(8), [], 99)
    Budget(1, 1).draw(canvas(8), ["gradcam"], 40)


@pytest.mark.parametrize(
    ("size", "maps", "numbers"),
    [
        ("layer", ["gradcam"], 0),
        ("layer", ["gradcam", "saliency"], 3 * 8 * 8),
        ("input", ["gradcam", "guided_gradcam"], 4 * 8 * 8),
        ("image", ["gradcam", "saliency"], 4 * 12 * 12),
        ("image", [], 0),
    ],
)
def test_numbers_are_counted_by_channel_at_their_own_size_and_not_at_a_layers(size, maps, numbers):
    drawn = canvas(12, size=size, encoding="list")
    Budget(1, 8 * numbers).draw(drawn, maps, 1)
    if numbers:
        with pytest.raises(TooLarge, match=f"would take {8 * numbers} bytes"):
            Budget(1, 8 * numbers - 1).draw(drawn, maps, 1)


def test_what_the_budget_lets_pass_is_hardly_more_when_it_is_encoded():
    values = np.random.default_rng(0).random((100, 100), np.float32)
    assert len(encode_npy(values)) == pytest.approx(100 * 100 * 16 / 3, rel=0.01)
    assert len(json.dumps(encode_list(values))) > 100 * 100 * 8  # a lower bound: what is listed is measured again
