"""The bar of a drawing."""

from io import StringIO

from rich.console import Console

from pixart.bar import bar


def drawn(*, terminal: bool) -> str:
    written = StringIO()
    console = Console(file=written, force_terminal=terminal, width=80, color_system=None, _environ={})
    with bar("drawing", console) as told:
        for done in range(1, 5):
            told(done, 4)
    return written.getvalue()


def test_in_a_terminal_the_share_that_is_done_is_shown_and_wiped_out_at_the_end():
    shown = drawn(terminal=True)
    assert "drawing" in shown
    assert "100%" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # erase the line


def test_a_file_gets_nothing():
    assert drawn(terminal=False) == ""
