"""Pages in Markdown: the prose is the page's own, and what is generated stands between two markers."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from stylenat.errors import UserError
from stylenat.paths import write_atomically


def table(head: Sequence[str], rows: Iterable[Sequence[object]], text_columns: Collection[int] = (0,)) -> str:
    """A Markdown table, without a newline at its end.

    Args:
        head: titles of the columns.
        rows: of each its cells.
        text_columns: positions of columns to align left; the others are numbers, to the right.

    Raises:
        ValueError: a row has more cells than the head, or fewer.
    """
    rule = [":--" if i in text_columns else "--:" for i in range(len(head))]
    lines = []
    for row in (head, rule, *rows):
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells, the head {len(head)}: {list(row)}")
        lines.append("| " + " | ".join(str(cell) for cell in row) + " |")
    return "\n".join(lines)


def markers(name: str) -> tuple[str, str]:
    """The lines that a generated block stands between."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replace_block(text: str, name: str, body: str) -> str:
    """The page with another body between `<!-- name:begin -->` and `<!-- name:end -->`.

    Args:
        text: of the page.
        name: of the block.
        body: stands on lines of its own, with an empty one before and after it.

    Raises:
        UserError: the page does not have these two markers once each, in this order.
    """
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"the page needs {begin} and {end} once each, in this order: put them back")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}"


def blocks(text: str) -> list[str]:
    """Names of the blocks that a page has markers for."""
    return re.findall(r"<!-- ([\w-]+):begin -->", text)


def replace_blocks(text: str, bodies: Mapping[str, str]) -> str:
    """The page with every one of its blocks replaced.

    Args:
        text: of the page.
        bodies: by name of the block.

    Raises:
        UserError: the page has a block that is not in `bodies`, or lacks one that is.
    """
    if unknown := sorted(set(blocks(text)) - set(bodies)):
        raise UserError(f"nothing is generated for the page's block {unknown[0]}: take its markers out")
    page = text
    for name, body in bodies.items():
        page = replace_block(page, name, body)
    return page


def rewrite_blocks(path: Path, bodies: Mapping[str, str]) -> None:
    """`replace_blocks` of a page's file, atomically."""
    write_atomically(path, replace_blocks(path.read_text(encoding="utf-8"), bodies))


def check_blocks(path: Path, names: Iterable[str]) -> None:
    """Check that a page's file has the markers of some blocks.

    Raises:
        UserError: names the page that lacks a block's markers.
    """
    _filled(path, dict.fromkeys(names, ""))


def fill_blocks(path: Path, bodies: Mapping[str, str]) -> None:
    """Replace some blocks of a page's file, atomically, and leave its others as they are.

    Args:
        path: of the page.
        bodies: by name of the block.

    Raises:
        UserError: names the page that lacks a block's markers.
    """
    write_atomically(path, _filled(path, bodies))


def _filled(path: Path, bodies: Mapping[str, str]) -> str:
    page = path.read_text(encoding="utf-8")
    try:
        for name, body in bodies.items():
            page = replace_block(page, name, body)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    return page
