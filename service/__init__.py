"""The serving half; imports nothing."""
