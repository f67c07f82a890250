"""``show_config``: what this installation can do on this machine."""

from __future__ import annotations

import platform

import torch

from pgconv import backends


def show_config() -> str:
    """Text: versions, native library and its instruction set, and every backend with the reason if it cannot be used.

    Example:
        >>> import pgconv
        >>> print(pgconv.show_config().splitlines()[0].split()[0])
        pgconv
    """
    from pgconv import __version__

    lines = [
        f"pgconv {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        f"threads: {torch.get_num_threads()}",
        f"CUDA: {_cuda()}",
    ]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for name in backends.NAMES:
        backend = backends.load(name)
        own = [device for device in devices if device in backend.devices] or backend.devices[:1]
        states = [f"{device}: {backend.unavailable(device) or 'available'}" for device in own]
        lines.append(f"backend {name}: {'; '.join(states)}")
        detail = getattr(backend, "describe", None)
        if detail is not None and detail() not in states[0]:
            lines.append(f"  {detail()}")
    return "\n".join(lines)


def _cuda() -> str:
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    if not torch.cuda.is_available():
        return f"torch has CUDA {torch.version.cuda} but sees no device"
    return f"{torch.version.cuda} on {torch.cuda.get_device_name()}"
