"""The commands of ``mmcoke``, a light module each; tools/ has programs that do the same.

A module has

- a docstring: what ``--help`` says above the options;
- ``HELP``: one line for the list of commands;
- ``add_arguments(parser)``;
- ``run(args)``: imports what does the work, and calls it. It may raise what
  :func:`mmcoke.cli.ending.explain` knows, which then is one line.

A command with commands of its own, such as ``evaluate``, has no ``run``. Nothing here imports
torch, numpy, mmengine or rich before ``run`` does.
"""
