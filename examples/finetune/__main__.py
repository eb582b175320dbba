"""Fine-tunes any torchvision classifier on a folder of pictures, and leaves what `make archive` packs.

    python -m examples.finetune data --model shufflenet_v2_x2_0
    make archive CHECKPOINT=out/finetune/best.safetensors LABELS=out/finetune/labels.txt

It goes the way of PyTorch's transfer-learning tutorial: pretrained weights, a new head for the classes of
``data/train`` and ``data/val``, random crops and mirroring, SGD with a rate that falls tenfold every seven epochs, and
in the end the epoch that named most held-out pictures right. All layers learn; with ``--freeze`` only the head does and
the rest is the tutorial's fixed feature extractor. Then the tutorial ends, and the question is what the network looks
at: the checkpoint holds its labels and preprocessing, so that the server explains it with Grad-CAM and guided backprop.

After every epoch the folder ``--out`` holds

    best.safetensors    the best epoch's weights with architecture, labels and preprocessing
    labels.txt          the class folders' names, one per line
    curves.png          loss and accuracy of both parts
    state.pt            where to go on: the same command continues a run that was interrupted
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs or continues a run; PyTorch is loaded here, because Ctrl-C may come in the seconds that this takes."""
    try:
        from examples.finetune.run import run
    except KeyboardInterrupt:
        print("interrupted: nothing was begun", file=sys.stderr)
        return 130
    return run(arguments, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    sys.exit(main())
