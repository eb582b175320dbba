"""Fine-tunes a classifier of any of the libraries on a folder of pictures, and leaves what `make archive` packs.

    python -m examples.finetune data --model shufflenet_v2_x2_0
    make archive CHECKPOINT=out/finetune/best.safetensors LABELS=out/finetune/labels.txt

The run follows PyTorch's transfer-learning tutorial: pretrained weights, a new head for the classes of ``data/train``
and ``data/val``, random crops and mirroring, SGD with a rate that falls tenfold every seven epochs, and in the end the
epoch that named most held-out pictures right. All layers learn; with ``--freeze`` only the head learns, and the other
layers are the tutorial's fixed feature extractor. Where the tutorial ends, the question is what the network looks at:
the checkpoint holds labels and preprocessing, so that a server explains the network with Grad-CAM and guided backprop.

After every epoch the folder ``--out`` holds

    best.safetensors    the best epoch's weights with architecture, labels and preprocessing
    labels.txt          the class folders' names, one per line
    curves.png          loss and accuracy of both parts
    state.pt            the run's state, from which the same command continues an interrupted run
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Begins or continues a run; PyTorch is imported here, because Ctrl-C may come in the seconds that this takes."""
    try:
        from examples.finetune.run import run
    except KeyboardInterrupt:
        print("interrupted: nothing was begun", file=sys.stderr)
        return 130
    return run(arguments, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    sys.exit(main())
