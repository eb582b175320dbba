"""The command ``bulk``: its arguments, and what it prints."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

OPTIONS = ("target", "maps", "method", "size")  # of a request, that the command takes


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    where = "picture, folder, pattern or Parquet file, also s3://, gs://, hdfs://; repeatable"
    parser.add_argument("sources", nargs="+", metavar="SRC", help=where)
    parser.add_argument("out", metavar="OUT", help="folder for the results, which a later run completes")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE.onnx", help="graph that this program wrote")
    parser.add_argument("--target", help="classes: top, a label or an index, several with commas (default: top)")
    parser.add_argument("--maps", default="gradcam", help="maps, with commas, or none (default: %(default)s)")
    parser.add_argument("--method", help="formula of the map at the layer (default: the model's)")
    parser.add_argument("--size", default="layer", help="of gradcam maps: layer or input (default: %(default)s)")
    parser.add_argument("--column", default="", help="of the pictures, or of their paths, in Parquet files")
    parser.add_argument("--overlays", action="store_true", help="write pictures of the maps, too")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="of a Ray cluster (default: $RAY_ADDRESS, or this machine)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")
    parser.add_argument("--together", type=int, default=64, help="pictures in a file of results (default: %(default)s)")


def bulk(options: Namespace) -> int:
    """Explains the pictures, and returns the exit status: 2 if a picture has an error instead of a row."""
    from deploy.bulk.run import explain_all

    for name in ("workers", "together"):
        if getattr(options, name) < (name == "together"):
            raise ValueError(f"--{name} must be {'1' if name == 'together' else '0'} or more")
    said = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    how = {name: getattr(options, name) for name in ("column", "overlays", "workers", "together")}
    cluster = options.cluster or os.environ.get("RAY_ADDRESS")
    told = explain_all(options.sources, options.out, options.model, said, cluster=cluster, **how)
    rate = told["rows"] / max(told["seconds"], 1e-9)
    counts = f"{told['rows']} rows, {told['errors']} of them errors, beside {told['known']} that were there"
    print(f"{options.out}: {counts}; {told['seconds']:.1f} s, {rate:.1f} pictures/s")
    return 2 if told["errors"] else 0
