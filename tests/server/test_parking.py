"""Sessions without a socket: found by their secret alone, kept for a while, never too many."""

import asyncio

from serving import holds

from mlx_websockets.server.parking import Parking, new_token


class Guest:
    def __init__(self, name: str, parking: Parking) -> None:
        self.name = name
        self.resume_token = new_token(name)
        self.parking = parking
        self.has_ended = False
        parking.register(self)

    def end(self) -> None:
        self.has_ended = True
        self.parking.forget(self)


def test_only_the_whole_token_finds_a_session():
    parking = Parking(max_parked=10, park_seconds=60)
    guest, other = Guest("a", parking), Guest("b", parking)

    assert parking.find(guest.resume_token) is guest
    for wrong in ("", "a", "a.", ".", guest.resume_token[:-1], other.resume_token.replace("b.", "a."), "ü.\ud800"):
        assert parking.find(wrong) is None


def test_a_session_that_is_over_is_found_no_more():
    parking = Parking(max_parked=10, park_seconds=60)
    guest = Guest("a", parking)

    guest.end()

    assert parking.find(guest.resume_token) is None


def test_too_many_make_the_oldest_give_way():
    async def story():
        parking = Parking(max_parked=2, park_seconds=60)
        guests = [Guest(name, parking) for name in "abc"]
        for guest in guests:
            parking.park(guest)

        assert [guest.has_ended for guest in guests] == [True, False, False]
        assert parking.parked == 2

    asyncio.run(story())


def test_whoever_does_not_come_in_time_is_given_up_and_who_does_is_not():
    async def story():
        parking = Parking(max_parked=10, park_seconds=0.02)
        back, lost = Guest("a", parking), Guest("b", parking)
        parking.park(back)
        parking.take_out(back)
        parking.park(lost)

        await holds(lambda: lost.has_ended)

        assert (back.has_ended, parking.parked) == (False, 0)

    asyncio.run(story())
