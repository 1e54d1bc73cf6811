"""The lock of a run folder: one holder at a time, and none that is dead."""

import os
import signal
import subprocess
import sys

import pytest

from zephyr.errors import ResourceError
from zephyr.runs.lock import hold_lock

HOLD = "import sys, time; from pathlib import Path; from zephyr.runs.lock import hold_lock\n"
HOLD += "with hold_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def test_another_process_is_kept_out_until_the_holder_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ResourceError, match=f"is in use by process {holder.pid} on"), hold_lock(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with hold_lock(tmp_path):
        assert (tmp_path / ".lock-holder").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / ".lock-holder").exists()
