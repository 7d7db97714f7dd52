"""Room for what is decoded at the same time."""

from __future__ import annotations

import threading

from dinotrain.intake.room import Room


def test_who_finds_no_room_waits_for_it() -> None:
    room, entered = Room(10), threading.Event()

    def enter() -> None:
        with room.held(6):
            entered.set()

    thread = threading.Thread(target=enter)
    with room.held(3), room.held(2):
        thread.start()
        assert not entered.wait(0.1)
    thread.join(60)
    assert entered.is_set()


def test_what_is_larger_than_all_of_it_is_let_in_alone() -> None:
    room = Room(10)
    with room.held(100):
        pass
    with room.held(10):
        pass
