"""Questions that have nothing to do with any picture, and SmolLM2's own answers to them.

Asked beside a picture, they should be answered as if it were not there, so the text model's
greedy replies are the targets; `train` asks for them once. Every tenth question is held out.
Nothing here knows about pictures.
"""

import json
from dataclasses import dataclass
from pathlib import Path

ANSWER_TOKENS = 40
HELD_OUT_EVERY = 10

COUNTRIES = """France Germany Italy Spain Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland
Portugal Greece Turkey Russia Australia Ireland Austria Peru Chile Argentina Cuba Finland Denmark Vietnam Thailand
Morocco Nigeria Belgium Hungary Iceland Indonesia Iran Israel Jamaica Ukraine""".split()
THINGS = """computer bicycle volcano planet river mountain robot violin democracy galaxy molecule bridge camera engine
desert island library museum parliament vaccine virus battery magnet microscope satellite telescope tornado glacier
rainforest earthquake hurricane novel poem symphony recipe calendar compass clock mirror keyboard database network
algorithm website password email spreadsheet atom cell gene neuron protein enzyme mineral crystal fossil dinosaur
whale spider penguin dolphin elephant kangaroo octopus eagle salmon oak bamboo potato lemon coffee chocolate cheese
bread honey salt sugar""".split()
TOPICS = """autumn friendship rain the_sea winter a_lonely_robot spring coffee a_small_village the_moon music a_train
dreams a_garden an_old_clock time hope the_wind a_lighthouse a_cat a_dog football school a_birthday the_city""".split()
IDEAS = """gravity photosynthesis evolution inflation electricity the_water_cycle democracy machine_learning recursion
the_internet sound light magnetism the_seasons an_eclipse supply_and_demand DNA a_black_hole the_greenhouse_effect
a_prime_number probability the_speed_of_light renewable_energy erosion digestion""".split()
KINDS = """fruits vegetables countries oceans planets animals birds trees sports languages instruments metals rivers
cities inventors painters composers writers gases colors_of_the_rainbow board_games kinds_of_pasta desserts tools
insects""".split()
OPPOSITES = """hot big fast light happy early open strong rich deep wide young loud hard full clean brave rough near
sweet""".split()
TRANSLATED = """hello goodbye thank_you water house friend bread morning night love school book good_day""".split()
AUTHORS = """Hamlet|1984|Moby_Dick|Don_Quixote|War_and_Peace|Pride_and_Prejudice|The_Odyssey|Frankenstein|Dracula|
The_Hobbit|Faust|Les_Misérables|Oliver_Twist|Romeo_and_Juliet|The_Trial""".split("|")
PAST = """go eat see take write run speak swim buy think bring teach catch drive begin break choose fall fly
give""".split()

