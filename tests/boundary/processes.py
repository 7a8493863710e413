"""Whether processes are still there."""

import time


def alive(process_id):
    """Whether it runs; what waits to be buried does not."""
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds, process_ids):
    """Whether all of them end in that time."""
    deadline = time.monotonic() + seconds
    while any(map(alive, process_ids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
