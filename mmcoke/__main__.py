"""``python -m mmcoke``: the same as the console script."""

from mmcoke.cli.main import main

if __name__ == '__main__':
    main()
