"""The journal by itself: what is read of it, and how far it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.tracking import journal as journal_module
from tasks.tracking.journal import BusyError, Journal, Sent


def test_entries_come_with_their_places_and_are_counted_until_they_are_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert (journal.left(), journal.sent) == (0, Sent())
    for number in range(3):
        journal.append("note", text=str(number))
    entries = list(journal.entries())
    assert [entry["text"] for entry, _, _ in entries] == ["0", "1", "2"]
    assert [begin for _, begin, _ in entries] == [0, entries[0][2], entries[1][2]]
    journal.sent = Sent(position=entries[1][2], held=[0])
    assert (Journal(tmp_path).left(), Journal(tmp_path).sent) == (2, Sent(position=entries[1][2], held=[0]))
    assert [entry["text"] for entry, _, _ in journal.entries(journal.sent.position)] == ["2"]


def test_an_entry_that_a_thread_sends_before_its_writing_returns_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    right = journal_module.append_lines

    def sent_at_once(*arguments: Any) -> tuple[int, int]:
        start, end = right(*arguments)
        journal.sent = Sent(position=end)
        return start, end

    monkeypatch.setattr(journal_module, "append_lines", sent_at_once)
    journal.append("note", text="a")
    journal.append("note", text="b")
    assert (journal.left(), journal.sent.position) == (0, journal.file.stat().st_size)


def test_two_do_not_send_at_once(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    with journal.locked(1), pytest.raises(BusyError, match="is being sent by another process"), other.locked(0.1):
        pass
    with other.locked(0.1):
        pass
