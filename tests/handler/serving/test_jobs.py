from dataclasses import dataclass

import numpy as np
import pytest

from handler.explanation.evidence import TOP, Needs
from handler.picture.preprocess import preprocess
from handler.protocol.options import Options
from handler.protocol.receipt import Receipt
from handler.serving.jobs import in_passes, job_of, pairs_at_once
from tests.support.engines import CARD


@dataclass(frozen=True)
class Wanted:
    name: str
    needs: Needs
    targets: list[int]


def passes(*jobs):
    return [[job.name for job in one] for one in in_passes(jobs)]


CAM, GUIDED = Needs(layers=("c",)), Needs(guided=True)


@pytest.mark.parametrize("size", ["layer", "input", "image"])
def test_a_job_without_a_request_is_drawn_on_the_upload_only_at_its_size(size):
    upload = np.zeros((9, 12, 3), np.uint8)
    seen, receipt, options = preprocess(upload, CARD.preprocessing), Receipt.of(b"bytes"), Options(size=size)
    job = job_of(options, CARD, seen, receipt, upload)
    assert job.canvas.upload is (upload if size == "image" else None)
    assert (job.canvas.seen, job.canvas.options, job.receipt) == (seen, options, receipt)
    assert (job.targets, job.maps) == ([TOP], CARD.map_names(options))
    assert job.needs == Needs(layers=("c",), guided=True)


def test_jobs_go_with_those_of_equal_needs_in_their_order():
    jobs = [Wanted("a", CAM, [0]), Wanted("b", GUIDED, [0]), Wanted("c", CAM, [1]), Wanted("d", Needs(), [0])]
    assert passes(*jobs) == [["a", "c"], ["b"], ["d"]]


def test_a_pass_is_closed_before_it_gets_too_large():
    jobs = [Wanted(str(number), CAM, [0] * 10) for number in range(3)] + [Wanted("small", CAM, [0] * 6)]
    assert passes(*jobs) == [["0"], ["1"], ["2", "small"]]
    assert [len(one) for one in passes(*(Wanted("x", Needs(), [0]) for _ in range(33)))] == [16, 16, 1]


def test_a_job_of_any_size_has_a_pass():
    assert passes(Wanted("large", CAM, [0] * 100), Wanted("next", CAM, [0])) == [["large"], ["next"]]
    assert passes() == []


def test_several_layers_make_a_pass_smaller():
    assert [pairs_at_once(Needs(layers=tuple(map(str, range(count))))) for count in (0, 1, 3, 8, 99)] == [
        16,
        16,
        5,
        2,
        1,
    ]
    three = Needs(layers=("a", "b", "c"))
    assert passes(*(Wanted(str(number), three, [0, 1]) for number in range(3))) == [["0", "1"], ["2"]]
