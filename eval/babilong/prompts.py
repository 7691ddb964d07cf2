"""What BABILong's tasks tell a model before the text, in our own words.

The layout is BABILong's: what the task is, solved examples, the form of the answer, the text
between <context> marks, the question. People, places and things of the examples are none of
bAbI's, where the task allows that: an answer that copies an example is wrong.
"""

import dataclasses

QUESTION = "Question: {question}"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What to do, the form of the answer, and examples as (facts, question, answer)."""

    instruction: str
    form: str
    examples: tuple[tuple[str, str, str], ...]


def head(task: str) -> str:
    """All that stands before the text."""
    prompt = PROMPTS[task]
    examples = "\n".join(
        f"<example>\n{facts} {question}\nAnswer: {answer}\n</example>"
        for facts, question, answer in prompt.examples
    )
    return f"{_HIDDEN} {prompt.instruction}\n\n{examples}\n\n{prompt.form}\n\n<context>\n"


TAIL = "\n</context>\n\n"

_HIDDEN = "The text below is long, and a few facts stand among its other sentences."
_WORD = "Answer with one word alone: {}."
_LAST = "Use the facts alone. Where somebody has been in several places, the last one counts."
_CARRY = (
    "Use the facts alone. Whoever picks something up carries it along from place to place; "
    "where it is put down, it stays."
)
_HANDS = "Use the facts alone. Whoever picks something up has it, until it is put down or given."
_AWAY = ("Nora went to the attic. Peter travelled to the cellar. Nora moved to the library.",)

PROMPTS: dict[str, Prompt] = {
    "qa1": Prompt(
        f"They say where people go. {_LAST}",
        "Answer with one sentence, and nothing after it: "
        "The most recent location of (person) is (place).",
        (
            (*_AWAY, "Where is Nora?", "The most recent location of Nora is library."),
            (*_AWAY, "Where is Peter?", "The most recent location of Peter is cellar."),
        ),
    ),
    "qa2": Prompt(
        f"They say where people go and what they do with things. {_CARRY}",
        "Answer with one sentence, and nothing after it: The (thing) is in the (place).",
        (
            (
                "Nora went to the attic. Nora picked up the lamp. Nora moved to the library.",
                "Where is the lamp?",
                "The lamp is in the library.",
            ),
            (
                "Peter went to the cellar. Peter took the rope. Peter moved to the attic. "
                "Peter put down the rope. Peter went to the library.",
                "Where is the rope?",
                "The rope is in the attic.",
            ),
        ),
    ),
    "qa3": Prompt(
        f"They say where people go and what they do with things. {_CARRY}",
        "Answer with one sentence, and nothing after it: "
        "Before the (place) the (thing) was in the (earlier place).",
        (
            (
                "Nora took the lamp. Nora went to the attic. Nora moved to the library.",
                "Where was the lamp before the library?",
                "Before the library the lamp was in the attic.",
            ),
            (
                "Peter went to the cellar. Peter got the rope. Nora went to the attic. "
                "Peter moved to the harbour.",
                "Where was the rope before the harbour?",
                "Before the harbour the rope was in the cellar.",
            ),
        ),
    ),
    "qa4": Prompt(
        "They say how places lie to each other. Use the facts alone.",
        _WORD.format("a place"),
        (
            (
                "The attic is north of the cellar. The library is south of the cellar.",
                "What is north of the cellar?",
                "attic",
            ),
            (
                "The harbour is west of the library. The library is west of the attic.",
                "What is the library west of?",
                "attic",
            ),
        ),
    ),
    "qa5": Prompt(
        "They say who picks things up and who gives them to whom. Use the facts alone.",
        _WORD.format("a person or a thing"),
        (
            ("Nora took the lamp. Nora gave the lamp to Peter.", "Who gave the lamp?", "Nora"),
            (
                "Peter got the rope. Peter handed the rope to Clara. Clara went to the attic.",
                "Who did Peter give the rope to?",
                "Clara",
            ),
            ("Clara passed the rope to Nora.", "What did Clara give to Nora?", "rope"),
        ),
    ),
    "qa6": Prompt(
        f"They say where people go. {_LAST}",
        _WORD.format("yes or no"),
        (
            (*_AWAY, "Is Nora in the library?", "yes"),
            (*_AWAY, "Is Nora in the attic?", "no"),
        ),
    ),
    "qa7": Prompt(
        f"They say what people do with things. {_HANDS}",
        _WORD.format("a number, spelled out, or none"),
        (
            (
                "Nora took the lamp. Nora picked up the rope.",
                "How many objects is Nora carrying?",
                "two",
            ),
            (
                "Peter got the rope. Peter gave the rope to Nora.",
                "How many objects is Peter carrying?",
                "none",
            ),
        ),
    ),
    "qa8": Prompt(
        f"They say what people do with things. {_HANDS}",
        "Answer with the things alone, a comma between them, or with: nothing.",
        (
            ("Nora took the lamp. Nora picked up the rope.", "What is Nora carrying?", "lamp,rope"),
            ("Peter got the rope. Peter dropped the rope.", "What is Peter carrying?", "nothing"),
        ),
    ),
    "qa9": Prompt(
        f"They say where people are, and where they are not. {_LAST}",
        _WORD.format("yes or no"),
        (
            ("Nora is not in the attic. Peter is in the attic.", "Is Nora in the attic?", "no"),
            ("Peter went to the cellar. Nora left the attic.", "Is Peter in the cellar?", "yes"),
        ),
    ),
    "qa10": Prompt(
        f"They say where people are, or where they may be. {_LAST}",
        _WORD.format("yes, no or maybe"),
        (
            ("Nora is in the attic.", "Is Nora in the attic?", "yes"),
            ("Nora is in the attic.", "Is Nora in the cellar?", "no"),
            ("Peter is either in the attic or the cellar.", "Is Peter in the attic?", "maybe"),
        ),
    ),
    "qa11": Prompt(
        "They say where people go; he or she is the person of the fact before. " + _LAST,
        _WORD.format("a place"),
        (
            ("Nora went to the attic. Then she moved to the cellar.", "Where is Nora?", "cellar"),
            ("Peter went to the library. After that he left for home.", "Where is Peter?", "home"),
        ),
    ),
    "qa12": Prompt(
        f"They say where people go, often two of them at once. {_LAST}",
        _WORD.format("a place"),
        (
            ("Nora and Peter went to the attic.", "Where is Peter?", "attic"),
            (
                "Nora and Peter went to the attic. Clara and Nora moved to the cellar.",
                "Where is Nora?",
                "cellar",
            ),
        ),
    ),
    "qa13": Prompt(
        "They say where people go; they are the two people of the fact before. " + _LAST,
        _WORD.format("a place"),
        (
            (
                "Nora and Peter went to the attic. Then they moved to the cellar.",
                "Where is Peter?",
                "cellar",
            ),
            (
                "Clara and Nora went to the library. Peter and Clara moved to the attic.",
                "Where is Nora?",
                "library",
            ),
        ),
    ),
    "qa14": Prompt(
        "They say when people went where, and not in the order of time: yesterday comes before "
        "this morning, that before this afternoon, and this evening is last. Use the facts alone.",
        _WORD.format("a place"),
        (
            (
                "This morning Nora went to the attic. Yesterday Nora travelled to the cellar.",
                "Where was Nora before the attic?",
                "cellar",
            ),
            (
                "This evening Peter went to the library. This afternoon Peter was in the attic.",
                "Where was Peter before the library?",
                "attic",
            ),
        ),
    ),
    "qa15": Prompt(
        "They say of which kind each animal is, and what kinds of animals fear. "
        "Use the facts alone.",
        _WORD.format("an animal, one and not many"),
        (
            (
                "Foxes are afraid of bears. Bears are afraid of bees. Nora is a fox.",
                "What is Nora afraid of?",
                "bear",
            ),
            (
                "Hens are afraid of foxes. Peter is a hen. Foxes are afraid of bears.",
                "What is Peter afraid of?",
                "fox",
            ),
        ),
    ),
    "qa16": Prompt(
        "They say of which kind and colour animals are; those of one kind have one colour. "
        "Where two of a kind differ, the last one counts. Use the facts alone.",
        _WORD.format("a colour"),
        (
            ("Nora is a fox. Nora is red. Peter is a fox.", "What color is Peter?", "red"),
            ("Clara is a hen. Tom is a hen. Tom is black.", "What color is Clara?", "black"),
        ),
    ),
    "qa17": Prompt(
        "They say how shapes lie to each other. Use the facts alone.",
        _WORD.format("yes or no"),
        (
            (
                "The star is above the cross. The ring is to the left of the star.",
                "Is the cross to the right of the ring?",
                "yes",
            ),
            (
                "The star is below the cross. The ring is below the star.",
                "Is the ring above the cross?",
                "no",
            ),
        ),
    ),
    "qa18": Prompt(
        "They say what is bigger, and what fits into what. Use the facts alone.",
        _WORD.format("yes or no"),
        (
            (
                "The jar fits inside the crate. The crate fits inside the barn.",
                "Does the jar fit in the barn?",
                "yes",
            ),
            (
                "The barn is bigger than the crate. The crate is bigger than the jar.",
                "Is the jar bigger than the barn?",
                "no",
            ),
        ),
    ),
    "qa19": Prompt(
        "They say how places lie to each other. Find the way of two steps. Use the facts alone.",
        "Answer with two letters alone, a comma between them: "
        "n for north, s for south, e for east, w for west.",
        (
            (
                "The attic is south of the cellar. The library is west of the attic.",
                "How do you go from the cellar to the library?",
                "s,w",
            ),
            (
                "The attic is south of the cellar. The library is west of the attic.",
                "How do you go from the library to the cellar?",
                "e,n",
            ),
        ),
    ),
    "qa20": Prompt(
        "They say how people feel, where they go and what they take. Who is hungry or thirsty "
        "goes to the kitchen, who is tired to the bedroom, who is bored to the garden.",
        _WORD.format("a place or a feeling"),
        (
            ("Nora is tired.", "Where will Nora go?", "bedroom"),
            (
                "Peter is bored. Peter went to the garden.",
                "Why did Peter go to the garden?",
                "bored",
            ),
        ),
    ),
}
