"""Serves archives over gRPC beside HTTP: ``python -m deploy.grpc FILE.mar --grpc-port 8081``."""

import argparse
import sys
from functools import partial
from pathlib import Path

from deploy.grpc.server import listen
from handler.asgi_entry import serve
from handler.errors import ServiceError


def main() -> int:
    """Returns the exit status: 2 for a mistake, which is printed as one line."""
    parser = argparse.ArgumentParser("python -m deploy.grpc", description=__doc__.partition(":")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE.mar", help="archive, or folder of archives")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    for name, port in {"grpc": 8081, "http": 8080, "metrics": 8082}.items():
        parser.add_argument(f"--{name}-port", type=int, default=port, help="(default: %(default)s)")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that requests must send")
    said = parser.parse_args()
    where = {"host": said.host, "port": said.http_port, "metrics_port": said.metrics_port}
    beside = partial(listen, address=f"{said.host}:{said.grpc_port}")
    try:
        serve(said.paths, **where, token_file=said.token_file, beside=beside)
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
