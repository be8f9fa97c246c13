"""What our code takes for granted of an engine, recorded for each version that is supported.

`make contracts` prints what the installed version breaks and which of its functions to read again, against the nearest
record; with `ARGS=--write` it writes the record of that version.
"""
