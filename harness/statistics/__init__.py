"""The arithmetic of a decision: arrays in, small frozen records out; no model, no file, no clock."""
