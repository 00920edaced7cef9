"""Markdown: tables, and generated blocks in pages whose prose is written by hand."""

from collections.abc import Sequence

from stylenat.errors import UserError


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, on the left, the others numbers, on the right."""
    alignment = [":--", *["--:"] * (len(head) - 1)]
    lines = []
    for cells in (head, alignment, *rows):
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def replace_block(text: str, name: str, body: str) -> str:
    """A page with new text between `<!-- name:begin -->` and `<!-- name:end -->`.

    Raises:
        UserError: the markers are missing, doubled or in the wrong order.
    """
    begin = f"<!-- {name}:begin -->"
    end = f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"must hold one {begin} and after it one {end}: put each on a line of its own")
    return f"{text[: text.index(begin)]}{begin}\n\n{body}\n{text[text.index(end) :]}"
