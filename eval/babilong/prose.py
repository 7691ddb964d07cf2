"""Prose without end, for facts to stand among: sentences that mention nobody of a task's world.

Each is drawn from a small grammar, which makes some millions of them. It has no persons, places
or things of bAbI, so that no sentence bears on a question.
"""

import random
from collections.abc import Iterator

_WHEN = (
    "In the spring, |Before the frost, |Late in the year, |At low tide, |After the long rain, |"
    "On market days, |Toward noon, |In those years, |Most evenings, |Once a month, |"
    "As the wind rose, |Some weeks later, |||||||"
).split("|")
_WHO = (
    "the miller|a retired captain|the tax collector|our neighbour|the youngest clerk|a travelling "
    "tailor|the schoolmaster|an old ferryman|the widow from the valley|the organist|a quiet "
    "lodger|the surveyor|the keeper of the lighthouse|a company of actors|the blacksmith|"
    "the doctor's sister|a printer's apprentice|the parish council|the herdsman|the astronomer"
).split("|")
_DID = (
    "mended|described|counted|painted|praised|forgot|measured|inherited|sold|admired|"
    "copied out|argued about|wrapped up|remembered|polished|sketched|paid for|examined|"
    "complained about|kept a record of"
).split("|")
_WHAT = (
    "a broken clock|the river charts|three silver spoons|the old songs|a pair of boots|"
    "the price of wool|every passing ship|the shape of the clouds|an unsigned letter|"
    "the winter stores|a map of the coast|two barrels of salt|the bells|a wooden bridge|"
    "some dried herbs|the family papers|a book of prayers|the autumn fair|the new mill wheel|"
    "a coat without buttons"
).split("|")
_HOW = (
    "with great care| without a word| for the third time| by candle light| to everyone's surprise|"
    " as custom required| and thought no more of it| while the rain went on| and slept badly|"
    " in exchange for tobacco| with some regret| until the lamps went out| and smiled| as before|"
    " though nobody had asked| in a steady voice||||"
).split("|")


def sentences(rng: random.Random) -> Iterator[str]:
    """Sentences, each with its full stop."""
    while True:
        parts = [rng.choice(part) for part in (_WHEN, _WHO, _DID, _WHAT, _HOW)]
        when, who, did, what, how = parts
        text = f"{when}{who} {did} {what}{' ' * bool(how)}{how.strip()}."
        yield text[0].upper() + text[1:]
