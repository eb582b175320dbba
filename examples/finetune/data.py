"""Reads a folder with one folder per class below ``train/`` and ``val/``, and pictures as the server reads uploads.

    data/train/ants/1.jpg      data/val/ants/7.jpg
    data/train/bees/2.jpg      data/val/bees/8.jpg

Held-out pictures go through the server's own decoding and preprocessing; training pictures go through the same decoding
and a random crop. A crop depends on seed, epoch and picture alone, so that neither an interruption nor the number of
worker processes changes what the network sees.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets.folder import make_dataset

from examples.finetune.errors import FineTuningError
from handler.errors import RequestError
from handler.picture.decode import decode
from handler.picture.preprocess import Preprocessing, preprocess

Sample = tuple[str, int]  # a picture's path and the index of its class
Batch = tuple[torch.Tensor, torch.Tensor]  # float32 (N, 3, H, W), normalised; int64 (N,)
Loader = DataLoader[tuple[torch.Tensor, int]]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures to learn from."""

    labels: list[str]  # the class folders' names, sorted; a class's index is its place in this list
    train: list[Sample]
    val: list[Sample]
    digest: str  # hash of all names and sizes, which tells whether the data are still the same


def find_pictures(folder: Path) -> Pictures:
    """Lists the pictures below ``folder`` without opening them. Hidden files and folders do not count.

    Raises:
        FineTuningError: a folder is missing, the classes of train/ and val/ differ or are fewer than two, or a class
            has no pictures.
    """
    if not folder.is_dir():
        raise FineTuningError(f"there is no folder {folder}")
    labels, held_out = _classes(folder / "train"), _classes(folder / "val")
    if labels != held_out:
        only = {"train": sorted(set(labels) - set(held_out)), "val": sorted(set(held_out) - set(labels))}
        told = "; ".join(f"only {part}/ has {', '.join(names)}" for part, names in only.items() if names)
        raise FineTuningError(f"train/ and val/ of {folder} must have the same class folders, but {told}")
    if len(labels) < 2:
        raise FineTuningError(f"{folder / 'train'} has one class, {labels[0]}; valid are at least two")
    train, val = (_samples(folder / part, labels) for part in ("train", "val"))
    return Pictures(labels=labels, train=train, val=val, digest=_digest(folder, train + val))


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FineTuningError(
            f"there is no folder {folder}; valid is a folder with train/ and val/, a folder per class in both"
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise FineTuningError(f"{folder} has no class folders; valid is one folder of pictures per class")
    return names


def _samples(folder: Path, labels: list[str]) -> list[Sample]:
    index = {label: place for place, label in enumerate(labels)}
    samples: list[tuple[str, int]] = make_dataset(str(folder), index, is_valid_file=_is_picture, allow_empty=True)
    empty = [label for label in labels if index[label] not in {place for _, place in samples}]
    if empty:
        raise FineTuningError(
            f"{folder} has no pictures of {', '.join(empty)}; valid are files *{', *'.join(SUFFIXES)}"
        )
    return samples


def _is_picture(path: str) -> bool:
    name = Path(path).name
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _digest(folder: Path, samples: list[Sample]) -> str:
    digest = hashlib.sha256()
    for path, _ in samples:
        digest.update(f"{Path(path).relative_to(folder).as_posix()}:{Path(path).stat().st_size}\n".encode())
    return digest.hexdigest()


def read_picture(path: str) -> np.ndarray:
    """Decodes a file to uint8 RGB (H, W, 3), upright, as the server decodes an upload.

    Raises:
        FineTuningError: the file is no picture, or a damaged picture; the message names the file.
    """
    try:
        return decode(Path(path).read_bytes())
    except (RequestError, OSError) as error:
        raise FineTuningError(f"{path} cannot be read: {error}; repair or remove it") from error


class HeldOutPictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures as the server will see them: float32 (3, crop, crop), normalised, and the class index."""

    def __init__(self, samples: list[Sample], how: Preprocessing) -> None:
        self._samples, self._how = samples, how

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._samples[index]
        return torch.from_numpy(preprocess(read_picture(path), self._how).tensor), label


class TrainingPictures(Dataset[tuple[torch.Tensor, int]]):
    """Random crops, half of them mirrored: float32 (3, crop, crop), normalised, and the class index."""

    def __init__(self, samples: list[Sample], how: Preprocessing, seed: int) -> None:
        self._samples, self._how, self._seed = samples, how, seed
        self.epoch = 0  # set before each pass
        crop = transforms.RandomResizedCrop(
            how.crop_size, interpolation=transforms.InterpolationMode(how.interpolation)
        )
        self._vary = transforms.Compose([crop, transforms.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._samples[index]
        picture = Image.fromarray(read_picture(path))
        with torch.random.fork_rng(devices=[]):
            chance = np.random.SeedSequence([self._seed, self.epoch, index]).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(chance[0]))  # torch.manual_seed would seed the GPU, too
            varied = self._vary(picture)
        return torch.from_numpy(self._how.normalise(np.asarray(varied))), label


def drops_last(count: int, batch_size: int, *, lonely: bool) -> bool:
    """Whether the last batch of an epoch is left out, because it is a single picture that cannot be used.

    Args:
        count: the number of pictures.
        batch_size: pictures per batch.
        lonely: whether a single picture can be used as a batch.

    Raises:
        FineTuningError: every batch would be a single picture that cannot be used.
    """
    if lonely:
        return False
    if min(count, batch_size) < 2:
        raise FineTuningError(
            f"batch norm learns from batches of at least two pictures, but there are {count} to train on "
            f"and the batch size is {batch_size}; valid is --batch-size 2 or more"
        )
    return count % batch_size == 1


def batches(loader: Loader) -> Iterator[Batch]:
    """The loader's batches.

    Raises:
        FineTuningError: a picture cannot be read; the message is one line, also where a worker process reads pictures.
    """
    try:
        yield from loader
    except FineTuningError as error:
        # a worker's exception arrives with its traceback as the message; the last line is the worker's message
        raise FineTuningError(str(error).strip().rsplit(f"{FineTuningError.__name__}: ", 1)[-1]) from error
