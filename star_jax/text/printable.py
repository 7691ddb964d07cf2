"""Text from files on a terminal: escape codes in it are shown, and do nothing."""


def printable(text: str) -> str:
    """`text` in one line, with characters that a terminal may obey spelled as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(text.split())
    )
