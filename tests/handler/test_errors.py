"""What foreign exceptions say in one line."""

import pytest

from handler.errors import in_one_line


class Wrapper(Exception):
    """As PyTorch's exporter raises it around the cause."""

    __module__ = "torch.onnx._internal.exporter._errors"


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("\n\n  two  "), "ValueError: two"),
        (KeyError(), "KeyError"),
        (Wrapper("\x1b[1mbold\x1b[0m and \x1b[96;1mblue"), "Wrapper: bold and blue"),
        (
            caused(Wrapper("step 3/3"), caused(Wrapper("See above"), TypeError("the cause"))),
            "TypeError: the cause",
        ),
        (caused(ValueError("of the network's author"), KeyError("x")), "ValueError: of the network's author"),
    ],
)
def test_the_cause_speaks_in_one_plain_line(error, said):
    assert in_one_line(error) == said


def test_a_line_has_an_end():
    assert len(in_one_line(ValueError("x" * 1000))) == 300