OTHERS = """Hello!|Hi there.|Good morning!|How are you?|Who are you?|What is your name?|What can you do?|Thank you.|
Tell me a joke.|Tell me a fun fact.|Say hello in Spanish.|How many days are in a week?|How many hours are in a day?|
How many minutes are in an hour?|How many months are in a year?|How many legs does a spider have?|
How many legs does an insect have?|How many continents are there on Earth?|How many planets are in the solar system?|
How many players are in a football team?|How many sides does a hexagon have?|How many sides does a triangle have?|
How many wheels does a bicycle have?|How many strings does a guitar have?|How many letters are in the alphabet?|
What color is the sky on a clear day?|What color is a ripe banana?|What color is snow?|What color is grass usually?|
What colors are in the flag of France?|What color do you get by mixing red and blue?|
What color do you get by mixing yellow and blue?|What is the largest ocean?|What is the longest river in the world?|
What is the tallest mountain on Earth?|What is the largest planet?|What is the smallest country?|
What is the fastest land animal?|What is the largest animal?|What is the hardest mineral?|
What is the boiling point of water?|What is the freezing point of water?|What is the chemical symbol for gold?|
What is the chemical formula of water?|What is the square root of 81?|What is the currency of Japan?|
What is the main language of Brazil?|What do bees make?|What do plants need to grow?|What is the sun made of?|
Where is the Eiffel Tower?|Where is Mount Everest?|Where is the Great Wall?|Where do penguins live?|
Where is the Sahara desert?|Where does coffee come from?|Where is the Amazon river?|Who painted the Mona Lisa?|
Who discovered penicillin?|Who invented the telephone?|Who was Albert Einstein?|Who was Marie Curie?|
Who was the first person on the moon?|Who composed the Ninth Symphony?|Who was Leonardo da Vinci?|
Who was Isaac Newton?|Who was Cleopatra?|When did World War II end?|When was the French Revolution?|
When did humans first land on the moon?|Why is the sky blue?|Why do leaves change color?|Why do we sleep?|
Why do cats purr?|Why is the sea salty?|Why do we have seasons?|How do airplanes fly?|How does a rainbow form?|
How do you make tea?|How do you make pancakes?|How do I learn to play the guitar?|How can I sleep better?|
How can I save money?|How do I write a good essay?|How far is the moon?|How old is the universe?|
Is a tomato a fruit?|Is the earth round?|Is a whale a fish?|Is Pluto a planet?|Is glass a liquid?|
Is there life on Mars?|Is there a city called Paris in Texas?|Are bats birds?|Can penguins fly?|Can fish sleep?|
Do plants breathe?|Does the moon have an atmosphere?|What should I cook tonight?|Give me advice for an interview.|
Give me a name for a cat.|Suggest a hobby.|Recommend a good book.|Plan a weekend in Rome.|
Write a haiku about snow.|Write a limerick.|Write a short story in two sentences.|
Write a Python function that adds two numbers.|Write a birthday wish.|
Write a polite email to a teacher.|What is the meaning of life?|What is love?|
What is the best way to learn a language?|What is the difference between weather and climate?|
What is the difference between a frog and a toad?|Count to ten.|List the days of the week.|List the four seasons.|
Spell the word necessary.|What rhymes with cat?|What time is it in Tokyo when it is noon in London?|
Correct this sentence: he go to school.|Summarize the story of Cinderella.|What does HTML stand for?|
What does CPU stand for?|What does NASA do?|What is open source software?""".replace("\n", "").split("|")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with the text model's own reply.

    Attributes:
        ended: the reply is whole; else it was cut after `ANSWER_TOKENS` tokens.
    """

    question: str
    answer: str
    ended: bool


def questions() -> list[str]:
    """All of them, in an order that stays."""
    plain = [
        *(f"What is the capital of {name}?" for name in COUNTRIES),
        *(f"On which continent is {name}?" for name in COUNTRIES),
        *(f"What is {article(name)} {name}?" for name in THINGS),
        *(f"Describe {article(name)} {name} in one sentence." for name in THINGS),
        *(f"Write a sentence about {_spaced(name)}." for name in TOPICS),
        *(f"Write a short poem about {_spaced(name)}." for name in TOPICS),
        *(f"Explain {_spaced(name)} in one sentence." for name in IDEAS),
        *(f"Name three {_spaced(name)}." for name in KINDS),
        *(f"What is the opposite of {name}?" for name in OPPOSITES),
        *(f"How do you say {_spaced(name)} in French?" for name in TRANSLATED),
        *(f"Who wrote {_spaced(name.strip())}?" for name in AUTHORS),
        *(f"What is the past tense of {name}?" for name in PAST),
        *(f"What is {a} plus {b}?" for a, b in zip(range(2, 42, 2), range(3, 83, 4), strict=True)),
        *(f"What is {a} times {b}?" for a, b in zip(range(2, 12), range(12, 2, -1), strict=True)),
    ]
    return plain + OTHERS


def held_out(question: str) -> bool:
    """Whether it is kept for the evaluation."""
    return questions().index(question) % HELD_OUT_EVERY == 0


def article(name: str) -> str:
    """ "a" or "an"."""
    return "an" if name[0].lower() in "aeiou" else "a"


def read_answers(path: Path) -> list[Answered]:
    """What `train` wrote."""
    return [Answered(**each) for each in json.loads(path.read_text("utf-8"))]


def _spaced(name: str) -> str:
    return name.replace("_", " ")
