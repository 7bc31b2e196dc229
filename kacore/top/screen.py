"""The screen of `kacore top`, with Textual: figures and the last minutes above, one table below.

Numbers come from a Source, which never ends; words from `text`. Whatever is shown is a Text, never markup.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Input, Static

from kacore.errors import UsageError
from kacore.server.status.history import PER_POINT
from kacore.server.status.words import count, number, percent, plain
from kacore.top import text
from kacore.top.source import Source

VIEWS = ("Connections", "Clients", "Closes", "Workers")
LIST_EVERY = 2.0  # seconds between two lists of connections
POINTS = 600
# By phase: a colour of the terminal's own palette, and a letter that tells them apart without any.
LOOKS = {
    "idle": ("cyan", "░"),
    "busy": ("green", "█"),
    "write": ("blue", "▒"),
    "body": ("magenta", "▓"),
    "head": ("yellow", "█"),
    "new": ("bright_yellow", "▒"),
    "handshake": ("red", "▓"),
    "linger": ("bright_black", "░"),
    "tunnel": ("white", "▒"),
}
LEVEL_LOOKS = {"to do": "bold red", "to know": "yellow", "fine": "green"}


class Screen(App[None]):
    """first: the document to begin with."""

    CSS = """
    #top { height: auto; padding: 0 1; }
    #table { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.asked { display: block; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        ("1", "view(0)", "Connections"),
        ("2", "view(1)", "Clients"),
        ("3", "view(2)", "Closes"),
        ("4", "view(3)", "Workers"),
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("q", "quit", "Quit"),
        Binding("tab", "next_view", show=False, priority=True),
        Binding("escape", "unfilter", show=False, priority=True),
    ]

    def __init__(self, source: Source, first: dict[str, Any]) -> None:
        super().__init__()
        self._source, self._document = source, first
        self._trouble = ""
        self._view, self._by, self._is_up, self._wanted = 0, [0] * len(VIEWS), [True] * len(VIEWS), ""
        self._n_documents = 0
        self._listed: dict[str, Any] | None = None
        self._head: tuple[str, ...] = ()
        series = history_of(first)
        self._requests, self._open = (deque(series.get(name) or [], maxlen=POINTS) for name in ("requests", "open"))
        for view, (by, is_up) in {0: (2, False), 1: (2, False), 2: (1, False)}.items():
            self._by[view], self._is_up[view] = by, is_up

    def compose(self) -> ComposeResult:
        yield Vertical(Static(id="line"), Static(id="figures"), Static(id="recent"), Static(id="advice"), id="top")
        yield Static(id="views")
        yield Input(id="filter", placeholder="a part of a client, a phase, a cause", select_on_focus=False)
        yield DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        self.title = "kacore top"
        self._show()
        self.query_one("#table").focus()
        self.run_worker(self._follow(), name="follow")
        self.run_worker(self._list(), name="list")

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    # -- what comes ---------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for news in self._source.follow():
            if isinstance(news, str):
                self._trouble = plain(news)
            else:
                self._trouble = ""
                self._take(news)
            self._show()

    def _take(self, document: dict[str, Any]) -> None:
        try:
            text.once(document)  # all of it can be worded, or none is taken
            self._n_documents += 1
            if self._n_documents % PER_POINT == 0:  # as wide as those of the history
                self._requests.append(document["rates"]["requests"])
                self._open.append(document["open"])
        except text.WRONG:
            self._trouble = "the server says what this version does not understand"
        else:
            self._document = document

    async def _list(self) -> None:
        while True:
            if VIEWS[self._view] == "Connections" and not self._trouble:
                try:
                    listed = await self._source.connections()
                    text.connections(listed)
                    self._listed = listed
                except (UsageError, *text.WRONG):
                    pass  # the stream will tell; what was listed stays
                self._show_table()
            await asyncio.sleep(LIST_EVERY)

    # -- what is asked for ------------------------------------------------------------------------------------------

    def action_view(self, view: int) -> None:
        self._view = view
        self._show_table()

    def action_sort(self) -> None:
        self._by[self._view] = (self._by[self._view] + 1) % len(self._table().head)
        self._show_table()

    def action_reverse(self) -> None:
        self._is_up[self._view] = not self._is_up[self._view]
        self._show_table()

    def action_filter(self) -> None:
        asked = self.query_one("#filter", Input)
        asked.add_class("asked")
        asked.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._wanted = event.value
        self._show_table()

    def on_input_submitted(self) -> None:
        self.query_one("#table").focus()

    def action_unfilter(self) -> None:
        asked = self.query_one("#filter", Input)
        asked.value = ""
        asked.remove_class("asked")
        self.query_one("#table").focus()

    def action_next_view(self) -> None:
        self.action_view((self._view + 1) % len(VIEWS))

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _show(self) -> None:
        if not self.query("#line"):
            return  # before the beginning, or after the end
        width = max(20, self.size.width - 2)
        document = self._document
        self.query_one("#line", Static).update(self._line())
        self.query_one("#figures", Static).update(figures(document))
        self.query_one("#recent", Static).update(self._recent(document, width))
        told = text.advice(document)[: 3 if self.size.height > 30 else 1]
        rows = [Text.assemble((f"{level:<8}", LEVEL_LOOKS[level]), said) for level, said in told]
        self.query_one("#advice", Static).update(Text("\n").join(rows))
        self._show_table()

    def _line(self) -> Text:
        document = self._document
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(document["since"]))
        line = Text.assemble((f"kacore {plain(document['kacore'])}", "bold"), f"  {plain(self._source.place.url)}  ")
        line.append("ready" if document["ready"] else "not ready", "green" if document["ready"] else "bold red")
        line.append(f"  since {since}  ", "dim")
        if self._trouble:
            line.append(f"reconnecting: {self._trouble}", "bold red")
        return line

    def _recent(self, document: dict[str, Any], width: int) -> Text:
        rows = Text()
        wide = max(10, width - 24)
        for name, values, now in (
            ("requests/s", self._requests, number(document["rates"]["requests"])),
            ("open", self._open, count(document["open"])),
        ):
            rows.append(f"{name:<11}{now:>11} ", "dim")
            rows.append(text.spark(values, wide) + "\n", "cyan")
        found = text.phases(document)
        total = sum(n for _, n in found)
        if total:
            rows.append(f"{'phases':<11}{'':>12}", "dim")
            left = wide
            for name, n in found:
                part = min(left, max(1, round(n / total * wide))) if n else 0
                rows.append(LOOKS[name][1] * part, LOOKS[name][0])
                left -= part
            rows.append("\n")
        for name, n in found:
            rows.append(LOOKS[name][1], LOOKS[name][0])
            rows.append(f" {name} ")
            rows.append(f"{count(n)}   ", "bold")
        return rows

    def _table(self) -> text.Table:
        if self._view == 0:
            empty: dict[str, Any] = {"connections": [], "open": 0, "is_cut": False}
            return text.connections(self._listed or empty)
        return (text.clients, text.causes, text.workers)[self._view - 1](self._document)

    def _show_table(self) -> None:
        if not self.query("#views"):
            return
        found = self._table()
        by, is_up = self._by[self._view], self._is_up[self._view]
        rows = text.arranged(found, by=by, is_up=is_up, wanted=self._wanted)
        mark = "▲" if is_up else "▼"
        head = tuple(f"{name.removeprefix('>')} {mark if k == by else ' '}" for k, name in enumerate(found.head))
        table: DataTable[Text] = self.query_one("#table", DataTable)
        where, row = table.scroll_offset, table.cursor_row
        if head != self._head:
            table.clear(columns=True)
            table.add_columns(*(Text(name, justify=justified(of)) for name, of in zip(head, found.head, strict=True)))
            self._head = head
        else:
            table.clear()
        table.add_rows(
            [Text(cell.text, justify=justified(of)) for cell, of in zip(cells, found.head, strict=True)] for cells in rows
        )
        table.move_cursor(row=min(row, len(rows) - 1), scroll=False)
        table.scroll_to(where.x, where.y, animate=False)
        self.query_one("#views", Static).update(self._views(found, len(rows)))

    def _views(self, found: text.Table, n_rows: int) -> Text:
        line = Text(" ")
        for k, name in enumerate(VIEWS):
            line.append(f" {k + 1} {name} ", "reverse bold" if k == self._view else "dim")
        line.append(f"  {count(n_rows)} {'row' if n_rows == 1 else 'rows'}", "dim")
        if found.note:
            line.append(f", listed {found.note}", "dim")
        if self._wanted:
            line.append(f"  filter: {plain(self._wanted)}", "yellow")
        return line


def figures(document: dict[str, Any]) -> Text:
    line = Text()
    for name, shown in text.figures(document):
        line.append(f"{name} ", "dim")
        line.append(shown, "bold")
        line.append("   ")
    reuse = document["total"]["reuse_rate"]
    line.append(f"reuse in all {percent(reuse)}", "dim")
    return line


def history_of(document: dict[str, Any]) -> dict[str, list[float | None]]:
    """Its series of numbers, as far as they are some."""
    series = document.get("history", {}).get("series", {}) if isinstance(document.get("history"), dict) else {}
    found: dict[str, list[float | None]] = {}
    for name, values in (series.items() if isinstance(series, dict) else ()):
        if isinstance(values, list) and all(value is None or isinstance(value, int | float) for value in values):
            found[name] = values
    return found


def justified(name: str) -> Any:
    return "right" if name.startswith(">") else "left"
