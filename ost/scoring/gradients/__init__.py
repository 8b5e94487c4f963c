"""Per-sample gradients of each layer, taken while one backward pass goes by, and their sketches."""
