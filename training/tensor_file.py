"""Reads and writes safetensors files: an 8-byte length, a JSON header, then the tensors' bytes one after another.

Small enough to keep here, so that training needs nothing beside PyTorch.
"""
import json
import struct

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def load(path):
    """Name -> tensor, in the stored types."""
    with open(path, "rb") as file:
        raw = bytearray(file.read())
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        if begin == end:
            tensors[name] = torch.zeros(entry["shape"], dtype=dtype)
        else:
            flat = torch.frombuffer(raw, dtype=torch.uint8, count=end - begin, offset=start + begin).clone()
            tensors[name] = flat.view(dtype).reshape(entry["shape"])
    return tensors


def save(path, tensors, metadata=None):
    """Writes contiguous copies, names sorted; the header is padded with blanks to a multiple of 8 bytes."""
    header, chunks, offset = {"__metadata__": {"format": "pt", **(metadata or {})}}, [], 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        chunk = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            file.write(chunk)
