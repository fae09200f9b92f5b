"""PNG contact sheets of image batches."""
import torch
from PIL import Image


def to_uint8(images):
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8, rounded to nearest."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def contact_sheet(images, columns, path, gap=4):
    """Saves images of one size, uint8 (B, H, W, 3), in rows of `columns`."""
    count, height, width, _ = images.shape
    rows = (count + columns - 1) // columns
    sheet = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    Image.fromarray(sheet.numpy()).save(path, optimize=True)
