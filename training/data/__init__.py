"""Synthetic scenes: what they contain (scenes), how they are described (captions), how they look (render)."""
