"""Latents of a pool of scenes, kept on the device by image size, from which training draws its batches."""
import time
from pathlib import Path

import torch

from data.pool import make_pool
from data.render import render

# (height, width) and the share of training steps: mostly 256x256, sides between 192 and 320.
BUCKETS = {
    (256, 256): 0.56,
    (192, 320): 0.06,
    (320, 192): 0.06,
    (224, 288): 0.06,
    (288, 224): 0.06,
    (320, 320): 0.06,
    (192, 192): 0.06,
    (256, 320): 0.04,
    (320, 256): 0.04,
}
# T5 padding lengths and their shares at 256x256: the model's own, and what callers of diffusers may use.
LENGTHS = {64: 0.91, 128: 0.04, 256: 0.03, 512: 0.02}


def open_store(model, options, device):
    """The store of `options.scenes` scenes; kept in the file `options.cache`, if given, for the stages that follow."""
    cache = Path(options.cache) if options.cache else None
    begin = time.time()
    if cache and cache.exists():
        store = torch.load(cache, weights_only=False, map_location=device)
        print(f"latents read in {time.time() - begin:.0f}s", flush=True)
        return store
    pool = make_pool(Path(options.model), options.scenes, options.seed, options.processes)
    made = time.time()
    store = LatentStore(model, pool, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{options.scenes} scenes described in {made - begin:.0f}s, encoded in {time.time() - made:.0f}s", flush=True)
    if cache:
        torch.save(store, cache)
    return store


@torch.no_grad()
def encode_scenes(model, rows, height, width, style="plain", chunk=128):
    """Scaled latents (N, 16, H/8, W/8) of rendered scenes, in bf16 (float32 on a CPU)."""
    on_gpu = rows.is_cuda
    parts = []
    for part in rows.split(chunk):
        images = render(part, height, width, style).contiguous(memory_format=torch.channels_last)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=on_gpu):
            mean = model.vae.encode(images)[0]
        latents = (mean.float() - model.shift) * model.scale
        parts.append(latents.to(torch.bfloat16 if on_gpu else torch.float32).contiguous())
    return torch.cat(parts)


class LatentStore:
    """`pool` as of data.pool.make_pool; every example is in one bucket, by its index."""

    def __init__(self, model, pool, device, style="plain"):
        rows, self.clip, self.t5, self.labels = (t.to(device) for t in pool)
        self.device, self.latents, self.start = device, {}, {}
        begin = 0
        for size, share in BUCKETS.items():
            count = max(8, int(share * len(rows)))
            begin = min(begin, len(rows) - count)
            self.latents[size] = encode_scenes(model, rows[begin : begin + count], *size, style)
            self.start[size] = begin
            begin += count

    def keys(self, rng):
        """An image size and a text length for one step; longer paddings come with the commonest size only."""
        size = pick(rng, BUCKETS)
        return size, pick(rng, LENGTHS) if size == (256, 256) else min(LENGTHS)

    def draw(self, size, count, length):
        """Latents, CLIP ids, T5 ids padded to `length`, labels of random examples of one size."""
        latents = self.latents[size]
        chosen = torch.randint(len(latents), (count,), device=self.device)
        index = chosen + self.start[size]
        t5 = self.t5[index].long()
        if length > t5.shape[1]:
            t5 = torch.nn.functional.pad(t5, (0, length - t5.shape[1]))
        return latents[chosen].float(), self.clip[index].long(), t5, self.labels[index].long()


def pick(rng, shares):
    return rng.choices(list(shares), list(shares.values()))[0]
