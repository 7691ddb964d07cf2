"""Small worlds in the manner of bAbI's first five tasks: facts, a question, and its one answer.

The rules are bAbI's (Weston et al., 2015, arXiv 1502.05698): people walk between six places,
pick things up, carry them along, put them down and hand them on. Stories are our own, and are
no samples of bAbI. On purpose different: what is asked has one answer by all of the story, not
by its last facts alone.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
PEOPLE = ("Daniel", "John", "Mary", "Sandra")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # of qa5
_MOVES = ("moved", "went", "went back", "journeyed", "travelled")
_PICKS = ("picked up", "took", "got", "grabbed")
_DROPS = ("put down", "dropped", "left", "discarded")
_GIVES = ("gave", "handed", "passed")
# Directions, each with its opposite.
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_TRIES = 1000  # a story that cannot be asked about is thrown away


@dataclasses.dataclass(frozen=True)
class Story:
    """Facts in their order, a question about them, its answer, and the facts that it rests on."""

    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class World:
    """A task: the fewest and the most facts of a story, as bAbI's have them, and how one is told.

    tell: a story of so many facts, if what happens in it can be asked about.
    """

    least: int
    most: int
    tell: Callable[[random.Random, int], Story | None]


def draw(task: str, rng: random.Random, facts: int) -> Story:
    """A story of a task with so many facts."""
    stories = (WORLDS[task].tell(rng, facts) for _ in range(_TRIES))
    found = next((story for story in stories if story), None)
    if found is None:
        raise ValueError(f"{task=} has no story of {facts=}")
    return found


class _Scene:
    """What happens, fact after fact: who is where and holds what, and where each thing has been."""

    def __init__(self, rng: random.Random, people: tuple[str, ...]):
        self.rng, self.people = rng, people
        self.facts: list[str] = []
        self.place: dict[str, tuple[str, int]] = {}  # of a person, and the fact that says so
        self.holder: dict[str, tuple[str, int]] = {}  # of a thing, and the fact that says so
        self.ways: dict[str, list[tuple[str, tuple[int, ...]]]] = {t: [] for t in THINGS}

    def move(self) -> None:
        person = self.rng.choice(self.people)
        here = self.place.get(person, ("", 0))[0]
        place = self.rng.choice([p for p in PLACES if p != here])
        self._say(f"{person} {self.rng.choice(_MOVES)} to the {place}.")
        self.place[person] = place, self._last
        for thing in self._held(person):
            self._comes(thing, place, self.holder[thing][1], self._last)

    def handle(self) -> bool:
        """Somebody picks something up or puts it down; False if nobody can."""
        can: list[tuple[str, str]] = []
        for person in self.people:
            can += [(person, thing) for thing in self._held(person)]
            can += [(person, thing) for thing in THINGS if self._in_reach(person, thing)]
        if not can:
            return False
        person, thing = self.rng.choice(can)
        there = self.rng.choice((" there", ""))
        if thing in self._held(person):
            self._say(f"{person} {self.rng.choice(_DROPS)} the {thing}{there}.")
            place, told = self.place[person]
            del self.holder[thing]
            self._comes(thing, place, told, self._last)
        else:
            self._say(f"{person} {self.rng.choice(_PICKS)} the {thing}{there}.")
            place, told = self.place[person]
            self.holder[thing] = person, self._last
            self._comes(thing, place, told, self._last)
        return True

    @property
    def _last(self) -> int:
        return len(self.facts) - 1

    def _say(self, fact: str) -> None:
        self.facts.append(fact)

    def _held(self, person: str) -> list[str]:
        return [thing for thing in THINGS if self.holder.get(thing, ("", 0))[0] == person]

    def _in_reach(self, person: str, thing: str) -> bool:
        """Whether the person is where it lies; what nobody has touched yet may lie anywhere."""
        if person not in self.place or thing in self.holder:
            return False
        return not self.ways[thing] or self.ways[thing][-1][0] == self.place[person][0]

    def _comes(self, thing: str, place: str, *told: int) -> None:
        """A thing is at a place, as facts tell. Where it has been there already, these count."""
        way = self.ways[thing]
        if way and way[-1][0] == place:
            way.pop()
        way.append((place, tuple(sorted(told))))


def _where_is_somebody(rng: random.Random, facts: int) -> Story:
    scene = _Scene(rng, PEOPLE)
    for _ in range(facts):
        scene.move()
    person = rng.choice(sorted(scene.place))
    place, told = scene.place[person]
    return Story(tuple(scene.facts), f"Where is {person}?", place, (told,))


def _live(rng: random.Random, facts: int) -> _Scene:
    """A story of walking and handling, about as much of one as of the other."""
    scene = _Scene(rng, PEOPLE)
    while len(scene.facts) < facts:
        if rng.random() < 0.5 or not scene.handle():
            scene.move()
    return scene


def _where_is_something(rng: random.Random, facts: int) -> Story | None:
    scene = _live(rng, facts)
    known = [thing for thing in THINGS if scene.ways[thing]]
    if not known:
        return None
    thing = rng.choice(known)
    place, support = scene.ways[thing][-1]
    return Story(tuple(scene.facts), f"Where is the {thing}?", place, support)


def _where_was_something(rng: random.Random, facts: int) -> Story | None:
    """Asks for the place before another one in which the thing has been once alone."""
    scene = _live(rng, facts)
    known = []
    for thing, way in scene.ways.items():
        places = [place for place, _ in way]
        known += [(thing, i) for i in range(1, len(way)) if places.count(places[i]) == 1]
    if not known:
        return None
    thing, i = rng.choice(known)
    (before, early), (place, late) = scene.ways[thing][i - 1 : i + 1]
    question = f"Where was the {thing} before the {place}?"
    return Story(tuple(scene.facts), question, before, tuple(sorted({*early, *late})))


def _what_lies_where(rng: random.Random, facts: int) -> Story:
    """Two places, each beside a third one, on two sides of it."""
    del facts  # there are two
    middle, one, other = rng.sample(PLACES, 3)
    side, other_side = rng.sample(sorted(_OPPOSITE), 2)
    relations = [_relation(rng, one, side, middle), _relation(rng, other, other_side, middle)]
    asked = rng.randrange(2)
    answer, way = ((one, side), (other, other_side))[asked]
    question = rng.choice(
        (f"What is {way} of the {middle}?", f"What is the {middle} {_OPPOSITE[way]} of?")
    )
    order = rng.sample(range(2), 2)
    return Story(tuple(relations[i] for i in order), question, answer, (order.index(asked),))


def _relation(rng: random.Random, place: str, side: str, of: str) -> str:
    """That a place lies at a side of another, from either one's point of view."""
    if rng.random() < 0.5:
        place, side, of = of, _OPPOSITE[side], place
    return f"The {place} is {side} of the {of}."


