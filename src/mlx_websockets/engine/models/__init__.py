"""Models on this machine and on the hub: found, fetched, checked, listed, removed. Nothing here imports MLX."""
