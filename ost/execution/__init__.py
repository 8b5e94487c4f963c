"""How models are run: losses of answers alone, batches within memory, inputs encoded ahead, arithmetic, devices."""
