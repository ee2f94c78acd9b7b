"""What the commands do and share; nothing below this floor imports it.

A tool parses its arguments, and only then imports what does the work, which takes seconds: the
module of its name here, or what it calls. ``arguments`` and ``options`` are for parsing, and light.
"""
