"""The command line of a fine-tuning run."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from examples.finetune.network import RANDOM

SEEDS_ARCHITECTURE = "shufflenet_v2_x2_0"


def make_parser(description: str) -> argparse.ArgumentParser:
    """The options in three groups: the network, the training, the run."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.finetune",
        description=description,
        epilog="The same command continues an interrupted run, or a finished one if --epochs is larger.",
        formatter_class=_Help,
    )
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder with train/ and val/, a folder per class in both"
    )
    start = parser.add_argument_group("the network")
    start.add_argument(
        "--model",
        help=f"resnet18, timm/NAME or hf/FOLDER-OR-ID (default: the checkpoint's, else {SEEDS_ARCHITECTURE})",
    )
    source = start.add_mutually_exclusive_group()
    source.add_argument("--weights", default="DEFAULT", help=f"the library's weights to start from, or {RANDOM!r}")
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a state dict to start from, or safetensors")
    start.add_argument(
        "--freeze", action="store_true", help="train the head only: the rest is a fixed feature extractor"
    )
    start.add_argument("--size", type=_count, metavar="PIXELS", help="side of the crop (default: the weights' own)")
    training = parser.add_argument_group("the training")
    training.add_argument("--epochs", type=_count, default=25, help="passes over the training pictures")
    training.add_argument("--batch-size", type=_count, default=4, help="pictures per step")
    training.add_argument("--learning-rate", type=_positive, default=0.001, help="of SGD")
    training.add_argument("--momentum", type=_share, default=0.9, help="of SGD")
    training.add_argument("--step", type=_count, default=7, help="epochs after which the learning rate falls")
    training.add_argument("--gamma", type=_positive, default=0.1, help="factor by which it falls")
    training.add_argument("--seed", type=_whole, default=0, help="of all chance")
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--out", type=Path, default=Path("out/finetune"), metavar="FOLDER", help="where it writes and resumes"
    )
    run.add_argument("--restart", action="store_true", help="begin anew, whatever run the folder holds")
    run.add_argument("--workers", type=_whole, default=2, help="processes that read pictures; they change no result")
    run.add_argument(
        "--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, mps"
    )
    return parser


class _Help(argparse.HelpFormatter):
    """Adds each default to the help text that does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help or ""
        plain = action.default in (None, False, argparse.SUPPRESS) or "default:" in told
        return told if plain else f"{told} (default: %(default)s)"


def _number(text: str, kind: Callable[[str], float], valid: Callable[[float], bool], told: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {told}")
    return value


def _count(text: str) -> int:
    return int(_number(text, int, lambda value: value >= 1, "a whole number from 1"))


def _whole(text: str) -> int:
    return int(_number(text, int, lambda value: value >= 0, "a whole number from 0"))


def _positive(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def _share(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def _device(text: str) -> str:
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return text
