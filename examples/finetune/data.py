"""An ImageFolder: one folder per class below ``train/`` and ``val/``, read as the server reads an upload.

    data/train/ants/1.jpg      data/val/ants/7.jpg
    data/train/bees/2.jpg      data/val/bees/8.jpg

Held-out pictures go the server's own way, decoding and preprocessing; training pictures are decoded alike and cropped
at random. The chance in a crop depends on seed, epoch and picture alone, so that neither an interruption nor the
number of worker processes changes what the network sees.
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


@dataclass(frozen=True)
class Pictures:
    """What there is to learn from."""

    labels: list[str]  # the class folders' names, sorted; a class's index is its place here
    train: list[Sample]
    val: list[Sample]
    digest: str  # of all names and sizes: tells whether the data are still the same


def find_pictures(folder: Path) -> Pictures:
    """Lists the pictures below ``folder``; none is opened yet. Hidden files and folders do not count.

    Raises:
        FineTuningError: no such folders, differing or fewer than two classes, or a class without pictures.
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
    return Pictures(labels, train, val, _digest(folder, train + val))


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
        FineTuningError: it is no picture, or a damaged one; the message names it.
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
            torch.default_generator.manual_seed(int(chance[0]))  # of the CPU only: torch.manual_seed means the GPU too
            varied = self._vary(picture)
        return torch.from_numpy(self._how.normalise(np.asarray(varied))), label


def drops_last(count: int, batch_size: int, *, lonely: bool) -> bool:
    """Whether the last batch of an epoch is left out: if it is a single picture, and ``lonely`` ones cannot be used.

    Raises:
        FineTuningError: every batch would be a single picture, and such cannot be used.
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
    """The loader's batches; an unreadable picture is told in one line, also if a worker process met it."""
    try:
        yield from loader
    except FineTuningError as error:
        # a worker's exception arrives with its traceback as the message, whose last line is what it said
        raise FineTuningError(str(error).strip().rsplit(f"{FineTuningError.__name__}: ", 1)[-1]) from error
