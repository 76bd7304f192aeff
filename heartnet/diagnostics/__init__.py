"""Measurements: pure functions of tensors and modules that leave no trace behind."""
