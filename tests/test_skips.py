"""In CI a test that is skipped is a test that fails, unless its reason is known."""

import os
import subprocess
import sys

from tests.support.serving import ROOT
from tests.support.skips import EXPECTED

FILES = {
    "test_marked.py": "@pytest.mark.skipif(True, reason='no lynx is installed')\ndef test_it(): pass",
    "test_called.py": "def test_it(): pytest.skip('no lynx answers')",
    "test_module.py": "pytest.importorskip('lynx', reason='no lynx to import')\ndef test_it(): pass",
    "test_known.py": f"@pytest.mark.parametrize('reason', {EXPECTED})\ndef test_it(reason): pytest.skip(reason + '.')",
    "test_failing.py": "@pytest.mark.xfail\ndef test_it(): assert False",
}


def test_a_skip_that_is_not_expected_fails_and_says_why(tmp_path):
    for name, code in FILES.items():
        (tmp_path / name).write_text(f"import pytest\n{code}\n", encoding="utf-8")
    options = ["-q", "-p", "tests.support.skips", "--continue-on-collection-errors", "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"1 failed, {len(EXPECTED)} skipped, 1 xfailed, 2 errors in" in done.stdout.splitlines()[-1]
    for reason in ("no lynx is installed", "no lynx answers", "no lynx to import"):
        assert f"a skip that is not expected here, see tests.support.skips.EXPECTED: Skipped: {reason}" in done.stdout


def test_ci_says_that_it_is_ci_and_then_the_plugin_is_there(pytestconfig):
    assert "export CI=" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert pytestconfig.pluginmanager.has_plugin("skips") == bool(os.environ.get("CI"))