def _who_gave_what(rng: random.Random, facts: int) -> Story | None:
    scene = _Scene(rng, GIVERS)
    gifts: list[tuple[str, str, str, int]] = []  # giver, thing, taker, the fact that says so
    while len(scene.facts) < facts:
        chance = rng.random()
        if chance < 0.4 and scene.holder:
            thing = rng.choice(sorted(scene.holder))
            giver = scene.holder[thing][0]
            taker = rng.choice([person for person in GIVERS if person != giver])
            told = len(scene.facts)
            scene.facts.append(f"{giver} {rng.choice(_GIVES)} the {thing} to {taker}.")
            scene.holder[thing] = taker, told
            gifts.append((giver, thing, taker, told))
        elif chance < 0.7 or not _handle_anywhere(scene):
            scene.move()
    asked = [one for gift in gifts for one in _asked(gift, gifts)]
    if not asked:
        return None
    question, answer, told = rng.choice(asked)
    return Story(tuple(scene.facts), question, answer, (told,))


def _handle_anywhere(scene: _Scene) -> bool:
    """Somebody picks up or puts down something; where, does not matter."""
    rng = scene.rng
    person, thing = rng.choice(scene.people), rng.choice(THINGS)
    holder = scene.holder.get(thing, ("", 0))[0]
    if holder not in ("", person):
        return False
    verb = rng.choice(_DROPS if holder else _PICKS)
    scene.facts.append(f"{person} {verb} the {thing}{rng.choice((' there', ''))}.")
    if holder:
        del scene.holder[thing]
    else:
        scene.holder[thing] = person, len(scene.facts) - 1
    return True


def _asked(
    gift: tuple[str, str, str, int], gifts: list[tuple[str, str, str, int]]
) -> Iterator[tuple[str, str, int]]:
    """The questions about a gift that no other gift answers otherwise: question, answer, fact."""
    giver, thing, taker, told = gift
    forms = (
        (f"Who gave the {thing}?", 0, {1: thing}),
        (f"Who received the {thing}?", 2, {1: thing}),
        (f"Who gave the {thing} to {taker}?", 0, {1: thing, 2: taker}),
        (f"Who did {giver} give the {thing} to?", 2, {0: giver, 1: thing}),
        (f"What did {giver} give to {taker}?", 1, {0: giver, 2: taker}),
    )
    for question, at, known in forms:
        alike = [g for g in gifts if all(g[i] == value for i, value in known.items())]
        if {g[at] for g in alike} == {gift[at]} and alike[-1] == gift:
            yield question, str(gift[at]), told


WORLDS: dict[str, World] = {
    "qa1": World(2, 10, _where_is_somebody),
    "qa2": World(2, 68, _where_is_something),
    "qa3": World(4, 32, _where_was_something),
    "qa4": World(2, 2, _what_lies_where),
    "qa5": World(2, 126, _who_gave_what),
}
