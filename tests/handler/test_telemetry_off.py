"""ONNX Runtime's events to its maker are off."""

import os
import subprocess
import sys

CODE = "import handler, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"


def test_the_package_switches_events_off_unless_the_user_said_otherwise():
    for said, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        without = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        done = subprocess.run(
            [sys.executable, "-c", CODE], env={**without, **said}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
