"""What the native tests share beside fixtures."""

from contextlib import contextmanager

import torch


@contextmanager
def threads(count):
    """Run the block with this many threads."""
    used = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(used)
