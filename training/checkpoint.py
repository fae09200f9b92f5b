"""Checkpoints in parts of at most 15 MiB, so that they pass through channels with a limit on file size."""
import io
from pathlib import Path

import torch

PART = 15 * 2**20


def number(path):
    return int(path.suffix[len(".part") :])


def halve(state):
    """The state with every float32 tensor of one or more dimensions in bf16: for averages and optimisers."""
    if isinstance(state, dict):
        return {key: halve(value) for key, value in state.items()}
    if isinstance(state, list):
        return [halve(value) for value in state]
    if torch.is_tensor(state) and state.dtype == torch.float32 and state.dim() > 0:
        return state.to(torch.bfloat16)
    return state


def save(folder, name, state):
    """Writes name.part0, name.part1, … and removes parts of an older, longer checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data, folder = buffer.getvalue(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = (len(data) + PART - 1) // PART
    for i in range(count):
        (folder / f"{name}.part{i}").write_bytes(data[i * PART : (i + 1) * PART])
    for stale in folder.glob(f"{name}.part*"):
        if number(stale) >= count:
            stale.unlink()


def load(folder, name, device="cpu"):
    """The saved state, or None where there is none."""
    parts = sorted(Path(folder).glob(f"{name}.part*"), key=number)
    if not parts:
        return None
    return torch.load(io.BytesIO(b"".join(part.read_bytes() for part in parts)), map_location=device)
