"""The text of a config, which a run needs often and which does not change."""

import copy

from mmengine.config import Config


class FormattedOnce(Config):
    """A config whose text is formatted again only after a change.

    A run asks for the text in the log, for the visualizer, for the work dir and for each
    checkpoint. To format it (yapf) takes a hundred times as long as to write it down, so that is
    how a change is noticed. Copies take their text along.
    """

    _plain: str | None = None
    _formatted: str | None = None

    @classmethod
    def of(cls, cfg: Config) -> 'FormattedOnce':
        """The same config; what is changed in one is changed in both."""
        made = cls.__new__(cls)
        made.__setstate__(cfg.__getstate__())
        return made

    @property
    def pretty_text(self) -> str:
        """See mmengine's."""
        plain = self._unformatted()
        if plain != self._plain:
            # Not setattr, by which a config sets an entry.
            vars(self).update(_plain=plain, _formatted=super().pretty_text)
        return self._formatted

    def _unformatted(self) -> str:
        """The text as it is before it is formatted."""
        other = copy.copy(self)
        vars(other).update(_format_python_code=False)
        return Config.pretty_text.fget(other)
