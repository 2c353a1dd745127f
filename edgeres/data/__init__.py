"""Image sets, their preprocessing and their batches. Pillow and numpy only."""
