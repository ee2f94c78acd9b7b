"""What the commands do and share; nothing below this floor imports it.

``main`` is the command ``mmcoke``; ``commands`` has a light module per command, which parses and
only then imports what does the work, which takes seconds: the module of its name here, or what it
calls. ``parser``, ``arguments``, ``options`` and ``ending`` are light, too.
"""
