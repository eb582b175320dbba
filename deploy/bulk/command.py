"""The command ``bulk``: what it prints."""

import os
from argparse import Namespace

OPTIONS = ("target", "maps", "method", "size")  # of a request, that the command takes


def bulk(options: Namespace) -> int:
    """Explains the pictures, and returns the exit status: 2 if a picture's row is an error, of an earlier run, too."""
    from deploy.bulk.run import explain_all

    said = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    how = {name: getattr(options, name) for name in ("column", "overlays", "workers", "together")}
    cluster = options.cluster or os.environ.get("RAY_ADDRESS")
    told = explain_all(options.sources, options.out, options.model, said, cluster=cluster, **how)
    rate = told["rows"] / max(told["seconds"], 1e-9)
    counts = f"{told['rows']} rows, {told['errors']} of them errors, beside {told['known']} that were there"
    counts += f", {told['known_errors']} of them with an error" if told["known_errors"] else ""
    print(f"{options.out}: {counts}; {told['seconds']:.1f} s, {rate:.1f} pictures/s")
    return 2 if told["errors"] or told["known_errors"] else 0
