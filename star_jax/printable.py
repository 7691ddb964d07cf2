"""Text from files, made fit for a terminal: escape codes are shown, and do nothing."""

_SPACES = dict.fromkeys("\n\r\t", " ")


def printable(text: str) -> str:
    r"""The text in one line; what a terminal would obey, or could not show, is spelled `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _SPACES.get(c, _escaped(c)) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
