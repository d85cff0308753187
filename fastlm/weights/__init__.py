"""Weights: reading checkpoints and binding their tensors to the slots of a spec."""
