"""Builds and runs the images as root, without a container runtime: ``python -m deploy.images [light] [torchserve]``.

Debian's buildah builds them, on a base that mmdebstrap makes of Debian's own packages, and runs each as it was built,
in a network of its own, as a user without rights. Printed are the size, the seconds until the first right answer, the
memory, and that answer. A wrong answer, a health check that fails, and files beside ``/tmp`` are errors.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
BASE = "localhost/shufflenet-cam-python:3.11"
IMAGES = {  # name of the image, and its Dockerfile
    "light": ("localhost/shufflenet-cam-light:0.1.0", "deploy/light/Dockerfile"),
    "torchserve": ("localhost/shufflenet-cam:0.1.0", "deploy/Dockerfile"),
}
_PACKAGES = "ca-certificates,python3,python3-venv"
_SUITE = "bookworm"  # whose Python is 3.11
_ISOLATED = ("--isolation", "chroot")
_USER = 65532
_ADDRESS = "http://127.0.0.1:8080/predictions/shufflenet_cam"
_PICTURE, _RIGHT = ROOT / "examples/shapes/one.jpg", "star"
_PATIENCE = 300.0  # seconds until the first right answer


class ImageError(Exception):
    """An image cannot be built, or does not do what it should; the message says why."""


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_base() -> None:
    """Makes the image with Debian's Python, unless it is there."""
    if _said("buildah", "images", "--all", "--filter", f"reference={BASE}", "--quiet"):
        return
    with tempfile.TemporaryDirectory() as folder, _container("scratch") as container:
        root = f"{folder}/root.tar"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root], check=True
        )
        _said("buildah", "add", container, root, "/")
        _said("buildah", "commit", container, BASE)


def build(front: str, options: Sequence[str]) -> None:
    """Builds an image; ``options`` are further ones of ``buildah build``."""
    name, dockerfile = IMAGES[front]
    own = [*_ISOLATED, "--network", "host", "--ulimit", "nofile=1024:1024", "--format", "docker"]
    own += ["--build-arg", f"PYTHON_IMAGE={BASE}", "--ignorefile", f"{dockerfile}.dockerignore"]
    subprocess.run(
        ["buildah", "build", "--quiet", *own, *options, "--file", dockerfile, "--tag", name, "."], check=True, cwd=ROOT
    )


@contextmanager
def _container(image: str) -> Iterator[str]:
    name = _said("buildah", "from", image)
    try:
        yield name
    finally:
        _said("buildah", "rm", name)


def run_inside(front: str) -> None:
    """Runs an image twice in the network of this process, whose loopback it may take, and prints what it did.

    Raises:
        ImageError: there is no right answer, the health check fails, or it writes beside ``/tmp``.
    """
    name, _ = IMAGES[front]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with _container(name) as container:
        cold, *_ = _start(container)
        warm, memory, answer = _start(container)
    sizes = (_said("buildah", "images", "--format", "{{.Size}}", image) for image in (name, BASE))
    print(f"{front}: {', of which the base has '.join(sizes)}; first right answer after {cold:.1f} s, ", end="")
    print(f"{warm:.1f} s when started again; {memory / 2**20:.0f} MiB in memory; writes to /tmp alone")
    maps = [list(one["maps"]) for one in answer["explanations"]]
    print(json.dumps({"model": answer["model"], "predictions": answer["predictions"][:2], "maps": maps}), flush=True)


def _start(container: str) -> tuple[float, int, dict[str, Any]]:
    """Seconds until the first right answer, bytes in memory, and the answer."""
    config = json.loads(_said("buildah", "inspect", container))["Docker"]["config"]
    run = ["buildah", "run", *_ISOLATED, "--user", f"{_USER}:{_USER}", container, "--"]
    root = Path(_said("buildah", "mount", container))
    began, clock = time.time(), time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        server = psutil.Popen([*run, *config["Entrypoint"], *(config["Cmd"] or [])], stdout=log, stderr=log)
        try:
            answer = _first_right_answer(server, clock)
            seconds = time.monotonic() - clock
            subprocess.run([*run, *config["Healthcheck"]["Test"][1:]], check=True)
            memory = sum(one.memory_full_info().pss for one in _family(server))
            if (written := set(_written(root, began))) - {"tmp"}:
                raise ImageError(f"files are written to /{', /'.join(sorted(written))}, valid is /tmp")
        except (ImageError, subprocess.CalledProcessError) as error:
            log.seek(0)
            raise ImageError(f"{error}\n{log.read()[-3000:]}") from error
        finally:
            _stop(server)
    return seconds, memory, answer


def _first_right_answer(server: psutil.Popen, clock: float) -> dict[str, Any]:
    request = urllib.request.Request(_ADDRESS, _PICTURE.read_bytes(), {"Content-Type": "image/jpeg"})
    why = "no answer"
    while server.poll() is None and time.monotonic() - clock < _PATIENCE:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer: dict[str, Any] = json.load(response)
            if answer["predictions"][0]["label"] == _RIGHT:
                return answer
            why = f"the picture's class is {answer['predictions'][0]}, right is {_RIGHT}"
        except OSError as error:  # it is not there yet, or not ready
            why = str(error)
        time.sleep(0.02)
    raise ImageError(f"no right answer: {why}")


def _family(server: psutil.Popen) -> list[psutil.Process]:
    """The processes of the image, the first one first, without those of buildah."""
    return [one for one in server.children(recursive=True) if "buildah" not in one.cmdline()[0]]


def _written(root: Path, began: float) -> Iterator[str]:
    """The folders of the root in which the image's user has written files."""
    for folder, _, files in os.walk(root):
        for file in files:
            with suppress(FileNotFoundError):
                state = os.lstat(Path(folder, file))
                if state.st_uid == _USER and state.st_ctime >= began:
                    yield Path(folder, file).relative_to(root).parts[0]


def _stop(server: psutil.Popen) -> None:
    for signal in ("terminate", "kill"):
        with suppress(psutil.NoSuchProcess, IndexError, psutil.TimeoutExpired):
            getattr(_family(server)[0], signal)()
            server.wait(timeout=90)
            return
    server.kill()


def main() -> None:
    """Builds and runs the images that the command line names, or both."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__.partition("\n")[0])
    parser.add_argument("fronts", nargs="*", metavar="FRONT", help=f"{' or '.join(IMAGES)} (default: both)")
    parser.add_argument("--build", default="", metavar="OPTIONS", help="further options of buildah build")
    parser.add_argument("--inside", action="store_true", help="run what was built, on this network's own ports")
    options = parser.parse_args()
    fronts = options.fronts or list(IMAGES)
    try:
        if unknown := set(fronts) - set(IMAGES):
            raise ImageError(f"{', '.join(unknown)} is no front, valid are {', '.join(IMAGES)}")
        if missing := [tool for tool in ("buildah", "mmdebstrap", "unshare", "ip") if not shutil.which(tool)]:
            raise ImageError(f"{', '.join(missing)} is not installed; Debian's packages have that name, or iproute2")
        if not (ROOT / "model_store/shufflenet_cam.mar").exists():
            raise ImageError("model_store/shufflenet_cam.mar does not exist; `make archive` writes it")
        for front in fronts:
            if options.inside:
                run_inside(front)
                continue
            make_base()
            build(front, shlex.split(options.build))
            own = ["unshare", "--net", sys.executable, "-m", "deploy.images", "--inside", front]
            if subprocess.run(own, check=False, cwd=ROOT).returncode:
                raise ImageError(f"the image of {front} does not do what it should")
    except (ImageError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
