"""The pure core: values and decisions. It does no I/O and reads no clock; `now` is always an argument."""
