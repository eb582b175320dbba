from dataclasses import dataclass

from handler.explanation.evidence import Needs
from handler.serving.jobs import in_passes, pairs_at_once


@dataclass(frozen=True)
class Wanted:
    name: str
    needs: Needs
    targets: list[int]


def passes(*jobs):
    return [[job.name for job in one] for one in in_passes(jobs)]


CAM, GUIDED = Needs(layers=("c",)), Needs(guided=True)


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
